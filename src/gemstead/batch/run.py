"""One batch while it goes on: which of its lines is next, and its answers on their way to the log.

A `Run` decides nothing about how many lines may be on their way (`traffic/pace.py`) or what becomes of the batch
(`openai/batches.py`). An answer waits in `unsaved` until it is synced with those that came in the same moment; while
the disk takes nothing it stays there, `paused` says why, and no further line begins. Where several gateways share a
store, none begins either once it is not sure any more that the batch is held here (`held_until`).
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from collections.abc import Callable, Iterator
from math import inf

from gemstead.batch.calls import Outcome
from gemstead.batch.lines import Lines
from gemstead.batch.shelf import Shelf
from gemstead.ledger.batches import Held, Lost, StoreFull, is_full
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.resultlog import Record, ResultLog
from gemstead.openai.batches import Counts, Fault, Usage
from gemstead.openai.batchline import UNANSWERED, Line, answered, line_id, unanswered
from gemstead.openai.meter import usage_of

GATHER_S = 0.02  # answers of so long share one sync
AGAIN_S = 2.0  # between two tries of a disk that takes nothing
UNSAVED_MOST = 32 << 20  # bytes of answers that are not on disk, before lines stop to begin
BACKOFF_S, BACKOFF_MOST_S = 1.0, 30.0  # before a failed line is tried again
DROPS_MOST = 20  # broken connections of one line: the gateway may be restarted that often, not for ever


class Run:
    """One batch that goes on. Belongs to one event loop; `open`, `check` and `write` block and want a thread."""

    def __init__(self, held: Held, shelf: Shelf, retries: int) -> None:
        self.batch, self.caller = held.batch, held.caller
        self.turn, self.before = held.turn, held.before
        self.held_until = inf  # by the monotonic clock
        self.unsaved_most = (
            1 << 30
        )  # answers, before lines stop to begin: what another would have to run again
        self.dropped = False
        self.pool = ""  # of its model, once known
        self.active = False  # lines may begin
        self.paused = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self.lines: Lines | None = None
        self.log: ResultLog | None = None
        self.saver: asyncio.Task[None] | None = None
        self.changing = asyncio.Lock()  # one event at a time
        self._shelf, self._retries = shelf, retries
        self._cursor = 0
        self._later: list[tuple[float, int]] = []  # due, place
        self._tries: dict[int, int] = {}
        self._drops: dict[int, int] = {}
        self._unsaved: list[Record] = []
        self._unsaved_bytes = 0
        self._arrived = asyncio.Event()

    # The input.

    def open_lines(self) -> Lines:
        if self.lines is None:
            self.lines = Lines(self._shelf.input(self.batch), self.batch.order.endpoint)
        return self.lines

    def check(self, most: int) -> tuple[list[Fault], str]:
        """Faults of the input, and the model that it asks for."""
        return self.open_lines().check(most)

    def open(self) -> None:
        """Everything that is needed to run lines, or to write their answers down."""
        self.open_lines()
        if self.log is None:
            self.log = self._shelf.log(self.batch, self.turn)

    # What is next.

    def next(self, now: float) -> int | None:
        """The place of a line that can begin now, or None."""
        assert self.lines is not None and self.log is not None
        if not self.active or self.paused or now > self.held_until:
            return None
        if self._unsaved_bytes > UNSAVED_MOST or len(self._unsaved) > self.unsaved_most:
            return None
        if self._later and self._later[0][0] <= now:
            return heapq.heappop(self._later)[1]
        numbers, log = self.lines.numbers, self.log
        while self._cursor < len(numbers):
            place, self._cursor = self._cursor, self._cursor + 1
            if numbers[place] not in log:
                return place
        return None

    def again(self, place: int, due: float) -> None:
        """That line has no answer yet: let it begin again, at `due` or later."""
        heapq.heappush(self._later, (due, place))

    @property
    def busy(self) -> bool:
        """Lines are on their way, or their answers not on disk."""
        return bool(self.tasks or self._unsaved)

    @property
    def settled(self) -> bool:
        """Lines have run, and every one of them is answered."""
        if not self.active or self.busy or self.log is None or self.lines is None:
            return False
        return self._cursor >= len(self.lines) and not self._later

    @property
    def answered(self) -> int:
        """How many lines have an answer on disk."""
        return len(self.log.places) if self.log is not None else 0

    # Answers.

    def take(self, place: int, line: Line, outcome: Outcome, now: float) -> None:
        """What came of a line: an answer for the log, or another try later."""
        if outcome.kind in ("busy", "away"):
            self.again(place, now + (0.0 if outcome.kind == "busy" else BACKOFF_S))
        elif outcome.kind == "answered":
            self._keep(place, line, outcome)
        elif (pause_s := self._pause_s(place, outcome)) is not None:
            self.again(place, now + pause_s)
        else:
            self._keep(place, line, outcome)

    def _pause_s(self, place: int, outcome: Outcome) -> float | None:
        """How long to wait before a failed line's next try; None when it has had them all."""
        counts, most = (
            (self._drops, DROPS_MOST) if outcome.kind == "dropped" else (self._tries, self._retries)
        )
        tries = counts.get(place, 0)
        if tries >= most:
            return None
        counts[place] = tries + 1
        return float(min(BACKOFF_S * 2**tries, BACKOFF_MOST_S))

    def _keep(self, place: int, line: Line, outcome: Outcome) -> None:
        assert self.lines is not None
        number = self.lines.numbers[place]
        self._tries.pop(place, None)
        self._drops.pop(place, None)
        name = line_id(self.batch.batch_id, number)
        ok = outcome.kind == "answered" and 200 <= outcome.status < 300
        try:
            answer = answered(name, line.custom_id, outcome.status, outcome.request_id, outcome.body)
        except ValueError:
            ok = False
            answer = unanswered(name, line.custom_id, "request_failed", outcome.why or "It was not JSON.")
        used = (usage_of(outcome.body, "openai") if ok else None) or (0, 0, 0)
        self.keep(Record(number, ok, *used, answer))

    def keep(self, record: Record) -> None:
        """Have this answer synced soon."""
        self._unsaved.append(record)
        self._unsaved_bytes += len(record.answer)
        self._arrived.set()

    async def save(
        self, trouble: Callable[[str], None], saved: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        """Bring answers to disk as they come, until the batch is `lost`. `trouble` hears of a disk that takes nothing,
        once."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await asyncio.sleep(GATHER_S)
            assert self.log is not None
            records = list(self._unsaved)
            try:
                await asyncio.to_thread(self.log.append, records)
            except Lost:
                lost()
                return
            except Exception as error:  # also a fault of ours: an answer that waits must not wait for ever
                self.pause(error, trouble)
                await asyncio.sleep(AGAIN_S)
                self._arrived.set()
                continue
            self.paused = ""
            del self._unsaved[: len(records)]
            self._unsaved_bytes -= sum(len(record.answer) for record in records)
            saved()

    def pause(self, error: Exception, trouble: Callable[[str], None]) -> None:
        """Say why nothing goes on; nothing that was answered is given up."""
        sentence = why(error)
        if not self.paused:
            trouble(f"{self.batch.batch_id} pauses: {sentence}")
        self.paused = sentence

    # The end.

    def figures(self) -> tuple[Counts, Usage]:
        """Lines and tokens so far, of what is on disk."""
        log, total = self.log, self.batch.counts.total
        if log is None:
            return self.batch.counts, self.batch.usage
        counts = Counts(total=total, completed=log.completed, failed=log.failed)
        return counts, Usage(prompt=log.prompt, cached=log.cached, output=log.output)

    def write(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Write the answers as files, the same ones whenever it is done: id and bytes of output and errors; ("", 0)
        for a file that would be empty.

        Raises:
            OSError: they cannot be written.
        """
        if not self.batch.counts.total:  # it ended before its lines were known to be any
            return ("", 0), ("", 0)
        self.open()
        assert self.log is not None
        good = self._write("output", (answer for _, answer in self.log.answers(ok=True)))
        return good, self._write("errors", self._errors())

    def _errors(self) -> Iterator[bytes]:
        """Answers other than 2xx, and a word for each line that has none, in order."""
        assert self.log is not None and self.lines is not None
        failed = dict(self.log.answers(ok=False))
        code, message = UNANSWERED.get(self.batch.ending, ("request_failed", "There is no answer."))
        for place, number in enumerate(self.lines.numbers):
            if number in failed:
                yield failed[number]
            elif number not in self.log:
                line = self.lines.line(place)
                custom_id = line.custom_id if isinstance(line, Line) else ""
                yield unanswered(line_id(self.batch.batch_id, number), custom_id, code, message)

    def _write(self, which: str, answers: Iterator[bytes]) -> tuple[str, int]:
        first = next(answers, None)
        if first is None:
            return "", 0
        file_id = answer_file_id(self.batch.batch_id, which, self.turn)

        def pieces() -> Iterator[bytes]:
            yield first + b"\n"
            for answer in answers:
                yield answer + b"\n"

        return file_id, self._shelf.put(file_id, pieces())

    def close(self) -> None:
        """Let go of the files."""
        if self.saver is not None:
            self.saver.cancel()
            self.saver = None
        if self.lines is not None:
            self.lines.close()
            self.lines = None
        if self.log is not None:
            self.log.close()
            self.log = None


def answer_file_id(batch_id: str, which: str, turn: int = 0) -> str:
    """The id of a batch's file of answers: always the same, so that writing it again writes the same file. Of two that
    take a batch up one after the other each has its own."""
    said = f"{batch_id}:{which}:{turn}" if turn else f"{batch_id}:{which}"
    return "file-" + hashlib.sha256(said.encode()).hexdigest()[:24]


def why(error: Exception) -> str:
    """Why the disk takes nothing, in a sentence with the way out."""
    if isinstance(error, StoreFull):
        return str(error)
    if is_full(error):
        return "the disk is full; free some space, and it goes on by itself"
    if isinstance(error, LedgerTrouble):
        return f"{error}; then it goes on by itself"
    if not isinstance(error, OSError):
        return f"writing met a fault ({error!r}); it is tried again"
    return f"files cannot be written ({error}); put that right, and it goes on by itself"
