"""Where a shipment finds what it has to send, and where it notes how far it is: a gateway's own file, or a store.

`FileSource` is audit.db and ship.db beside it. `ledger/postgres/cursors.py` has the other one, for gateways that share
a store. A note is made after the receiver has the records, never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gemstead.ledger.ship.cursors import Cursor, Cursors, path_beside
from gemstead.ledger.ship.forms import Shipped
from gemstead.ledger.ship.sink import Unwanted
from gemstead.ledger.ship.spool import Spool


class Source(Protocol):
    """What one receiver is to be sent. For one thread.

    Raises:
        LedgerTrouble: (every method) it cannot be read or noted.
    """

    def next(self, most: int) -> tuple[Cursor, list[Shipped]]:
        """At most so many records of one chain that the receiver does not have, and where it stands."""

    def moved(self, at: Cursor, batch: Sequence[Shipped], refused: Unwanted) -> bool:
        """The receiver has this batch, but for those refused. False: somebody else sends by now, or a replay was asked
        for: it is sent again."""

    def troubled(self, why: str) -> None:
        """The receiver does not take what it is sent."""

    def recovered(self) -> None:
        """The receiver has everything that there is."""

    def close(self) -> None: ...


class FileSource:
    """The ledger of one gateway."""

    def __init__(self, audit: Path, sink: str) -> None:
        self._spool, self._cursors, self._sink = Spool(audit), Cursors(path_beside(audit)), sink

    def next(self, most: int) -> tuple[Cursor, list[Shipped]]:
        cursor = self._cursors.of(self._sink)
        return cursor, self._spool.after(cursor.seq, most, cursor.chain)

    def moved(self, at: Cursor, batch: Sequence[Shipped], refused: Unwanted) -> bool:
        return self._cursors.moved(at, self._spool.chain, batch[-1].seq, len(batch), refused)

    def troubled(self, why: str) -> None:
        self._cursors.troubled(self._sink, why)

    def recovered(self) -> None:
        self._cursors.recovered(self._sink)

    def close(self) -> None:
        self._spool.close()
