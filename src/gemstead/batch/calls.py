"""Lines as calls to our own gateway, as who ordered the batch.

They come in by the same door as all others: keys, policy, picking, audit and metrics apply. What is said here beside
the request is the caller (`inward`), which the gateway believes because it is said with the secret that only the head,
the gateway and this process know.

`Outcome` says what an answer means for the line, and nothing more: `answered` is final, whatever its status; `busy`
costs the line nothing; `failed` costs a try; `dropped`: the connection broke with the call on its way; `away`: there
is no gateway now.
"""

from __future__ import annotations

import base64
from typing import Literal, NamedTuple
from urllib.parse import quote

import httpx2
import msgspec
from msgspec.structs import replace

from gemstead.batch.control import BatchSettings
from gemstead.traffic.caller import Caller, RateLimit

BUSY = frozenset({429, 503})
FAILED = frozenset({408, 500, 502, 504})
ANSWER_MOST = 64 << 20  # bytes of one answer

Kind = Literal["answered", "busy", "failed", "dropped", "away"]


class Outcome(NamedTuple):
    """How one call ended."""

    kind: Kind
    status: int = 0
    request_id: str = ""
    body: bytes = b""
    retry_after_s: float | None = None
    why: str = ""


class Calls:
    """The way to the gateway."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._http = httpx2.AsyncClient(
            base_url=settings.gateway,
            timeout=httpx2.Timeout(settings.call_s, connect=10.0, pool=None),
            limits=httpx2.Limits(
                max_connections=settings.concurrency + 8,
                max_keepalive_connections=settings.concurrency,
                keepalive_expiry=30.0,
            ),
            trust_env=False,
        )

    async def ask(self, path: str, body: bytes, caller: Caller) -> Outcome:
        """Post `body` as that caller."""
        return await self._send("POST", path, body, caller)

    async def model(self, name: str, caller: Caller) -> Outcome:
        """Ask for the model's card: 200 with the name of its pool as `id` if this caller may call it."""
        return await self._send("GET", f"/v1/models/{quote(name, safe='')}", None, caller)

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(self, method: str, path: str, body: bytes | None, caller: Caller) -> Outcome:
        headers = {"authorization": inward(self._settings.secret, self._as(caller))}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            response = await self._http.request(method, path, content=body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return Outcome("away", why=f"the gateway cannot be reached: {error}")
        except httpx2.TimeoutException:
            return Outcome("failed", why=f"no answer within {self._settings.call_s:g} s")
        except httpx2.HTTPError as error:
            return Outcome("dropped", why=f"the connection broke: {error or type(error).__name__}")
        return outcome(response.status_code, dict(response.headers), response.content)

    def _as(self, caller: Caller) -> Caller:
        """The caller's lines have the batch's priority. Its rate limits are for its own calls, which the lines must
        not use up; how many lines run follows what is free."""
        return replace(caller, priority=min(self._settings.priority, caller.priority), limit=RateLimit())


def outcome(status: int, headers: dict[str, str], body: bytes) -> Outcome:
    """What an answer with that status means for its line."""
    request_id = headers.get("x-request-id", "")
    if status in BUSY:
        wait = headers.get("retry-after", "")
        seconds = float(wait) if wait.isdigit() and len(wait) < 10 else None
        return Outcome("busy", status, request_id, body, seconds, why=f"status {status}")
    kind: Kind = "failed" if status in FAILED or len(body) > ANSWER_MOST else "answered"
    return Outcome(kind, status, request_id, body, why=f"status {status}")


def inward(secret: str, caller: Caller) -> str:
    """The `Authorization` of a call by the batch process on behalf of `caller`; `gateway/keyring.py` reads it."""
    return f"Gemstead {secret} {base64.urlsafe_b64encode(msgspec.json.encode(caller)).decode()}"
