"""Which endpoint of a pool takes this call, and the books that every choice is made from.

Each candidate gets a cost in seconds, and the cheapest wins:

      what stands before it    prompt tokens sent there and not yet read, at the endpoint's own rate, and what a step
                               takes beside them, less what it has read of the oldest since
    + its own prefill          prompt tokens that the endpoint will not find, at that rate, deep ones dearer; and again,
                               at the pool's mean rate, `WORK` times and what is added for each call that waits
                               (`BEHIND`)
    + its answer               expected tokens times what one more request costs each step, for this call and
                               for all that run there, times `ANSWER`
    + others' answers          those, begun or not, that would miss their aim for each token while this prompt is read,
                               on average (`interference.py`), times `LOST_S`
    + room                     of a KV cache that is nearly full; and where the call does not fit, or every slot is
                               taken, the wait until enough others have ended
    + the adapter              the time to load it where it is not there

Seconds need rates. They are learned from the calls that were answered (`rates.py`), beginning with the plan's
figures: a kind of engine has its rates, and each endpoint its pace beside the others of its kind.

There is no threshold below which a prefix hit counts as nothing: the prefill that it saves is its worth.
`WORK` is there, and grows with what waits, because prefill that is done twice also delays whoever comes
later, which a cost that looks at this call alone would not see: the fuller the pool, the more of them there will
be. Affinity still cannot pile everything on one replica: what waits there costs seconds like everything else, and
an endpoint with more than twice the calls of the idlest (and `CROWD` more) gets no credit at all. Among the
near-equal, chance decides; it is handed in.

A prompt may wait a little where that leaves others' answers in peace, but not for long: where it would wait longer than
nearly all calls of its pool have to (all but `FEW`) and longer than it has to, each second more costs `LATE` more. So
the longest waits stay as they are. What counts is how long calls would wait where they would wait least, and not how
long they did: a bound that follows the waits which it allows moves away with them.

What an endpoint has seen of a prompt it need not find: with sliding windows only what reaches to where an older prompt
ended. How much of the rest engines of a kind find is learned from what they say (`Rates.midway`). What they have and
will not find still counts as `KEPT` of it: stored where it is already, the prompt pushes out less of what others want.

Before that, endpoints are passed over in three steps. Not ready, draining or already tried by this call:
never. Breaker open: unless nothing else is left, because a pool whose every endpoint is shut out serves
nobody, and a call that is sent all the same may find out that the engine is back. Metrics stale, a KV cache of
unknown size full, or wedged (`roster.py`): unless all are.

Booking is synchronous with the pick, before dispatch: `charge`, then `first_token`, then `settle`, however
the call ends. A call knows what is booked for it, so each can be said twice, or left out, and the counters
stay exact. A call that does not stream has no first token to tell us about: its prefill is taken to be done
when it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Final

from gemstead.refused import Reason, Refused
from gemstead.traffic.breaker import CLOSED, Event, State, step
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import LIFE_FORGET, Endpoint
from gemstead.traffic.estimate import ANSWER_TOKENS
from gemstead.traffic.outlier import FAILED_FORGET, is_outlier
from gemstead.traffic.policy import NO_TIME
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.rates import SETTLED, Lengths
from gemstead.traffic.roster import WEDGED_MOST_S, WEDGED_S, Roster, well

# Chosen in simulation on the traces of benchmarks/traffic/compare.py (docs/traffic.md); half or double changes little.
WORK: Final = 0.5
BEHIND: Final = 3.0  # added to `WORK` for each call that waits, per endpoint
STAY: Final = (
    1.5  # of a prompt's reading: what a conversation whose prompt says nothing to us gains where it was
)
ANSWER: Final = 0.1
LOST_S: Final = 0.4  # seconds of waiting that are worth an answer that keeps to its aim
LATE: Final = 7.0
FEW: Final = 0.03
KEPT: Final = 0.3
LATE_STEP: Final = 0.05  # of what is known of the longest waits, by each call
LEAST_READ_S: Final = 0.02  # what takes less to read disturbs nobody
CROWD: Final = (
    16  # calls more than twice those of the idlest: AIBrix's prefix router gives up at 8 or 16 more
)
ADAPTER_S: Final = 0.5  # to load a LoRA adapter; assumed, not measured
NEAR_S: Final = 0.002  # costs so close to the best count as equal
# A token is read with all before it: so much dearer with each of those. Gemma 4 31B on two H100 by the planner's
# model of a step: 7.06e-5 s for a token, 1.5e-9 s more for each before it, so twice as much after 47 000.
DEEPER: Final = 1 / 47_000
LEAST_TOKENS: Final = 16  # an engine reads at least the last block of a prompt again (vLLM: block_size 16)
MOST_CANDIDATES: Final = 64  # of a larger pool, so many are looked at, and whoever has the prefix
MOST_SESSIONS: Final = 16_384
PATIENCE: Final = 4.0  # times the expected time to the first token
QUIET_DUE: Final = (
    1.5  # a prompt whose answer does not stream has been read after so many times what was foreseen
)
LEARNED: Final = 8  # calls after which the expected time to a first token can be relied on
# An engine's word on what it found is about tokens, and ours about bytes: so much it may differ and mean the same.
UNSURE_BLOCKS: Final = 2
UNSURE_SHARE: Final = 4  # and one in so many
FEW_OUTPUT_TOKENS: Final = 8  # too few for a rate
RETRY_AFTER_S: Final = 2.0  # an engine that restarts is asked for again soon; long starts are seen in /readyz


class Picker:
    """Picks endpoints and keeps their books. `choose(n)` returns a random number in range(n)."""

    def __init__(self, index: PrefixIndex, choose: Callable[[int], int]) -> None:
        self.index = index
        self.lengths = Lengths()
        self._choose = choose
        self._now = -inf  # of the last pick, which a charge follows at once
        self._sessions: dict[str, str] = {}
        self._doubts: dict[str, int] = {}  # by endpoint: when a prompt was sent that it then missed
        self._quiet: list[tuple[float, int, Call]] = []  # calls that do not stream, by when they are read
        self._quiet_count = 0

    def pick(self, call: Call, endpoints: Sequence[Endpoint], now: float) -> Endpoint:
        """The endpoint that should take the call; nothing is booked yet.

        Raises:
            Refused: NO_ENDPOINT, when all are starting, draining or tried.
        """
        self._now = now
        call.hit_tokens = call.midway_tokens = call.stop_tokens = 0
        if len(endpoints) == 1:
            only = endpoints[0]
            if only.takes_calls and only.name not in call.tried:
                return only
            raise _nobody(call, endpoints)
        if self._quiet and self._quiet[0][0] <= now:
            self._read(now)
        if type(endpoints) is Roster and not call.tried:
            able = endpoints.able if now < endpoints.good_until else endpoints.able_at(now)
            names = endpoints.names
        else:
            endpoints = [endpoint for endpoint in endpoints if endpoint.name not in call.tried]
            able, _ = well(endpoints, now)
            names = [endpoint.name for endpoint in able]
        if not able:
            able = _whoever_is_left(call, endpoints, now)
            names = [endpoint.name for endpoint in able]
        if len(able) == 1:
            self._expect(call)
            if call.prefix:
                seen = self.index.match(call.prefix, names)
                _find(call, able[0], seen[0], self._stops(call, able, names, seen)[0])
            return able[0]
        return self._cheapest(call, able, names, now)

    def charge(self, endpoint: Endpoint, call: Call) -> None:
        """Book the call on the endpoint that was just picked for it, and remember the prompt there."""
        if call.charged_to is not None:  # moved on without being settled: no verdict
            self.settle(call.charged_to, call, None, self._now)
        call.charged_to = endpoint
        call.charged_tokens = tokens = work_tokens(call.prompt_tokens, call.hit_tokens)
        endpoint.in_flight += 1
        endpoint.prefill_tokens += tokens
        if not endpoint.alone:
            self._book(endpoint, call, tokens)
        if endpoint.breaker is not CLOSED:
            self._probe(endpoint, call)

    def first_token(self, endpoint: Endpoint, call: Call, now: float = NO_TIME) -> None:
        """The endpoint has begun to answer: its prefill is done, and it is alive."""
        if call.charged_to is not endpoint:
            return
        endpoint.prefill_tokens -= call.charged_tokens
        if call.booked:
            self._begun(endpoint, call, now)
        call.charged_tokens = 0
        endpoint.weigh()
        if endpoint.breaker is not CLOSED:
            endpoint.breaker = step(endpoint.breaker, Event.ANSWERED, self._now)

    def settle(
        self,
        endpoint: Endpoint,
        call: Call,
        ok: bool | None,
        now: float,
        output_tokens: int = -1,
        cached_tokens: int = -1,
    ) -> None:
        """Close the books of a call that has ended.

        `ok`: False for a 5xx, a refused or reset connection or a missed first token; True for anything that
        shows the engine at work, a 4xx too; None when nothing was learned, because the client left early.
        """
        if call.charged_to is not endpoint:
            return
        call.charged_to = None
        endpoint.in_flight -= 1
        endpoint.prefill_tokens -= call.charged_tokens
        if call.booked:
            call.booked = False
            self._unbook(endpoint, call, now)
            if call.unlearned_s or (cached_tokens >= 0 and ok and call.prefix):
                self._correct(endpoint, call, cached_tokens if ok else -1)
            if ok and output_tokens >= 0:
                self._learn(endpoint, call, now, output_tokens)
        call.charged_tokens = 0
        endpoint.weigh()
        if ok:
            endpoint.served += 1
            if endpoint.failed_share:
                endpoint.failed_share *= 1.0 - FAILED_FORGET
            if endpoint.breaker is not CLOSED:
                endpoint.breaker = step(endpoint.breaker, Event.SUCCEEDED, now)
        else:
            _ended_badly(endpoint, call, ok, now)
        if endpoint.probe is call:
            endpoint.probe = None

    def read_s(self, call: Call, endpoints: Sequence[Endpoint]) -> float:
        """Seconds that reading the call's prompt takes where most of it is cached; 0 where caches are not known."""
        if not call.prefix or len(endpoints) < 2:
            return 0.0
        hits = self.index.match(call.prefix, [endpoint.name for endpoint in endpoints])
        cached = min(max(hits) * call.block_tokens, max(call.prompt_tokens - LEAST_TOKENS, 0))
        return work_tokens(call.prompt_tokens, cached) * min(endpoint.token_s for endpoint in endpoints)

    def passed(self, now: float) -> None:
        """Time has passed without a pick."""
        if self._quiet and self._quiet[0][0] <= now:
            self._read(now)

    def forget(self, endpoint_name: str) -> None:
        """An endpoint is gone or has restarted: its cache is empty."""
        self.index.forget(endpoint_name)

    # -- choosing -----------------------------------------------------------------------------------------

    def _cheapest(self, call: Call, able: list[Endpoint], names: list[str], now: float) -> Endpoint:
        hits = self.index.match(call.prefix, names) if call.prefix else None
        if len(able) > MOST_CANDIDATES:
            able, names, hits = self._sample(able, names, hits)
        seen = stops = found = hits
        if hits is not None and any(hits):
            stops = self._stops(call, able, names, hits)
            if stops != hits:
                found = [
                    stop + int((blocks - stop) * endpoint.rates.midway)
                    for endpoint, blocks, stop in zip(able, hits, stops, strict=True)
                ]
                hits = [
                    max(blocks, stop + int((held - stop) * KEPT))
                    for blocks, held, stop in zip(found, hits, stops, strict=True)
                ]
        output = self._expect(call)
        prompt_tokens = call.prompt_tokens
        output_tokens, kv_tokens = output * ANSWER, prompt_tokens + output
        fewest, behind, pool_s = able[0].in_flight, 0, 0.0
        for endpoint in able:
            pool_s += endpoint.token_s
            if endpoint.in_flight < fewest:
                fewest = endpoint.in_flight
            if endpoint.head_s:
                behind += len(endpoint.waiting)
        others_s = (WORK + BEHIND * behind / len(able)) * pool_s / len(able)
        crowded = 2 * fewest + CROWD
        whole_tokens = work_tokens(max(prompt_tokens, LEAST_TOKENS), 0)
        costs: list[float] = []
        for place, endpoint in enumerate(able):
            cost = endpoint.standing_s + output_tokens * endpoint.crowd_s
            if endpoint.head_s:
                cost -= min(now - endpoint.progress_at, endpoint.head_s)
            if kv_tokens > endpoint.kv_room:
                cost += _overflow_s(endpoint, kv_tokens)
            if hits is None or not (blocks := hits[place]) or endpoint.in_flight > crowded:
                cost += whole_tokens * (endpoint.token_s + others_s)
            else:
                cached = max(min(blocks * call.block_tokens, prompt_tokens - LEAST_TOKENS), 0)
                cost += work_tokens(prompt_tokens, cached) * (endpoint.token_s + others_s)
            costs.append(cost)
        if call.adapter:
            _add_adapter(call, able, costs)
        if call.session and (hits is None or not any(hits)):
            self._stay(call, able, costs)
        roster = able[0].roster
        if roster is not None and whole_tokens * pool_s > LEAST_READ_S * len(able):
            _disturb(call, able, found, costs, roster, now)
        best = inf
        for cost in costs:
            if cost < best:
                best = cost
        best += NEAR_S
        near = [place for place, cost in enumerate(costs) if cost <= best]
        place = near[0] if len(near) == 1 else near[self._choose(len(near))]
        if seen is not None and stops is not None:
            _find(call, able[place], seen[place], stops[place])
        return able[place]

    def _expect(self, call: Call) -> float:
        """How many tokens the answer will have, by what this tenant's answers had."""
        output = self.lengths.expect(call.model, call.tenant)
        if call.most_tokens and (cap := call.most_tokens - call.prompt_tokens) < ANSWER_TOKENS:
            output = min(output, max(cap, 0))  # the caller's own; a larger one is habit
        call.expected_output = output
        return output

    def _stops(
        self, call: Call, able: Sequence[Endpoint], names: Sequence[str], seen: list[int]
    ) -> list[int]:
        """How much of what each has seen goes to where a prompt ended; all of it where the engine itself says."""
        stops = self.index.cut(call.prefix, names, seen)
        if stops == seen:
            return seen
        return [
            blocks if endpoint.exact is not None else stop
            for endpoint, blocks, stop in zip(able, seen, stops, strict=True)
        ]

    def _sample(
        self, able: list[Endpoint], names: list[str], hits: list[int] | None
    ) -> tuple[list[Endpoint], list[str], list[int] | None]:
        """Some of a large pool, evenly drawn, and those that have most of the prompt."""
        count = len(able)
        stride = 1 + self._choose(count - 1)
        place, places = self._choose(count), set[int]()
        for _ in range(MOST_CANDIDATES):
            place = (place + stride) % count
            places.add(place)
        if hits is not None and (longest := max(hits)):
            holders = [n for n, blocks in enumerate(hits) if blocks == longest]
            places.update(holders[: MOST_CANDIDATES // 2])
        chosen = list(places)
        few = None if hits is None else [hits[n] for n in chosen]
        return [able[n] for n in chosen], [names[n] for n in chosen], few

    def _stay(self, call: Call, able: Sequence[Endpoint], costs: list[float]) -> None:
        """A conversation whose prompt says nothing to us stays where it was, as if all of it were cached."""
        name = self._sessions.get(call.session)
        for place, endpoint in enumerate(able):
            if endpoint.name == name:
                costs[place] -= max(call.prompt_tokens - LEAST_TOKENS, 0) * STAY * endpoint.token_s + NEAR_S

    # -- books --------------------------------------------------------------------------------------------

    def _book(self, endpoint: Endpoint, call: Call, tokens: int) -> None:
        """What is booked where there is a choice to be made from it."""
        now = self._now
        call.booked = True
        call.charged_at = now
        call.first_at = -1.0
        full = endpoint.facts.slots and endpoint.in_flight > endpoint.facts.slots
        call.charged_kv = kv = call.prompt_tokens + int(call.expected_output)
        full = full or kv > endpoint.kv_room
        endpoint.kv_booked += kv
        done = 0.0
        call.was_first = not endpoint.waiting and not endpoint.prefill_elsewhere
        if endpoint.waiting:
            oldest = next(iter(endpoint.waiting)).charged_tokens
            done = min(max(now - endpoint.progress_at, 0.0) / max(endpoint.token_s, 1e-9), float(oldest))
        else:
            endpoint.progress_at = now
        ahead = max(0.0, endpoint.prefill_tokens + endpoint.prefill_elsewhere - done)
        call.ahead_tokens = -1.0 if full else ahead
        call.due_s = endpoint.rates.prefill.at(ahead) * endpoint.pace.times
        endpoint.waiting[call] = None
        endpoint.mean_tokens += LIFE_FORGET * (tokens - endpoint.mean_tokens)
        if call.streams:
            _listen(endpoint, call, now)
        else:
            self._quiet_count += 1
            heappush(self._quiet, (now + QUIET_DUE * call.due_s, self._quiet_count, call))
        endpoint.weigh()
        endpoint.writing.fresh_until = -inf
        call.known_turn = -1
        if call.prefix:
            known = self.index.insert(endpoint.name, call.prefix, _blocks(endpoint, call))
            first = next(iter(endpoint.waiting))
            if known >= 0 and (first is call or known < first.turn) and not endpoint.others.waiting:
                call.known_turn = known
        call.turn = self.index.turn
        if call.session:
            self._remember(call.session, endpoint.name)
        if call.adapter and call.adapter not in endpoint.adapters:
            endpoint.adapters = {*endpoint.adapters, call.adapter}

    def _begun(self, endpoint: Endpoint, call: Call, now: float) -> None:
        endpoint.waiting.pop(call, None)
        if now < 0.0:
            return
        if call.first_at < 0.0:
            endpoint.read_tokens += call.charged_tokens
            call.first_at, call.first_calls = now, endpoint.in_flight
            call.first_read = endpoint.read_tokens
            if call.streams:
                endpoint.writing.calls[call] = None
            if call.ahead_tokens >= 0.0 and now > call.charged_at:
                if endpoint.tells_cached and endpoint.rates.prefill.count >= SETTLED:
                    call.unlearned_s = now - call.charged_at
                else:
                    endpoint.learn_prefill(call.ahead_tokens, now - call.charged_at, call.was_first)
        endpoint.progress_at = now
        _heard(endpoint, now)

    def _unbook(self, endpoint: Endpoint, call: Call, now: float) -> None:
        if endpoint.waiting.pop(call, 0) is None:  # it was there
            endpoint.progress_at = now
        endpoint.kv_booked -= call.charged_kv
        call.charged_kv = 0
        endpoint.writing.calls.pop(call, None)
        if call.streams:
            endpoint.speaking -= 1
        _heard(endpoint, now)

    def _learn(self, endpoint: Endpoint, call: Call, now: float, output_tokens: int) -> None:
        """What a call that ended well says about answers' lengths and the endpoint's rates."""
        self.lengths.learn(call.model, call.tenant, output_tokens)
        life_s = now - call.charged_at
        endpoint.life_s += LIFE_FORGET * (life_s - endpoint.life_s)
        if call.prefix:
            self.index.answered(endpoint.name, output_tokens / call.block_tokens)
        if call.first_at < 0.0:
            if output_tokens < FEW_OUTPUT_TOKENS and call.ahead_tokens >= 0.0 and life_s > 0.0:
                endpoint.learn_prefill(call.ahead_tokens, life_s, call.was_first)
        elif output_tokens >= FEW_OUTPUT_TOKENS and now > call.first_at:
            # Less what steps took for others' prompts meanwhile: that is counted as prefill, not here.
            read_s = (endpoint.read_tokens - call.first_read) * endpoint.token_s
            spent_s = max(now - call.first_at - read_s, 0.0)
            calls = (call.first_calls + endpoint.in_flight + 1) / 2 + endpoint.calls_elsewhere
            endpoint.rates.decode.learn(calls, spent_s / (output_tokens - 1) / endpoint.pace.times)

    def _correct(self, endpoint: Endpoint, call: Call, cached_tokens: int) -> None:
        """The engine has said how much of the prompt it found; below zero: it has not."""
        ahead = call.ahead_tokens
        if cached_tokens > 0:
            endpoint.tells_cached = True  # vLLM says nothing where it found nothing
        if cached_tokens >= 0 and endpoint.tells_cached:
            prompt, thought = call.prompt_tokens, call.hit_tokens
            cached = min(cached_tokens, max(prompt - LEAST_TOKENS, 0))
            ahead += work_tokens(prompt, cached) - work_tokens(prompt, thought)
            if call.midway_tokens:
                thought = call.stop_tokens
                endpoint.rates.learn_midway((cached - thought) / call.midway_tokens)
            slack = UNSURE_BLOCKS * call.block_tokens + thought // UNSURE_SHARE
            if cached + slack < thought:
                # Twice in a row: Gemma 4's engines also miss beginnings that they hold, where no sliding window was
                # kept, and forgetting all for one of those halved goodput (benchmarks/traffic/overload.py).
                if call.known_turn >= 0 and endpoint.exact is None:
                    if (turn := self._doubts.pop(endpoint.name, -1)) >= 0:
                        self.index.missed(endpoint.name, turn)
                    else:
                        self._doubts[endpoint.name] = call.known_turn
            else:
                if thought:
                    self._doubts.pop(endpoint.name, None)
                if cached > thought + call.midway_tokens + slack:
                    self.index.found(endpoint.name)
        if call.unlearned_s:
            endpoint.learn_prefill(max(ahead, 1.0), call.unlearned_s, call.was_first)
            call.unlearned_s = 0.0

    def _read(self, now: float) -> None:
        """Take the prompts that must have been read by now for read."""
        quiet = self._quiet
        while quiet and quiet[0][0] <= now:
            call = heappop(quiet)[2]
            endpoint = call.charged_to
            if endpoint is not None and call.charged_tokens and call in endpoint.waiting:
                endpoint.prefill_tokens -= call.charged_tokens
                call.charged_tokens = 0
                del endpoint.waiting[call]
                endpoint.progress_at = now
                endpoint.weigh()

    def _remember(self, session: str, endpoint_name: str) -> None:
        sessions = self._sessions
        sessions.pop(session, None)
        if len(sessions) >= MOST_SESSIONS:
            for oldest in list(sessions)[: MOST_SESSIONS // 16]:
                del sessions[oldest]
        sessions[session] = endpoint_name

    def _probe(self, endpoint: Endpoint, call: Call) -> None:
        if endpoint.breaker.state is State.CLOSED:
            return
        if endpoint.probe is None or endpoint.breaker.shut_until <= self._now:
            endpoint.breaker = step(endpoint.breaker, Event.TRY, self._now)
            endpoint.probe = call


def work_tokens(prompt_tokens: int, cached_tokens: int) -> int:
    """What reading a prompt costs behind its cached part, in tokens at the beginning of a prompt."""
    rest = max(prompt_tokens - cached_tokens, 0)
    return rest + int(rest * (cached_tokens + 0.5 * rest) * DEEPER)


def _find(call: Call, endpoint: Endpoint, seen: int, stop: int) -> None:
    """Note what the call should find there, of so many blocks that it has seen; up to `stop` an older prompt went."""
    size, most = call.block_tokens, max(call.prompt_tokens - LEAST_TOKENS, 0)
    if seen == stop:
        call.hit_tokens = min(seen * size, most)
        return
    call.stop_tokens = min(stop * size, most)
    call.midway_tokens = min(seen * size, most) - call.stop_tokens
    call.hit_tokens = call.stop_tokens + int(call.midway_tokens * endpoint.rates.midway)


def _disturb(
    call: Call, able: list[Endpoint], hits: list[int] | None, costs: list[float], roster: Roster, now: float
) -> None:
    """Add what others' answers lose by this prompt, and what it costs to wait for longer than nearly all have to."""
    waits: list[float] = []
    soonest_s = inf  # kept up in the loop: compiled, min() of a list costs as much as the loop
    prompt_tokens = call.prompt_tokens
    whole_tokens = work_tokens(prompt_tokens, 0)
    kv_tokens = prompt_tokens + call.expected_output
    for place, endpoint in enumerate(able):
        tokens = whole_tokens
        if hits is not None and (blocks := hits[place]):
            cached = max(min(blocks * call.block_tokens, prompt_tokens - LEAST_TOKENS), 0)
            tokens = work_tokens(prompt_tokens, cached)
        read_s = tokens * endpoint.token_s
        wait_s = endpoint.standing_s + read_s
        if endpoint.head_s:
            wait_s -= min(now - endpoint.progress_at, endpoint.head_s)
        if kv_tokens > endpoint.kv_room:
            wait_s += _overflow_s(endpoint, kv_tokens)
        waits.append(wait_s)
        if wait_s < soonest_s:
            soonest_s = wait_s
        writing = endpoint.writing
        if endpoint.speaking:  # of calls that do not stream nobody sees how long a token takes
            if now >= writing.fresh_until:
                _look(endpoint, now)
            if writing.at_risk:
                costs[place] += LOST_S * writing.lost(read_s)
    late_s = max(roster.late_s, soonest_s)
    for place, wait_s in enumerate(waits):
        if wait_s > late_s:
            costs[place] += LATE * (wait_s - late_s)
    roster.late_s *= 1.0 + LATE_STEP * (1.0 - FEW if soonest_s > roster.late_s else -FEW)


def _look(endpoint: Endpoint, now: float) -> None:
    calls = endpoint.in_flight + endpoint.calls_elsewhere
    step_s = endpoint.rates.decode.at(calls) * endpoint.pace.times
    coming_tokens = endpoint.prefill_tokens + endpoint.prefill_elsewhere
    done_s = min(now - endpoint.progress_at, endpoint.head_s) if endpoint.head_s else 0.0
    endpoint.writing.look(
        now, endpoint.token_s, step_s, endpoint.read_tokens, coming_tokens, endpoint.waiting, done_s
    )


def _overflow_s(endpoint: Endpoint, kv_tokens: float) -> float:
    """How long until enough calls have ended for this one to fit: their share of a call's life."""
    held = max(endpoint.facts.kv_tokens - endpoint.kv_room, kv_tokens)
    return endpoint.life_s * (kv_tokens - endpoint.kv_room) / held


def _add_adapter(call: Call, able: Sequence[Endpoint], costs: list[float]) -> None:
    for place, endpoint in enumerate(able):
        if call.adapter not in endpoint.adapters:
            costs[place] += ADAPTER_S


def _blocks(endpoint: Endpoint, call: Call) -> int:
    facts = endpoint.facts
    blocks = (facts.cache_tokens or facts.kv_tokens) // call.block_tokens
    return 2 * blocks if endpoint.exact is not None else blocks  # it hears what is dropped: no need to guess


def _listen(endpoint: Endpoint, call: Call, now: float) -> None:
    """From now on a word is expected of this endpoint."""
    if not endpoint.speaking and now > endpoint.heard_at:
        endpoint.heard_at = endpoint.told_at = now
    endpoint.speaking += 1
    patience_s = WEDGED_MOST_S
    if endpoint.pace.count >= LEARNED:
        patience_s = min(max(PATIENCE * (endpoint.standing_s + call.due_s), WEDGED_S), WEDGED_MOST_S)
    endpoint.patience_s = max(patience_s, 0.9 * endpoint.patience_s if endpoint.speaking > 1 else 0.0)
    roster = endpoint.roster
    if roster is not None and now + endpoint.patience_s < roster.good_until:
        roster.good_until = now + endpoint.patience_s


def _heard(endpoint: Endpoint, now: float) -> None:
    if endpoint.heard_at > endpoint.told_at:  # by somebody else
        endpoint.hears = True
    if now > endpoint.heard_at:
        endpoint.heard_at = now
    endpoint.told_at = endpoint.heard_at
    if endpoint.wedged:
        endpoint.wedged = False
        if endpoint.roster is not None:
            endpoint.roster.revise()


def _whoever_is_left(call: Call, endpoints: Sequence[Endpoint], now: float) -> list[Endpoint]:
    """The vetoed, else those that a breaker shuts out."""
    able = [endpoint for endpoint in endpoints if endpoint.open_from <= now]
    if able := able or [endpoint for endpoint in endpoints if endpoint.takes_calls]:
        return able
    raise _nobody(call, endpoints)


def _ended_badly(endpoint: Endpoint, call: Call, ok: bool | None, now: float) -> None:
    probe = endpoint.probe is call
    if ok is None:
        if probe:
            endpoint.breaker = step(endpoint.breaker, Event.PROBE_LEFT, now)
        return
    endpoint.failures += 1
    endpoint.failed_share += FAILED_FORGET * (1.0 - endpoint.failed_share)
    endpoint.breaker = step(endpoint.breaker, Event.PROBE_FAILED if probe else Event.FAILED, now)
    if endpoint.roster is not None and is_outlier(endpoint, endpoint.roster):
        endpoint.failed_share = 0.0
        endpoint.breaker = step(endpoint.breaker, Event.EJECTED, now)


def _nobody(call: Call, endpoints: Sequence[Endpoint]) -> Refused:
    if call.tried:
        message = f"No other engine of {call.model} can take this call now; try again shortly."
    elif endpoints:
        message = f"{call.model} is starting or stopping and takes no calls yet; try again shortly."
    else:
        message = f"No engine serves {call.model} now; try again shortly."
    return Refused(Reason.NO_ENDPOINT, message, retry_after_s=RETRY_AFTER_S)
