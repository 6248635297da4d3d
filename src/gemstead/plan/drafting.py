"""What a drafter (multi-token prediction) brings, by how many requests run, and how deep it should look ahead.

A small model proposes n tokens, the large one checks them all in one pass, and those up to the first wrong one are
kept, with one more that the check itself yields. If each draft is right with chance a once those before it were,

    kept  = 1 + a + a^2 + ... + a^n
    cycle = one pass over b x (n + 1) tokens + n x (drafter's bytes / bandwidth + its launch)
    gain  = kept x step / cycle

For one request the pass reads the same weights as a plain step, and the gain is nearly `kept`. With b requests the
b x n checked tokens cost compute like a prompt's, which is spent also on those that are thrown away; a mixture of
experts reads more of its experts for more tokens. So the gain falls with b: 31B on two RTX PRO 6000 was measured at
2.48, 1.92 and 1.09 times for 1, 10 and 100 requests, with four drafts of which 3.1 to 3.3 were kept, and at 100 the
slowest answers became slower (Callstack, 2026). The first token comes later with a drafter at every concurrency.

Chances `a` come from published numbers of kept tokens: chat 3.1 to 3.3 of n = 4 (Callstack); prose 3.0 and code 3.8 to
3.95 (club-3090 BENCHMARKS.md at 2026-08-22).

EAGLE-3 drafts with one layer on the target's own states: cheaper, and right less often. 43 % of n = 3 drafts were kept
for random text, 50 % for chat (air-gapped/skills, 31B on H100, 2026-04-30), which is a chance of 0.62 and 0.69; one
retrained for Korean was right in 0.64, 0.60 and 0.62 of the cases at its three places (BCCard, 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gemstead.plan.setup import Setup
from gemstead.plan.step import KNOWN, Work, work

ACCEPTED = {"chat": 0.78, "prose": 0.74, "mixed": 0.80, "code": 0.88, "random": 0.62}
EAGLE_ACCEPTED = {"chat": 0.69, "prose": 0.65, "mixed": 0.65, "code": 0.69, "random": 0.62}
WORTH = 1.15  # a smaller gain is not worth a later first token and slower tails


@dataclass(frozen=True, slots=True)
class Cycle:
    """One round of drafting and checking. Without a drafter: one step."""

    cycle_s: float
    kept: float  # tokens that it yields, on average
    step_s: float  # seconds for each token: cycle over kept


@dataclass(frozen=True, slots=True)
class Depth:
    """How many tokens to draft, and what it brings."""

    tokens: int  # 0: leave the drafter off
    gain: float  # likely factor on the time per token; 1: none
    kept: float
    assistant: str  # the drafter's repository; empty when off
    why: str
    gains: Mapping[int, float]  # of every depth that was considered


def kept_tokens(draft_tokens: int, accepted: float) -> float:
    """Tokens that one cycle yields on average when each draft is right with this chance after those before it."""
    return sum(accepted**place for place in range(draft_tokens + 1))


def accepted_of(kind: str, text: str) -> float:
    """The chance that a draft is right, by the kind of drafter (`Setup.drafter_kind`) and what is written."""
    if kind == "eagle3":
        return EAGLE_ACCEPTED[text]
    return ACCEPTED[text]


def cycle(
    job: Work,
    running: int,
    prompt_tokens: float,
    output_tokens: float,
    draft_tokens: int,
    text: str = "mixed",
) -> Cycle:
    """One round for `running` requests at once; arguments as for `throughput.estimate`."""
    if not draft_tokens:
        step_s = job.step_s(running, prompt_tokens, output_tokens)
        return Cycle(step_s, 1.0, step_s)
    kept = kept_tokens(draft_tokens, accepted_of(job.drafter_kind, text))
    context = prompt_tokens + output_tokens / 2
    known = job.known
    checked = running * draft_tokens
    passed = job.read_s(running + checked, running, context) + job.overhead_s()
    passed += (running + checked - 1) * known.each_ms / 1000 + running * job.exchange_s()
    passed += checked * job.token_s(context, known.checked_share)
    passed += kept * (running - 1) * job.others_s(prompt_tokens, output_tokens)
    drafted = draft_tokens * (job.drafter_bytes / (job.bandwidth * known.reached) + known.draft_ms / 1000)
    return Cycle(passed + drafted, kept, (passed + drafted) / kept)


def gain(
    setup: Setup,
    running: int,
    prompt_tokens: float,
    output_tokens: float,
    draft_tokens: int,
    text: str = "mixed",
    known: Mapping[str, float] = KNOWN,
) -> float:
    """By which factor a drafter shortens the time per token, for `running` requests at once."""
    job = work(setup, known)
    plain = cycle(job, running, prompt_tokens, output_tokens, 0)
    return plain.step_s / cycle(job, running, prompt_tokens, output_tokens, draft_tokens, text).step_s


def depth(
    setup: Setup,
    running: int,
    prompt_tokens: float,
    output_tokens: float,
    text: str = "mixed",
    known: Mapping[str, float] = KNOWN,
) -> Depth:
    """The number of tokens to draft at this concurrency, or 0 when the drafter should stay off.

    It is the shallowest within 5 % of the best: a deeper one helps little and hurts tails. Depths go as far as the
    model's makers recommend.
    """
    assistant = setup.model.assistant
    depths = range(1, max(assistant.draft_tokens) + 1)
    gains = {n: gain(setup, running, prompt_tokens, output_tokens, n, text, known) for n in depths}
    best = max(gains.values())
    if best < WORTH:
        why = (
            f"with {running} at once the best depth would bring {best:.2f} times, and the first token and the slowest "
            f"answers would come later"
        )
        return Depth(0, 1.0, 1.0, "", why, gains)
    chosen = min(n for n, factor in gains.items() if factor >= best / 1.05)
    kept = kept_tokens(chosen, accepted_of(setup.drafter_kind, text))
    why = f"{chosen} drafts keep about {kept:.1f} tokens: {gains[chosen]:.2f} times as fast with {running} at once"
    return Depth(chosen, gains[chosen], kept, setup.checkpoint.drafter or assistant.repo, why, gains)


def off_from(
    setup: Setup,
    prompt_tokens: float,
    output_tokens: float,
    text: str = "mixed",
    known: Mapping[str, float] = KNOWN,
) -> int:
    """The number of requests at once from which the drafter should be off, among powers of two up to 1024."""
    for power in range(11):
        if not depth(setup, 1 << power, prompt_tokens, output_tokens, text, known).tokens:
            return 1 << power
    return 1 << 11
