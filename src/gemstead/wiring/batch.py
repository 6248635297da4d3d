"""The batch process as the head sees it: started, watched, told how much room there is, stopped.

The head has both of its sockets: the one where the gateway passes files and batches on, and the port where it calls the
gateway. So neither moves when the process is replaced, and what is asked meanwhile waits. When it dies nothing else
does, and its successor takes up what is on disk.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gemstead.batch.control import BatchSettings, Room, Stop, StoreAt, ToHead, Trouble
from gemstead.gateway.settings import Aside
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.place import Place
from gemstead.spec.model import Spec
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.workers import Worker
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.wiring.files import StateDir

FORM_BYTES = 1 << 20  # of an upload, for what stands around its file
LAST_S = 2.0  # for a process that was told to stop, once nothing can be on its way any more
ANSWER_S = 60.0  # more patience with the gateway than it has itself
DECODER = msgspec.json.Decoder(ToHead)


class BatchProcess:
    """One batch process and its sockets. Use from one event loop."""

    def __init__(
        self,
        settings: BatchSettings,
        listener: socket.socket,
        log: Callable[[str], RotatedLog],
        trouble: Callable[[str], None],
    ) -> None:
        argv = [sys.executable, "-m", "gemstead.batch", "--listen-fd", str(listener.fileno())]
        self._settings, self._trouble = settings, trouble
        self._worker = Worker(
            "batch",
            argv,
            log=log("batch"),
            joined=self._joined,
            said=self._said,
            left=self._left,
            pass_fds=(listener.fileno(),),
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._worker.run())

    def tell_room(self, endpoints: Iterable[EndpointFacts], in_flight: Callable[[str], int]) -> None:
        """How many slots each pool has, and how many calls are there."""
        self._tell(Room(pools=room(endpoints, in_flight)))

    def follow(self, place: Place | None) -> None:
        """The store may be somewhere else, or have another secret."""
        if place is None or not self._settings.store:
            return
        try:
            at = StoreAt(url=place.url(), secret=place.secret())
        except LedgerTrouble as trouble:
            self._trouble(str(trouble))
            return
        self._settings = replace(self._settings, store=at.url, store_secret=at.secret)
        self._tell(at)

    def stop(self, within_s: float) -> None:
        """Begin no line from now on; end when those on their way have ended, or after that time."""
        self._worker.stop()
        self._tell(Stop(within_s=within_s))

    async def end(self) -> None:
        """Nothing of it is left afterwards. What was answered is on disk."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=LAST_S if self._worker.stopped else 0.0)
        self._worker.kill()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def describe(self) -> dict[str, object]:
        """What `gemstead ps` shows of it."""
        return {"pid": self._worker.pid, "restarts": max(self._worker.restarts, 0)}

    def _joined(self, worker: Worker) -> None:
        worker.tell(msgspec.json.encode(self._settings))

    def _said(self, worker: Worker, line: bytes) -> None:
        word = DECODER.decode(line)
        if isinstance(word, Trouble):
            self._trouble(f"batch: {word.message}")

    def _left(self, worker: Worker, how: str) -> None:
        if not worker.stopped:
            self._trouble(f"batch {how}; another takes its place and goes on where it was")

    def _tell(self, word: Room | StoreAt | Stop) -> None:
        self._worker.tell(msgspec.json.encode(word))


def room(endpoints: Iterable[EndpointFacts], in_flight: Callable[[str], int]) -> dict[str, tuple[int, int]]:
    """By pool: the slots of its endpoints that take calls, and the calls there. Without the slots of one of them, 0."""
    pools: dict[str, tuple[int, int]] = {}
    unknown = set()
    for facts in endpoints:
        if not facts.ready or facts.draining:
            continue
        slots, calls = pools.get(facts.pool, (0, 0))
        pools[facts.pool] = (slots + facts.slots, calls + in_flight(facts.name))
        if not facts.slots:
            unknown.add(facts.pool)
    return {pool: (0, calls) if pool in unknown else (slots, calls) for pool, (slots, calls) in pools.items()}


def aside(spec: Spec, at: tuple[str, int], inner_port: int) -> Aside:
    """What gateway workers are told of the batch process that listens at `at`."""
    file_bytes = spec.batch.file_mib << 20
    return Aside(
        host=at[0],
        port=at[1],
        secret=secrets.token_urlsafe(32),
        body_bytes=file_bytes + FORM_BYTES,
        inner_port=inner_port,
    )


def batch_settings(spec: Spec, folder: StateDir, known: Aside) -> BatchSettings:
    """What the batch process is told.

    Raises:
        LedgerTrouble: what `ledger.store` and `ledger.secret` refer to cannot be used.
    """
    batch, place = spec.batch, folder.place
    return BatchSettings(
        path=str(Path(batch.path).expanduser().absolute() if batch.path else folder.path / "batch"),
        gateway=f"http://127.0.0.1:{known.inner_port}",
        secret=known.secret,
        concurrency=batch.concurrency,
        priority=batch.priority,
        window_s=batch.window_h * 3600,
        file_bytes=batch.file_mib << 20,
        lines=batch.lines,
        retries=batch.retries,
        retention_s=batch.retention_days * 86_400,
        store=place.url() if place is not None else "",
        store_secret=place.secret() if place is not None else "",
        holder=f"{place.node}/{secrets.token_hex(8)}" if place is not None else "",
        store_bytes=batch.store_mib << 20,
        call_s=spec.gateway.deadlines.total_s + ANSWER_S,
    )
