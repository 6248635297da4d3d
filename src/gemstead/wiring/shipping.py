"""How far each receiver of audit records has come, and sending again: of a gateway's own log, or of a store's chains.

What is said here is plain values, for the command line and the admin API alike; the sending itself is a process of its
own (`ledger/ship`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gemstead.ledger import audittable
from gemstead.ledger.database import reading
from gemstead.ledger.ship.cursors import Cursor, Cursors, path_beside
from gemstead.spec.model import Spec
from gemstead.wiring.files import StateDir


def receivers(spec: Spec) -> list[str]:
    """Those that the file names."""
    return [sink.name for sink in spec.audit.ship]


def standing(folder: StateDir, spec: Spec) -> list[dict[str, Any]]:
    """Each receiver's cursor, with how many records are `waiting`; of a store, one for each of its chains."""
    if folder.place is not None:
        from gemstead.ledger.postgres.cursors import StoreCursors

        return [
            {**msgspec.to_builtins(one), "end": end, "waiting": max(0, end - one.seq), "gateway": node}
            for one, end, node in StoreCursors(folder.place.url).all()
        ]
    end, named = end_of(folder.audit), receivers(spec)
    known = {cursor.sink: cursor for cursor in Cursors(path_beside(folder.audit)).all()}
    cursors = [known.get(name) or Cursor(sink=name) for name in (*named, *(known.keys() - set(named)))]
    return [{**msgspec.to_builtins(one), "end": end, "waiting": max(0, end - one.seq)} for one in cursors]


def refused(folder: StateDir, sink: str) -> list[dict[str, Any]]:
    """What a receiver will never take, and why, the latest first."""
    if folder.place is not None:
        from gemstead.ledger.postgres.cursors import StoreCursors

        found = StoreCursors(folder.place.url).refused(sink)
        return [{"chain": chain, "seq": seq, "why": why} for chain, seq, why in found]
    return [{"seq": seq, "why": why} for seq, why in Cursors(path_beside(folder.audit)).refused(sink)]


def replay(folder: StateDir, sink: str, since: float | None) -> dict[str, dict[str, int]]:
    """Have a receiver sent what is of that time or later; by chain ("": the gateway's own), behind which place, and how
    far it had come. None: nothing of what is there now."""
    if folder.place is not None:
        from gemstead.ledger.postgres.cursors import StoreCursors

        done = StoreCursors(folder.place.url).replay(sink, since)
        return {chain: {"from": seq, "had": had} for chain, (seq, had) in done.items()}
    seq = end_of(folder.audit) if since is None else before(folder.audit, since)
    cursors = Cursors(path_beside(folder.audit))
    had = cursors.of(sink).seq
    cursors.replay(sink, seq)
    return {"": {"from": seq, "had": had}}


def end_of(audit: Path) -> int:
    """The last place of a log."""
    with reading(audit, audittable.MIGRATIONS) as connection:
        return audittable.head(connection)[0] if connection else 0


def before(audit: Path, since: float) -> int:
    """The place before the first record of that time or later."""
    with reading(audit, audittable.MIGRATIONS) as connection:
        if connection is None:
            return 0
        first = connection.execute(
            "SELECT min(seq) FROM (SELECT min(seq) AS seq FROM audit WHERE began >= :since "
            "UNION ALL SELECT min(seq) FROM acts WHERE at >= :since)",
            {"since": since},
        ).fetchone()[0]
    return end_of(audit) if first is None else int(first) - 1
