"""From a request's headers to a `Caller`. Whether a key counts is for `ledger/keybook.py` to say."""

from __future__ import annotations

import base64
import hmac

import msgspec

from gemstead.ledger.keybook import KeyBook
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import ANYONE, Caller

_SCHEME = b"bearer "
_INWARD = b"Gemstead "  # of our own batch process, which says who it calls for

_caller = msgspec.json.Decoder(Caller).decode


class Keyring:
    """Identifies callers; without a book anyone may call. `secret` is the batch process's; "": there is none."""

    def __init__(self, book: KeyBook | None, secret: bytes = b"") -> None:
        self._book = book
        self._secret = secret

    def identify(self, authorization: bytes | None, x_api_key: bytes | None, now: float) -> Caller:
        """Who calls, from `Authorization: Bearer <key>` (OpenAI's way) or `x-api-key` (Anthropic's).

        `now` is wall time in Unix seconds.

        Raises:
            Refused: UNAUTHENTICATED, with what to do.
        """
        if self._book is None:
            if authorization is not None and self._secret and authorization.startswith(_INWARD):
                return self._inward(authorization, now)
            return ANYONE
        if authorization is None:
            return self._book.find((x_api_key or b"").strip(), now)
        if authorization[:7].lower() != _SCHEME:
            if self._secret and authorization.startswith(_INWARD):
                return self._inward(authorization, now)
            authorization = _only_bearer(authorization)
        secret = authorization[7:].strip()
        if x_api_key is not None and x_api_key.strip() != secret:
            raise _no("`Authorization` and `x-api-key` hold different keys: send one of them")
        return self._book.find(secret, now)

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
        return caller


def _only_bearer(authorization: bytes) -> bytes:
    scheme = authorization.split(None, 1)[0].lower() if authorization.strip() else b""
    if scheme in (b"", b"bearer"):  # no key, or a tab after the scheme
        return _SCHEME + authorization.strip()[6:]
    raise _no("the `Authorization` header is not `Bearer <key>`: write it as `Authorization: Bearer gms_...`")


def _no(message: str) -> Refused:
    return Refused(Reason.UNAUTHENTICATED, message, code="invalid_api_key")
