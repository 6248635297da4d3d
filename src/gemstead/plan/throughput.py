"""How fast a setup answers: time to the first token, time per token and tokens a second, at any concurrency.

The arithmetic of one step is in `step.py`. Here it becomes what users feel. With c requests in the air at once,
r of them run, as many as the cache holds; and in a closed loop (who has an answer asks again)

    tpot       = step(r)
    ttft       = a fixed part + reading the prompt + half a step + waiting for prompts that came at the same moment
    tokens/s   = r x output / (ttft + (output - 1) x tpot)

Callers come in lumps, because those who were answered together ask again together: the wait is a share of the time
that reading everybody's prompt would take. 0.07 is the middle of four published runs (t02, t04, t10, t15: 0.03 to
0.10), and the range says so.

Beyond r nothing more gets done: the rest waits. Engines do not agree on where the wait shows. Whoever queues before
admission lengthens the first token; whoever admits too many and then preempts (vLLM) or retracts (SGLang) also
stretches the time between tokens. We state the geometric mean of both and give both as the range; a gateway that caps
what runs at `saturation(...)` has the better of the two.

Nothing here is a promise. Every figure is a `Range`, as wide as the estimate was wrong on published runs of its kind
(tests/plan/test_throughput.py), and narrower once `calibrate.py` has seen this machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gemstead.plan.drafting import cycle
from gemstead.plan.memory import LLAMACPP, POOLED, budget
from gemstead.plan.setup import Setup
from gemstead.plan.step import FILES, KNOWN, Work, work

LUMP_LOW, LUMP, LUMP_HIGH = 0.0, 0.07, 0.15  # of the time to read every running request's prompt: see above
KNEE = 1.15  # the least that doubling what runs must bring to be worth its longer wait
MOST = 4096  # requests that are ever considered at once


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate and the bounds that the truth should lie within."""

    low: float
    likely: float
    high: float

    @classmethod
    def around(cls, likely: float, spread: float) -> Range:
        """The range that a figure wrong by a factor of `1 + spread` either way makes."""
        return cls(likely / (1 + spread), likely, likely * (1 + spread))

    def times(self, factor: float) -> Range:
        """The range in another unit, or of that many alike."""
        return Range(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Estimate:
    """How one replica answers at one concurrency. Seconds, and tokens a second of all its requests together."""

    concurrency: int  # requests in the air
    running: int  # of those, at once in the engine
    ttft_s: Range
    tpot_s: Range
    tokens_per_s: Range  # output
    requests_per_s: Range
    prompt_tokens_per_s: Range
    bound: (
        str  # what limits it: bandwidth, compute, overhead, cache, requests (that the engine takes at once)
    )
    saturated: bool  # more requests would only wait
    notes: tuple[str, ...] = ()

    def latency_s(self, output_tokens: float) -> float:
        """Likely seconds from a request to its last token."""
        return self.ttft_s.likely + max(0.0, output_tokens - 1) * self.tpot_s.likely


@dataclass(frozen=True, slots=True)
class Saturation:
    """Where more requests at once stop to bring more tokens."""

    running: int  # cap the engine here (--max-num-seqs) and queue in the gateway
    tokens_per_s: Range
    tpot_s: Range
    why: str


def estimate(
    setup: Setup,
    concurrency: int,
    prompt_tokens: float,
    output_tokens: float,
    draft_tokens: int | None = None,
    *,
    most_running: int | None = None,
    text: str = "mixed",
    known: Mapping[str, float] = KNOWN,
    calibrated: bool = False,
) -> Estimate:
    """How a setup answers with this many requests of this length in the air at once.

    Args:
        setup: model, checkpoint, cards and engine.
        concurrency: requests in the air, at least 1.
        prompt_tokens: of each request.
        output_tokens: of each answer, at least 1.
        draft_tokens: how many a drafter proposes in each step; 0: none; None: as the setup says.
        most_running: how many the cache holds at this length, when it is known; None: as `plan.memory` works out.
        text: what is written, which decides how many drafts are accepted: a key of `drafting.ACCEPTED`.
        known: the coefficients, from `calibrate` when this machine was measured.
        calibrated: whether they are this machine's.

    Raises:
        ValueError: a count below its least.
    """
    if concurrency < 1 or output_tokens < 1 or prompt_tokens < 0 or (most_running or 1) < 1:
        raise ValueError("at least one request of at least one output token is needed to estimate anything")
    job = work(setup, known)
    draft_tokens = _drafts(setup, draft_tokens)
    held = held_at_once(setup, prompt_tokens + output_tokens) if most_running is None else most_running
    running = max(1, min(concurrency, held, setup.requests or concurrency))
    preempts = setup.engine in POOLED and (setup.requests is None or held < setup.requests)
    drafted = cycle(job, running, prompt_tokens, output_tokens, draft_tokens, text)
    tpot_s = drafted.step_s
    first_s = job.known.first_ms / 1000 + job.prompt_s(prompt_tokens) + drafted.cycle_s / 2
    lump_s = (running - 1) * job.prompt_s(prompt_tokens)
    spread = spread_of(setup, concurrency, prompt_tokens, draft_tokens, calibrated=calibrated)
    ttft = Range(
        (first_s + LUMP_LOW * lump_s) / 1.5, first_s + LUMP * lump_s, (first_s + LUMP_HIGH * lump_s) * 1.5
    )
    tpot = Range.around(tpot_s, spread)
    rate = running / (ttft.likely + (output_tokens - 1) * tpot_s)
    if over := concurrency > running:
        ttft, tpot = _queued(
            ttft, tpot, concurrency / running if preempts else 1.0, concurrency / rate, output_tokens
        )
    requests = Range.around(rate, spread)
    return Estimate(
        concurrency=concurrency,
        running=running,
        ttft_s=ttft,
        tpot_s=tpot,
        tokens_per_s=requests.times(output_tokens),
        requests_per_s=requests,
        prompt_tokens_per_s=Range.around(prompt_tokens / max(job.prompt_s(prompt_tokens), 1e-9), 0.4),
        bound=("cache" if preempts else "requests")
        if over
        else bound_of(job, running, prompt_tokens, output_tokens),
        saturated=over,
        notes=_notes(setup, concurrency, held, preempts, calibrated),
    )


def held_at_once(setup: Setup, tokens: float) -> int:
    """How many requests of this length the cache of a replica holds while they write, whatever the engine's own cap."""
    return min(MOST, budget(setup.with_(requests=MOST)).decoding(math.ceil(tokens)))


def _drafts(setup: Setup, asked: int | None) -> int:
    """How many tokens are drafted: as asked for, else as the setup says, else as its model's makers recommend."""
    if asked is not None:
        return asked
    return (setup.draft_tokens or setup.model.assistant.draft_tokens[0]) if setup.drafter else 0


def _queued(
    ttft: Range, tpot: Range, over: float, stay_s: float, output_tokens: float
) -> tuple[Range, Range]:
    """First token and time per token when each request stays `stay_s` in all.

    The engine takes `over` times as many as it can hold, and preempts; 1: the others wait before they are admitted.
    """
    after = max(1.0, output_tokens - 1)
    likely = tpot.likely * math.sqrt(over)
    stretched = Range(tpot.low, likely, tpot.high * over)
    longest = max(ttft.high, 1.2 * (stay_s - after * tpot.low))
    waited = Range(ttft.low, min(longest, max(ttft.likely, stay_s - after * likely)), longest)
    return waited, stretched


def saturation(
    setup: Setup,
    prompt_tokens: float,
    output_tokens: float,
    *,
    most_running: int | None = None,
    longest_tpot_s: float | None = None,
    known: Mapping[str, float] = KNOWN,
    calibrated: bool = False,
) -> Saturation:
    """The number of requests at once beyond which one replica gains too little to be worth the wait.

    It is the least at which doubling brings less than 15 % more tokens, or what the cache holds, or what an aim
    for the time per token allows, whichever comes first.

    Args:
        longest_tpot_s: an aim for the time per token; None: none.
        (others): as for `estimate`.
    """

    held = held_at_once(setup, prompt_tokens + output_tokens) if most_running is None else most_running
    limit = max(1, min(held, MOST))

    def at(running: int) -> Estimate:
        return estimate(
            setup, running, prompt_tokens, output_tokens, most_running=limit, known=known, calibrated=calibrated
        )  # fmt: skip

    running, why = _knee(at, limit)
    if running >= limit:
        why = "the cache holds no more requests of this length"
    if longest_tpot_s is not None and at(running).tpot_s.likely > longest_tpot_s:
        running = last(lambda n: at(n).tpot_s.likely <= longest_tpot_s, running)
        why = f"more would lengthen the time per token beyond {longest_tpot_s * 1000:.0f} ms"
    there = at(max(1, running))
    return Saturation(max(1, running), there.tokens_per_s, there.tpot_s, why)


def _knee(at: Callable[[int], Estimate], limit: int) -> tuple[int, str]:
    """The least count at which doubling gains too little, and why; the limit when there is none."""
    running = 1
    while running < limit:
        twice = min(limit, running * 2)
        gain = at(twice).tokens_per_s.likely / at(running).tokens_per_s.likely
        if gain < 1 + (KNEE - 1) * (twice / running - 1):
            return running, f"twice as many at once would bring only {gain - 1:.0%} more tokens"
        running = twice
    return running, ""


def last(fits: Callable[[int], bool], limit: int) -> int:
    """The largest count up to `limit` that fits; 0: not even one. What fits at n fits below n."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def bound_of(job: Work, running: int, prompt_tokens: float, output_tokens: float) -> str:
    """Which part of a step is the largest: bandwidth, compute or overhead."""
    parts = {
        "bandwidth": job.read_s(running, running, prompt_tokens + output_tokens / 2),
        "compute": (running - 1) * job.others_s(prompt_tokens, output_tokens),
        "overhead": job.overhead_s() + (running - 1) * job.known.each_ms / 1000,
    }
    return max(parts, key=lambda name: parts[name])


# Architectures with published runs among our cases; on the others the formula was never held against a measurement.
MEASURED = {"hopper", "blackwell", "cdna3", "tpu", "ampere"}
ENGINES_MEASURED = {"vllm", "sglang", "llamacpp", "embedded", "ollama"}


def spread_of(
    setup: Setup, concurrency: int, prompt_tokens: float, draft_tokens: int, *, calibrated: bool
) -> float:
    """By what share a likely time per token may be wrong either way.

    The parts are independent and add as squares. They are rounded up from the errors of
    tests/plan/test_throughput.py: 15 % single streams, 20 % batches; 45 % of experts on AMD, where the only published
    run was missed by 43 %; the rest is judgement where nothing was published.
    """
    parts = [0.15 if concurrency == 1 else 0.20]
    experts_off = setup.model.shape.moe is not None and setup.accelerator.vendor == "amd"
    parts.append(0.45 if experts_off else 0.0)
    parts.append(0.15 if setup.model.shape.moe is not None and setup.tp > 1 else 0.0)
    if calibrated:
        parts = [0.10]
    parts.append(0.0 if setup.accelerator.arch in MEASURED or calibrated else 0.20)
    parts.append(0.0 if setup.engine in ENGINES_MEASURED or calibrated else 0.30)
    four_bits = setup.checkpoint.bits in ("int4", "nvfp4") and not setup.checkpoint.format.startswith(FILES)
    parts.append(0.15 if four_bits and concurrency > 1 and not calibrated else 0.0)
    parts.append(0.30 if prompt_tokens > 8192 and concurrency > 1 else 0.0)
    parts.append(0.15 if draft_tokens else 0.0)
    parts.append(0.15 if setup.drafter and setup.drafter_kind != "assistant" else 0.0)
    return math.sqrt(sum(part * part for part in parts))


def _notes(setup: Setup, concurrency: int, held: int, preempts: bool, calibrated: bool) -> tuple[str, ...]:
    said = []
    if held < 1:
        said.append(
            "not even one request of this length fits: these figures hold only for a replica that starts."
        )
    elif concurrency > held and preempts:
        said.append(
            f"the cache holds {held} of {concurrency} requests at this length: the others wait. "
            f"Cap what runs at {held} and let the gateway queue."
        )
    if setup.accelerator.arch not in MEASURED and not calibrated:
        said.append(
            f"no published run of Gemma 4 on {setup.accelerator.name} was found to check this against: "
            f"measured runs of your own narrow the range (docs/planning.md, Speed)."
        )
    if setup.drafter and setup.drafter_kind != "assistant":
        said.append(
            f"drafting with {setup.drafter_kind} rests on two published ones for 31B: others may be right more often."
        )
    if setup.tp > 1 and setup.engine in LLAMACPP:
        said.append(
            "llama.cpp reads with all cards at once only with --split-mode tensor; by layers, one after another."
        )
    if setup.tp > 1 and setup.accelerator.interconnect == "pcie":
        said.append(
            "cards on PCIe exchange twice in every layer: under load, two replicas of half the width answer more."
        )
    return tuple(said)
