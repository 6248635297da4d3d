"""What a step of a pretend engine costs, and how much it remembers.

A step takes every running request one token further (with a drafter `kept` tokens), and reads as much of waiting
prompts as its token budget has left (chunked prefill). It lasts

    step = base(tokens) + n x each + context x per token of it + windows                            decoding
         + p x (token + depth x deeper)                                                             prompts

with n requests decoding at `context` tokens together, and p prompt tokens read at a depth. These are the terms of
`plan/step.py`, whose coefficients were set on published runs; `planned` takes them from there, so that the planner
and the simulator tell one story. `Engine` can also be given numbers fitted to measurements (docs/traffic.md).

Left out: pictures, adapters that are loaded on demand, what a step costs beyond these sums (graph sizes, garbage
collection, other users of the card). Every engine of a fleet step is exact; real ones scatter by a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gemstead.plan import kv_vllm
from gemstead.plan.drafting import ACCEPTED, kept_tokens
from gemstead.plan.memory import budget
from gemstead.plan.setup import Setup
from gemstead.plan.step import work


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of replica. Times are seconds, sizes are tokens unless the name says otherwise."""

    base_s: float  # of any step: the weights that all tokens need, and launches
    each_s: float  # for each decoding request
    context_s: float  # for each token of context that decoding reads in full layers
    window_s: float  # for each token of context within the window, in sliding layers
    window: int  # of sliding layers; 0: there are none
    prefill_s: float  # for each prompt token
    deeper_s: float  # the same for each token of context before it
    deeper_window_s: float  # the same within the window
    step_tokens: int  # most in one step: --max-num-batched-tokens
    most_running: int  # --max-num-seqs
    kv_tokens: int  # size of the cache, in tokens of the layers that keep everything
    kv_window_tokens: float = (
        0.0  # room of one request's sliding windows, counted in the same; 0: there are none
    )
    experts_s: float = 0.0  # for reading all experts; a step reads those that its tokens chose
    expert_chosen: float = 0.0  # share of the experts that one token runs through
    kept: float = 1.0  # tokens that a step yields for each request; above 1 with a drafter
    draft_tokens: int = 0
    draft_s: float = 0.0  # of a step's drafting
    first_s: float = 0.0  # between the engine's door and its queue: tokenising, scheduling

    def weights_s(self, tokens: float) -> float:
        """Seconds of a step over this many tokens before any cache is read."""
        if not self.experts_s:
            return self.base_s
        missed: float = (1.0 - self.expert_chosen) ** tokens
        return self.base_s + self.experts_s * (1.0 - missed)

    def prompt_s(self, tokens: float, depth: float) -> float:
        """Seconds that reading `tokens` of a prompt adds to a step, with `depth` tokens before them."""
        middle = depth + tokens / 2
        return tokens * (
            self.prefill_s + self.deeper_s * middle + self.deeper_window_s * min(middle, self.window)
        )

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens a second in full steps at no depth: what other routers calibrate as their peak rate."""
        return self.step_tokens / (self.weights_s(self.step_tokens) + self.prompt_s(self.step_tokens, 0.0))

    def drafting(self, draft_tokens: int, accepted: float = ACCEPTED["mixed"]) -> Engine:
        """The same engine with a drafter that is right with chance `accepted`; `draft_s` must be known."""
        kept = kept_tokens(draft_tokens, accepted)
        return replace(self, draft_tokens=draft_tokens, kept=kept)


def planned(setup: Setup) -> Engine:
    """The engine that the planner believes a setup to be."""
    job, pool = work(setup), budget(setup)
    bandwidth = job.bandwidth * job.known.reached
    made = kv_vllm.layout(setup)
    full, windowed = _token_bytes(made)
    draft_s = 0.0
    if setup.draft_tokens:
        draft_s = setup.draft_tokens * (job.drafter_bytes / bandwidth + job.known.draft_ms / 1000)
    return Engine(
        base_s=job.fixed_bytes / bandwidth + job.overhead_s(),
        each_s=job.known.each_ms / 1000 + job.exchange_s(),
        context_s=job.growing_bytes / bandwidth,
        window_s=job.capped_bytes / bandwidth,
        window=min(job.window, 1 << 20) if windowed else 0,
        prefill_s=job.token_s(0.0, job.known.mixed_share),
        deeper_s=job.growing_flops / (job.attention_peak * job.known.attention_share),
        deeper_window_s=job.capped_flops / (job.attention_peak * job.known.attention_share),
        step_tokens=setup.in_steps_of,
        most_running=setup.at_once,
        kv_tokens=int(pool.safe_pool_bytes / full),
        kv_window_tokens=made.window * windowed / full,
        experts_s=job.expert_bytes / bandwidth,
        expert_chosen=job.expert_chosen,
        kept=kept_tokens(setup.draft_tokens, ACCEPTED["mixed"]),
        draft_tokens=setup.draft_tokens,
        draft_s=draft_s,
        first_s=job.known.first_ms / 1000 / 2,  # its other half is the step itself
    )


def _token_bytes(made: kv_vllm.Layout) -> tuple[float, float]:
    """Bytes of one rank's cache for one token, in full layers and in sliding ones."""
    full = made.groups_full * made.block_bytes / made.block_full
    return full, made.groups_sliding * made.block_bytes / made.block_sliding
