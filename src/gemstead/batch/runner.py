"""All batches that go on: events in, commands out, and lines begun as their pace allows.

Every change of a batch goes `happen(event) -> step -> saved -> commands`, one at a time for each batch. What cannot be
saved (disk full) is tried again until it can be: the batch stands still meanwhile and says why.

Batches take turns line by line, so that a large one does not keep small ones waiting. Lines for one pool share one
`Pace`; a pool that is busy holds up no other.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from gemstead.batch.calls import Calls
from gemstead.batch.control import BatchSettings
from gemstead.batch.folder import Folder
from gemstead.batch.run import AGAIN_S, Run
from gemstead.ledger.batches import BatchStore
from gemstead.ledger.database import LedgerTrouble
from gemstead.openai.batches import (
    Batch,
    CancelAsked,
    Checked,
    Command,
    Event,
    Fault,
    Rejected,
    Settled,
    Tick,
    Written,
    resume,
    step,
)
from gemstead.openai.batchline import Line
from gemstead.openai.files import OUTPUT, File
from gemstead.traffic.caller import Caller
from gemstead.traffic.pace import Pace, room_of

TURN_S = 0.25  # between two looks at what may begin, when nothing else happens
STOP_S = 30.0  # for lines on their way when their batch is cancelled or has expired
TIDY_S = 600.0  # between two looks for what has expired


class Runner:
    """Runs batches until it is cancelled. `begin` first, then `run`."""

    def __init__(
        self,
        settings: BatchSettings,
        store: BatchStore,
        folder: Folder,
        calls: Calls,
        trouble: Callable[[str], None],
    ) -> None:
        self.settings, self.store, self.folder, self.calls = settings, store, folder, calls
        self.runs: dict[str, Run] = {}
        self.stopping = False
        self._trouble = trouble
        self._turns: deque[Run] = deque()
        self._paces: dict[str, Pace] = {}
        self._running: Counter[str] = Counter()  # lines on their way, by pool
        self._peak: Counter[str] = Counter()  # most of them since the head last said how many calls there are
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Take up what an earlier process left, and remove its rubbish.

        Raises:
            LedgerTrouble, OSError: files or rows cannot be read.
        """
        going_on = self.store.going_on()
        self.folder.tidy(self.store.file_ids(), {batch.batch_id for batch, _ in going_on})
        for batch, caller in going_on:
            self.take(batch, caller, resume(batch))

    def take(self, batch: Batch, caller: Caller, commands: tuple[Command, ...] = ("check",)) -> None:
        """Have a batch run that is in the store."""
        run = Run(batch, caller, self.folder, self.settings.retries)
        self.runs[batch.batch_id] = run
        self._turns.append(run)
        self._do(run, commands)

    async def run(self) -> None:
        """Begin lines as their pace allows, for ever."""
        tidied = 0.0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TURN_S)
            self._wake.clear()
            for run in [run for run in self.runs.values() if not run.changing.locked()]:
                if step(run.batch, Tick(), unix())[1]:
                    self._later(self.happen(run, Tick()))
                elif run.settled:
                    self._later(self.happen(run, Settled(run.answered)))
            if time.monotonic() - tidied > TIDY_S:
                tidied = time.monotonic()
                self._tidy()
            if not self.stopping:
                self._begin_lines()

    def shown(self, batch: Batch) -> tuple[Batch, str]:
        """The batch with its figures of this moment, and why it pauses ("": it does not)."""
        run = self.runs.get(batch.batch_id)
        if run is None:
            return batch, ""
        counts, usage = run.figures()
        pace = self._paces.get(run.pool)
        waits = "" if pace is None or not run.active or run.tasks else waiting(pace)
        return replace(run.batch, counts=counts, usage=usage), run.paused or waits

    def set_room(self, pools: dict[str, tuple[int, int]]) -> None:
        """What the head says of the pools' slots and of the calls there, ours among them."""
        for pool, pace in self._paces.items():
            slots, in_flight = pools.get(pool, (0, 0))
            # Its figure is up to a second old. Of ours the most is counted, so that none is taken for another's.
            self._paces[pool] = pace.with_room(room_of(slots, in_flight, self._peak[pool]))
            self._peak[pool] = self._running[pool]
        self._wake.set()

    async def stop(self, within_s: float) -> None:
        """Begin nothing more; let what is on its way end, and bring its answers to disk."""
        self.stopping = True
        until = time.monotonic() + within_s
        while any(run.busy for run in self.runs.values()) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    # Events and commands.

    async def happen(self, run: Run, event: Event) -> None:
        """Move the batch by `event`; what it becomes is saved before anything is done about it."""
        async with run.changing:
            while True:
                batch, commands = step(run.batch, event, unix())
                if batch == run.batch and not commands:
                    return
                try:
                    if batch != run.batch:
                        self.store.save(batch)
                except LedgerTrouble as error:
                    run.pause(error, self._trouble)
                    await asyncio.sleep(AGAIN_S)
                    continue
                run.batch = batch
                break
            run.paused = ""
            await self._carry_out(run, commands)

    async def cancel(self, batch_id: str) -> None:
        """The caller wants no more of it.

        Raises:
            LedgerTrouble: that cannot be written down now.
        """
        run = self.runs.get(batch_id)
        if run is None:
            return
        if run.changing.locked() and run.paused:
            raise LedgerTrouble(run.paused)
        async with run.changing:
            batch, commands = step(run.batch, CancelAsked(), unix())
            if batch != run.batch:
                self.store.save(batch)
                run.batch = batch
            self._do(run, commands)

    async def _carry_out(self, run: Run, commands: tuple[Command, ...]) -> None:
        """As `_do`, but what belongs to this change is done before the next one."""
        if commands == ("write",):
            await self._write(run)
        else:
            self._do(run, commands)

    def _do(self, run: Run, commands: tuple[Command, ...]) -> None:
        for command in commands:
            if command == "clean":
                self._clean(run)
            else:
                work = {"check": self._check, "run": self._open, "stop": self._stop, "write": self._settle}
                self._later(work[command](run))

    async def _check(self, run: Run) -> None:
        try:
            faults, model = await asyncio.to_thread(run.check, self.settings.lines)
        except OSError as error:
            faults, model = [Fault(code="unreadable_file", message=f"The input cannot be read: {error}.")], ""
        if not faults:
            faults = await self._ask_for_pool(run, model)
        if faults:
            await self.happen(run, Rejected(tuple(faults)))
        elif run.lines is not None:
            await self.happen(run, Checked(len(run.lines), model))

    async def _ask_for_pool(self, run: Run, model: str) -> list[Fault]:
        """The pool that the model means for this caller. Waits for a gateway that is away."""
        while run.batch.ending == "":
            outcome = await self.calls.model(model, run.caller)
            if outcome.kind == "answered":
                answer = json.loads(outcome.body or b"{}")
                if outcome.status == 200:
                    run.pool = answer["id"]
                    return []
                error = answer.get("error", {})
                code, what = error.get("code") or "model_not_found", error.get("message") or outcome.why
                return [Fault(code=code, message=what, param="body.model")]
            await asyncio.sleep(1.0)
        return []

    async def _open(self, run: Run) -> None:
        while True:
            try:
                await asyncio.to_thread(run.open)
                break
            except OSError as error:
                run.pause(error, self._trouble)
                await asyncio.sleep(AGAIN_S)
        run.paused = ""
        if not run.pool and await self._ask_for_pool(run, run.batch.model):
            run.pool = run.batch.model  # its lines will be told
        self._paces.setdefault(run.pool, Pace(most=self.settings.concurrency))
        if run.batch.status == "in_progress":
            run.active = True
            run.saver = asyncio.create_task(run.save(self._trouble, self._wake.set))
        self._wake.set()

    async def _stop(self, run: Run) -> None:
        """Let what is on its way end, for a while."""
        run.active = False
        tasks = set(run.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_S)
            for task in late:
                task.cancel()
        self._later(self._settle(run))

    async def _settle(self, run: Run) -> None:
        """Everything is still: make sure that what was answered can be read, then say so."""
        run.active = False
        if run.batch.counts.total:
            while True:
                try:
                    await asyncio.to_thread(run.open)
                    break
                except OSError as error:
                    run.pause(error, self._trouble)
                    await asyncio.sleep(AGAIN_S)
        while run.busy:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await self.happen(run, Settled(run.answered))

    async def _write(self, run: Run) -> None:
        while True:
            try:
                good, bad = await asyncio.to_thread(run.write)
                counts, usage = run.figures()
                written = Written(good[0], bad[0], counts, usage)
                batch, commands = step(run.batch, written, unix())
                self.store.save(batch, self._answer_files(run, {"output": good, "errors": bad}))
                break
            except (OSError, LedgerTrouble) as error:
                run.pause(error, self._trouble)
                await asyncio.sleep(AGAIN_S)
        run.batch, run.paused = batch, ""
        self._do(run, commands)

    def _answer_files(self, run: Run, written: dict[str, tuple[str, int]]) -> list[File]:
        """The rows of the files that were written, by which they are."""
        batch, now = run.batch, unix()
        kept_s = min(batch.order.output_expires_s or self.settings.retention_s, self.settings.retention_s)
        return [
            File(
                file_id=file_id,
                tenant=batch.tenant,
                purpose=OUTPUT,
                filename=f"{batch.batch_id}_{which}.jsonl",
                size_bytes=size_bytes,
                created_at=now,
                expires_at=now + kept_s,
            )
            for which, (file_id, size_bytes) in written.items()
            if file_id
        ]

    def _clean(self, run: Run) -> None:
        run.active = False
        run.close()
        self.runs.pop(run.batch.batch_id, None)
        with suppress(ValueError):
            self._turns.remove(run)
        with suppress(OSError):
            self.folder.remove(self.folder.log(run.batch.batch_id))

    # Lines.

    def _begin_lines(self) -> None:
        now, misses = time.monotonic(), 0
        while misses < len(self._turns):
            run = self._turns[0]
            self._turns.rotate(-1)
            place = None
            if run.active and self._may_begin(run.pool, now):
                place = run.next(now)
            if place is None:
                misses += 1
                continue
            misses = 0
            self._running[run.pool] += 1
            self._peak[run.pool] = max(self._peak[run.pool], self._running[run.pool])
            task = asyncio.create_task(self._line(run, place))
            run.tasks.add(task)

    def _may_begin(self, pool: str, now: float) -> bool:
        if self._running.total() >= self.settings.concurrency:
            return False
        return self._paces[pool].may_begin(self._running[pool], now)

    async def _line(self, run: Run, place: int) -> None:
        """One line, from the file to its answer."""
        assert run.lines is not None
        began, pool = time.monotonic(), run.pool
        try:
            line = run.lines.line(place)
            assert isinstance(line, Line), "the file was checked"
            outcome = await self.calls.ask(run.batch.order.endpoint, line.body, run.caller)
            now = time.monotonic()
            pace = self._paces[pool]
            if outcome.kind == "busy":
                self._paces[pool] = pace.turned_away(began, outcome.retry_after_s, now)
            elif outcome.kind == "answered":
                self._paces[pool] = pace.taken()
            run.take(place, line, outcome, now)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a fault of ours must not lose a line, nor stop the others
            self._trouble(f"{run.batch.batch_id}: a line met a fault and is tried again: {error!r}")
            run.again(place, time.monotonic() + 5.0)
        finally:
            self._running[pool] -= 1
            run.tasks.discard(asyncio.current_task())
            self._wake.set()

    # Time.

    def _tidy(self) -> None:
        """Remove what nobody may read any more."""
        try:
            now = unix()
            for file in self.store.expired_files(now):
                self.store.drop_file(file.file_id)
                self.folder.remove(self.folder.file(file.file_id))
            self.store.forget_batches(now - self.settings.retention_s)
        except (LedgerTrouble, OSError) as error:
            self._trouble(f"old files cannot be removed: {error}")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble(f"the batch runner met a fault: {error!r}")


def waiting(pace: Pace) -> str:
    """Why nothing of a pool's lines is on its way."""
    if pace.room == 0 or time.monotonic() < pace.not_before:
        return "waiting for the model to have room beside other callers"
    return ""


def unix() -> int:
    """Wall time in whole seconds."""
    return int(time.time())
