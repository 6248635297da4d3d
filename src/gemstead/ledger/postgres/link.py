"""The one door to asyncpg: a connection for code that waits, driven by a loop in a thread of its own.

Everything that uses the store is off the request path and waits for answers, so it is written plainly, from top to
bottom. No answer is waited for longer than `ANSWER_S`, and a server that says nothing at all is noticed by then. Errors
become one sentence that says what to do (`StoreAway`); a password is never in it.

PostgreSQL's texts cannot hold U+0000, and what callers write as a model's name can. `kept` and `told` carry it through:
the escape is a private character (U+F8FF), which is itself escaped.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.place import checked_url, shown

CONNECT_S = 5.0
ANSWER_S = 30.0
_ESCAPE = "\uf8ff"

Row = tuple[Any, ...]


class StoreAway(LedgerTrouble):
    """PostgreSQL cannot be reached, or refuses what is asked."""


def kept(value: Any) -> Any:
    """A value as PostgreSQL can hold it."""
    if isinstance(value, str) and ("\0" in value or _ESCAPE in value):
        return value.replace(_ESCAPE, f"{_ESCAPE}1").replace("\0", f"{_ESCAPE}0")
    return value


def told(value: Any) -> Any:
    """The value that was kept."""
    if isinstance(value, str) and _ESCAPE in value:
        return value.replace(f"{_ESCAPE}0", "\0").replace(f"{_ESCAPE}1", _ESCAPE)
    return value


class Link:
    """One connection. For one thread at a time, but for `close`.

    Raises:
        StoreAway: (every method) it cannot be reached or refuses.
    """

    def __init__(self, url: str, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> None:
        self.name = shown(checked_url(url))
        self._answer_s = answer_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgres", daemon=True)
        self._thread.start()
        self._connection: Any = None
        self._transaction: Any = None
        try:
            self._connection = self._wait(_connected(url, connect_s), connect_s + 1.0)
        except BaseException:
            self.close()
            raise

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a question."""
        return [tuple(row) for row in self._wait(self._connection.fetch(sql, *values))]

    def row(self, sql: str, *values: Any) -> Row | None:
        """The first row, or None."""
        found = self._wait(self._connection.fetchrow(sql, *values))
        return None if found is None else tuple(found)

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        return self._wait(self._connection.fetchval(sql, *values))

    def do(self, sql: str, *values: Any) -> int:
        """Carry a statement out; how many rows it was about."""
        said: str = self._wait(self._connection.execute(sql, *values))
        count = said.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry a statement out for each row."""
        if rows:
            self._wait(self._connection.executemany(sql, rows))

    @contextmanager
    def transaction(self, *, reading: bool = False) -> Iterator[None]:
        """All that is done inside, or nothing. `reading`: every question sees the same moment."""
        made = self._connection.transaction(
            isolation="repeatable_read" if reading else "read_committed", readonly=reading
        )
        self._wait(_said(made.start))
        try:
            yield
        except BaseException:
            try:
                self._wait(_said(made.rollback))
            except StoreAway:
                pass  # the connection is gone, and with it the transaction
            raise
        self._wait(_said(made.commit))

    def listen(self, channel: str, called: Callable[[], None]) -> None:
        """Have `called` whenever somebody notifies; it runs in another thread."""
        self._wait(self._connection.add_listener(channel, lambda *said: called()))

    def on_end(self, called: Callable[[], None]) -> None:
        """Have `called` when the connection has ended, however; it runs in another thread."""
        self._connection.add_termination_listener(lambda *said: called())

    @property
    def ended(self) -> bool:
        """Whether it is of no use any more."""
        return self._connection is None or bool(self._connection.is_closed())

    def close(self) -> None:
        """Let go, without waiting for the server."""

        def end() -> None:
            if self._connection is not None:
                self._connection.terminate()
            self._loop.call_soon(self._loop.stop)

        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(end)
            self._thread.join(2.0)
        if not self._loop.is_running() and not self._loop.is_closed():
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Any], within_s: float | None = None) -> Any:
        import asyncpg

        within_s = self._answer_s if within_s is None else within_s
        task = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, within_s), self._loop)
        try:
            return task.result(within_s + 1.0)
        except TimeoutError:
            task.cancel()
            raise StoreAway(f"the store at {self.name} says nothing within {within_s:g} s") from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            raise StoreAway(f"the store at {self.name} {reason(error)}") from None
        except asyncpg.InternalClientError as error:  # its connection broke while it was doing something else
            raise StoreAway(f"the store at {self.name} {reason(error)}") from None


async def _said(word: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Say it where its faults are caught: of a connection that is gone the library complains before it waits."""
    await word()


def reason(error: Exception) -> str:
    """What is wrong, and what to do, as the end of a sentence."""
    import asyncpg

    if isinstance(error, asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError):
        return "refuses us: check the user and password that `ledger.store` leads to"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "has no such database: make it with `createdb`"
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return "lacks tables of ours: `gemstead db upgrade` makes them"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return (
            f"does not let this user do that ({error}): grant it, or run `gemstead db upgrade` as one who may"
        )
    if isinstance(error, asyncpg.PostgresError):
        return f"says: {error}"
    if isinstance(error, OSError):
        said = os.strerror(error.errno) if error.errno else str(error)
        return f"cannot be reached ({said}): see that it runs, and that `ledger.store` leads to it"
    return f"cannot be used: {error}"


async def _connected(url: str, connect_s: float) -> Any:
    import asyncpg

    return await asyncpg.connect(
        url,
        timeout=connect_s,
        statement_cache_size=0,  # so that PgBouncer may stand between
        server_settings={"application_name": "gemstead"},
    )


@contextmanager
def linked(url: str) -> Iterator[Link]:
    """A connection for one act.

    Raises:
        StoreAway: it cannot be reached, or the library for it is not installed.
    """
    link = opened(url)
    try:
        yield link
    finally:
        link.close()


def opened(url: str, *, answer_s: float = ANSWER_S) -> Link:
    """A connection.

    Raises:
        StoreAway: as `linked`.
    """
    try:
        import asyncpg  # noqa: F401
    except ImportError:
        raise StoreAway(
            "the store needs asyncpg: install it with `pip install 'gemstead[postgres]'`"
        ) from None
    return Link(url, answer_s=answer_s)
