"""The gRPC server that gateways call: one stream for each HTTP request, its health, and how it ends.

A message that comes is given to its stream's `Conversation` and answered before the next is looked at; there are no
tasks and no threads. A call that waits for its turn is answered when the desk says so. When a stream is gone (the
client left, Envoy died), its conversation hears of it at once. What HTTP/2 is, `link.py` knows, and sockets
`sockets.py`.

Health is told on the same port and, in plain text for Kubernetes' probes, on another: `liveness` as long as the
process answers, `readiness` and the service itself while the pool is known and nothing is draining.

Draining: health says no, streams go on for as long as allowed, and no new connection is taken. Then streams are ended
with OK, which Envoy takes as "go on without me": a picker that stops in order cuts no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from time import monotonic

from gemstead.gateway.epp.conversation import Conversation
from gemstead.gateway.epp.desk import Desk
from gemstead.gateway.epp.health import CHECK, WATCH, Checking, Health, Watching
from gemstead.gateway.epp.link import INTERNAL, INVALID_ARGUMENT, OK, Link, Listener, Stream
from gemstead.gateway.epp.sockets import Door, Pem, listening, tls_by
from gemstead.gateway.epp.wire import BadMessage

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
PROCESS = f"/{SERVICE}/Process"
SWEEP_S = 0.05
LAST_S = 2.0  # for streams that we end to hear of it
# One message is a head or a piece of a body; a gateway that buffers sends a whole body in one.
MESSAGE_SPARE = 1 << 20
log = logging.getLogger(__name__)


class Caller:
    """One stream and the conversation on it."""

    __slots__ = ("_server", "stream", "talk")

    def __init__(self, server: Server, stream: Stream) -> None:
        self._server, self.stream = server, stream
        self.talk = Conversation(server.desk)

    def message(self, raw: bytes) -> None:
        talk = self.talk
        try:
            out = talk.take(raw)
        except BadMessage as bad:
            self.end(INVALID_ARGUMENT, f"no message of ext_proc: {bad}")
            return
        except Exception:
            self._broken()
            return
        if talk.waiting is not None:
            talk.woken = self.turn
            return
        if out:
            self.stream.say(out)
        if talk.over:
            self.end()

    def turn(self) -> None:
        """The call has waited, and its turn has come."""
        try:
            out = self.talk.turn()
        except Exception:
            self._broken()
            return
        self.stream.say(out)
        if self.talk.over:
            self.end()

    def ended(self) -> None:
        self.end()

    def gone(self) -> None:
        self._server.over(self)

    def end(self, status: int = OK, why: str = "") -> None:
        """End the stream; the conversation is over."""
        self._server.over(self)
        self.stream.end(status, why)

    def _broken(self) -> None:
        """A fault of ours ends one call, not the picker."""
        log.exception("a call ended by a mistake of ours")
        self.end(INTERNAL, "a mistake in the picker; see its log")


class Server:
    """One picker on its ports. Use from one event loop."""

    def __init__(self, desk: Desk, *, pem: Callable[[], Pem] | None = None) -> None:
        """`pem` returns key and certificate, and is asked at each handshake; None: plain HTTP/2."""
        self.desk, self._pem = desk, pem
        self.open: set[Caller] = set()
        self._health = Health(self._said(False))
        self._listening: list[asyncio.Server] = []
        self._doors: set[Door] = set()
        self._probes: set[Door] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._ready = False
        self._ending = False
        self._empty = asyncio.Event()  # no stream is open

    async def start(self, listen: str, health_listen: str = "") -> tuple[int, int]:
        """Listen on `host:port` for gateways and, if given, on another for probes; returns both ports (0: none).

        Raises:
            OSError: an address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        held = listening(listen)
        ports = [held.getsockname()[1], 0]
        tls = tls_by(self._pem) if self._pem is not None else None
        try:
            probes = listening(health_listen) if health_listen else None
        except OSError:
            held.close()
            raise
        self._listening.append(
            await loop.create_server(lambda: Door(self._link, self._doors), sock=held, ssl=tls)
        )
        if probes is not None:
            ports[1] = probes.getsockname()[1]
            self._listening.append(
                await loop.create_server(lambda: Door(self._probe, self._probes), sock=probes)
            )
        self._tell_health()
        self._sweeping = asyncio.create_task(self._sweep())
        return ports[0], ports[1]

    async def drain(self, within_s: float, lame_s: float = 0.0) -> int:
        """Take nothing new, let what runs end within that time; returns how many calls had not ended.

        For `lame_s` it says that it stops and takes new calls all the same, until gateways have heard of it. Those
        that run at the end are let go in order: Envoy passes their answers on without us, and we do not hear how they
        end. Whoever still waits for a turn is refused.
        """
        self._ending = True
        self._tell_health()
        if lame_s:
            await asyncio.sleep(lame_s)
        self._listening[0].close()
        for door in list(self._doors):
            door.link.leave()
        await self._emptied(within_s)
        unfinished = len(self.open)
        self.desk.draining = True
        self.desk.turn_all_away(monotonic())
        for caller in list(self.open):
            if caller.talk.picked:
                caller.end()
        await self._emptied(LAST_S)
        await self._end()
        return unfinished

    async def kill(self) -> None:
        """Stop at once."""
        for door in [*self._doors, *self._probes]:
            door.abort()
        await self._end()

    async def _end(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        for each in self._listening:
            each.close()
        doors = [*self._doors, *self._probes]
        for door in doors:
            door.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                for door in doors:
                    await door.gone.wait()
        for door in doors:
            door.abort()

    async def _emptied(self, within_s: float) -> None:
        """Wait until no stream is open, at most so long."""
        if self.open:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)

    # -- streams ----------------------------------------------------------------------------------------------

    def _link(self, flush: Callable[[], None]) -> Link:
        return Link(self._answer, self.desk.settings.body_bytes + MESSAGE_SPARE, flush)

    def _probe(self, flush: Callable[[], None]) -> Link:
        return Link(self._health_only, MESSAGE_SPARE, flush)

    def _answer(self, path: str, stream: Stream) -> Listener | None:
        if path == PROCESS:
            caller = Caller(self, stream)
            self.open.add(caller)
            return caller
        return self._health_only(path, stream)

    def _health_only(self, path: str, stream: Stream) -> Listener | None:
        if path == CHECK:
            return Checking(self._health, stream)
        return Watching(self._health, stream) if path == WATCH else None

    def over(self, caller: Caller) -> None:
        """A stream has ended, however."""
        if caller in self.open:
            self.open.discard(caller)
            caller.talk.left()
            if not self.open:
                self._empty.set()

    # -- around it --------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.desk.sweep(monotonic())
            self._tell_health()

    def _tell_health(self) -> None:
        ready = self.desk.known and not self._ending
        if ready is not self._ready:
            self._ready = ready
            self._health.tell(self._said(ready))

    @staticmethod
    def _said(ready: bool) -> dict[str, bool]:
        return {"liveness": True, "readiness": ready, SERVICE: ready, "": ready}
