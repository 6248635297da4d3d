"""The road along the steps that goes through Alembic: any branch, in either direction, on SQLite and PostgreSQL.

A SQLite file keeps its place in `user_version`, as ever. Alembic wants a table for it: it gets one in memory, which
lives only as long as the connection, so that both roads leave the same file. PostgreSQL keeps its
places in `gemstead_version`.

Everything that imports Alembic or SQLAlchemy is in this file and in `env.py`, inside functions: a service on SQLite
never comes here.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.ledger.database import LedgerTrouble, plainly
from gemstead.ledger.migrations import BRANCHES, IN_POSTGRES

if TYPE_CHECKING:
    import sqlalchemy

VERSION_TABLE = "gemstead_version"
LOCK = 0x67656D736D  # of pg_advisory_lock: of gateways that begin at once, one does it
PATIENCE_S = 60.0
# For a table that somebody reads: less than `deadlock_timeout` (1 s), so that whoever has to give way, it is us.
LOCK_S = 0.4
GIVE_WAY = ("55P03", "40P01")  # lock_not_available, deadlock_detected
FOLDER = Path(__file__).parent


class Foreign(LedgerTrouble):
    """There is no such step, or no way to it."""


def run(branch: str, number: int) -> None:
    """Do one step, within a command of Alembic."""
    _say(BRANCHES[branch][number - 1].postgres, BRANCHES[branch][number - 1].sqlite)


def undo(branch: str, number: int) -> None:
    """Undo one step, within a command of Alembic."""
    _say(BRANCHES[branch][number - 1].postgres_back, BRANCHES[branch][number - 1].sqlite_back)


def _say(postgres: tuple[str, ...], sqlite: tuple[str, ...]) -> None:
    from alembic import op

    connection = op.get_bind()
    for statement in sqlite if connection.dialect.name == "sqlite" else postgres:
        connection.exec_driver_sql(statement)


def parsed(target: str) -> tuple[str, int]:
    """Branch and number of a step's name; `audit_0` is before the first.

    Raises:
        Foreign: there is no such step.
    """
    branch, _, number = target.rpartition("_")
    if branch not in BRANCHES or not number.isdigit() or int(number) > len(BRANCHES[branch]):
        names = ", ".join(f"{name}_0 to {name}_{len(steps)}" for name, steps in BRANCHES.items())
        raise Foreign(f"there is no step {target!r}: there are {names}")
    return branch, int(number)


# SQLite: one branch in a file.


def move_file(path: Path, target: str, *, wait_s: float = PATIENCE_S) -> int:
    """Bring a SQLite file to this step, forward or back; the number of the step that it was at.

    Raises:
        Foreign: there is no such step.
        LedgerTrouble: the file is from a newer Gemstead, or cannot be read or written.
    """
    import sqlalchemy
    from sqlalchemy.pool import StaticPool

    branch, number = parsed(target)
    with plainly(path), closing(sqlite3.connect(path, timeout=wait_s, isolation_level=None)) as raw:
        raw.execute("ATTACH ':memory:' AS place")
        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        with engine.begin() as connection:  # commits at its end; that it began is for us to say
            raw.execute("BEGIN IMMEDIATE")
            was = int(raw.execute("PRAGMA main.user_version").fetchone()[0])
            _check(path, branch, was, number)
            raw.execute("CREATE TABLE place.alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            if was:
                raw.execute("INSERT INTO place.alembic_version VALUES (?)", (f"{branch}_{was}",))
            _command(connection, branch, was, number, "alembic_version", "place")
            raw.execute(f"PRAGMA main.user_version = {number}")
        return was


def _check(path: Path, branch: str, was: int, number: int) -> None:
    if was > len(BRANCHES[branch]):
        raise LedgerTrouble(f"{path} was written by a newer Gemstead: upgrade this installation")
    back = (statement for step in BRANCHES[branch][number:was] for statement in step.sqlite_back)
    if sqlite3.sqlite_version_info < (3, 35) and any("DROP COLUMN" in statement for statement in back):
        raise LedgerTrouble(f"{path}: going back needs SQLite 3.35; here is {sqlite3.sqlite_version}")


def _command(
    connection: sqlalchemy.Connection, branch: str, was: int, number: int, table: str, schema: str | None
) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=table, version_table_schema=schema)
    if number > was:
        command.upgrade(config, f"{branch}_{number}")
    elif number < was:
        command.downgrade(config, f"{branch}_{number}" if number else f"{branch}@base")


# PostgreSQL: several branches in one database.


def move_postgres(url: str, targets: tuple[str, ...]) -> dict[str, int]:
    """Bring branches of a database to these steps, each wholly or not at all; the numbers that they were at.

    A branch that needs a table that somebody reads waits for `LOCK_S`, gives way, and tries again: so nobody is held up
    long. Branches are moved one after the other, because nobody else touches tables of two in one transaction.

    Raises:
        Foreign: there is no such step.
        OSError, TimeoutError, or an error of asyncpg: the database cannot be reached, or refuses.
        LedgerTrouble: it is from a newer Gemstead.
    """
    steps = dict(parsed(target) for target in targets)
    with ThreadPoolExecutor(1) as aside:  # the caller may have a loop of its own
        return aside.submit(lambda: asyncio.run(_moved(url, steps))).result()


async def _moved(url: str, steps: dict[str, int]) -> dict[str, int]:
    import asyncpg
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(url, timeout=5.0, statement_cache_size=0),
        poolclass=NullPool,
    )
    return {branch: await _branch_moved(engine, branch, number) for branch, number in steps.items()}


async def _branch_moved(engine: Any, branch: str, number: int) -> int:
    from sqlalchemy.exc import DBAPIError

    until = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            async with engine.begin() as connection:
                await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
                await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(LOCK_S * 1000)}ms'")
                was: int = await connection.run_sync(lambda one: _steps(one, branch, number))
                return was
        except DBAPIError as error:
            reason = getattr(error.orig, "sqlstate", None)
            if reason not in GIVE_WAY or asyncio.get_running_loop().time() > until:
                raise _own(error) from None
            await asyncio.sleep(0.1)


def _own(error: Any) -> BaseException:
    """What asyncpg itself has said."""
    cause = error.orig
    while cause is not None:
        if type(cause).__module__.startswith("asyncpg"):
            return cause  # type: ignore[no-any-return]
        cause = cause.__cause__
    return error  # type: ignore[no-any-return]


def _steps(connection: sqlalchemy.Connection, branch: str, number: int) -> int:
    there = connection.exec_driver_sql(f"SELECT to_regclass('{VERSION_TABLE}')").scalar()
    rows = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608
    was = places_of([row[0] for row in connection.exec_driver_sql(rows)] if there else [])[branch]
    if was > len(BRANCHES[branch]):
        raise LedgerTrouble(
            "the store was brought forward by a newer Gemstead: upgrade this installation first"
        )
    _command(connection, branch, was, number, VERSION_TABLE, None)
    return was


def places_of(names: Iterable[str]) -> dict[str, int]:
    """Where each branch of a database stands, from the rows of its version table."""
    found = dict.fromkeys(IN_POSTGRES, 0)
    for name in names:
        branch, _, number = name.rpartition("_")
        found[branch] = int(number)
    return found
