"""Asking the service, one request at a time, and keeping what came back as it came."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2

from gemstead.operate.check.reply import Fields, Reply

CHAT = "/v1/chat/completions"


class UnreachableError(Exception):
    """Nothing answers at the address; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """The service under check."""

    url: str  # without /v1
    key: str = ""  # empty: calls are made without a key
    contexts: Mapping[str, int] = field(default_factory=dict)  # tokens by model, where they are known
    metrics_urls: tuple[str, ...] = ()  # of its engines, where they are known
    trusts: ssl.SSLContext | None = None  # whose certificates are believed; None: the system's authorities

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False


class SilentError(UnreachableError):
    """The connection stands and nothing is said."""


class Client:
    """Requests to one target. Every method returns a `Reply`, whatever the status.

    Raises:
        UnreachableError: from every method, when nothing listens or nothing is said for `patience_s` seconds.
    """

    def __init__(self, target: Target, *, patience_s: float = 300.0) -> None:
        self.target = target
        timeout = httpx2.Timeout(patience_s, connect=10.0)
        # A proxy from the environment must not stand between this machine and itself.
        self._http = httpx2.Client(
            base_url=target.url,
            timeout=timeout,
            trust_env=not target.loopback,
            verify=True if target.trusts is None else target.trusts,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Reply:
        return self._send("GET", path, None, self.target.key)

    def read_metrics(self, url: str) -> str:
        """The text at a metrics address; empty when there is none."""
        try:
            reply = self._http.get(url, timeout=10.0)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return ""
        return reply.text if reply.status_code == 200 else ""

    def chat(self, fields: Fields, *, key: str | None = None) -> Reply:
        """One chat completion; `key` instead of the target's own."""
        return self._send("POST", CHAT, fields, self.target.key if key is None else key)

    def stream(self, fields: Fields, *, with_usage: bool = False) -> Reply:
        """The same as a stream, read to its end."""
        options: Fields = {"stream_options": {"include_usage": True}} if with_usage else {}
        return self._send("POST", CHAT, {**fields, "stream": True, **options}, self.target.key)

    def leave(self, fields: Fields) -> None:
        """Start a stream and leave after its first bytes."""
        headers = _headers(self.target.key)
        with (
            self._trouble(),
            self._http.stream("POST", CHAT, json={**fields, "stream": True}, headers=headers) as reply,
        ):
            next(reply.iter_raw(), b"")

    def _send(self, method: str, path: str, fields: Fields | None, key: str) -> Reply:
        """Once more where a kept connection was closed under the request: HTTP allows servers to do that."""
        with self._trouble():
            try:
                return self._send_once(method, path, fields, key)
            except httpx2.RemoteProtocolError:
                return self._send_once(method, path, fields, key)

    def _send_once(self, method: str, path: str, fields: Fields | None, key: str) -> Reply:
        began = time.monotonic()
        with self._http.stream(method, path, json=fields, headers=_headers(key)) as reply:
            body, cut = bytearray(), False
            try:
                for data in reply.iter_bytes():
                    body += data
            except (httpx2.RemoteProtocolError, httpx2.ReadError):
                cut = True
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Reply(reply.status_code, bytes(body), headers, time.monotonic() - began, cut)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise UnreachableError(
                    f"{self.target.url} shows a certificate that is not believed here ({error}). "
                    "Set SSL_CERT_FILE to the CA that signed it."
                ) from error
            raise UnreachableError(
                f"Nothing answers at {self.target.url} ({error}). Is it running (`gemstead ps`)?"
            ) from error
        except httpx2.TimeoutException as error:
            raise SilentError(f"{self.target.url} took too long to answer. See `gemstead logs`.") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UnreachableError(f"{self.target.url} broke off without an answer ({error}).") from error


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
