"""Which form the store has, and bringing it forward or back. The steps are in `ledger/migrations`."""

from __future__ import annotations

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.migrations import BRANCHES, IN_POSTGRES, newest
from gemstead.ledger.migrations.road import VERSION_TABLE, Foreign, move_postgres, parsed, places_of
from gemstead.ledger.postgres.link import Link, StoreAway, linked, reason
from gemstead.ledger.postgres.place import shown

KNOWN = sum(len(BRANCHES[branch]) for branch in IN_POSTGRES)


def places(link: Link) -> dict[str, int]:
    """The number of each branch's last step in the store; 0: none yet.

    Raises:
        StoreAway: it cannot be read.
    """
    there = link.value(f"SELECT to_regclass('{VERSION_TABLE}')::text")
    query = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608
    return places_of([row[0] for row in link.rows(query)] if there else [])


def state(places: dict[str, int]) -> str:
    """In one word: `missing`, `older`, `current` or `newer`."""
    if not any(places.values()):
        return "missing"
    if any(places[branch] > len(BRANCHES[branch]) for branch in IN_POSTGRES):
        return "newer"
    return "older" if any(places[branch] < len(BRANCHES[branch]) for branch in IN_POSTGRES) else "current"


def ready(url: str) -> str:
    """The store's own name, once it has every table that we need; tables that are missing are made.

    A newer store is used, unless it says that we know too little for it: while gateways are upgraded one after the
    other, those of the version before go on.

    Raises:
        StoreAway: it cannot be reached or made ready.
        LedgerTrouble: it needs a newer Gemstead.
    """
    with linked(url) as link:
        if state(places(link)) in ("missing", "older"):
            upgrade(url)
        store_id, needs = link.row("SELECT store_id, needs FROM gemstead_store") or ("", 0)
    if needs > KNOWN:
        raise LedgerTrouble(
            f"the store at {shown(url)} needs a newer Gemstead (step {needs}, this one knows {KNOWN}): "
            "upgrade this installation"
        )
    return str(store_id)


def upgrade(url: str) -> dict[str, int]:
    """Bring the store forward to what this Gemstead knows; where its branches were.

    Raises:
        StoreAway, LedgerTrouble: it cannot be done; a branch is where it was.
    """
    return _moved(url, tuple(newest(branch) for branch in IN_POSTGRES))


def downgrade(url: str, target: str) -> dict[str, int]:
    """Bring one branch back to a step; where it was. What later steps added is lost.

    Raises:
        StoreAway, LedgerTrouble: it cannot be done; nothing is.
    """
    branch, number = parsed(target)
    with linked(url) as link:
        if places(link)[branch] < number:
            raise Foreign(f"the store is at {branch}_{places(link)[branch]}: {target} lies ahead of it")
    return _moved(url, (target,))


def _moved(url: str, targets: tuple[str, ...]) -> dict[str, int]:
    import asyncpg

    try:
        return move_postgres(url, targets)
    except ImportError as error:
        raise StoreAway(
            f"the store needs {error.name}: install it with `pip install 'gemstead[postgres]'`"
        ) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise StoreAway(f"the store at {shown(url)} {reason(error)}") from None
