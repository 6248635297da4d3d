"""The batch process: `python -m gemstead.batch`.

With `--control-fd N --listen-fd M` it is run by a head: settings and words come over the first, callers over the
second, a socket that the head has and keeps, so that calls made while this process is replaced wait and are not
refused. With `--settings FILE` it runs alone and says where it listens; tests run it so.

It may be killed at any moment: what it has said to a caller is on disk (`ledger/batches.py`, `ledger/resultlog.py`), or
in the store that several gateways share (`ledger/postgres/batches.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvicorn

from gemstead.batch.app import Desk
from gemstead.batch.calls import Calls
from gemstead.batch.control import BatchSettings, Listening, Room, Stop, StoreAt, ToBatch, Trouble
from gemstead.batch.folder import Folder
from gemstead.batch.runner import Runner
from gemstead.batch.shelf import LocalShelf, Shelf, StoreShelf
from gemstead.ledger.batches import Batches, BatchStore
from gemstead.ledger.database import LedgerTrouble

LINE_MOST = 1 << 20
KEEP_ALIVE_S = 75  # the gateway drops idle connections sooner


class Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class BatchProcess:
    """The live parts of the process."""

    def __init__(self, settings: BatchSettings, sock: socket.socket) -> None:
        os.umask(0o077)
        self.stopping = asyncio.Event()
        self.within_s = 30.0
        self.head: asyncio.StreamWriter | None = None
        folder = Folder(Path(settings.path))
        self.calls = Calls(settings)
        self.at = StoreAt(url=settings.store, secret=settings.store_secret)
        store, shelf = self._kept(settings, folder)
        self.runner = Runner(settings, store, shelf, folder, self.calls, self.trouble)
        config = uvicorn.Config(
            Desk(self.runner, folder).app(),
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        self._server, self._socket = Server(config), sock

    def _kept(self, settings: BatchSettings, folder: Folder) -> tuple[Batches, Shelf]:
        """Where files and batches are kept: on this machine, or in a store."""
        if not settings.store:
            return BatchStore(folder.rows), LocalShelf(folder)
        from gemstead.ledger.postgres.batches import PostgresBatches

        store = PostgresBatches(
            lambda: self.at.url,
            lambda: self.at.secret,
            settings.holder,
            lease_s=settings.lease_s,
            most_bytes=settings.store_bytes,
        )
        return store, StoreShelf(folder, store)

    async def run(self) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        self.runner.begin()
        running = asyncio.create_task(self.runner.run())
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        stopping = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({running, serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await self.runner.stop(self.within_s)
        running.cancel()
        await self.runner.leave()
        self._server.should_exit = True
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, serving, stopping, return_exceptions=True)
        await self.calls.close()

    def trouble(self, message: str) -> None:
        sys.stderr.write(f"gemstead batch: {message}\n")
        sys.stderr.flush()
        if self.head is not None and not self.head.is_closing():
            self.head.write(msgspec.json.encode(Trouble(message=message)) + b"\n")

    async def obey(self, reader: asyncio.StreamReader) -> None:
        """Do what the head says, until it is gone; then so are we: nothing is lost by it."""
        decoder = msgspec.json.Decoder(ToBatch)
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                word = decoder.decode(line)
                if isinstance(word, Room):
                    self.runner.set_room(word.pools)
                elif isinstance(word, StoreAt):
                    self.at = word
                elif isinstance(word, Stop):
                    self.within_s = word.within_s
                    self.stopping.set()
        if not self.stopping.is_set():
            os._exit(1)


async def controlled(control: int, listener: int) -> None:
    """Run under a head: the first word must be `BatchSettings`."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=control), limit=LINE_MOST)
    if not (line := await reader.readline()):
        return
    settings = msgspec.json.decode(line, type=ToBatch)
    assert isinstance(settings, BatchSettings), "the head says the settings first"
    process = BatchProcess(settings, socket.socket(fileno=listener))
    process.head = writer
    obeying = asyncio.create_task(process.obey(reader))
    try:
        await process.run()
    finally:
        obeying.cancel()
        writer.close()


async def alone(settings: BatchSettings, port: int) -> None:
    """Run without a head; says where it listens on standard output."""
    sock = socket.create_server(("127.0.0.1", port))
    host, port = sock.getsockname()
    process = BatchProcess(settings, sock)
    print(msgspec.json.encode(Listening(host=host, port=port, pid=os.getpid())).decode(), flush=True)  # noqa: T201
    await process.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="gemstead.batch", description="The batch process.")
    parser.add_argument("--control-fd", type=int)
    parser.add_argument("--listen-fd", type=int)
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    if args.settings is not None:
        work = alone(msgspec.json.decode(args.settings.read_bytes(), type=BatchSettings), args.port)
    else:
        work = controlled(args.control_fd, args.listen_fd)
    try:
        asyncio.run(work)
    except (LedgerTrouble, OSError) as error:
        sys.exit(f"gemstead batch: {error}")


if __name__ == "__main__":
    main()
