"""Counters as rows of PostgreSQL: the arithmetic of `traffic/window.py` between a lock and a commit.

The rows of a batch are locked in the order of their ids, so two gateways never wait for each other in a circle. The
clock is the server's. An owner's last batch and its answer are in a row of their own, in the same transaction:
a batch whose answer was lost can be said again. The two tables are made when they are not there.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg
import msgspec

from gemstead.ledger.counters import StoreAway
from gemstead.traffic.window import Batch, Cap, Grant, Standing, State, put_back, standing, take

WITHIN_S: Final = 1.0
CONNECT_S: Final = 2.0
KEPT_DAYS: Final = 40
EPOCH: Final = 1_760_000_000
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS gemstead_counters (
    id text PRIMARY KEY, state text NOT NULL, touched timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS gemstead_counter_owners (
    owner text PRIMARY KEY, number bigint NOT NULL, answer text NOT NULL,
    touched timestamptz NOT NULL DEFAULT now());
"""
_LOCK_SCHEMA: Final = 0x67656D73  # of pg_advisory_lock: two gateways that make the tables at once
_OWNER: Final = """INSERT INTO gemstead_counter_owners (owner, number, answer) VALUES ($1, -1, '[]')
ON CONFLICT (owner) DO UPDATE SET touched = now() RETURNING number, answer"""
_MAKE: Final = """INSERT INTO gemstead_counters (id, state) SELECT one, '' FROM unnest($1::text[]) one ORDER BY one
ON CONFLICT DO NOTHING"""
_LOCK: Final = "SELECT id, state FROM gemstead_counters WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
_WRITE: Final = """UPDATE gemstead_counters AS c SET state = n.state, touched = now()
FROM unnest($1::text[], $2::text[]) AS n(id, state) WHERE c.id = n.id"""
_ANSWERED: Final = "UPDATE gemstead_counter_owners SET number = $2, answer = $3 WHERE owner = $1"
_NOW: Final = f"SELECT extract(epoch FROM clock_timestamp())::float8 - {EPOCH}"  # noqa: S608
_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, asyncio.TimeoutError)
_grants = msgspec.json.Decoder(list[Grant]).decode
_state = msgspec.json.Decoder(State).decode


class PostgresCounters:
    """A `Counters` in the database that a `postgresql://` URL names."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._one = asyncio.Lock()

    async def apply(self, batch: Batch) -> list[Grant]:
        async with self._one:
            grants: list[Grant] = await self._asked(self._apply, batch)
            return grants

    async def _apply(self, connection: Any, batch: Batch) -> list[Grant]:
        caps = {back.cap.id: back.cap for back in batch.backs} | {ask.cap.id: ask.cap for ask in batch.asks}
        ids = sorted(caps)
        async with connection.transaction():
            number, answer = await connection.fetchrow(_OWNER, batch.owner)
            if number == batch.number:
                return _grants(answer)
            await connection.execute(_MAKE, ids)
            rows = await connection.fetch(_LOCK, ids)
            now = await connection.fetchval(_NOW)
            states = {row["id"]: _read(row["state"], caps[row["id"]]) for row in rows}
            for back in batch.backs:
                put_back(states[back.cap.id], back, now)
            grants = [take(states[ask.cap.id], ask, batch.owner, now) for ask in batch.asks]
            written = [msgspec.json.encode(states[one]).decode() for one in ids]
            await connection.execute(_WRITE, ids, written)
            await connection.execute(
                _ANSWERED, batch.owner, batch.number, msgspec.json.encode(grants).decode()
            )
        return grants

    async def standings(self) -> list[Standing]:
        async with self._one:
            found: list[Standing] = await self._asked(self._standings)
            return found

    async def _standings(self, connection: Any) -> list[Standing]:
        now = await connection.fetchval(_NOW)
        rows = await connection.fetch("SELECT state FROM gemstead_counters WHERE state <> '' ORDER BY id")
        return [standing(_state(row["state"]), now) for row in rows]

    async def reset(self, ids: list[str]) -> None:
        async with self._one:
            await self._asked(self._reset, ids)

    async def _reset(self, connection: Any, ids: list[str]) -> None:
        await connection.execute("DELETE FROM gemstead_counters WHERE id = ANY($1::text[])", ids)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _asked(self, work: Any, *args: Any) -> Any:
        """What `work` answers, on a connection that is new where the last one failed."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connected()
            return await asyncio.wait_for(work(self._connection, *args), WITHIN_S)
        except _FAULTS as error:
            await self.close()
            raise StoreAway(f"PostgreSQL: {type(error).__name__}: {str(error)[:200]}".rstrip(": ")) from error

    async def _connected(self) -> Any:
        connection = await asyncpg.connect(self._url, timeout=CONNECT_S)
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK_SCHEMA)
                await connection.execute(_SCHEMA)
                old = f"now() - interval '{KEPT_DAYS} days'"
                await connection.execute(f"DELETE FROM gemstead_counters WHERE touched < {old}")  # noqa: S608
                await connection.execute(f"DELETE FROM gemstead_counter_owners WHERE touched < {old}")  # noqa: S608
        except BaseException:
            connection.terminate()
            raise
        return connection


def _read(text: str, cap: Cap) -> State:
    state = _state(text) if text else State(cap)
    state.cap = cap
    return state
