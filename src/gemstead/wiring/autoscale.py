"""Replicas follow the load: every model is looked at, how many replicas it should have is shown as a metric, and made
so where the file says `autoscale`.

What is decided is decided in `traffic/autoscale.py`; here what workers and engines report becomes a `Seen`. Calls are
counted by whoever knows of more, the gateway or the engine (others may call it too), and tokens by the engine's own
share of its cache; latencies and what is to come are `foresight.py`'s. What a replica can carry is what admission takes
it to be (`traffic/endpoint.py: knee`); but when calls wait in the gateway, what runs now is what the engines take,
whatever the plan says.

A model that sleeps or is being changed is left alone. What cannot be had (no memory, no card) is said once and not
asked for again for a minute, because each time costs a plan.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gemstead.spec.autoscale import AutoscaleSpec
from gemstead.traffic.autoscale import Scaling, Seen, State, step
from gemstead.traffic.endpoint import STALE_S, EndpointFacts, Load, knee
from gemstead.traffic.saturation import MOST_IN_FLIGHT
from gemstead.wiring.foresight import Foresight
from gemstead.wiring.scale import MOST

LOOK_S = 2.0
AGAIN_S = 60.0  # after a number of replicas could not be had
log = logging.getLogger("gemstead")


@dataclass(frozen=True, slots=True)
class Engine:
    """One endpoint of a model."""

    facts: EndpointFacts
    in_flight: int  # calls of all workers
    load: Load | None = None  # what it says itself

    def calls(self, now: float) -> tuple[int, int]:
        """(running, waiting inside the engine)."""
        load = self.load
        if load is None or now - load.at > STALE_S:
            return self.in_flight, 0
        waiting = load.waiting or 0
        return max(self.in_flight - waiting, load.running or 0), waiting

    def tokens(self, now: float) -> float:
        """Tokens in its cache that running calls hold; 0 where it does not say."""
        load = self.load
        if load is None or now - load.at > STALE_S or load.kv_used is None:
            return 0.0
        return load.kv_used * self.facts.kv_tokens


@dataclass(frozen=True, slots=True)
class Demand:
    """What is the case with one model now."""

    pool: str
    replicas: int  # that should run at present, those that start among them
    engines: Sequence[Engine]
    waiting: int = 0  # calls in the gateway
    spec: AutoscaleSpec | None = None  # None: only to be shown
    busy: bool = False  # a rollout is under way


def seen(demand: Demand, now: float) -> Seen:
    """The model as the step function looks at it; `now` is monotonic, as the loads' times are."""
    calls = [engine.calls(now) for engine in demand.engines]
    running, inside = sum(one for one, _ in calls), sum(two for _, two in calls)
    tokens, waiting = sum(engine.tokens(now) for engine in demand.engines), inside + demand.waiting
    return Seen(
        replicas=demand.replicas,
        running_tokens=tokens,
        running_calls=running,
        waiting_tokens=tokens / running * waiting if running else 0.0,
        waiting_calls=waiting,
    )


def scaling(demand: Demand, now: float) -> Scaling:
    """The bounds, the pace, and what one replica carries."""
    spec = demand.spec or AutoscaleSpec(most=MOST)
    calls = max((knee(engine.facts) for engine in demand.engines), default=0) or MOST_IN_FLIGHT
    if demand.waiting:
        full = [
            running for engine in demand.engines if engine.facts.ready and (running := engine.calls(now)[0])
        ]
        calls = min(calls, max(full, default=calls))
    tokens = max((engine.facts.kv_tokens for engine in demand.engines), default=0)
    return Scaling(
        least=spec.least,
        most=spec.most,
        replica_tokens=float(tokens) or float("inf"),
        replica_calls=calls,
        ttft_s=spec.first_token_s or 0.0,
        tpot_s=spec.token_s or 0.0,
        up_window_s=spec.up_after_s,
        down_window_s=spec.down_after_s,
        idle_s=spec.idle_s,
    )


def why(seen: Seen) -> str:
    """What a person is told who sees the number change."""
    said = f"{seen.running_calls} calls run and {seen.waiting_calls} wait"
    if seen.forecast_replicas:
        said += f", the hours of the file want {seen.forecast_replicas}"
    if seen.forecast_calls > seen.running_calls + seen.waiting_calls:
        said += f", about {seen.forecast_calls:.0f} are expected soon"
    if seen.ttft_s or seen.tpot_s:
        said += f", nine of ten have a first token within {seen.ttft_s:g} s and each further within {seen.tpot_s:g} s"
    return said


@dataclass(slots=True)
class Autoscaler:
    """Keeps looking. `act` has a model have so many replicas (0: sleep), and raises what speaks against it."""

    demands: Callable[[], Iterable[Demand]]
    act: Callable[[str, int, str], Awaitable[str]]
    trouble: Callable[[str], None]
    desired: dict[str, int] = field(default_factory=dict)  # by model; of those that are awake
    foresight: Foresight | None = None  # what is told beside the load of the moment
    _states: dict[str, State] = field(default_factory=dict)
    _refused: dict[str, tuple[int, float, str]] = field(default_factory=dict)  # how many, until when, why

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look(time.monotonic())
            except Exception:  # a look that fails changes nothing
                log.exception("looking at the load failed")

    async def look(self, now: float) -> None:
        """Work out what every model should have, and do it where the file says so."""
        demands = list(self.demands())
        awake = {demand.pool for demand in demands}
        for gone in self._states.keys() - awake:
            self._forget(gone)
        for demand in demands:
            what = seen(demand, now)
            if self.foresight is not None:
                facts = [engine.facts for engine in demand.engines]
                what = await self.foresight.see(demand.pool, demand.spec, facts, what, now)
            state = self._states.get(demand.pool, State())
            self._states[demand.pool], count = step(scaling(demand, now), state, what, now)
            self.desired[demand.pool] = count
            if demand.spec is not None and not demand.busy and count != demand.replicas:
                await self._have(demand.pool, count, why(what), now)

    async def _have(self, pool: str, count: int, because: str, now: float) -> None:
        refused, until, said = self._refused.get(pool, (0, now, ""))
        if count >= refused > 0 and now < until:
            return
        try:
            log.info("%s", await self.act(pool, count, because))
        except Exception as error:  # the service goes on with the replicas that it has
            if said != str(error):
                self.trouble(f"autoscale: {error}")
            self._refused[pool] = (count, now + AGAIN_S, str(error))
        else:
            self._refused.pop(pool, None)
            if count == 0:  # it may be woken before the next look, and begins afresh then
                self._forget(pool)

    def _forget(self, pool: str) -> None:
        self._states.pop(pool, None)
        self.desired.pop(pool, None)
