"""The gRPC server that gateways call: one stream for each HTTP request, its health, and how it ends.

The only file that knows grpcio. A stream's task reads a message, asks its `Conversation` what to say, and says it;
it waits only for messages and for its turn. When the stream is gone (the client left, Envoy died), the task is
cancelled, and the conversation hears of it either way.

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
from functools import partial
from time import monotonic
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gemstead.gateway.epp.conversation import Conversation
from gemstead.gateway.epp.desk import Desk
from gemstead.gateway.epp.wire import BadMessage

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
NAMES = ("liveness", "readiness", SERVICE, "")
SWEEP_S = 0.05
LAST_S = 2.0  # for streams that we end to hear of it
# One message is a head or a piece of a body; a gateway that buffers sends a whole body in one.
MESSAGE_SPARE = 1 << 20
Pem = tuple[bytes, bytes]  # private key, certificate chain
log = logging.getLogger(__name__)


class Server:
    """One picker on its ports. Use from one event loop."""

    def __init__(self, desk: Desk, *, pem: Callable[[], Pem] | None = None) -> None:
        """`pem` returns key and certificate, and is asked at each handshake; None: plain HTTP/2."""
        self.desk, self._pem = desk, pem
        self.open: dict[Conversation, asyncio.Task[None] | None] = {}
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []
        self._sweeping: asyncio.Task[None] | None = None
        self._ready: bool | None = None
        self._ending = False
        self._closing = False
        self._empty = asyncio.Event()  # no stream is open

    async def start(self, listen: str, health_listen: str = "") -> tuple[int, int]:
        """Listen on `host:port` for gateways and, if given, on another for probes; returns both ports (0: none).

        Raises:
            OSError: an address cannot be listened on.
        """
        most = self.desk.settings.body_bytes + MESSAGE_SPARE
        options = [
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", most),
            ("grpc.so_reuseport", 0),  # two pickers on one port would be a mistake that nobody sees
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ]
        server = grpc.aio.server(options=options)
        handler: Any = grpc.stream_stream_rpc_method_handler(self._process)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        ports = [_bind(server, listen, self._credentials())]
        self._servers = [server]
        if health_listen:
            probes = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            health_pb2_grpc.add_HealthServicer_to_server(self._health, probes)
            ports.append(_bind(probes, health_listen, None))
            self._servers.append(probes)
        for each in self._servers:
            await each.start()
        await self._tell_health()
        self._sweeping = asyncio.create_task(self._sweep())
        return ports[0], ports[1] if health_listen else 0

    async def drain(self, within_s: float, lame_s: float = 0.0) -> int:
        """Take nothing new, let what runs end within that time; returns how many calls had not ended.

        For `lame_s` it says that it stops and takes new calls all the same, until gateways have heard of it. Those
        that run at the end are let go in order: Envoy passes their answers on without us, and we do not hear how they
        end. Whoever still waits for a turn is refused.
        """
        self._ending = True
        await self._tell_health()
        if lame_s:
            await asyncio.sleep(lame_s)
        stopping = asyncio.create_task(self._servers[0].stop(within_s + LAST_S))
        if self.open:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)
        unfinished = len(self.open)
        self.desk.draining = self._closing = True
        self.desk.turn_all_away(monotonic())
        for talk, task in list(self.open.items()):
            if task is not None and talk.picked and talk.listening:
                task.cancel()
        await stopping
        await self._end()
        return unfinished

    async def kill(self) -> None:
        """Stop at once."""
        await asyncio.gather(*(each.stop(None) for each in self._servers))
        await self._end()

    async def _end(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        for each in self._servers[1:]:
            await each.stop(None)

    # -- a stream ---------------------------------------------------------------------------------------------

    async def _process(self, _: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        talk = Conversation(self.desk)
        self.open[talk] = asyncio.current_task()
        try:
            await self._talk(talk, context)
        except BadMessage as bad:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no message of ext_proc: {bad}")
        except asyncio.CancelledError:
            if not self._closing:
                raise
            # Ended by us, and in order: Envoy is told OK, not that something broke.
        except (grpc.RpcError, grpc.aio.AbortError):
            raise
        except Exception:  # a fault of ours ends one call, not the picker
            log.exception("a call ended by a mistake of ours")
            await context.abort(grpc.StatusCode.INTERNAL, "a mistake in the picker; see its log")
        finally:
            talk.left()
            del self.open[talk]
            if not self.open:
                self._empty.set()

    async def _talk(self, talk: Conversation, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        read, write = context.read, context.write
        while True:
            talk.listening = True
            raw = await read()
            talk.listening = False
            if not isinstance(raw, bytes):  # the end
                return
            out = talk.take(raw)
            if talk.waiting is not None:
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                talk.woken = partial(_wake, turn)
                await turn
                out = talk.turn()
            for each in out:
                await write(each)
            if talk.over:
                return

    # -- around it --------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.desk.sweep(monotonic())
            await self._tell_health()

    async def _tell_health(self) -> None:
        ready = self.desk.known and not self._ending
        if ready is self._ready:
            return
        self._ready = ready
        yes, no = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        for name in NAMES:
            await self._health.set(name, yes if ready or name == "liveness" else no)

    def _credentials(self) -> grpc.ServerCredentials | None:
        if self._pem is None:
            return None
        pem = self._pem
        before = pem()

        def fetch() -> Any:
            nonlocal before
            try:
                now = pem()
            except (OSError, ValueError) as error:
                log.warning("the certificate cannot be read, the last one stays: %s", error)
                return None
            if now == before:
                return None
            before = now
            return grpc.ssl_server_certificate_configuration([now])

        return grpc.dynamic_ssl_server_credentials(
            grpc.ssl_server_certificate_configuration([before]), fetch, require_client_authentication=False
        )


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    """Take the port.

    Raises:
        OSError: it is taken, or not ours.
    """
    host, _, port = listen.rpartition(":")
    address = f"{host or '[::]'}:{port}"
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError:
        raise OSError(
            f"cannot listen on {listen}: is the port taken, or the address not this machine's?"
        ) from None
