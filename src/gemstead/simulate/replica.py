"""One pretend engine: continuous batching with chunked prefill, a prefix cache, and preemption, in virtual time.

Requests wait in the order of arrival. Each step first gives every decoding request a token, then reads on the prompts
that were begun, then begins waiting ones, as long as the step's tokens, its places and the cache allow: vLLM's
scheduler (v1/core/sched/scheduler.py). A request is begun only when its whole prompt has room. When decoding requests
no longer fit, the one begun last is preempted: it loses its cache and is read again later, first in the line.

While nobody's prompt is being read all steps are alike, so they are taken in one leap: up to the next end, or until the
cache is full. An arrival in the middle cuts the leap short at the end of the step that is running. A leap of k steps
costs as much as one step does to simulate, and lasts to the microsecond what they would have lasted one by one.

The caller (`fleet.py`) keeps the clock: `add` and `step` return when the step that has begun will end, None when there
is nothing to do; a later answer replaces an earlier one.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from math import ceil, inf, sqrt

from gemstead.simulate.cache import Cache
from gemstead.simulate.engine import Engine


class Sequence:
    """A request inside an engine."""

    __slots__ = (
        "arrived_s", "begun_step", "blocks", "context", "done", "emitted", "hit_tokens", "number",
        "output_tokens", "pinned", "preempted", "private", "prompt_tokens", "target", "tokens_first", "windowed",
    )  # fmt: skip

    def __init__(
        self, number: int, prompt_tokens: int, output_tokens: int, blocks: tuple[int, ...], arrived_s: float
    ) -> None:
        self.number = number
        self.prompt_tokens = max(prompt_tokens, 1)
        self.output_tokens = max(output_tokens, 1)
        self.blocks = blocks
        self.arrived_s = arrived_s
        self.target = self.prompt_tokens  # tokens to be in the cache before it decodes
        self.done = 0  # of those
        self.hit_tokens = 0  # of the prompt, found in the cache at the first begin
        self.pinned = 0  # blocks
        self.private = 0.0  # tokens
        self.emitted = 0.0
        self.context = 0.0  # when it began to decode
        self.windowed = 0.0
        self.begun_step = 0
        self.preempted = 0
        self.tokens_first = False  # whether its first token is out


class Replica:
    """The state of one engine."""

    def __init__(self, engine: Engine, block_tokens: int) -> None:
        self.engine = engine
        self.cache = Cache(engine.kv_tokens, block_tokens, engine.kv_window_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}  # in the order of their begin
        self.prefilling: list[Sequence] = []
        self.first: list[Sequence] = []  # got their first token in the last step
        self.ended: list[Sequence] = []  # got their last one in it
        self.preemptions = 0
        self.busy_s = 0.0
        self.prompt_done = 0.0  # tokens read
        self.steps = 0  # decoding steps so far
        self.ends: list[tuple[int, int, Sequence]] = []  # (step, number, request) of the decoding ones
        self._context = 0.0  # of the decoding ones together
        self._windowed = 0.0
        self._chunks: list[tuple[Sequence, int]] = []
        self._leap = 0  # decoding steps that are under way; 0: idle
        self._from_s = 0.0
        self._until_s = inf
        self._linear = self._square = 0.0

    @property
    def decoding(self) -> int:
        """Requests that write."""
        return len(self.ends)

    @property
    def decoding_s(self) -> float:
        """Seconds of a step that only decodes what decodes now."""
        engine, decoding = self.engine, len(self.ends)
        cost = engine.each_s * decoding + engine.context_s * self._context + engine.window_s * self._windowed
        return cost + engine.weights_s(decoding) + (engine.draft_s if decoding else 0.0)

    @property
    def kv_used(self) -> float:
        """Share of the cache that requests hold, as engines report it."""
        return min(1.0, self.cache.used_tokens / self.cache.most)

    def fits(self, sequence: Sequence) -> bool:
        """Whether the engine could ever hold the request with its answer."""
        tokens = sequence.prompt_tokens + sequence.output_tokens + 2 * self.engine.kept
        return tokens + self.engine.kv_window_tokens <= self.cache.most

    def add(self, sequence: Sequence, now: float) -> float | None:
        """A request has arrived. When the step under way ends, if that is new; None: as told before."""
        self.waiting.append(sequence)
        if self._until_s == inf:
            return self._begin(now)
        if self._leap <= 1 or len(self.waiting) > 1 or len(self.running) >= self.engine.most_running:
            return None
        steps = self._steps_at(now)
        if steps >= self._leap:
            return None
        self._leap = steps
        self._until_s = self._from_s + self._lasting(steps)
        return self._until_s

    def step(self, now: float) -> float | None:
        """The step under way has ended: `first` and `ended` say for whom. When the next one will end."""
        self.busy_s += now - self._from_s
        self.first.clear()
        self.ended.clear()
        self._decode(self._leap)
        for sequence, tokens in self._chunks:
            self._read(sequence, tokens)
        return self._begin(now)

    def lose(self) -> list[Sequence]:
        """The engine dies. Everyone who was in it; it is empty afterwards."""
        lost = [*self.running.values(), *self.waiting]
        self.waiting.clear()
        self.running.clear()
        self.prefilling.clear()
        self.ends.clear()
        self._chunks = []
        self._context = self._windowed = 0.0
        self._leap, self._until_s = 0, inf
        self.cache.clear()
        return lost

    def _begin(self, now: float) -> float | None:
        engine, cache = self.engine, self.cache
        room = not self._preempt()
        decoding = len(self.ends)
        budget = engine.step_tokens - decoding * (1 + engine.draft_tokens)
        chunks = []
        for sequence in self.prefilling:
            if budget <= 0:
                break
            tokens = min(sequence.target - sequence.done, budget)
            budget -= tokens
            chunks.append((sequence, tokens))
        while room and self.waiting and budget > 0 and len(self.running) < engine.most_running:
            sequence = self.waiting[0]
            if not self._admit(sequence):
                break
            self.waiting.popleft()
            tokens = min(sequence.target - sequence.done, budget)
            budget -= tokens
            chunks.append((sequence, tokens))
        self._chunks = chunks
        if not chunks and not decoding:
            self._leap, self._until_s = 0, inf
            return None
        self._cost(chunks, decoding)
        self._leap = 1
        if not chunks:
            fitting = int(cache.free_tokens / (decoding * engine.kept))
            self._leap = max(1, min(self.ends[0][0] - self.steps, fitting))
        self._from_s = now
        self._until_s = now + self._lasting(self._leap)
        return self._until_s

    def _cost(self, chunks: list[tuple[Sequence, int]], decoding: int) -> None:
        """Work out what k steps from here last: linear x k + square x k^2."""
        engine = self.engine
        tokens = decoding * (1 + engine.draft_tokens)
        cost = engine.each_s * tokens + engine.context_s * self._context + engine.window_s * self._windowed
        if engine.draft_tokens and decoding:
            checked = decoding * engine.draft_tokens
            cost += engine.draft_s + engine.prompt_s(checked, self._context / decoding)
        for sequence, read in chunks:
            cost += engine.prompt_s(read, sequence.done)
            tokens += read
        cost += engine.weights_s(tokens)
        self._square = decoding * engine.kept * engine.context_s / 2
        self._linear = cost - self._square

    def _lasting(self, steps: int) -> float:
        return steps * (self._linear + self._square * steps)

    def _steps_at(self, now: float) -> int:
        """Steps of the leap that will have ended when the one that runs at `now` has."""
        passed = now - self._from_s
        if self._square <= 0.0:
            return max(1, ceil(passed / self._linear))
        half = self._linear / (2 * self._square)
        return max(1, ceil(sqrt(half * half + passed / self._square) - half - 1e-9))

    def _admit(self, sequence: Sequence) -> bool:
        cache = self.cache
        size = cache.block_tokens
        blocks = min(cache.match(sequence.blocks), (sequence.target - 1) // size)  # one token is always read
        hit = sequence.blocks[:blocks]
        rest = sequence.target - blocks * size
        taken = rest + cache.window_tokens
        if taken + cache.pins(hit) > cache.free_tokens:
            return False
        cache.pin(hit)
        cache.take(taken)
        sequence.pinned, sequence.private = blocks, float(rest)
        sequence.done = blocks * size
        if not sequence.preempted:
            sequence.hit_tokens = blocks * size
        self.running[sequence.number] = sequence
        self.prefilling.append(sequence)
        return True

    def _decode(self, steps: int) -> None:
        decoding = len(self.ends)
        if not decoding:
            return
        tokens = decoding * self.engine.kept * steps
        self.steps += steps
        self._context += tokens
        self.cache.take(tokens)
        while self.ends and self.ends[0][0] <= self.steps:
            sequence = heappop(self.ends)[2]
            self._stop(sequence)
            self._leave(sequence)

    def _stop(self, sequence: Sequence) -> None:
        """The request no longer decodes: settle what it has gathered."""
        grown = (self.steps - sequence.begun_step) * self.engine.kept
        sequence.emitted += grown
        sequence.private += grown
        self._context -= sequence.context + grown
        self._windowed -= sequence.windowed

    def _read(self, sequence: Sequence, tokens: int) -> None:
        sequence.done += tokens
        self.prompt_done += tokens
        cache = self.cache
        written = min(sequence.done // cache.block_tokens, len(sequence.blocks))
        if written > sequence.pinned:
            fresh = sequence.blocks[sequence.pinned : written]
            size = len(fresh) * cache.block_tokens
            cache.take(-size)
            cache.pin(fresh)
            sequence.private -= size
            sequence.pinned = written
        if sequence.done < sequence.target:
            return
        self.prefilling.remove(sequence)
        sequence.emitted += 1
        if not sequence.tokens_first:
            sequence.tokens_first = True
            self.first.append(sequence)
        left = sequence.output_tokens - sequence.emitted
        if left <= 0:
            self._leave(sequence)
            return
        engine = self.engine
        sequence.context = float(sequence.target)
        sequence.windowed = min(sequence.target + left / 2, engine.window)
        sequence.begun_step = self.steps
        self._context += sequence.context
        self._windowed += sequence.windowed
        heappush(self.ends, (self.steps + ceil(left / engine.kept), sequence.number, sequence))

    def _leave(self, sequence: Sequence) -> None:
        cache = self.cache
        cache.leave(sequence.private)
        cache.end(sequence.blocks[: sequence.pinned])
        cache.release(sequence.blocks[: sequence.pinned])
        del self.running[sequence.number]
        self.ended.append(sequence)

    def _preempt(self) -> bool:
        """Make room for one step of decoding; whether anybody had to go."""
        kept, cache = self.engine.kept, self.cache
        gone = False
        while len(self.ends) * kept > cache.free_tokens:
            gone = True
            sequence = self.running.pop(next(reversed(self.running)))
            if sequence in self.prefilling:
                self.prefilling.remove(sequence)
            else:
                self.ends = [one for one in self.ends if one[2] is not sequence]
                heapify(self.ends)
                self._stop(sequence)
            cache.take(-sequence.private - cache.window_tokens)
            cache.release(sequence.blocks[: sequence.pinned])
            sequence.pinned, sequence.private, sequence.done = 0, 0.0, 0
            sequence.target = sequence.prompt_tokens + int(sequence.emitted)
            sequence.preempted += 1
            self.preemptions += 1
            self.waiting.appendleft(sequence)
        return gone
