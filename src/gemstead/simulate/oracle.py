"""A policy that cannot exist: it looks into the engines, and knows how long every answer will be.

For each engine it works out when this call would get its first token there: what is still to be read before it (with
exact hits, also on prompts that are on their way), how much steps are slowed by those that decode, and, when the cache
or the places are full, when enough of the running ones will have ended. To that it adds the work itself `WORK` times,
because what is read for this call delays those that come after it. The least of all wins; equal ones go to the first.

It is greedy, so it is not the optimum, which nobody can compute; it is what a picker with perfect sight would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gemstead.simulate.replica import Replica
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policies.books import Named

WORK = 2.0


class Oracle(Named):
    """Picks with perfect sight. `replicas` are the engines themselves, in the order of the endpoints."""

    def __init__(self, replicas: Sequence[Replica], work: float = WORK) -> None:
        super().__init__(lambda count: 0)
        self._replicas = replicas
        self._work = work
        self._coming: list[dict[int, int]] = [{} for _ in replicas]  # blocks on their way to each, counted
        self._owed = [0.0] * len(replicas)  # seconds of reading charged and not yet done
        self._charges: dict[int, tuple[int, float]] = {}  # by call: engine, seconds

    def prefer(self, call: Call, able: Sequence[Endpoint], now: float) -> Endpoint:
        """The engine with the earliest first token, its work counted again."""
        return min(able, key=lambda one: self._cost(call, _place(one)))

    def sent(self, endpoint: Endpoint, call: Call) -> None:
        """Note what is on its way."""
        place = _place(endpoint)
        seconds = self._reading(call, place)
        self._owed[place] += seconds
        self._charges[id(call)] = place, seconds
        coming = self._coming[place]
        for block in call.prefix:
            coming[block] = coming.get(block, 0) + 1

    def first_token(self, endpoint: Endpoint, call: Call, now: float = -1.0) -> None:
        """It has been read."""
        super().first_token(endpoint, call, now)
        self._drop(call)

    def settle(
        self,
        endpoint: Endpoint,
        call: Call,
        ok: bool | None,
        now: float,
        output_tokens: int = -1,
        cached_tokens: int = -1,
    ) -> None:
        """It has ended."""
        super().settle(endpoint, call, ok, now, output_tokens, cached_tokens)
        self._drop(call)

    def _drop(self, call: Call) -> None:
        if (charge := self._charges.pop(id(call), None)) is None:
            return
        place, seconds = charge
        self._owed[place] -= seconds
        coming = self._coming[place]
        for block in call.prefix:
            if coming[block] == 1:
                del coming[block]
            else:
                coming[block] -= 1

    def _hit(self, call: Call, place: int) -> int:
        """Tokens of the prompt that are in the cache or will be when it is this call's turn."""
        cache, coming = self._replicas[place].cache, self._coming[place]
        blocks = cache.match(call.prefix)
        if blocks < len(call.prefix) and call.prefix[blocks] in coming:
            blocks = _longest(call.prefix, blocks, coming)
        return min(blocks * call.block_tokens, call.prompt_tokens - 1)

    def _reading(self, call: Call, place: int) -> float:
        hit = self._hit(call, place)
        return self._replicas[place].engine.prompt_s(call.prompt_tokens - hit, hit)

    def _cost(self, call: Call, place: int) -> float:
        replica = self._replicas[place]
        engine = replica.engine
        work = self._reading(call, place)
        done = sum(engine.prompt_s(one.done - one.hit_tokens, one.hit_tokens) for one in replica.prefilling)
        before = max(0.0, self._owed[place] - done)
        step = replica.decoding_s
        steps = (before + work) / (engine.prefill_s * engine.step_tokens) + 1
        return before + work * (1 + self._work) + steps * step + self._blocked(call, replica, step)

    def _blocked(self, call: Call, replica: Replica, step: float) -> float:
        """Seconds until the cache and the places have room for those that wait and for this call."""
        window = replica.engine.kv_window_tokens
        short = sum(one.target + window for one in replica.waiting)
        short += call.prompt_tokens + window - replica.cache.free_tokens
        places = len(replica.waiting) + 1 + len(replica.running) - replica.engine.most_running
        if short <= 0 and places <= 0:
            return 0.0
        for end, _, one in sorted(replica.ends):
            short -= one.target + one.output_tokens + window
            places -= 1
            if short <= 0 and places <= 0:
                return (end - replica.steps) * step
        return 60.0


def _place(endpoint: Endpoint) -> int:
    return endpoint.facts.port - 8000


def _longest(prefix: Sequence[int], low: int, held: Mapping[int, int]) -> int:
    high = len(prefix)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if prefix[middle - 1] in held else (low, middle - 1)
    return low
