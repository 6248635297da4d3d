"""All batches that go on: events in, commands out, and lines begun as their pace allows.

Every change of a batch goes `happen(event) -> step -> saved -> commands`, one at a time for each batch. What cannot be
saved (disk full) is tried again until it can be: the batch stands still meanwhile and says why.

Where several gateways share a store, each runs the batches that it holds: `_hold` keeps those up, hears which are to be
cancelled, and takes up what nobody holds. One that is another's by now is dropped, whatever it was at.

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
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from gemstead.batch.calls import Calls
from gemstead.batch.control import BatchSettings
from gemstead.batch.folder import Folder
from gemstead.batch.run import AGAIN_S, Run
from gemstead.batch.shelf import Rows, Shelf, bring
from gemstead.ledger.batches import Batches, BatchStore, Held, Lost, Seen
from gemstead.ledger.database import LedgerTrouble
from gemstead.openai.batches import (
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
from gemstead.traffic.pace import Pace, room_of

if TYPE_CHECKING:
    from gemstead.ledger.postgres.batches import PostgresBatches

TURN_S = 0.25  # between two looks at what may begin, when nothing else happens
STOP_S = 30.0  # for lines on their way when their batch is cancelled or has expired
TIDY_S = 600.0  # between two looks for what has expired
HOLD_S = 1.0  # between two words to a store that what is held here is held further on
CLAIM_MOST = (
    4  # batches taken up with one such word, so that all gateways get some of those of one that has died
)
SURE = 0.8  # of a lease, for which it is sure without another word
NOT_HERE_S = 60.0  # before a batch is taken up again whose model was not here


class Runner:
    """Runs batches until it is cancelled. `begin` first, then `run`."""

    def __init__(
        self,
        settings: BatchSettings,
        store: Batches,
        shelf: Shelf,
        folder: Folder,
        calls: Calls,
        trouble: Callable[[str], None],
    ) -> None:
        self.settings, self.store, self.shelf, self.folder = settings, store, shelf, folder
        self.rows, self.calls = Rows(store, shared=shelf.shared), calls
        self.runs: dict[str, Run] = {}
        self.stopping = False
        self.expected: set[str] = set()  # being ordered here now
        self._not_here: dict[str, float] = {}  # batches whose model was not here, until when
        self._brought = False
        self._away = ""
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
        if not isinstance(self.store, BatchStore):
            return
        held = self.store.claim(0)
        self.folder.tidy(self.store.file_ids(), {one.batch.batch_id for one in held})
        for one in held:
            self.take(one, resume(one.batch))

    def take(self, held: Held, commands: tuple[Command, ...] = ("check",)) -> None:
        """Have a batch run that is in the store, and held by us."""
        run = Run(held, self.shelf, self.settings.retries)
        if self.shelf.shared:
            run.held_until = time.monotonic() + self.settings.lease_s * SURE
            run.unsaved_most = self.settings.concurrency
        self.runs[held.batch.batch_id] = run
        self._turns.append(run)
        self._do(run, commands)

    async def run(self) -> None:
        """Begin lines as their pace allows, for ever."""
        tidied = 0.0
        if self.shelf.shared:
            self._later(self._hold())
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
                self._later(self._tidy())
            if not self.stopping:
                self._begin_lines()

    def shown(self, seen: Seen) -> Seen:
        """The batch with its figures of this moment, and why it pauses ("": it does not)."""
        run = self.runs.get(seen.batch.batch_id)
        if run is None:
            return seen
        counts, usage = run.figures()
        return Seen(replace(run.batch, counts=counts, usage=usage), self._pauses(run))

    def _pauses(self, run: Run) -> str:
        pace = self._paces.get(run.pool)
        waits = "" if pace is None or not run.active or run.tasks else waiting(pace)
        return run.paused or waits

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

    async def leave(self) -> None:
        """Let others take up at once what is held here, where there are any. Nothing runs here afterwards."""
        if not self.shelf.shared:
            return
        turns = {batch_id: run.turn for batch_id, run in self.runs.items()}
        for run in list(self.runs.values()):
            self._drop(run)
        with suppress(LedgerTrouble):  # then they wait for the leases to run out
            await self.rows(self.store.release, turns)

    # Who holds what.

    async def _hold(self) -> None:
        """Keep up what is held here and take up what nobody holds, for ever."""
        while True:
            try:
                if not self._brought:
                    await self._bring()
                await self._keep_up()
                if not self.stopping:
                    await self._take_up()
                self._away = ""
            except (LedgerTrouble, OSError) as error:
                if not self._away:
                    self._trouble(f"no batch is taken up for the moment: {error}")
                self._away = str(error)
            await asyncio.sleep(HOLD_S)

    async def _bring(self) -> None:
        """What this gateway had by itself becomes the store's; copies that an earlier process left are nobody's."""
        assert not isinstance(self.store, BatchStore), "there is a store"
        store: PostgresBatches = self.store  # type: ignore[assignment]
        files, batches = await asyncio.to_thread(bring, self.folder, store)
        if files or batches:
            self._trouble(f"{files} files and {batches} batches of this gateway are in the store now")
        await asyncio.to_thread(self.folder.tidy, set(), set(self.runs))
        self._brought = True

    async def _keep_up(self) -> None:
        began = time.monotonic()
        turns = {run.batch.batch_id: (run.turn, self._pauses(run)) for run in self.runs.values()}
        ours = await self.rows(self.store.keep_up, turns)
        for batch_id, (turn, _) in turns.items():
            run = self.runs.get(batch_id)
            if run is None or run.turn != turn:
                continue
            if batch_id in ours:
                run.held_until = began + self.settings.lease_s * SURE
                if ours[batch_id] and not run.batch.ending:
                    self._later(self._cancelled(run))
            elif not run.changing.locked():  # whoever changes it hears of it by itself
                self._lost(run)

    async def _take_up(self) -> None:
        now = time.monotonic()
        self._not_here = {one: until for one, until in self._not_here.items() if until > now}
        known = {*self.runs, *self.expected, *self._not_here}
        for held in await self.rows(self.store.claim, CLAIM_MOST, known):
            if held.batch.batch_id in self.runs:
                continue
            if held.before and held.before != self.settings.holder:
                self._trouble(f"{held.batch.batch_id} is taken up here: nobody held it any more")
            self.take(held, resume(held.batch))
            if held.cancel:
                self._later(self._cancelled(self.runs[held.batch.batch_id]))

    async def _cancelled(self, run: Run) -> None:
        """Somebody has asked another gateway to cancel it."""
        if not run.changing.locked():
            await self.happen(run, CancelAsked())

    def _lost(self, run: Run) -> None:
        if not run.dropped:
            self._trouble(f"{run.batch.batch_id} is held by another gateway by now: it goes on there")
        self._drop(run)

    def _drop(self, run: Run) -> None:
        """Nothing of it is done here any more."""
        run.dropped = True
        run.active = False
        for task in list(run.tasks):
            task.cancel()
        self._forget(run)

    def _forget(self, run: Run) -> None:
        run.active = False
        run.close()
        if self.runs.get(run.batch.batch_id) is run:
            del self.runs[run.batch.batch_id]
            with suppress(OSError):
                self.shelf.clean(run.batch)
        with suppress(ValueError):
            self._turns.remove(run)

    async def _is_elsewhere(self, run: Run, faults: list[Fault]) -> bool:
        """Whether the batch is left to others: it came from another gateway, and its model is not here."""
        if not run.before or _node(run.before) == _node(self.settings.holder):
            return False
        if all(fault.code != "model_not_found" for fault in faults) or unix() >= run.batch.expires_at:
            return False
        self._not_here[run.batch.batch_id] = time.monotonic() + NOT_HERE_S
        self._drop(run)
        with suppress(LedgerTrouble):
            await self.rows(self.store.release, {run.batch.batch_id: run.turn}, run.before)
        self._trouble(f"{run.batch.batch_id} is left to other gateways: its model is not served here")
        return True

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
                        await self.rows(self.store.save, batch, (), run.turn)
                except Lost:
                    self._lost(run)
                    return
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
            Lost: another gateway holds it.
        """
        run = self.runs.get(batch_id)
        if run is None:
            if self.shelf.shared:
                raise Lost(batch_id)
            return
        if run.changing.locked() and run.paused:
            raise LedgerTrouble(run.paused)
        async with run.changing:
            batch, commands = step(run.batch, CancelAsked(), unix())
            if batch != run.batch:
                await self.rows(self.store.save, batch, (), run.turn)
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
                self._forget(run)
            else:
                work = {"check": self._check, "run": self._open, "stop": self._stop, "write": self._settle}
                self._later(work[command](run))

    async def _check(self, run: Run) -> None:
        while True:
            try:
                faults, model = await asyncio.to_thread(run.check, self.settings.lines)
                break
            except OSError as error:
                said = f"The input cannot be read: {error}."
                faults, model = [Fault(code="unreadable_file", message=said)], ""
                break
            except LedgerTrouble as error:
                run.pause(error, self._trouble)
                await asyncio.sleep(AGAIN_S)
                if run.dropped:
                    return
        run.paused = ""
        if not faults:
            faults = await self._ask_for_pool(run, model)
            if faults and await self._is_elsewhere(run, faults):
                return
        if faults:
            await self.happen(run, Rejected(tuple(faults)))
        elif run.lines is not None:
            await self.happen(run, Checked(len(run.lines), model))

    async def _ask_for_pool(self, run: Run, model: str) -> list[Fault]:
        """The pool that the model means for this caller. Waits for a gateway that is away."""
        while run.batch.ending == "" and not run.dropped:
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

    async def _opened(self, run: Run) -> None:
        """Input and answers can be read; or the batch was dropped meanwhile."""
        while not run.dropped:
            try:
                await asyncio.to_thread(run.open)
                break
            except (OSError, LedgerTrouble) as error:
                run.pause(error, self._trouble)
                await asyncio.sleep(AGAIN_S)

    async def _open(self, run: Run) -> None:
        await self._opened(run)
        run.paused = ""
        if not run.pool and (faults := await self._ask_for_pool(run, run.batch.model)):
            if await self._is_elsewhere(run, faults):
                return
            run.pool = run.batch.model  # its lines will be told
        if run.dropped:
            self._forget(run)  # what was opened meanwhile
            return
        self._paces.setdefault(run.pool, Pace(most=self.settings.concurrency))
        if run.batch.status == "in_progress":
            run.active = True
            run.saver = asyncio.create_task(run.save(self._trouble, self._wake.set, lambda: self._lost(run)))
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
            await self._opened(run)
        while run.busy and not run.dropped:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if run.dropped:
            self._forget(run)
            return
        await self.happen(run, Settled(run.answered))

    async def _write(self, run: Run) -> None:
        while True:
            try:
                good, bad = await asyncio.to_thread(run.write)
                counts, usage = run.figures()
                written = Written(good[0], bad[0], counts, usage)
                batch, commands = step(run.batch, written, unix())
                files = self._answer_files(run, {"output": good, "errors": bad})
                await self.rows(self.store.save, batch, files, run.turn)
                break
            except Lost:
                self._lost(run)
                return
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

    async def _tidy(self) -> None:
        """Remove what nobody may read any more."""
        try:
            now = unix()
            for file_id in await self.rows(self.store.expire_files, now):
                self.shelf.remove(file_id)
            await self.rows(self.store.forget_batches, now - self.settings.retention_s)
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


def _node(holder: str) -> str:
    """The gateway's name in what its holder is called."""
    return holder.rpartition("/")[0]


def unix() -> int:
    """Wall time in whole seconds."""
    return int(time.time())
