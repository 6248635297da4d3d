"""Where a batch finds its input, keeps its answers, and puts the files of them: this machine, or a store of several.

`LocalShelf` is the folder of this gateway alone. With a `StoreShelf` the bytes are the store's: what lies in the folder
is a copy of what this gateway works on, made when it takes a batch up and removed when it lets it go. An answer counts
when the store has it, and is written to the copy afterwards; a process that takes a batch up begins from the store's.

Methods block: call them in a thread. Nothing is in memory as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gemstead.batch.folder import Folder
from gemstead.ledger.batches import Batches, BatchStore
from gemstead.ledger.resultlog import Record, ResultLog, encode
from gemstead.ledger.resultlog import read as read_records
from gemstead.openai.batches import Batch, Counts, Usage
from gemstead.openai.files import File

if TYPE_CHECKING:
    from gemstead.ledger.postgres.batches import PostgresBatches

BLOCK_BYTES = 1 << 20  # of answers that are kept together
READ_BYTES = 1 << 20
BROUGHT = "batches.db.brought"


class Shelf(Protocol):
    """Bytes of files and answers.

    Raises:
        OSError, LedgerTrouble: (every method) they cannot be read or written.
    """

    shared: bool

    def input(self, batch: Batch) -> Path:
        """The batch's input, as a file here."""

    def log(self, batch: Batch, turn: int) -> ResultLog:
        """The answers that it has, open for more."""

    def put(self, file_id: str, pieces: Iterable[bytes]) -> int:
        """Keep these bytes as that file; how many."""

    def taken(self, file_id: str) -> None:
        """An upload lies in the folder, whole: from now on it is read from here."""

    def pieces(self, file: File) -> Iterator[bytes]:
        """The bytes of a file."""

    def remove(self, file_id: str) -> None:
        """Nothing of the file, whose row is gone, is left here."""

    def clean(self, batch: Batch) -> None:
        """The batch is not worked on here any more."""


class LocalShelf:
    """The folder of this gateway alone."""

    shared = False

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def input(self, batch: Batch) -> Path:
        return self._folder.file(batch.order.input_file_id)

    def log(self, batch: Batch, turn: int) -> ResultLog:
        return ResultLog(self._folder.log(batch.batch_id))

    def put(self, file_id: str, pieces: Iterable[bytes]) -> int:
        return self._folder.write(file_id, pieces)

    def taken(self, file_id: str) -> None:
        """It lies where it belongs."""

    def pieces(self, file: File) -> Iterator[bytes]:
        return read_pieces(self._folder.file(file.file_id))

    def remove(self, file_id: str) -> None:
        self._folder.remove(self._folder.file(file_id))

    def clean(self, batch: Batch) -> None:
        self._folder.remove(self._folder.log(batch.batch_id))


class StoreShelf:
    """A store that several gateways share, and copies of what this one works on."""

    shared = True

    def __init__(self, folder: Folder, store: PostgresBatches) -> None:
        self._folder, self._store = folder, store

    def input(self, batch: Batch) -> Path:
        file = self._store.file(batch.tenant, batch.order.input_file_id)
        if file is None:
            raise FileNotFoundError(f"{batch.order.input_file_id} is not there any more")
        self._folder.write(_copy_of(batch), self._store.read_file(file))
        return self._folder.file(_copy_of(batch))

    def log(self, batch: Batch, turn: int) -> ResultLog:
        return StoreLog(self._folder.log(batch.batch_id), self._store, batch.batch_id, turn)

    def put(self, file_id: str, pieces: Iterable[bytes]) -> int:
        return self._store.parts.put(file_id, pieces)

    def taken(self, file_id: str) -> None:
        self._store.parts.put(file_id, read_pieces(self._folder.file(file_id)))
        self._folder.remove(self._folder.file(file_id))

    def pieces(self, file: File) -> Iterator[bytes]:
        return self._store.read_file(file)

    def remove(self, file_id: str) -> None:
        """It went with its row."""

    def clean(self, batch: Batch) -> None:
        self._folder.remove(self._folder.log(batch.batch_id))
        self._folder.remove(self._folder.file(_copy_of(batch)))


class StoreLog(ResultLog):
    """A batch's answers in the store, and their copy here."""

    def __init__(self, path: Path, store: PostgresBatches, batch_id: str, turn: int) -> None:
        """Raises Lost with `append`, when the batch is another's."""
        self._store, self._batch_id, self._turn = store, batch_id, turn
        self._kept: set[int] = set()  # lines that the store has and the copy perhaps not
        with path.open("wb") as file:
            for block in store.answers(batch_id):
                file.write(block)
        super().__init__(path)

    def append(self, records: Iterable[Record]) -> None:
        new = {record.line: record for record in reversed(list(records)) if record.line not in self.places}
        self._keep([new[line] for line in reversed(new) if line not in self._kept])
        super().append(new[line] for line in reversed(new))
        self._kept.clear()

    def _keep(self, records: list[Record]) -> None:
        """Bring these into the store, in blocks."""
        counts = Counts(completed=self.completed, failed=self.failed)
        usage = Usage(prompt=self.prompt, cached=self.cached, output=self.output)
        block, lines = bytearray(), set[int]()
        for number, record in enumerate(records, 1):
            block += encode(record)[0]
            lines.add(record.line)
            counts = Counts(completed=counts.completed + record.ok, failed=counts.failed + (not record.ok))
            usage = Usage(
                prompt=usage.prompt + record.prompt,
                cached=usage.cached + record.cached,
                output=usage.output + record.output,
            )
            if len(block) >= BLOCK_BYTES or number == len(records):
                self._store.add_answers(self._batch_id, self._turn, bytes(block), counts, usage)
                self._kept |= lines
                block.clear()
                lines = set()


class Rows:
    """Asks `Batches` in a way that never holds up the event loop: a store is waited for in a thread."""

    def __init__(self, store: Batches, *, shared: bool) -> None:
        self.store, self._shared = store, shared

    async def __call__(self, question: Callable[..., Any], *values: Any) -> Any:
        """What `question`, a method of the store, answers."""
        if not self._shared:
            return question(*values)
        return await asyncio.to_thread(question, *values)


def bring(folder: Folder, store: PostgresBatches) -> tuple[int, int]:
    """Take what this gateway had by itself into the store, once; how many files and batches.

    It may be killed anywhere, and begins again: a file is whole before its row is there, and so is a batch.
    """
    if not folder.rows.exists():
        return 0, 0
    own, files, batches = BatchStore(folder.rows), 0, 0
    try:
        for file in own.all_files():
            if folder.file(file.file_id).exists() and store.file(file.tenant, file.file_id) is None:
                store.bring_file(file, read_pieces(folder.file(file.file_id)))
                files += 1
        for batch, caller in own.all_batches():
            if not store.has_batch(batch.batch_id):
                log = folder.log(batch.batch_id)
                blocks = _blocks(log) if log.exists() and not batch.ended else iter(())
                store.bring_batch(batch, caller, blocks)
                batches += 1
    finally:
        own.close()
    folder.rows.rename(folder.rows.with_name(BROUGHT))
    return files, batches


def read_pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, a MiB at a time."""
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            yield piece


def _blocks(log: Path) -> Iterator[bytes]:
    """The whole records of a log, some at a time."""
    block = bytearray()
    with log.open("rb") as file:
        for record, _, _ in read_records(file):
            block += encode(record)[0]
            if len(block) >= BLOCK_BYTES:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)


def _copy_of(batch: Batch) -> str:
    return f"{batch.batch_id}.input"
