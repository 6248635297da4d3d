"""One replica, kept alive: the lifecycle's commands carried out, its events gathered.

`engines/lifecycle.py` decides; this file starts and ends the process, asks the engine how it is, and
reports every change of phase at once. Three things go on side by side and each only ever calls
`_on(event)`: the process is waited for, the engine is probed, and time passes. A slow probe therefore never
delays a restart, and an answer that arrives after its process has died is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gemstead.engines import lifecycle
from gemstead.engines.lifecycle import Allowance, Command, Phase, State
from gemstead.plan.values import Launch
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.process import Leash, Process, launch
from gemstead.traffic.endpoint import EndpointFacts, Load

TICK_S = 0.2
PROBE_STARTING_S = 0.1
PROBE_WARMING_S = 0.5
PROBE_READY_S = 1.0
log = logging.getLogger("gemstead")


@dataclass(frozen=True, slots=True)
class Sight:
    """What an engine said about itself. None: it did not say."""

    load: Load | None = None
    progress: float | None = None  # grows with every token and every completion


class Probe(Protocol):
    """How an engine is asked. Each question answers within a bound of its own, and never raises."""

    async def listening(self) -> bool: ...
    async def answers(self, within_s: float) -> str:
        """A real answer from the model: "" when it came, else what went wrong."""

    async def healthy(self) -> str: ...
    async def look(self) -> Sight: ...


class Watched(Protocol):
    """An endpoint that somebody watches: a replica of ours, or an engine that someone else runs."""

    sight: Sight

    @property
    def facts(self) -> EndpointFacts: ...
    @property
    def phase(self) -> Phase: ...
    def describe(self) -> dict[str, object]: ...
    async def run(self) -> None: ...
    def drain(self) -> None: ...
    def kill(self) -> None: ...


class Replica:
    """One wanted engine process. `run` returns when it has been drained and is gone."""

    def __init__(
        self,
        plan: Callable[[bool], Launch],
        allowance: Allowance,
        probe: Callable[[Launch], Probe],
        *,
        log: Callable[[Callable[[str], None]], RotatedLog],
        changed: Callable[[], None],
        in_flight: Callable[[str], int],
        read_log: Callable[[str], str | None] = lambda _line: None,
    ) -> None:
        """Args:
        plan: how to start it; called with True when another port should be tried.
        changed: called after every change of phase, and when there is news of the load's progress.
        in_flight: the calls that the gateway has on the endpoint of that name.
        read_log: an engine's log line in words for the user, such as "loading 40 %".
        """
        self.launch = plan(False)
        self.sight = Sight()
        self.stage = ""  # what it is doing while it starts, in the engine's words
        self.state: State | None = None
        self.log = log(self._read_line)
        self._plan, self._allowance, self._probe_of = plan, allowance, probe
        self._changed, self._in_flight, self._read_log = changed, in_flight, read_log
        self._process: Process | None = None
        self._probe = probe(self.launch)
        self._nudged = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_ready = False

    @property
    def phase(self) -> Phase:
        return self.state.phase if self.state else Phase.STARTING

    @property
    def facts(self) -> EndpointFacts:
        return EndpointFacts(
            name=self.launch.name,
            pool=self.launch.pool,
            host=self.launch.host,
            port=self.launch.port,
            engine=self.launch.engine,
            served_model=self.launch.served_model,
            version=self.launch.version,
            context_tokens=self.launch.context_tokens,
            slots=self.launch.slots,
            api_key=self.launch.api_key,
            ready=self.state is not None and self.state.takes_calls,
            draining=self.phase is Phase.DRAINING,
        )

    def describe(self) -> dict[str, object]:
        """What `gemstead ps` shows of it."""
        state, load, now = self.state, self.sight.load, time.monotonic()
        return {
            "name": self.launch.name,
            "model": self.launch.pool,
            "engine": self.launch.engine,
            "phase": self.phase.value,
            "ready": self.facts.ready,
            "address": f"{self.launch.host}:{self.launch.port}",
            "pid": self._process.pid if self._process else None,
            "for_s": round(now - state.since, 1) if state else 0.0,
            "restarts": state.restarts if state else 0,
            "why": state.why if state else "",
            "stage": self.stage,
            "in_flight": self._in_flight(self.launch.name),
            "running": load.running if load else None,
            "waiting": load.waiting if load else None,
            "context_tokens": self.launch.context_tokens,
            "slots": self.launch.slots,
            "version": self.launch.version,
            "demonstration": self.launch.demonstration,
        }

    def drain(self) -> None:
        """No new calls; end when the last one has."""
        self._on(lifecycle.DrainAsked())

    def kill(self) -> None:
        """End it now, whatever it does."""
        self.drain()
        if self._process is not None:
            self._process.kill()

    async def run(self) -> None:
        self._carry_out(lifecycle.begin(self._allowance, time.monotonic()))
        probing = asyncio.create_task(self._probing())
        try:
            while self.phase is not Phase.STOPPED:
                self._nudged.clear()
                try:  # not `wait_for`: that of Python 3.11 may swallow a cancellation
                    async with asyncio.timeout(TICK_S):
                        await self._nudged.wait()
                except TimeoutError:
                    self._on(lifecycle.Tick())
        finally:
            probing.cancel()
            if self._process is not None:
                self._process.kill()
            await asyncio.gather(probing, *self._tasks, return_exceptions=True)
            self.log.close()

    def _on(self, event: lifecycle.Event) -> None:
        if self.state is not None:
            self._carry_out(lifecycle.step(self.state, event, time.monotonic()))

    def _carry_out(self, step: lifecycle.Step) -> None:
        before = self.state
        self.state, commands = step
        for command in commands:
            if command is Command.START:
                self._start()
            elif self._process is not None:
                self._process.terminate() if command is Command.TERMINATE else self._process.kill()
        if before is None or before.phase is not self.state.phase:
            self._entered(self.state)

    def _entered(self, state: State) -> None:
        if state.phase is Phase.READY:
            self._was_ready, self.stage = True, ""
        if state.phase in (Phase.FAILED, Phase.BACKING_OFF):
            pause = f"; next start in {state.due - state.since:.1f} s" if not state.running else ""
            self.log.say(f"{self.launch.name} {state.phase.value.replace('_', ' ')}: {state.why}{pause}")
        if not state.takes_calls:
            self.sight = Sight()
        self._nudged.set()
        self._changed()

    def _start(self) -> None:
        if self.state is not None and self.state.restarts:
            self.launch = self._plan(not self._was_ready)
        self._was_ready, self.stage = False, ""
        self._probe = self._probe_of(self.launch)
        task = asyncio.create_task(self._live())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self) -> None:
        """One process, from start to exit."""
        spec = self.launch
        leash = Leash.WATCHED if spec.engine == "embedded" else Leash.WRAPPED
        self.log.say(f"{spec.name} starting on {spec.host}:{spec.port}")
        try:
            self._process = await launch(spec.argv, leash=leash, output=self.log.write, env=spec.env)
        except OSError as error:
            self._on(lifecycle.Exited(127, f"cannot start {spec.argv[0]}: {os.strerror(error.errno or 0)}"))
            return
        if self.state is not None and self.state.told:  # drained while it was being started
            self._process.terminate()
        code = await self._process.wait()
        self._process = None
        self._on(lifecycle.Exited(code, self._last_words(code)))

    def _last_words(self, code: int) -> str:
        how = f"ended by signal {-code}" if code < 0 else f"exited with code {code}"
        if code <= 0:
            return how
        said = [line for line in self.log.recent if line.strip() and not line.startswith("[gemstead ")]
        last = said[-1].strip()[:300] if said else ""
        if last.startswith("gemstead: "):  # our own engine says in one sentence why it ends
            return last.removeprefix("gemstead: ")
        return f"{how}; last line: {last}" if last else how

    def _read_line(self, line: str) -> None:
        if self.phase not in (Phase.STARTING, Phase.WARMING):
            return
        if (stage := self._read_log(line)) is not None and stage != self.stage:
            self.stage = stage
            self._changed()

    async def _probing(self) -> None:
        while True:
            process, began = self._process, time.monotonic()
            pause = PROBE_STARTING_S
            if process is not None and self.state is not None and self.state.running:
                try:
                    events, pause = await self._ask(self.state)
                except Exception as error:  # a probe that breaks must not end the watch
                    log.exception("probing %s failed", self.launch.name)
                    events, pause = [lifecycle.Missed(repr(error))], PROBE_READY_S
                if self._process is process:  # else the answer is about a process that is gone
                    for event in events:
                        self._on(event)
            await asyncio.sleep(max(pause - (time.monotonic() - began), 0.0))

    async def _ask(self, state: State) -> tuple[list[lifecycle.Event], float]:
        """What the engine says now, as events, and how soon to ask again."""
        if state.phase is Phase.STARTING:
            return ([lifecycle.Listening()] if await self._probe.listening() else []), PROBE_STARTING_S
        if state.phase is Phase.WARMING:
            left_s = state.began + state.allowance.start_s - time.monotonic()
            return [_verdict(await self._probe.answers(max(left_s, 1.0)))], PROBE_WARMING_S
        probe = self._probe
        why, sight = await asyncio.gather(probe.healthy(), probe.look())
        if probe is self._probe:
            self.sight = sight
        observed = lifecycle.Observed(self._in_flight(self.launch.name), sight.progress)
        return [_verdict(why), observed], PROBE_READY_S


def _verdict(why: str) -> lifecycle.Event:
    return lifecycle.Missed(why) if why else lifecycle.Answered()
