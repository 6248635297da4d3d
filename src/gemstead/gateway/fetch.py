"""Media that a request names by address, fetched by the gateway where the file allows it, and put into the request.

Engines fetch nothing: what reaches them is as if the caller had sent the content itself. The rules for what may be
asked are in `openai/mediaurl.py`; this module asks. A name is looked up once, every address that it stands for is
judged, and the connection goes to one of those, so that a second look-up cannot lead elsewhere (DNS rebinding). The
name is still what the certificate must be for. Redirects are followed by hand, each as if the caller had sent it. No
proxy of the environment is used, nothing is unpacked, no cookie or key is sent or kept.

Bounds: bytes of one medium and of all, their number, the time of all together, and how many calls of this worker
fetch at once. Calls beyond that wait within their time; beyond four times as many they are turned away.

Limits come first: nothing is fetched for a call that may not run, nor for one that would find no room in the queue.
What it holds is what its body needs as it came; with the media in it, it is held to what it needs then (`went_on`),
and nothing is charged twice. Where that fails, it ends as any call that fails, and gets its tokens back.

The exchange waits in `Exchange.connecting`, so that a caller who leaves ends it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import httpx2

from gemstead.gateway.settings import Fetch
from gemstead.openai import mediaurl
from gemstead.openai.mediaurl import Address, Wanted
from gemstead.openai.requests import parse
from gemstead.refused import Reason, Refused

if TYPE_CHECKING:
    from gemstead.gateway.exchange import Exchange

Resolve = Callable[[str, int], Awaitable[list[str]]]

_ACCEPT = {"image": "image/*", "audio": "audio/*", "video": "video/*"}
_MOVED = frozenset({301, 302, 303, 307, 308})
_VAGUE = ("", "application/octet-stream", "binary/octet-stream")  # what object stores call what nobody named
_WAITING_MOST = 4  # times as many calls as may fetch at once


async def resolve(host: str, port: int) -> list[str]:
    """Every IP address that the name stands for, as the machine's resolver says.

    Raises:
        OSError: it stands for none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Fetcher:
    """What one worker fetches. `configure` makes a new one."""

    def __init__(self, rules: Fetch, resolve: Resolve = resolve) -> None:
        self.rules, self.resolve = rules, resolve
        self.places = asyncio.Semaphore(rules.concurrent)
        self.calls = 0  # that fetch, or wait for a place
        context = ssl.create_default_context(cafile=rules.ca or None)
        # No connection is kept: one that was made for one name must never serve another one at the same address.
        self.http = httpx2.AsyncHTTPTransport(
            verify=context, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    # -- for exchanges ----------------------------------------------------------------------------------

    def errand(self, exchange: Exchange, body: bytes) -> Errand | None:
        """What is to be fetched before this request can go to an engine; None: it names nothing.

        Raises:
            Refused: they are too many, or not what is fetched.
        """
        found = mediaurl.wanted(body, exchange.dialect == "anthropic")
        if not found:
            return None
        try:
            self.judge(found)
        except Refused:
            exchange.gate.figures.media("forbidden", 0)
            raise
        return Errand(self, body, found)

    # -- the work ---------------------------------------------------------------------------------------

    def judge(self, found: list[Wanted]) -> None:
        """Look at all addresses before any is asked.

        Raises:
            Refused: BAD_REQUEST.
        """
        if len({one.address for one in found}) > self.rules.most:
            raise Refused(
                Reason.BAD_REQUEST,
                f"At most {self.rules.most} media of one request are fetched; send the others as content.",
                param=found[-1].where,
                code="media_address",
            )
        for one in found:
            try:
                mediaurl.read(one.address, self.rules.hosts, self.rules.plain_http)
            except Refused as refusal:
                refusal.param = one.where
                raise

    async def inlined(self, body: bytes, found: list[Wanted]) -> tuple[bytes, int]:
        """The body with each address replaced by its content, and how many bytes were fetched.

        Raises:
            Refused: one cannot be had within the bounds.
        """
        left, here, where = self.rules.total_bytes, dict[tuple[str, str], bytes](), found[0].where
        try:
            async with asyncio.timeout(self.rules.timeout_s), self.places:
                for one in found:
                    where = one.where
                    if (one.kind, one.address) not in here:
                        data = await self.fetch(one, min(left, self.rules.each_bytes))
                        left -= len(data)
                        here[one.kind, one.address] = data
        except TimeoutError:
            raise _not_had(f"it took longer than {self.rules.timeout_s:g} s", where) from None
        except Refused as refusal:
            refusal.param = where
            raise
        brought = [
            (one, mediaurl.content_type(here[one.kind, one.address], one.kind), here[one.kind, one.address])
            for one in found
        ]
        return mediaurl.inlined(body, brought), self.rules.total_bytes - left

    async def fetch(self, one: Wanted, most: int) -> bytes:
        """The content of one medium, of at most so many bytes.

        Raises:
            Refused: it cannot be had.
        """
        text = one.address
        for _ in range(self.rules.redirects + 1):
            address = mediaurl.read(text, self.rules.hosts, self.rules.plain_http)
            response = await self.ask(address, one.kind)
            try:
                if response.status_code in _MOVED and "location" in response.headers:
                    text = urljoin(text, response.headers["location"])
                    continue
                return await self.content(response, one.kind, most)
            except httpx2.HTTPError:
                raise _not_had("the connection broke") from None
            finally:
                await response.aclose()
        raise _not_had(f"it was redirected more than {self.rules.redirects} times")

    async def ask(self, address: Address, kind: str) -> httpx2.Response:
        """The head of the answer to one question, from an address that was judged."""
        try:
            numbers = await self.resolve(address.host, address.port)
        except OSError:
            raise _not_had("its host's name cannot be resolved") from None
        if not numbers or any(mediaurl.unfit(number, self.rules.networks) for number in numbers):
            raise _not_had("its host's address is not public")
        trouble = "its host cannot be reached"
        for number in numbers[:2]:
            host = f"[{number}]" if ":" in number else number
            request = httpx2.Request(
                "GET",
                f"{'https' if address.tls else 'http'}://{host}:{address.port}",
                headers={
                    "host": address.authority,
                    "accept": _ACCEPT[kind],
                    "accept-encoding": "identity",
                    "user-agent": "gemstead",
                },
                extensions={
                    "sni_hostname": address.host,
                    "target": address.target.encode("ascii"),
                    "timeout": httpx2.Timeout(self.rules.timeout_s, connect=5.0).as_dict(),
                },
            )
            try:
                return await self.http.handle_async_request(request)
            except httpx2.HTTPError as error:
                trouble = "its host cannot be reached"
                if isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error):
                    trouble = "its host's certificate is not valid for it"
        raise _not_had(trouble)

    async def content(self, response: httpx2.Response, kind: str, most: int) -> bytes:
        """The body of an answer, read no further than it may be long."""
        if response.status_code != 200:
            raise _not_had(f"its host answers {response.status_code}")
        declared = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not declared.startswith(f"{kind}/") and declared not in (*_VAGUE, "application/ogg"):
            raise _not_had(f"it is no {kind}")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _not_had("its host sends it packed")
        length = response.headers.get("content-length", "0")
        pieces, size = list[bytes](), 0
        if length.isdigit() and int(length) > most:
            raise _not_had(f"it is larger than {most} bytes, what is left for it")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        async for piece in response.stream:
            size += len(piece)
            if size > most:
                raise _not_had(f"it is larger than {most} bytes, what is left for it")
            pieces.append(piece)
        data = b"".join(pieces)
        if not mediaurl.content_type(data, kind):
            raise _not_had(f"it is no {kind} of a known form")
        return data


class Errand:
    """The media of one request, on their way."""

    def __init__(self, fetcher: Fetcher, body: bytes, found: list[Wanted]) -> None:
        self.fetcher, self.body, self.found = fetcher, body, found

    def begin(self, exchange: Exchange) -> None:
        """The limits let the call in: fetch, and let it go on when all is here.

        Raises:
            Refused: OVERLOADED: as many as may fetch or wait already, or the queue is full.
        """
        gate, fetcher = exchange.gate, self.fetcher
        try:
            gate.waitroom.check_room(exchange)
            if fetcher.calls >= fetcher.rules.concurrent * (1 + _WAITING_MOST):
                raise Refused(
                    Reason.OVERLOADED,
                    "Too many calls fetch media at the moment. Try again soon.",
                    retry_after_s=1.0,
                )
        except Refused:
            gate.figures.media("turned_away", 0)
            raise
        fetcher.calls += 1
        task = exchange.connecting = gate.loop.create_task(self.bring(exchange))
        task.add_done_callback(self.left)

    def left(self, task: asyncio.Task[None]) -> None:
        """A call fetches no longer, also one that was ended before it began."""
        self.fetcher.calls -= 1

    async def bring(self, exchange: Exchange) -> None:
        """Fetch, and let the exchange go on with what was fetched."""
        figures, began = exchange.gate.figures, monotonic()
        try:
            body, size = await self.fetcher.inlined(self.body, self.found)
        except Refused as refusal:
            figures.media("failed", 0)
            exchange.connecting = None
            exchange.fail(refusal)
            return
        except asyncio.CancelledError:
            figures.media("left", 0)
            raise
        except Exception as error:  # a fault of ours must not leave a client waiting
            figures.media("failed", 0)
            exchange.connecting = None
            exchange.gate.broken(exchange, error)
            return
        figures.media("fetched", size)
        exchange.connecting = None
        if exchange.done:
            return
        said = f"media: {len(self.found)} fetched, {size} bytes, {monotonic() - began:.2f} s"
        exchange.record.reason = f"{exchange.record.reason}; {said}".removeprefix("; ")
        try:
            went_on(exchange, body)
        except Refused as refusal:
            exchange.turned_away(refusal)
        except Exception as error:
            exchange.gate.broken(exchange, error)


def went_on(exchange: Exchange, body: bytes) -> None:
    """Go on with a body that holds what it named before: it is held to what it needs now.

    Raises:
        Refused: it is too long now, or more than a limit has left, or no endpoint takes it.
    """
    gate, record = exchange.gate, exchange.record
    exchange.errand = None
    exchange.request = request = parse(exchange.path, body)
    record.bytes_in = len(body)
    record.prompt_hash = gate.hashers.hash(request.prompt, record.tenant)
    exchange.body = body
    exchange.call = call = exchange.describe(request, record.pool)
    if call.prompt_tokens >= gate.too_long.get(record.pool, inf):
        exchange.check_fits(request, call)
    if exchange.hold is not None:
        gate.limits.grow(exchange.hold, call.most_tokens, monotonic())
    elif gate.allowances is not None and not gate.allowances.grow(exchange):
        return  # it goes on by itself when the store of limits has answered
    exchange.let_in()
    exchange.another(fresh=True)


def _not_had(why: str, where: str | None = None) -> Refused:
    message = (
        f"A medium of this request cannot be fetched: {why}. Send the content itself, or another address."
    )
    return Refused(Reason.BAD_REQUEST, message, param=where, code="media_unavailable", detail=f"media: {why}")
