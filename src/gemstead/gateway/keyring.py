"""From a request's headers, and its connection's certificate, to a `Caller`.

Whether a key counts is for `ledger/keybook.py` to say, whether a token or certificate does for `tokens.py`. What is in
a header comes before the certificate: a mesh gives every connection one, and a caller with a key means the key.
"""

from __future__ import annotations

import base64
import hmac
from math import inf
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gemstead.ledger.keybook import KeyBook
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import ANYONE, Caller

if TYPE_CHECKING:
    from gemstead.gateway.tokens import TokenBook

_SCHEME: Final = b"bearer "
_INWARD: Final = b"Gemstead "  # of our own batch process, which says who it calls for

_caller = msgspec.json.Decoder(Caller).decode


class Keyring:
    """Identifies callers; without a book anyone may call. `secret` is the batch process's; "": there is none.

    `tokens` believes tokens and certificates; None: only keys count.
    """

    def __init__(self, book: KeyBook | None, secret: bytes = b"", tokens: TokenBook | None = None) -> None:
        self._book = book
        self._secret = secret
        self._tokens = tokens

    def identify(
        self,
        authorization: bytes | None,
        x_api_key: bytes | None,
        now: float,
        client: str = "",
        certificate: tuple[bytes, dict[str, Any]] | None = None,
    ) -> Caller:
        """Who calls, from `Authorization: Bearer <key or token>` (OpenAI's way) or `x-api-key` (Anthropic's).

        `now` is wall time in Unix seconds, `client` the peer's address, `certificate` what it has shown: its SHA-256
        and what `getpeercert` tells.

        Raises:
            Refused: UNAUTHENTICATED or FORBIDDEN, with what to do; IDENTITY_PENDING, to be asked again.
        """
        book = self._book
        if book is None:
            if authorization is not None and self._secret and authorization.startswith(_INWARD):
                return self._inward(authorization, now)
            return ANYONE
        if authorization is None:
            if x_api_key is None and certificate is not None and self._tokens is not None:
                caller = self._tokens.of_certificate(certificate, now, book.denied(now))
                if caller is not None:
                    return caller
            return self._find((x_api_key or b"").strip(), now, client)
        if authorization[:7].lower() != _SCHEME:
            if self._secret and authorization.startswith(_INWARD):
                return self._inward(authorization, now)
            authorization = _only_bearer(authorization)
        secret = authorization[7:].strip()
        if x_api_key is not None and x_api_key.strip() != secret:
            raise _no("`Authorization` and `x-api-key` hold different keys: send one of them")
        return self._find(secret, now, client)

    def again(self, caller: Caller, now: float, client: str) -> Caller | None:
        """The caller of a key that was found before with the same head, if it still counts; else None: identify."""
        book = self._book
        return None if book is None else book.again(caller, now, client)

    def _find(self, secret: bytes, now: float, client: str) -> Caller:
        book = self._book
        assert book is not None
        if self._tokens is not None and b"." in secret and not secret.startswith(b"gms_"):
            return self._tokens.find(secret, now, book.denied(now))
        return book.find(secret, now, client)

    def _inward(self, authorization: bytes, now: float) -> Caller:
        """Who the batch process calls for. A key that was revoked or has expired meanwhile counts no more."""
        parts = authorization.split(b" ")
        if len(parts) != 3 or not hmac.compare_digest(parts[1], self._secret):
            raise _no("the `Authorization` header is not `Bearer <key>`")
        try:
            caller = _caller(base64.urlsafe_b64decode(parts[2]))
        except ValueError:
            raise _no("the `Authorization` header is not `Bearer <key>`") from None
        if self._book is not None and caller.key_id:
            self._book.check(caller.key_id, now)
            issuer, colon, subject = caller.key_id.partition(":")
            if colon and self._book.denied(now).denies(issuer, subject, "", -inf, now):
                raise _no(f"{subject} was denied here")
        return caller


def _only_bearer(authorization: bytes) -> bytes:
    scheme = authorization.split(None, 1)[0].lower() if authorization.strip() else b""
    if scheme in (b"", b"bearer"):  # no key, or a tab after the scheme
        return _SCHEME + authorization.strip()[6:]
    raise _no("the `Authorization` header is not `Bearer <key>`: write it as `Authorization: Bearer gms_...`")


def _no(message: str) -> Refused:
    return Refused(Reason.UNAUTHENTICATED, message, code="invalid_api_key")
