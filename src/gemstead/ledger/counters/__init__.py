"""Where counters of use are kept when more than one process counts: a store of `traffic/window.py`'s counters.

Three stores, one contract (`Counters`): memory, which the head keeps for the workers of one gateway; Redis or Valkey;
PostgreSQL. Which one is a URL in the file; `opened` finds it. What a store says is never a matter of its kind:
one suite of tests holds all three to it.
"""

from __future__ import annotations

from typing import Protocol

from gemstead.traffic.window import Batch, Grant, Standing


class StoreAway(Exception):
    """The store of counters did not answer. The message says what it said, without its password."""


class Counters(Protocol):
    """A store of counters."""

    async def apply(self, batch: Batch) -> list[Grant]:
        """Do what a batch asks: a grant for each ask.

        Raises:
            StoreAway: no answer came. The batch may have been done: say the same one again.
        """

    async def standings(self) -> list[Standing]:
        """Every counter. Raises StoreAway."""

    async def reset(self, ids: list[str]) -> None:
        """Let counters begin anew. Raises StoreAway."""

    async def close(self) -> None: ...


def opened(url: str) -> Counters:
    """The store that a URL means; nothing is asked of it yet.

    Raises:
        StoreAway: the library for it is not installed.
    """
    try:
        if url.startswith(("postgres://", "postgresql://")):
            from gemstead.ledger.counters.postgres import PostgresCounters

            return PostgresCounters(url)
        from gemstead.ledger.counters.redis import RedisCounters

        return RedisCounters(url)
    except ImportError as error:
        raise StoreAway(
            f"the shared store of limits needs {error.name}: install it with `pip install 'gemstead[shared]'`"
        ) from error
