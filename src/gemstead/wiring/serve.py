"""`gemstead serve`, in order: take the state folder, take the ports, get the models, plan, start, wait, drain.

Ports come before models, so that a service that cannot listen says so before it downloads anything.
Signals: the first Ctrl-C (or SIGTERM) finishes what runs, the second ends at once, SIGHUP reads the file
again. What a terminal shows is the `Screen`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gemstead import __version__
from gemstead.console.app import console, server
from gemstead.console.door import Door
from gemstead.console.signin import Pages
from gemstead.gateway.settings import Aside
from gemstead.ledger.acts import new_act, remember
from gemstead.ledger.keys import Grant
from gemstead.ledger.postgres.link import StoreAway
from gemstead.operate.secrets.keeper import Keeper
from gemstead.spec.model import Spec
from gemstead.spec.secrets import SecretsSpec
from gemstead.supervise.logs import RotatedLog
from gemstead.wiring import desired, ledger
from gemstead.wiring.addresses import base_url, gateway_address, listener, named, reserve, split, warnings
from gemstead.wiring.auditing import Auditor
from gemstead.wiring.batch import BatchProcess, aside, batch_settings
from gemstead.wiring.desired import Surroundings
from gemstead.wiring.discover import Names
from gemstead.wiring.drafts import Advice, redrafted
from gemstead.wiring.entrance import Entrance, door_of, entrance, reopen
from gemstead.wiring.files import Card, StateDir, hold, place_of, running, state_dir, write_card
from gemstead.wiring.foresight import Foresight
from gemstead.wiring.gateway import GatewayWorkers
from gemstead.wiring.head import Head
from gemstead.wiring.journal import keep_log, log_file
from gemstead.wiring.limitpages import limit_routes, told
from gemstead.wiring.models import Stopped
from gemstead.wiring.policy import Policy
from gemstead.wiring.policy import pages as policy_pages
from gemstead.wiring.scale import Scaled, scaled, with_scales
from gemstead.wiring.secrets import CannotRun, resolved, watch
from gemstead.wiring.wanted import Wanted

log = logging.getLogger("gemstead")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a user wants to know once the service is being started."""

    gateway: str  # base address that works on this machine
    admin: str
    state: Path
    models: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    keys: bool  # whether callers need one
    first_key: str = ""  # shown once; empty: there are keys already

    def __repr__(self) -> str:
        return f"Opening({self.gateway})"


class Screen(Protocol):
    """Where the course of things is shown."""

    def listening(self, gateway: str, admin: str, warnings: tuple[str, ...]) -> None: ...
    def fetching(self, name: str, done: int, total: int) -> None: ...
    def say(self, sentence: str) -> None: ...
    def opened(self, opening: Opening) -> None: ...
    def changed(self, status: dict[str, Any]) -> None: ...
    def draining(self, calls: int, within_s: float) -> None: ...
    def stopped(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for on the command line."""

    read: Callable[[], Spec]  # the file as it is now
    environ: Mapping[str, str]
    demo: bool = False


class AlreadyRuns(CannotRun):
    """A service runs in this state folder."""


def serve(order: Order, screen: Screen) -> int:
    """Run the service until it is stopped; the exit code.

    Raises:
        SpecError, CannotRun, LedgerTrouble, OSError: it cannot be started; the text says why.
    """
    spec = order.read()
    folder = state_dir(spec, order.environ)
    with ExitStack() as held:
        try:
            lock = hold(folder)
        except OSError as error:
            raise CannotRun(
                f"the state folder {folder.path} cannot be used: {error.filename}: {error.strerror}; "
                "name another with --set state_dir=DIR"
            ) from None
        if lock is None:
            raise AlreadyRuns(_already(folder))
        held.callback(lock.release)
        return asyncio.run(_serve(order, spec, folder, screen, held))


async def _serve(order: Order, spec: Spec, folder: StateDir, screen: Screen, held: ExitStack) -> int:
    keep_log(spec, folder)
    service = Service(order, spec, folder, screen)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.interrupted)
    loop.add_signal_handler(signal.SIGHUP, service.hung_up)
    service.take_ports(held)
    if not await service.prepare():
        return 130
    return await service.run()


class Service:
    """One start of the service, from its ports to its end."""

    def __init__(self, order: Order, spec: Spec, folder: StateDir, screen: Screen) -> None:
        self.order, self.spec, self.folder, self.screen = order, spec, folder, screen
        self.head: Head | None = None
        self.wanted: Wanted | None = None
        self.signals = 0
        self._stopped = threading.Event()  # seen by the thread that fetches models
        self._preparing: asyncio.Task[Wanted] | None = None
        self.batch_socket: socket.socket | None = None
        self.aside: Aside | None = None
        self.names = Names()
        self.entrance: Entrance | None = None  # who gets in at the admin port
        self.door: Door | None = None
        self.auditor = Auditor(folder, self._log_of, self._trouble)
        self.store: ledger.StoreProcess | None = None
        self.scaled: dict[str, Scaled] = {}  # models whose replicas were set beside the file
        self._reloads: set[asyncio.Task[Any]] = set()
        self._keeper: tuple[SecretsSpec, Keeper] | None = None

    def take_ports(self, held: ExitStack) -> None:
        """Both addresses, or a sentence that says who has them and what to change."""
        host, port = gateway_address(self.spec, self.order.environ)
        with named("gateway.listen", host, port):
            sockets = reserve(host, port)
        for sock in sockets:
            held.callback(sock.close)
        self.gateway_at = (host, sockets[0].getsockname()[1])
        host, port = split(self.spec.admin.listen)
        with named("admin.listen", host, port):
            self.admin_socket = listener(host, port)
        held.callback(self.admin_socket.close)
        self.admin_at = (host, self.admin_socket.getsockname()[1])
        self._take_batch_ports(held)
        scheme = "https" if self.spec.gateway.tls else "http"
        self.gateway_url, self.admin_url = (
            base_url(scheme, *self.gateway_at),
            base_url("http", *self.admin_at),
        )
        self.warnings = warnings(self.spec)
        self.screen.listening(self.gateway_url, self.admin_url, self.warnings)

    def _take_batch_ports(self, held: ExitStack) -> None:
        """Two ports on loopback, for the gateway and the batch process to reach each other."""
        if not self.spec.batch.enabled:
            return
        self.batch_socket = listener("127.0.0.1", 0)
        inner = reserve("127.0.0.1", 0)
        for sock in (self.batch_socket, *inner):
            held.callback(sock.close)
        at = ("127.0.0.1", self.batch_socket.getsockname()[1])
        self.aside = aside(self.spec, at, inner[0].getsockname()[1])

    def _batch(self) -> BatchProcess | None:
        if self.batch_socket is None or self.aside is None:
            return None
        settings = batch_settings(self.spec, self.folder, self.aside)
        return BatchProcess(settings, self.batch_socket, self._log_of, self._trouble)

    async def prepare(self) -> bool:
        """Models on this machine and a plan for them; False when Ctrl-C came first."""
        if away := await asyncio.to_thread(ledger.prepare, self.folder):
            self.screen.say(f"warning: {away}")
        self._preparing = asyncio.create_task(self._desired(self.spec))
        try:
            self.wanted = await self._preparing
        except asyncio.CancelledError:
            return False
        except Stopped:
            return False
        return not self.signals

    async def run(self) -> int:
        assert self.wanted is not None
        key = first_key(self.folder) if self.spec.gateway.keys == "required" else ""
        gateway = GatewayWorkers(self.wanted.settings, self._log_of, self._trouble)
        self.head = head = Head(
            self.wanted,
            gateway,
            self._reread,
            addresses=(self.gateway_url, self.admin_url),
            batch=self._batch(),
            changed=self._show,
            rescale=self._rescaled,
            redraft=self._redrafted,
            discover=self._discovered,
        )
        token = secrets.token_urlsafe(32)
        gateway.on_caller_seen = self.auditor.seen
        self.entrance = entrance(
            self.spec, self.folder, self._secret, head.keeper, self._trouble, self.auditor.seen
        )
        self.door = door = door_of(self.spec, token, self.entrance)
        door.acted = self.auditor.asked
        self.auditor.start(self.spec, self.auditor.sinks(self.spec, self._secret))
        calls = ledger.audit_log(self.folder, beside=True)
        head.autoscaler.foresight = Foresight(
            gateway.figures, time.time, lambda since, until: calls.usage(since, until, by=("hour", "model"))
        )
        self.store = ledger.StoreProcess(self.folder, self._log_of, self._trouble, head.reload)
        if self.folder.place is not None:
            self.store.start(self.folder.place)
        head.store = self.store.describe
        store, environ = ledger.key_store(self.folder), self.order.environ
        policy = Policy(self.folder, lambda: self.spec, store, calls, head.reload, environ)
        pages = [
            *Pages(door, self.entrance, time.time).routes(),
            *policy_pages(policy, door),
            *limit_routes(gateway.limits, gateway.held),
        ]
        gateway.limits.on_crossed = lambda one: self.auditor.act(
            "limit.warning", one.cap.id, detail=told(one)
        )
        admin = server(console(head, token, door, pages))
        serving = asyncio.create_task(admin.serve(sockets=[self.admin_socket]))
        card = Card(
            os.getpid(), self.gateway_url, self.admin_url, token, bool(key) or self._keys(), time.time()
        )
        write_card(self.folder, card)
        self.screen.opened(self._opening(key))
        log.info("gemstead %s serves on %s", __version__, self.gateway_url)
        watching = asyncio.create_task(watch(lambda: self.keeper(self.spec), self._reload_for_secrets))
        try:
            await head.run()
        finally:
            watching.cancel()
            admin.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving
            self.entrance.end()
            await self.auditor.end()
            await self.store.end()
            log.info("stopped")
            self.screen.stopped()
        return 0

    def keeper(self, spec: Spec) -> Keeper:
        """Who reads secrets; another when the file says another way."""
        if self._keeper is None or self._keeper[0] != spec.secrets:
            made = Keeper(spec.secrets, self.order.environ, trouble=self._trouble)
            self._keeper = (spec.secrets, made)
        return self._keeper[1]

    def _secret(self, reference: str | None, where: str) -> str:
        return resolved(reference, self.order.environ, where, self.keeper(self.spec))

    async def _reload_for_secrets(self) -> bool:
        """Whether what a secret has become is in force."""
        return self.head is not None and "refused" not in await self.head.reload()

    def interrupted(self) -> None:
        """Ctrl-C or SIGTERM, once or more often."""
        self.signals += 1
        if self.head is None:
            self._stopped.set()
            if self._preparing is not None:
                self._preparing.cancel()
            return
        self.head.stop(now=self.signals > 1)
        if self.signals == 1:
            calls = sum(
                self.head.gateway.in_flight(live.watched.facts.name) for live in self.head.fleet.lives
            )
            self.screen.draining(calls, self.spec.gateway.deadlines.drain_s)

    def hung_up(self) -> None:
        """SIGHUP: read the file again; but a terminal that was closed means the end."""
        if self.head is None or _terminal_is_gone():
            self.interrupted()
            return
        task = asyncio.create_task(self.head.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reread(self) -> Wanted:
        spec = await asyncio.to_thread(self.order.read)
        wanted = await self._desired(spec)
        sinks = self.auditor.sinks(spec, self._secret)
        before, self.spec = self.spec, spec
        self.auditor.follow(spec, sinks)
        if self.store is not None:
            self.store.follow(place_of(spec, self.order.environ))
        if self.head is not None and self.head.batch is not None:
            self.head.batch.follow(place_of(spec, self.order.environ))
        if self.entrance is not None and self.door is not None and self.head is not None:
            self.entrance.configure(spec.identity, self.head.keeper.signing)
            reopen(self.door, spec, before)
        return wanted

    def _around(self, spec: Spec | None = None) -> Surroundings:
        return Surroundings(
            folder=self.folder,
            environ=self.order.environ,
            demo=self.order.demo,
            fetching=self.screen.fetching,
            say=self.screen.say,
            changed=self._changed,
            in_flight=self._in_flight,
            log_of=self._log_of,
            stopped=self._stopped.is_set,
            secrets=self.keeper(spec or self.spec),
            names=self.names,
        )

    async def _discovered(self, now: Wanted) -> Wanted | None:
        return await desired.discovered(self.spec, self._around(), now)

    async def _desired(self, spec: Spec) -> Wanted:
        wanted = await desired.desired(with_scales(spec, self.scaled), self._around(spec))
        port = wanted.settings.port or self.gateway_at[1]
        settings = msgspec.structs.replace(wanted.settings, port=port, aside=self.aside)
        stays = ("batch: the present settings stay until the service is restarted",)
        notes = wanted.notes + (stays if spec.batch != self.spec.batch else ())
        if (spec.ledger.store is None) != (self.folder.place is None):
            notes += ("ledger.store: what there is stays until the service is restarted",)
        return replace(wanted, settings=settings, notes=notes, admin=spec.admin.listen)

    async def _rescaled(self, pool: str, count: int) -> Wanted:
        """The file as it was last read, with so many replicas of a model in the shape that they have now."""
        now = self.head.wanted if self.head else None
        return await self._with_instead(pool, scaled(self.spec, pool, count, now, self.scaled.get(pool)))

    async def _redrafted(self, advice: Advice) -> Wanted:
        """The file as it was last read, with another depth of a model's drafter."""
        return await self._with_instead(
            advice.pool, redrafted(self.spec, advice, self.scaled.get(advice.pool))
        )

    async def _with_instead(self, pool: str, instead: Scaled) -> Wanted:
        """What should run with a model's entry replaced; it stays replaced unless that cannot be."""
        before = dict(self.scaled)
        self.scaled[pool] = instead
        try:
            return await self._desired(self.spec)
        except BaseException:
            self.scaled = before
            raise

    def _in_flight(self, endpoint: str) -> int:
        return self.head.gateway.in_flight(endpoint) if self.head is not None else 0

    def _changed(self) -> None:
        if self.head is not None:
            self.head.changed()

    def _show(self) -> None:
        if self.head is not None:
            self.screen.changed(self.head.status())

    def _trouble(self, sentence: str) -> None:
        if self.head is not None:
            self.head.trouble(sentence)
        self.screen.say(sentence)

    def _log_of(self, name: str, seen: Callable[[str], None] | None = None) -> RotatedLog:
        return log_file(self.spec, self.folder, name, seen)

    def _keys(self) -> bool:
        return self.spec.gateway.keys == "required"

    def _opening(self, key: str) -> Opening:
        assert self.wanted is not None
        return Opening(
            gateway=self.gateway_url,
            admin=self.admin_url,
            state=self.folder.path,
            models=tuple(pool.name for pool in self.wanted.settings.pools),
            notes=self.wanted.notes,
            warnings=self.warnings,
            keys=self._keys(),
            first_key=key,
        )


def first_key(folder: StateDir) -> str:
    """The secret of a new key when there is none yet, else "".

    Raises:
        LedgerTrouble: keys cannot be read or written.
    """
    try:
        minted = ledger.key_store(folder).first(
            Grant(note="first key, made by gemstead serve"), now=time.time()
        )
    except StoreAway:  # which was said already
        return ""
    if minted is None:
        return ""
    remember(folder.audit, new_act("key.create", minted.key.key_id, tenant=minted.key.tenant))
    return minted.secret


def _already(folder: StateDir) -> str:
    card = running(folder)
    if card is None:
        return f"another `gemstead serve` is just starting or ending (state folder {folder.path})"
    return (
        f"already running: pid {card.pid}, gateway {card.gateway}, admin {card.admin}\n"
        "`gemstead ps` shows it, `gemstead reload` applies a changed file, `gemstead stop` ends it. For a second one "
        f"give it a folder and ports of its own: --set state_dir=DIR --set gateway.listen=127.0.0.1:0 "
        "--set admin.listen=127.0.0.1:0"
    )


def _terminal_is_gone() -> bool:
    try:
        os.tcgetpgrp(sys.stdout.fileno())
    except (OSError, ValueError) as error:
        import errno

        return getattr(error, "errno", None) == errno.EIO
    return False
