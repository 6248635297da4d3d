"""One replica, kept alive: the lifecycle's commands carried out, its events gathered.

`engines/lifecycle.py` decides; this file starts and ends the process, warms the engine and looks at what it answers
before callers do, asks how it is, and reports every change of phase at once. Three things go on side by side and each
only ever calls `_on(event)`: the process is waited for, the engine is probed, and time passes. A slow probe therefore
never delays a restart, and an answer that arrives after its process has died is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence

from gemstead.engines import drafting_watch, lifecycle
from gemstead.engines.diagnosis import HOPELESS, Cause, diagnose
from gemstead.engines.lifecycle import Allowance, Command, Phase, State
from gemstead.engines.reading import LogEvent
from gemstead.engines.remedies import remedy
from gemstead.engines.surroundings import inherited
from gemstead.plan.values import Launch
from gemstead.supervise.bounds import Bounds
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.memory import memory_kills
from gemstead.supervise.process import Leash, Process, launch
from gemstead.supervise.watched import (
    ANSWERED_ERROR,
    CANNOT_ASK,
    PROBE_READY_S,
    Care,
    Probe,
    Sight,
    Standing,
    Watched,
)
from gemstead.traffic.adapters import Shelf
from gemstead.traffic.endpoint import EndpointFacts

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"  # vLLM's, and what else speaks like it
ALREADY = "has already been"  # vLLM 0.32: "The lora adapter 'x' has already been loaded."
LOAD_S = 120.0
UNLOAD_S = 0.2  # until all workers have heard of it
__all__ = ["PROBE_READY_S", "Care", "Probe", "Replica", "Sight", "Standing", "Watched"]

TICK_S = 0.2
PROBE_STARTING_S = 0.1
PROBE_WARMING_S = 0.5
WARM_UP_S = 180.0  # a compiler may take that long for one shape; what is left then, callers wait for
COMING = (Phase.STARTING, Phase.WARMING, Phase.CHECKING)
GIVEN_UP = (Phase.FAILED, Phase.BACKING_OFF)
STARTUP_LINES = 5000  # of a start's log, kept to learn from
OURS = ("PYTHONPATH", "VIRTUAL_ENV")  # what our own engine needs besides, when the package is not installed
NO_CARE = Care()
log = logging.getLogger("gemstead")


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
        read_log: Callable[[str], LogEvent | None] = lambda _line: None,
        care: Care = NO_CARE,
        learned: Callable[[Launch, Sequence[str]], None] = lambda _launch, _lines: None,
    ) -> None:
        """Args:
        plan: how to start it; called with True when another port should be tried.
        changed: called after every change of phase, and when there is news of the load's progress.
        in_flight: the calls that the gateway has on the endpoint of that name.
        read_log: what an engine's log line means, such as "loading 40 %".
        care: what is done before it is ready.
        learned: called with the log of a start that ended well.
        """
        self.launch = plan(False)
        self.sight = Sight()
        self.stage = ""  # what it is doing while it starts, in the engine's words
        self.progress: float | None = None  # of loading, a share
        self.warning = ""  # what is odd about a ready one
        self.remedy = ""
        self.drafts = drafting_watch.begin(self.launch.draft_tokens)
        self.slowest_s: float | None = None  # p99 of the time per token, as callers saw it; told from outside
        self.told: list[LogEvent] = []  # by this start's log
        self._startup: list[str] = []
        self._care, self._learned = care, learned
        self.state: State | None = None
        self.log = log(self._read_line)
        self._plan, self._allowance, self._probe_of = plan, allowance, probe
        self._changed, self._in_flight, self._read_log = changed, in_flight, read_log
        self._process: Process | None = None
        self._probe = probe(self.launch)
        self._nudged = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_ready = self._ever_ready = self._prepared = self._planned = False
        more = self.launch.adapters
        self.shelf = Shelf(more, self.launch.adapters_most) if more else None
        self._shelving = asyncio.Lock()

    @property
    def phase(self) -> Phase:
        return self.state.phase if self.state else Phase.STARTING

    @property
    def facts(self) -> EndpointFacts:
        foreseen = self.launch.foreseen
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
            knee=self.launch.slots,  # the planner has put them where more only slow each other
            kv_tokens=self._reported() or foreseen.kv_tokens,
            cache_tokens=foreseen.cache_tokens,
            prefill_tokens_s=foreseen.prefill_tokens_s,
            decode_step_s=foreseen.step_s,
            decode_step_slot_s=foreseen.step_slot_s,
            adapters=tuple(sorted(self.shelf.loaded)) if self.shelf is not None else None,
            kv_events=self.launch.kv_events,
            kv_replay=self.launch.kv_replay,
            api_key=self.launch.api_key,
            ready=self.state is not None and self.state.takes_calls,
            draining=self.phase is Phase.DRAINING,
            thinking=self.launch.thinking,
            thinking_set=self.launch.thinking_set,
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
            "why": (state.why if state else "") or self.warning,
            "cause": state.cause.value if state and state.cause else "",
            "remedy": self.remedy,
            "stage": self.stage,
            "progress": self.progress,
            "in_flight": self._in_flight(self.launch.name),
            "running": load.running if load else None,
            "waiting": load.waiting if load else None,
            "context_tokens": self.launch.context_tokens,
            "slots": self.launch.slots,
            "version": self.launch.version,
            "demonstration": self.launch.demonstration,
            **self._cache(),
            **self._drafting(),
        }

    @property
    def standing(self) -> Standing:
        state = self.state
        if state is None:
            return Standing()
        failing = state.phase in GIVEN_UP
        hopeless = state.why if failing and state.cause in HOPELESS else ""
        ready_s = time.monotonic() - state.since if state.takes_calls else 0.0
        return Standing(ready_s, state.restarts + failing, self._ever_ready, hopeless)

    async def prove(self) -> str:
        why = await self._probe.prove(self._care.knows, WARM_UP_S)
        return "" if why.startswith(CANNOT_ASK) else why

    async def sleep(self) -> str:
        """Finish what runs, then sleep: the engine itself where it can, else without a process."""
        keeps = self.phase is Phase.READY and await self._probe.can_sleep()
        self._on(lifecycle.SleepAsked(keeps))
        return "its engine sleeps" if keeps else "its process ends, and is started again when it is needed"

    def wake(self) -> None:
        self._on(lifecycle.WakeAsked())

    def _reported(self) -> int:
        """Tokens that its cache holds as its log or its metrics said; 0: they did not."""
        told = next((event.kv_tokens for event in reversed(self.told) if event.kv_tokens), 0)
        return told or self.sight.kv_tokens

    def _cache(self) -> dict[str, object]:
        """What the engine reported of its cache, beside what was planned."""
        at_once = next((e.concurrency for e in reversed(self.told) if e.concurrency), None)
        return {
            "kv_tokens": self._reported() or None,
            "kv_tokens_planned": self.launch.kv_tokens or None,
            "concurrency": at_once,
        }

    def _drafting(self) -> dict[str, object]:
        """How its drafter does: nothing for an engine without one."""
        if not self.launch.draft_tokens:
            return {}
        seen = self.drafts
        return {
            "draft_tokens": self.launch.draft_tokens,
            "draft_kept": None if seen.kept is None else round(seen.kept, 3),
            "drafting": seen.verdict.value,
            "drafting_why": seen.why,
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
            elif command in (Command.SLEEP, Command.WAKE):
                self._later(self._nap(command is Command.SLEEP))
            elif self._process is not None:
                self._process.terminate() if command is Command.TERMINATE else self._process.kill()
        if before is None or before.phase is not self.state.phase:
            self._entered(self.state)

    def _entered(self, state: State) -> None:
        if state.phase is Phase.READY:
            self._entered_ready()
        elif state.phase in (Phase.CHECKING, Phase.SLEEPING):
            self.stage = "asking it what is known" if state.phase is Phase.CHECKING else ""
        if state.phase in GIVEN_UP:
            self._entered_failure(state)
        if not state.takes_calls:
            self.sight = Sight()
        self._nudged.set()
        self._changed()

    def _entered_ready(self) -> None:
        first = not self._was_ready
        self._was_ready = self._ever_ready = True
        self.stage, self.remedy, self.progress = "", "", None
        if first:
            try:
                self._learned(self.launch, self._startup)
            except Exception:  # what a log teaches is never worth an endpoint
                log.exception("the start-up log of %s could not be learnt from", self.launch.name)
            self._startup = []

    async def load_adapter(self, name: str) -> str:
        """Load a LoRA adapter, in the place of the longest unused where it has to be; "" or why it could not be."""
        async with self._shelving:
            if (shelf := self.shelf) is None or name in shelf.loaded:
                return ""
            probe = self._probe
            for old in shelf.surplus():
                shelf.take(old)  # first nobody is sent there for it any more
                self._changed()
                await asyncio.sleep(UNLOAD_S)
                why = await probe.ask(UNLOAD, {"lora_name": old}, LOAD_S)
                self.log.say(f"{self.launch.name} adapter {old} unloaded{': ' + why if why else ''}")
            began = time.monotonic()
            why = await probe.ask(LOAD, {"lora_name": name, "lora_path": shelf.paths[name]}, LOAD_S)
            if why and ALREADY not in why:
                return why
            if probe is self._probe:  # else it has died meanwhile
                shelf.put(name, time.monotonic())
                self.log.say(f"{self.launch.name} adapter {name} loaded in {time.monotonic() - began:.2f} s")
                self._changed()
            return ""

    def _entered_failure(self, state: State) -> None:
        suggested = next((e.remedy for e in self.told if e.fatal and e.remedy), "")
        spec, cause = self.launch, state.cause or Cause.CRASH
        said = suggested if cause in (Cause.MEMORY, Cause.FILES, Cause.PORT, Cause.CRASH) else ""
        self.remedy = remedy(cause, spec.engine, spec.engine_version, spec.argv, suggested=said)
        pause = f"; next start in {state.due - state.since:.1f} s" if not state.running else ""
        phase = state.phase.value.replace("_", " ")
        self.log.say(f"{spec.name} {phase} ({cause.value}): {state.why}{pause}. To do: {self.remedy}")

    def _start(self) -> None:
        if self._planned:
            self.launch = self._plan(not self._was_ready)
        self._planned = True
        self._was_ready = self._prepared = False
        if self.shelf is not None:
            self.shelf.empty()
        self.stage, self.progress, self.warning, self.told, self._startup = "", None, "", [], []
        self._probe = self._probe_of(self.launch)
        self.drafts = drafting_watch.begin(self.launch.draft_tokens)
        self._later(self._live())

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _nap(self, sleep: bool) -> None:
        """The engine's own sleep. One that does not obey is ended, and started again when it is woken."""
        done = await (self._probe.sleep() if sleep else self._probe.wake())
        if not done and self._process is not None:
            self.log.say(f"{self.launch.name} did not {'sleep' if sleep else 'wake'}; its process is ended")
            self._process.terminate()

    async def _live(self) -> None:
        """One process, from start to exit."""
        spec = self.launch
        leash = Leash.WATCHED if spec.engine == "embedded" else Leash.WRAPPED
        self.log.say(f"{spec.name} starting on {spec.host}:{spec.port}")
        kills = memory_kills()
        try:
            self._process = await launch(
                spec.argv,
                leash=leash,
                output=self.log.write,
                env=spec.env,
                inherit=_inherited(os.environ),
                bounds=Bounds(cpus=spec.cpus),
            )
        except OSError as error:
            why = f"cannot start {spec.argv[0]}: {os.strerror(error.errno or 0)}"
            self._on(lifecycle.Exited(127, why, Cause.PROGRAM))
            return
        if self.state is not None and self.state.told:  # drained while it was being started
            self._process.terminate()
        code = await self._process.wait()
        self._process = None
        self._on(self._ended(code, memory_kills() - kills, leash is Leash.WRAPPED))

    def _ended(self, code: int, kills: int, wrapped: bool) -> lifecycle.Exited:
        """What its end means: from its exit, the kernel's count, and its last words."""
        found = diagnose(code, self.told, memory_kills=kills, wrapped=wrapped)
        why = found.why
        if code > 0 and not any(event.fatal for event in self.told):
            said = [line for line in self.log.recent if line.strip() and not line.startswith("[gemstead ")]
            last = said[-1].strip()[:300] if said else ""
            if last.startswith("gemstead: "):  # our own engine says in one sentence why it ends
                why = last.removeprefix("gemstead: ")
            elif last:
                why = f"{why}; last line: {last}"
        return lifecycle.Exited(code, why, found.cause)

    def _read_line(self, line: str) -> None:
        event = self._read_log(line)
        if event is not None and (event.fatal or event.kv_tokens or event.concurrency):
            self.told.append(event)
            del self.told[:-50]
        if self.phase not in COMING:
            return
        if len(self._startup) < STARTUP_LINES:
            self._startup.append(line)
        if event is not None and event.sentence != self.stage:
            self.stage = event.sentence
            self.progress = event.done if event.done is not None else self.progress
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
        left_s = max(state.began + state.allowance.start_s - time.monotonic(), 1.0)
        if state.phase is Phase.WARMING:
            return [_verdict(await self._warmed(left_s))], PROBE_WARMING_S
        if state.phase is Phase.CHECKING:
            return [await self._proved(left_s)], PROBE_WARMING_S
        if state.phase is Phase.SLEEPING:
            return [], PROBE_READY_S
        probe = self._probe
        why, sight = await asyncio.gather(probe.healthy(), probe.look())
        if probe is self._probe:
            held, self.sight = self._reported(), sight.after(self.sight)
            if self._reported() != held:
                self._changed()
            self._watch_drafts(sight)
        observed = lifecycle.Observed(self._in_flight(self.launch.name), sight.progress)
        return [_verdict(why), observed], PROBE_READY_S

    def _watch_drafts(self, sight: Sight) -> None:
        """Whether its drafter earns its keep. A wrong pair is said in the log at once."""
        if sight.drafted is None or sight.accepted is None:
            return
        running = float(sight.load.running) if sight.load and sight.load.running is not None else None
        seen = drafting_watch.Seen(sight.drafted, sight.accepted, self.slowest_s, running)
        before, self.drafts = self.drafts, drafting_watch.step(self.drafts, seen, time.monotonic())
        if self.drafts.verdict is not before.verdict and self.drafts.to != self.drafts.depth:
            advice = f"`draft_tokens: {self.drafts.to}`" if self.drafts.to else "`draft: off`"
            self.log.say(f"{self.launch.name} drafting: {self.drafts.why}. To do: {advice}")
            self._changed()

    async def _warmed(self, left_s: float) -> str:
        """Nothing once it has answered and is warm, else why not."""
        if not self._prepared:
            if why := await self._afterwards(left_s):
                return why
            self._prepared = True
        if why := await self._probe.answers(left_s):
            return why
        if not self._care.warm_up:
            return ""
        self.stage = "warming it up with real requests"
        self._changed()
        return await self._probe.warm(min(left_s, WARM_UP_S))

    async def _afterwards(self, left_s: float) -> str:
        """Run what the engine wants to be run once it listens."""
        for argv in self.launch.afterwards:
            self.stage = f"running {os.path.basename(argv[0])}"  # noqa: PTH119
            try:
                async with asyncio.timeout(left_s):
                    process = await launch(
                        argv,
                        leash=Leash.WRAPPED,
                        output=self.log.write,
                        env=self.launch.env,
                        inherit=_inherited(os.environ),
                    )
                    code = await process.wait()
            except (OSError, TimeoutError) as error:
                return f"{argv[0]}: {error or 'took too long'}"
            if code:
                return f"`{' '.join(argv[:3])}` exited with code {code}"
        return ""

    async def _proved(self, left_s: float) -> lifecycle.Event:
        """What it answers, looked at."""
        why = await self._probe.prove(self._care.knows, left_s)
        if why.startswith(ANSWERED_ERROR):
            return lifecycle.Missed(why, error=True)
        if why and (self._care.check == "warn" or why.startswith(CANNOT_ASK)):
            self.warning = why
            self.log.say(f"{self.launch.name}: {why}")
            return lifecycle.Checked()
        return lifecycle.Checked(why)


def _verdict(why: str) -> lifecycle.Event:
    return lifecycle.Missed(why, why.startswith(ANSWERED_ERROR)) if why else lifecycle.Answered()


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    return {**inherited(environ), **{name: environ[name] for name in OURS if name in environ}}
