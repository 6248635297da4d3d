"""One gateway worker process: `python -m gemstead.gateway.worker`.

With `--control-fd N` it is run by a head process and speaks the words of `gateway/control.py` over that socket;
when the head is gone, so is the worker. With `--settings FILE` it runs alone from a file of `GatewaySettings`,
which is how benchmarks and tests run it. It keeps no state that must outlive it: records are in the ledger
within some hundredths of a second (`ledger/writer.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

from gemstead.gateway.app import STOPPING, SWEEP_S, Gateway
from gemstead.gateway.control import (
    AdapterFailed,
    BudgetCrossed,
    CallerSeen,
    Configure,
    Drain,
    Drained,
    Figures,
    Fleet,
    Given,
    Listening,
    Loads,
    NeedAdapter,
    Needed,
    Report,
    SigningKeys,
    Take,
    ToHead,
    ToWorker,
    Trouble,
    UnknownKey,
)
from gemstead.gateway.counterlink import HeadLink, StoreLink
from gemstead.gateway.figures import Figures as Measured
from gemstead.gateway.issuers import Signing
from gemstead.gateway.keyring import Keyring
from gemstead.gateway.kvevents import Ears
from gemstead.gateway.limitlist import held
from gemstead.gateway.protocol import ClientConnection
from gemstead.gateway.settings import GatewaySettings, Tls
from gemstead.gateway.sharing import Talk, misses_seed
from gemstead.ledger.counters import StoreAway
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.keys import KeyBook, open_keys
from gemstead.ledger.writer import Writer
from gemstead.observe.metrics import Registry
from gemstead.refused import Reason, Refused
from gemstead.traffic.breaker import State
from gemstead.traffic.picker import Picker
from gemstead.traffic.policies import POLICIES
from gemstead.traffic.policy import Policy
from gemstead.traffic.prefix import PrefixIndex

if TYPE_CHECKING:
    from gemstead.gateway.tokens import TokenBook

INDEX_BYTES = 64 << 20
REPORT_S = 1.0
TOUCH_S = 60.0
LINE_MOST = 64 << 20
BACKLOG = 4096
SWITCH_S = 0.0005  # the writing thread gives the loop its turn back ten times sooner than Python's usual 5 ms


class Worker:
    """The live parts of one worker process."""

    def __init__(self, settings: GatewaySettings, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.settings = settings
        self.registry = Registry()
        self.measured = Measured(self.registry)
        self.book: KeyBook | None = None
        self.tokens: TokenBook | None = None
        self.signing: dict[str, Signing] = {}
        self.writer = (
            Writer(Path(settings.ledger_path), most_bytes=settings.ledger_most_bytes, on_trouble=self.trouble)
            if settings.ledger_path
            else None
        )
        self.gate = Gateway(
            loop,
            settings,
            self.keyring(settings),
            self.writer.put if self.writer is not None else lambda record: None,
            self.measured,
            policy(settings.policy, Random().randrange),  # noqa: S311
        )
        self.gate.waitroom.needed = lambda pool: self.say(Needed(pool=pool))
        self.gate.adapter_room.needed = lambda pool, name: self.say(NeedAdapter(pool=pool, adapter=name))
        self.link: HeadLink | StoreLink | None = None
        if (writer := self.writer) is not None:
            self.gate.ledger_healthy = lambda: writer.healthy
        self.ears = Ears(self.gate, self.trouble)
        self.server: asyncio.Server | None = None
        self.inner: asyncio.Server | None = None  # where the batch process calls
        self.context: ssl.SSLContext | None = None
        self.certificate_at: tuple[int, ...] = ()
        self.head: asyncio.StreamWriter | None = None
        self.stopping = asyncio.Event()

    # -- life -------------------------------------------------------------------------------------------

    async def listen(self) -> Listening:
        """Open the port. Raises OSError when it cannot be had."""
        settings = self.settings
        if settings.tls is not None:
            self.context = tls_context(settings.tls)
            self.certificate_at = certificate_time(settings.tls)
        self.server = await self.loop.create_server(
            lambda: ClientConnection(self.gate),  # type: ignore[arg-type, return-value]
            settings.host or None,
            settings.port,
            reuse_port=True,
            backlog=BACKLOG,
            ssl=self.context,
            ssl_handshake_timeout=settings.deadlines.client_header_s if self.context is not None else None,
        )
        if settings.aside is not None and settings.aside.inner_port:
            self.inner = await self.loop.create_server(
                lambda: ClientConnection(self.gate),  # type: ignore[arg-type, return-value]
                "127.0.0.1",
                settings.aside.inner_port,
                reuse_port=True,
                backlog=BACKLOG,
            )
        host, port = self.server.sockets[0].getsockname()[:2]
        return Listening(host=host, port=port, pid=os.getpid())

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stopping.set)
        self.reach_counters(self.settings)
        self.say(await self.listen())
        talking = self.talk()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        sys.setswitchinterval(SWITCH_S)
        ticking = self.loop.create_task(self.tick())
        await self.stopping.wait()
        await self.stop()
        ticking.cancel()
        if talking is not None:
            talking.cancel()
            await asyncio.wait({talking}, timeout=1.0)
        await self.ears.finish()

    async def stop(self) -> None:
        for server in (self.server, self.inner):
            if server is not None:
                server.close()
        unfinished = await self.gate.drain(self.settings.deadlines.drain_s)
        await self.remember_use()
        if self.link is not None:
            await self.link.finish()
        if self.writer is not None:
            await self.loop.run_in_executor(None, self.writer.close)
        self.say(self.figures(0))
        self.say(Drained(unfinished=unfinished))
        if self.head is not None:
            with contextlib.suppress(OSError):  # it may have gone
                await self.head.drain()

    async def tick(self) -> None:
        """The worker's clock: sweep, measure how late the loop runs, report."""
        reported, touched = 0.0, self.loop.time()
        while True:
            due = self.loop.time() + SWEEP_S
            await asyncio.sleep(SWEEP_S)
            now = self.loop.time()
            self.measured.loop_lag.observe(now - due)
            try:
                self.gate.sweep()
                if now - reported >= REPORT_S:
                    reported = now
                    self.reload_certificate()
                    self.ears.look()
                    self.say(self.figures(0))
            except Exception as error:  # the clock must go on, whatever one pass has met
                self.trouble(f"the worker's clock met a fault: {error!r}")
            if now - touched >= TOUCH_S:
                touched = now
                await self.remember_use()

    async def remember_use(self) -> None:
        """Write down when keys were last used, off the loop: it is shown, and nothing depends on it."""
        if self.book is None or not (used := self.book.used()):
            return
        try:
            store = open_keys(Path(self.settings.keys_path), b"")
            await self.loop.run_in_executor(None, store.touch, used)
        except LedgerTrouble as error:
            self.trouble(f"when keys were last used could not be written down: {error}")

    def reload_certificate(self) -> None:
        tls = self.settings.tls
        if tls is None or self.context is None or certificate_time(tls) == self.certificate_at:
            return
        self.certificate_at = certificate_time(tls)
        try:
            tls_context(tls)  # first in a context of its own: half a new pair would spoil the one in use
            self.context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            self.trouble(f"the new certificate cannot be used, the old one stays: {error}")

    # -- the head ---------------------------------------------------------------------------------------

    def figures(self, number: int, limits: bool = False) -> Figures:
        if self.writer is not None:
            self.measured.ledger(self.writer.held, self.writer.healthy)
        self.measured.in_flight.set(len(self.gate.running))
        self.measured.queue_waiting.set(self.gate.waitroom.waiting + self.gate.adapter_room.waiting)
        for name, endpoint in self.gate.endpoints.items():
            shut = endpoint.breaker.state is not State.CLOSED
            self.measured.breaker_open.labels(name).set(float(shut))
            self.measured.endpoint(name, endpoint.served, endpoint.failures)
        busy = {name: endpoint.in_flight for name, endpoint in self.gate.endpoints.items()}
        return Figures(
            number=number,
            snapshot=self.registry.snapshot(),
            in_flight=busy,
            waiting=self.gate.waitroom.by_pool(),
            adapters=self.gate.adapter_room.uses(),
            limits=held(self.gate) if limits else [],
        )

    def trouble(self, message: str) -> None:
        """Called from any thread."""
        sys.stderr.write(f"gemstead worker: {message}\n")
        self.loop.call_soon_threadsafe(self.say, Trouble(message=message))

    def say(self, word: ToHead) -> None:
        if self.head is not None and not self.head.is_closing():
            self.head.write(msgspec.json.encode(word) + b"\n")

    async def obey(self, reader: asyncio.StreamReader) -> None:
        """Do what the head says, until it is gone."""
        decoder = msgspec.json.Decoder(ToWorker)
        try:
            while line := await reader.readline():
                try:
                    self.do(decoder.decode(line))
                except Exception as error:  # what the head asked for cannot be done; what was, stays
                    self.trouble(f"a word of the head was not followed: {error!r}")
        except OSError:  # a socket that closes with words unread says so by a reset
            pass
        if not self.stopping.is_set():  # the head died: so do the engines, and there is nothing left to serve
            for connection in self.gate.busy():
                connection.give_up(Refused(Reason.DRAINING, STOPPING))
            if self.writer is not None:
                self.writer.close()
            os._exit(1)

    def do(self, word: ToWorker) -> None:
        """Do one thing that the head asks for."""
        match word:
            case Configure(settings=settings):
                self.configure(settings)
            case Fleet(endpoints=endpoints):
                self.gate.set_fleet(endpoints)
            case Loads(loads=loads):
                self.gate.set_loads(loads)
            case SigningKeys(issuers=signing):
                self.signing = signing
                if self.tokens is not None:
                    self.tokens.learn(signing)
            case Report(number=number, limits=limits):
                self.say(self.figures(number, limits))
            case AdapterFailed(pool=pool, adapter=adapter, why=why):
                self.gate.adapter_room.failed(pool, adapter, why)
            case Given(number=number, grants=grants):
                if isinstance(self.link, HeadLink):
                    self.link.given(number, grants)
            case Drain():
                self.stopping.set()

    def reach_counters(self, settings: GatewaySettings) -> None:
        """Have limits counted where all who share them look: in the store that is named, else at the head."""
        if settings.limit_store:
            self.link = StoreLink(self.loop, settings.limit_store, self.trouble)
        elif self.head is not None:
            self.link = HeadLink(self.loop, lambda batch: self.say(Take(batch=batch)))
        if self.link is not None:
            self.gate.link = self.link
        self.gate.on_crossed = lambda crossed: self.say(BudgetCrossed(crossed=crossed))

    def talk(self) -> asyncio.Task[None] | None:
        """Begin to tell other gateways what this worker has in flight."""
        if self.settings.sharing is None:
            return None
        try:
            return self.loop.create_task(Talk(self.settings.sharing, self.gate, self.trouble).run())
        except StoreAway as error:
            self.trouble(str(error))
            return None

    def configure(self, settings: GatewaySettings) -> None:
        """Take new settings; listening address, TLS files and ledger stay as they were at the start."""
        if settings.limit_store != self.settings.limit_store:
            self.reach_counters(settings)
        keyring = self.keyring(settings)
        self.gate.configure(settings)
        self.settings, self.gate.keyring = settings, keyring

    def keyring(self, settings: GatewaySettings) -> Keyring:
        """Who may call under these settings.

        Raises:
            ValueError: keys are required and none can be known. Letting everybody in is never the way out.
        """
        secret = settings.aside.secret.encode() if settings.aside is not None else b""
        if not settings.keys_required:
            return Keyring(None, secret)
        if self.book is None:
            if not settings.keys_path:
                raise ValueError("keys are required, but the settings name no file of keys")
            path, pepper = Path(settings.keys_path), bytes.fromhex(settings.pepper)
            self.book = KeyBook(path, pepper, on_trouble=self.trouble)
        self.book.most_age_s = settings.keys_most_age_s
        self.tokens = self.token_book(settings)
        return Keyring(self.book, secret, self.tokens)

    def token_book(self, settings: GatewaySettings) -> TokenBook | None:
        """What believes tokens and certificates under these settings; None: nothing does."""
        if not settings.identity.issuers and not settings.identity.certificates:
            return None
        from gemstead.gateway.tokens import TokenBook

        ask = lambda issuer, kid: self.say(UnknownKey(issuer=issuer, kid=kid))  # noqa: E731
        book = TokenBook(settings.identity, ask=ask, seen=lambda came: self.say(CallerSeen(came=came)))
        book.learn(self.signing)
        return book


def policy(name: str, choose: Callable[[int], int]) -> Policy:
    """The way of choosing endpoints that goes by this name; "" is the product's own."""
    return POLICIES[name](choose) if name else Picker(PrefixIndex(INDEX_BYTES), choose)


# For TLS 1.2; those of 1.3 are all modern. Forward secrecy and authenticated encryption only: Mozilla's
# "intermediate" list without the finite-field groups (ssl-config.mozilla.org, guideline 5.7).
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"


def tls_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 with the library's modern ciphers; client certificates when a CA is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.client_ca:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_required else ssl.CERT_OPTIONAL
    return context


def certificate_time(tls: Tls) -> tuple[int, ...]:
    """What changes when one of the files is written or replaced, also by an older one; empty if one is missing."""
    try:
        stats = [Path(path).stat() for path in (tls.certificate, tls.key)]
    except OSError:
        return ()
    return tuple(figure for stat in stats for figure in (stat.st_mtime_ns, stat.st_ino, stat.st_size))


async def controlled(fd: int) -> None:
    """Run under a head: the first word must be `Configure`."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(fileno=fd)
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_MOST)
    line = await reader.readline()
    if not line:
        return
    first = msgspec.json.decode(line, type=ToWorker)
    assert isinstance(first, Configure), "the head configures first"
    worker = Worker(first.settings, loop)
    worker.head = writer
    obeying = loop.create_task(worker.obey(reader))
    try:
        await worker.run()
    except OSError as error:
        worker.say(
            Trouble(message=f"cannot listen on {worker.settings.host}:{worker.settings.port}: {error}")
        )
        await writer.drain()
        raise SystemExit(1) from None
    finally:
        obeying.cancel()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def alone(settings: GatewaySettings) -> None:
    """Run without a head; says where it listens on standard output."""
    worker = Worker(settings, asyncio.get_running_loop())
    worker.say = lambda word: (  # type: ignore[method-assign]
        print(msgspec.json.encode(word).decode(), flush=True) if isinstance(word, Listening) else None  # noqa: T201
    )
    await worker.run()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="gemstead.gateway.worker", description="One gateway worker process."
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--control-fd", type=int)
    how.add_argument("--settings", type=Path)
    args = parser.parse_args()
    if args.control_fd is not None:
        work = controlled(args.control_fd)
    else:
        settings = msgspec.json.decode(args.settings.read_bytes(), type=GatewaySettings)
        if more := misses_seed(settings.sharing):  # it is read once, when Python starts
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **more})  # noqa: S606
        work = alone(settings)
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        runner.run(work)


if __name__ == "__main__":
    main()
