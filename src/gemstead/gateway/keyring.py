"""From a request's headers to a `Caller`. Whether a key counts is for `ledger/keybook.py` to say."""

from __future__ import annotations

from gemstead.ledger.keybook import KeyBook
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import ANYONE, Caller

_SCHEME = b"bearer "


class Keyring:
    """Identifies callers; without a book anyone may call."""

    def __init__(self, book: KeyBook | None) -> None:
        self._book = book

    def identify(self, authorization: bytes | None, x_api_key: bytes | None, now: float) -> Caller:
        """Who calls, from `Authorization: Bearer <key>` (OpenAI's way) or `x-api-key` (Anthropic's).

        `now` is wall time in Unix seconds.

        Raises:
            Refused: UNAUTHENTICATED, with what to do.
        """
        if self._book is None:
            return ANYONE
        if authorization is None:
            return self._book.find((x_api_key or b"").strip(), now)
        if authorization[:7].lower() != _SCHEME:
            authorization = _only_bearer(authorization)
        secret = authorization[7:].strip()
        if x_api_key is not None and x_api_key.strip() != secret:
            raise _no("`Authorization` and `x-api-key` hold different keys: send one of them")
        return self._book.find(secret, now)


def _only_bearer(authorization: bytes) -> bytes:
    scheme = authorization.split(None, 1)[0].lower() if authorization.strip() else b""
    if scheme in (b"", b"bearer"):  # no key, or a tab after the scheme
        return _SCHEME + authorization.strip()[6:]
    raise _no("the `Authorization` header is not `Bearer <key>`: write it as `Authorization: Bearer gms_...`")


def _no(message: str) -> Refused:
    return Refused(Reason.UNAUTHENTICATED, message, code="invalid_api_key")
