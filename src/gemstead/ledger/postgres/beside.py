"""Keeps a gateway's own files and the store in step: one thread for keys, one for audit records.

Each has a connection of its own and tries again for as long as it lives, first after 0.1 s, then at doubling pauses of
up to a second: so a store that is back is noticed within about a second. The thread of keys waits to be notified, and
looks by itself every `LOOK_S`, because a notice is lost where a pooler stands between, or a connection dies quietly.

Two sentences come of an outage: when the store goes, and when it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.link import Link, opened
from gemstead.ledger.postgres.pull import Puller
from gemstead.ledger.postgres.push import Pusher, trim, waiting
from gemstead.ledger.postgres.settings import Renewed, StoreSettings, StoreState, ToHead, Told

LOOK_S = 0.5  # between looks at the count of changes
PUSH_S = 0.1  # between looks at what is new in audit.db
STATE_S = 1.0
CARRY_S = 30.0  # between reports of when keys were used
NOTE_S = 1.0  # between notes that the keys here are the store's still (`ledger.stale_keys` goes by them)
TRIM_S = 10.0
PAUSE_S, PAUSE_MOST_S = 0.1, 1.0
MEANWHILE = "until then this gateway goes on with the keys it knows, and audit records wait on its disk"
AWAY_S = 1.0
QUIET_S = 3.0  # an answer that takes longer is none: another connection is tried


class Beside:
    """Both threads. `say` is called from either."""

    def __init__(self, settings: StoreSettings, say: Callable[[ToHead], None]) -> None:
        self.settings, self._say = settings, say
        self._folder = Path(settings.folder)
        self._ending, self._wake = threading.Event(), threading.Event()
        self._until = float("inf")
        self._complete = False  # whether the store had everything when the end came
        self._lock = threading.Lock()
        self._away: dict[str, str] = {}  # what troubles each thread
        self._since = time.time()
        self.puller, self.pusher = Puller(self._folder), Pusher(self._folder / "audit.db", settings.node)
        self._marks: list[tuple[float, int]] = []  # what the store had, and when
        self._threads = [
            threading.Thread(target=self._live, args=(name, work), name=name, daemon=True)
            for name, work in (("keys", self._keys), ("audit", self._audit))
        ]
        for thread in self._threads:
            thread.start()

    def follow(self, settings: StoreSettings) -> None:
        """Other settings are in force; connections are made anew when the address is another."""
        self.settings = settings

    def finish(self, within_s: float) -> bool:
        """Bring the rest into the store and end; whether it all is there. One that is away is not waited for long."""
        with self._lock:
            within_s = min(within_s, AWAY_S) if self._away else within_s
        self._until = time.monotonic() + within_s
        self._ending.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(max(0.0, self._until - time.monotonic()) + 0.5)
        return self._complete

    def state(self) -> StoreState:
        """How it stands."""
        with self._lock:
            away, since = dict(self._away), self._since
        return StoreState(
            up=not away,
            since=since,
            keys_at=self.puller.seen.at,
            waiting=waiting(self.pusher.path, self.pusher.sent),
            trouble=next(iter(away.values()), ""),
        )

    # -- the two threads --------------------------------------------------------------------------------

    def _live(self, name: str, work: Callable[[Link], None]) -> None:
        """Do the work on one connection after another."""
        pause = PAUSE_S
        while not self._over():
            link: Link | None = None
            try:
                link = opened(self.settings.url, answer_s=QUIET_S)
                work(link)
            except LedgerTrouble as trouble:
                self._trouble(name, str(trouble))
            except Exception as error:  # a fault of ours must not end the thread
                self._trouble(name, f"keeping the store in step met a fault: {error!r}")
            else:
                pause = PAUSE_S / 2
            finally:
                if link is not None:
                    link.close()
            if self._ending.is_set() and name == "keys":
                return
            time.sleep(min(pause, max(0.0, self._until - time.monotonic())))
            pause = min(PAUSE_MOST_S, pause * 2)

    def _over(self) -> bool:
        return self._ending.is_set() and time.monotonic() >= self._until

    def _keys(self, link: Link) -> None:
        link.listen("gemstead_keys", self._wake.set)
        link.on_end(self._wake.set)
        url, carried, noted = self.settings.url, time.monotonic(), time.monotonic()
        while not self._ending.is_set():
            self._wake.clear()
            self.puller.pull(link, self.settings.secret)
            self._well("keys")
            if self.puller.hash_keys_changed:
                self.puller.hash_keys_changed = False
                self._say(Renewed())
            if time.monotonic() - noted > NOTE_S:
                noted = time.monotonic()
                self.puller.note()
            if time.monotonic() - carried > CARRY_S:
                carried = time.monotonic()
                self.puller.carry_up(link)
            if self.settings.url != url:
                return
            self._wake.wait(LOOK_S)
        self.puller.carry_up(link)
        self.puller.note()

    def _audit(self, link: Link) -> None:
        url, trimmed, said = self.settings.url, time.monotonic(), 0.0
        while True:
            ending = self._ending.is_set()  # asked before the push, so that one push follows the last record
            count = self.pusher.push(link)
            self._well("audit")
            if self.pusher.lost:
                self._say(Told(sentence=self.pusher.lost))
                self.pusher.lost = ""
            if time.monotonic() - said > STATE_S:
                said = time.monotonic()
                self._say(self.state())
            if time.monotonic() - trimmed > TRIM_S:
                trimmed = time.monotonic()
                self._trim()
            if ending and count == 0:
                self._complete, self._until = True, 0.0
                return
            if self._over() or self.settings.url != url:
                return
            if count == 0:
                self._ending.wait(PUSH_S)

    def _trim(self) -> None:
        """Take out of the spool what the store has had for a while: receivers are sent what the store has."""
        now = time.monotonic()
        self._marks.append((now, self.pusher.sent))
        old = [sent for at, sent in self._marks if at <= now - self.settings.kept_s]
        if not old:
            return
        self._marks = [mark for mark in self._marks if mark[0] > now - self.settings.kept_s]
        if old[-1] > 0:
            trim(self.pusher.path, old[-1])

    # -- what is said -----------------------------------------------------------------------------------

    def _trouble(self, name: str, sentence: str) -> None:
        with self._lock:
            first = not self._away
            self._away[name] = sentence
            if first:
                self._since = time.time()
        if first:
            self._say(Told(sentence=f"{sentence}; {MEANWHILE}"))
        self._say(self.state())

    def _well(self, name: str) -> None:
        with self._lock:
            if name not in self._away:
                return
            del self._away[name]
            back = not self._away
            if back:
                self._since = time.time()
        if back:
            self._say(
                Told(sentence="the store is back: keys are the store's, and audit records go there again")
            )
