"""Connections that are kept for the next question: for processes whose threads ask the store now and then.

A connection that met trouble is not used again, nor one to an address that is another by now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gemstead.ledger.postgres.link import Link, opened

ANSWER_S = 10.0
KEPT = 4
FROZEN_S = 5.0


class Links:
    """Any thread may ask for one."""

    def __init__(self, url: Callable[[], str], *, answer_s: float = ANSWER_S) -> None:
        self._url, self._answer_s = url, answer_s
        self._idle: deque[tuple[str, Link]] = deque()

    @contextmanager
    def one(self) -> Iterator[Link]:
        """A connection for one act.

        Raises:
            StoreAway: there is none to be had.
        """
        url = self._url()
        link = self._kept(url) or opened(url, answer_s=self._answer_s)
        try:
            yield link
        except BaseException:
            link.close()
            raise
        if len(self._idle) < KEPT:
            self._idle.append((url, link))
        else:
            link.close()

    @contextmanager
    def changing(self, frozen_s: float = FROZEN_S) -> Iterator[Link]:
        """A connection within a transaction. If this process is frozen in the middle of it, or the network is gone, the
        server ends it after `frozen_s`: what it had locked holds up nobody for longer.

        Raises:
            StoreAway: as `one`.
        """
        with self.one() as link, link.transaction():
            link.do(f"SET LOCAL idle_in_transaction_session_timeout = {int(frozen_s * 1000)}")
            yield link

    def close(self) -> None:
        """Let go of all that nobody uses now."""
        while self._idle:
            self._idle.pop()[1].close()

    def _kept(self, url: str) -> Link | None:
        while True:
            try:
                at, link = self._idle.pop()
            except IndexError:
                return None
            if at == url and not link.ended:
                return link
            link.close()
