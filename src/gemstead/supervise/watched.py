"""What it means to watch an endpoint: the words between the head and whoever watches, for an engine process of ours
(`replica.py`) and for an engine that someone else runs (`external.py`) alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from gemstead.engines.lifecycle import Phase
from gemstead.traffic.endpoint import EndpointFacts, Load

PROBE_READY_S = 1.0
# How a probe's sentence begins when the model's route answered 5xx, and when no answer could be had to be judged.
ANSWERED_ERROR = "a request was answered"
CANNOT_ASK = "it could not be asked"


@dataclass(frozen=True, slots=True)
class Sight:
    """What an engine said about itself. None: it did not say."""

    load: Load | None = None
    progress: float | None = None  # grows with every token and every completion
    drafted: float | None = None  # tokens that its drafter wrote, since its start
    accepted: float | None = None  # of these, kept
    kv_tokens: int = 0  # that its cache holds; 0: it did not say
    slots: int = 0  # requests that it runs at once; 0: it did not say

    def after(self, before: Sight) -> Sight:
        """This look, with the sizes that an earlier one told where this one is silent."""
        if self.kv_tokens and self.slots:
            return self
        return replace(self, kv_tokens=self.kv_tokens or before.kv_tokens, slots=self.slots or before.slots)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an endpoint has done since it was first started: what a rollout goes by."""

    ready_s: float = 0.0  # for how long it has been ready
    failures: int = 0  # starts that failed, and deaths
    served: bool = False  # was ready once
    hopeless: str = ""  # why another start would end like the last


@dataclass(frozen=True, slots=True)
class Care:
    """What is done with an engine before it is ready."""

    warm_up: bool = False  # with real requests
    check: str = "off"  # "refuse": nonsense is never ready; "warn": it is, and that is said
    knows: bool = False  # the model is known to know what is asked


class Probe(Protocol):
    """How an engine is asked. Each question answers within a bound of its own, and never raises."""

    async def ask(self, path: str, content: dict[str, object], within_s: float) -> str:
        """Ask it for something: "" when it is done, else what it said."""

    async def listening(self) -> bool: ...
    async def answers(self, within_s: float) -> str:
        """A real answer from the model: "" when it came, else what went wrong."""

    async def warm(self, within_s: float) -> str: ...
    async def prove(self, knows: bool, within_s: float) -> str:
        """What is wrong with what it answers; see ANSWERED_ERROR and CANNOT_ASK."""

    async def healthy(self) -> str: ...
    async def look(self) -> Sight: ...
    async def can_sleep(self) -> bool: ...
    async def sleep(self) -> bool: ...
    async def wake(self) -> bool: ...


class Watched(Protocol):
    """An endpoint that somebody watches."""

    sight: Sight

    @property
    def facts(self) -> EndpointFacts: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def standing(self) -> Standing: ...
    def describe(self) -> dict[str, object]: ...
    async def run(self) -> None: ...
    async def prove(self) -> str:
        """What is wrong with what it answers now; "" when nothing is, or nothing could be learnt."""

    async def sleep(self) -> str:
        """Have it sleep; how it does that, in words."""

    def wake(self) -> None: ...
    def drain(self) -> None: ...
    def kill(self) -> None: ...
