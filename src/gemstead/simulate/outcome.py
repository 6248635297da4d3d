"""What became of each request of a simulated run."""

from __future__ import annotations

from dataclasses import dataclass, field

SERVED, CUT, REFUSED, TOO_LONG, LOST = "served", "cut", "refused", "too_long", "lost"


@dataclass(slots=True)
class Outcome:
    """One request. Times are seconds of the run; negative: never."""

    number: int  # its place in the workload
    tenant: str
    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    status: str = LOST  # served | cut (its engine died while it wrote) | refused | too_long
    gateway: int = 0
    replica: int = -1  # that answered
    attempts: int = 0
    queued_s: float = 0.0  # at the gateway
    first_s: float = -1.0  # when the first token came
    end_s: float = -1.0
    hit_tokens: int = 0
    preempted: int = 0

    @property
    def ttft_s(self) -> float:
        """Seconds from the arrival to the first token."""
        return self.first_s - self.arrived_s

    @property
    def tpot_s(self) -> float:
        """Seconds for each further token; 0 for answers of one."""
        return (self.end_s - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


@dataclass(slots=True)
class Run:
    """A whole run: its requests in the order of the workload, and what the engines counted."""

    outcomes: list[Outcome]
    replicas: int
    until_s: float = 0.0
    preemptions: int = 0
    busy_s: list[float] = field(default_factory=list)  # of each replica
    prompt_read: list[float] = field(default_factory=list)  # tokens of each replica, hits not counted
    picks: list[int] = field(default_factory=list)  # calls sent to each replica
    events: int = 0
