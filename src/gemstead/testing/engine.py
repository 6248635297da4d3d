"""A pretend engine: a real HTTP server on a loopback port that says and does what a test tells it to.

It stands in for llama.cpp or vLLM wherever the engine's *behaviour* matters and its thoughts do not: it
answers in the shapes of their APIs, and it can be slow, silent, wrong or dead in every way that has been seen
in production. What it does is a `Script`; `engine.script` holds for all requests, `engine.then(...)` for the
next ones. What happened is on record: `engine.seen` (each request's exact bytes, and when its client left),
`served`, `aborted`, `died`, `connections`.

    async with FakeEngine(Script(pieces=words(100), pace_s=0.01, die_after=5)) as engine:
        ...  # engine.url, engine.facts("a", pool="gemma-4-e2b")
        await engine.until(lambda: engine.aborted == 1)
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Self

from gemstead.testing import answers
from gemstead.testing.script import Script, answer
from gemstead.testing.wire import Connection, Seen
from gemstead.traffic.endpoint import EndpointFacts


class FakeEngine:
    """One pretend engine. Use it as an async context manager; it listens from `__aenter__` to `__aexit__`."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        status: int = 200,
        model: str = "fake",
        host: str = "127.0.0.1",
        port: int = 0,
        idle_close_s: float | None = None,
        context_tokens: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Args:
        script: what is done with every request; `status` is short for a script with only that.
        idle_close_s: closes a connection that was idle for so long (vLLM: 5); None: never.
        context_tokens: prompts of more words are refused as llama.cpp refuses them; 0: none are.
        tls: how it speaks TLS; None: it does not.
        """
        self.script = script or Script(status=status)
        self.model, self.host, self.port = model, host, port
        self.context_tokens, self.tls = context_tokens, tls
        self.healthy = True
        self.metrics_text: str | None = None  # what /metrics says instead of the engine's own counts
        self.seen: list[Seen] = []
        self.probes: list[Seen] = []  # /health, /metrics, /v1/models and the like are kept apart
        self.served = 0  # answers sent whole, whatever their status
        self.aborted = 0  # answers that the client did not wait for
        self.died = 0  # answers that the script cut short
        self.connections = 0  # accepted since the start
        self.malformed: list[str] = []
        self._idle_close_s = idle_close_s
        self._next: deque[Script] = deque()
        self._live: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._watchers: set[asyncio.Event] = set()

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._live)

    @property
    def running(self) -> int:
        """Requests that are being answered now."""
        return sum(seen.answered_at is None and seen.left_at is None for seen in self.seen)

    @property
    def left(self) -> list[Seen]:
        """Requests whose client left before the answer was complete; `Seen.left_at` says when."""
        return [seen for seen in self.seen if seen.left_at is not None]

    def then(self, *scripts: Script) -> Self:
        """Answer the next requests by these, in order; after them `script` holds again."""
        self._next.extend(scripts)
        return self

    def facts(self, name: str, *, pool: str = "fake", served_model: str = "") -> EndpointFacts:
        """This engine as a gateway is told about it."""
        return EndpointFacts(
            name=name, pool=pool, host=self.host, port=self.port, served_model=served_model,
            context_tokens=self.context_tokens, tls=self.tls is not None,
        )  # fmt: skip

    async def until(self, holds: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait until `holds()`; it is asked again whenever something happens here.

        Raises:
            TimeoutError: it did not hold within `within_s` seconds.
        """
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    changed.clear()
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    async def start(self) -> None:
        """Listen. After `kill` or `stop`, listen again on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, self.host, self.port, backlog=2048, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        await self._end(Connection.close)

    async def kill(self) -> None:
        """Stop listening and reset every connection: from outside, `kill -9` of a busy engine."""
        await self._end(Connection.reset)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(Connection.reset)

    async def _end(self, how: Callable[[Connection], None]) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._live):
            how(connection)
        await self.until(lambda: not self._live)
        await self._server.wait_closed()
        self._server = None

    def _connection(self) -> Connection:
        self.connections += 1
        return Connection(self.connections, self._serve, self._changed, self._idle_close_s)

    def _changed(self, connection: Connection) -> None:
        (self._live.add if connection.open else self._live.discard)(connection)
        if connection.malformed:
            self.malformed.append(connection.malformed)
            connection.malformed = ""
        self._announce()

    def _announce(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    async def _serve(self, connection: Connection, seen: Seen) -> bool:
        path = seen.path.partition("?")[0]
        if path in PROBES:
            self.probes.append(seen)
            script, status, body, kind = Script(), *self._probe(path, seen)
            return await self._send_whole(connection, replace(script, status=status), body, kind)
        self.seen.append(seen)
        self._announce()
        script = self._next.popleft() if self._next else self.script
        try:
            keep = await self._play(connection, seen, path, script)
        except _Died:
            self.died += 1
            connection.reset() if script.die_how == "reset" else connection.close()
            return False
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        self.served += 1
        return keep

    def _probe(self, path: str, seen: Seen) -> tuple[int, bytes, str]:
        if path == "/metrics":
            text = self._metrics() if self.metrics_text is None else self.metrics_text
            return 200, text.encode(), "text/plain; version=0.0.4"
        if path == "/tokenize":
            content = str(json.loads(seen.body or b"{}").get("content", ""))
            count = answers.count_tokens(content)
            return 200, answers.encode({"tokens": list(range(count))}), JSON
        if path == "/v1/models":
            entry = {"id": self.model, "object": "model", "created": answers.CREATED, "owned_by": "fake"}
            return 200, answers.encode({"object": "list", "data": [entry]}), JSON
        if self.healthy:
            return 200, b'{"status":"ok"}', JSON
        return 503, answers.error(503, "Loading model"), JSON

    def _metrics(self) -> str:
        """The engine's counts under llama.cpp's names."""
        return (
            f"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing {self.running}\n"
            "# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 0\n"
            f"# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total {self.served}\n"
        )

    async def _play(self, connection: Connection, seen: Seen, path: str, script: Script) -> bool:
        if script.never:
            await asyncio.Event().wait()
        if script.delay_s:
            await asyncio.sleep(script.delay_s)
        if script.die_before_headers:
            raise _Died
        if script.garbage is not None:
            await connection.send(script.garbage)
            return False
        if script.body is not None:
            return await self._send_whole(connection, script, script.body, script.content_type or JSON)
        if script.status != 200:
            body = answers.error(script.status, "The engine was told to say this.")
            return await self._send_whole(connection, script, body, JSON)
        made = answer(path, seen.body, self.model, self.context_tokens, script)
        if isinstance(made, list):
            return await self._send_stream(connection, script, made)
        status, body = made
        return await self._send_whole(connection, replace(script, status=status), body, JSON)

    async def _send_whole(self, connection: Connection, script: Script, body: bytes, kind: str) -> bool:
        framing = script.framing or "length"
        await self._send_head(connection, script, kind, framing, len(body))
        if script.die_after is not None:
            await connection.send(body[: script.die_after])
            raise _Died
        await connection.send(_chunk(body) + b"0\r\n\r\n" if framing == "chunked" else body)
        return not script.close and framing != "close"

    async def _send_stream(self, connection: Connection, script: Script, events: list[bytes]) -> bool:
        framing = script.framing or "chunked"
        if script.events is not None:
            events = list(script.events)
        await self._send_head(connection, script, "text/event-stream", framing, sum(map(len, events)))
        if script.first_token_s:
            await asyncio.sleep(script.first_token_s)
        for number, data in enumerate([b"".join(events)] if script.glue else events):
            if script.die_after == number:
                raise _Died
            if number and script.pace_s:
                await asyncio.sleep(script.pace_s)
            for piece in _split(data, script.split_bytes):
                await connection.send(_chunk(piece) if framing == "chunked" else piece)
        if script.die_after is not None:
            raise _Died
        if framing == "chunked":
            await connection.send(b"0\r\n\r\n")
        return not script.close and framing != "close"

    async def _send_head(
        self, connection: Connection, script: Script, kind: str, framing: str, length: int
    ) -> None:
        phrase = HTTPStatus(script.status).phrase if script.status in list(HTTPStatus) else "Unknown"
        lines = [f"HTTP/1.1 {script.status} {phrase}", f"Content-Type: {script.content_type or kind}"]
        lines += [f"{name}: {value}" for name, value in script.headers]
        if framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif framing == "length":
            lines.append(f"Content-Length: {length}")
        if script.close or framing == "close":
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if not script.header_pace_s:
            await connection.send(head)
            return
        for number in range(len(head)):
            await asyncio.sleep(script.header_pace_s)
            await connection.send(head[number : number + 1])


class _Died(Exception):
    """The script ends the connection here."""


JSON = "application/json"
PROBES = frozenset({"/health", "/v1/health", "/metrics", "/v1/models", "/tokenize"})


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n" if data else b""


def _split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
