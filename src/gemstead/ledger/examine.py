"""A process that verifies or exports the audit log, beside a service that must not be slowed down by it.

`python -m gemstead.ledger.examine` reads one `Order` as JSON from standard input and writes the answer to standard
output: the chains with what each is worth, as JSON, or the lines of an export. Exit code 3: a sentence on standard
error says why there is no answer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from gemstead.ledger.chain import Checkpoint
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.log import AuditLog, SqliteLog
from gemstead.ledger.signing import Signer, known_keys

TROUBLE = 3


class Order(msgspec.Struct, kw_only=True):
    """What is wanted of which log. Times in Unix seconds."""

    audit: str  # this machine's audit.db
    key: str  # the key that signs; public keys lie beside it
    store: str = ""  # the address of a store; "": there is none
    node: str = ""
    export: bool = False  # otherwise the log is verified
    since: float = 0.0
    until: float = 0.0
    tenant: str | None = None
    outside: list[Checkpoint] = []

    def __repr__(self) -> str:  # never an address with a password in it
        return f"Order(export={self.export})"


def answer(order: Order) -> Iterable[bytes]:
    """The answer, piece by piece.

    Raises:
        LedgerTrouble: there is none, with what to do.
    """
    log = log_of(order)
    if order.export:
        return log.export(order.since, order.until, order.tenant, Signer(Path(order.key)))
    return [msgspec.json.encode(log.verify(known_keys(Path(order.key)), order.outside)) + b"\n"]


def log_of(order: Order) -> AuditLog:
    """The log that is meant."""
    if not order.store:
        return SqliteLog(Path(order.audit))
    from gemstead.ledger.postgres.log import PostgresLog
    from gemstead.ledger.postgres.place import Place

    place = Place(url=lambda: order.store, secret=lambda: "", node=order.node)
    return PostgresLog(Path(order.audit), place, bring=False)


def main() -> int:
    """Do what standard input says."""
    try:
        os.nice(5)
    except OSError:
        pass
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        for piece in answer(order):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except LedgerTrouble as trouble:
        sys.stderr.write(f"{trouble}\n")
        return TROUBLE
    except (BrokenPipeError, KeyboardInterrupt):  # whoever asked has gone
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
