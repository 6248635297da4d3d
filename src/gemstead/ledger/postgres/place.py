"""Where a shared store is, as the file says it. Nothing is asked of it here, and no library is loaded."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gemstead.ledger.database import LedgerTrouble

SCHEMES = ("postgresql://", "postgres://")
SECRET_LEAST = 32  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """A store. Address and secret are references, read anew at each use: both may change while the service runs."""

    url: Callable[[], str]
    secret: Callable[[], str]
    node: str
    spool_mib: int = 4096

    def __repr__(self) -> str:  # never an address with a password in it
        return f"Place(node={self.node})"


def this_node(name: str | None) -> str:
    """What this gateway is called: as the file says, or by its machine."""
    return name or socket.gethostname() or "gateway"


def checked_url(url: str) -> str:
    """The address of a store.

    Raises:
        LedgerTrouble: it is none.
    """
    if not url.startswith(SCHEMES):
        raise LedgerTrouble(
            "ledger.store: what it refers to is no URL of PostgreSQL: write postgresql://USER@HOST/NAME"
        )
    return url


def checked_secret(secret: str) -> str:
    """The secret that seals.

    Raises:
        LedgerTrouble: it is too short to be one.
    """
    if len(secret) < SECRET_LEAST:
        raise LedgerTrouble(
            f"ledger.secret: what it refers to is shorter than {SECRET_LEAST} characters: "
            "`openssl rand -hex 32` makes a good one"
        )
    return secret


def shown(url: str) -> str:
    """The address without user and password, for people."""
    try:
        parts = urlsplit(url)
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return "the store"
