"""A worker's talk with other gateways, off the request path: a few times a second it says what it has, and hears.
So does a picker behind Envoy (`epp/`) with others of its kind.

What is said and what it means is decided in `traffic/sharing.py`; the stream is `ledger/counters/news.py`. While the
server is away the worker carries on alone: what others had expires within `FORGET_S`, its own heads of that time are
not kept for later, and the operator is told once, and once more when it answers again. Every worker of a gateway takes
part for itself: to another worker it makes no difference whose process a call runs in.

Prompts are hashed by Python with a seed that is given when a process starts, so a worker is started with the one that
belongs to the secret (`environment`). One that was not (sharing began with a reload) shares totals only, and says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gemstead.gateway.place import PlaceToWait
from gemstead.gateway.settings import Sharing as Settings
from gemstead.ledger.counters import StoreAway
from gemstead.traffic.endpoint import NOBODY, Endpoint
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.sharing import PERIOD_S, Sharing, door

if TYPE_CHECKING:
    from gemstead.gateway.figures import Figures
    from gemstead.ledger.counters.news import NewsStream

TELL_S = 600.0  # between two words to the operator about a server that stays away
PAUSE_MOST_S = 2.0  # between two attempts then
SEED = "PYTHONHASHSEED"


def environment(settings: Settings | None) -> dict[str, str]:
    """What a worker's environment needs beside what it inherits, so that it hashes prompts as the others do."""
    if settings is None:
        return {}
    from gemstead.ledger.counters.news import hash_seed

    return {SEED: hash_seed(settings.secret)}


def misses_seed(settings: Settings | None) -> dict[str, str]:
    """What a process would have to be started anew with; empty: nothing."""
    wanted = environment(settings)
    return wanted if wanted and os.environ.get(SEED) != wanted[SEED] else {}


class Talk:
    """One worker's part. `run` goes on until it is cancelled."""

    def __init__(self, settings: Settings, gate: PlaceToWait, trouble: Callable[[str], None]) -> None:
        """Raises StoreAway when the library is not installed."""
        self.settings = settings
        self._gate, self._trouble = gate, trouble
        self._stream: NewsStream = opened(settings)
        index: PrefixIndex | None = None
        if isinstance(gate.picker, Picker):
            if misses_seed(settings):
                trouble(
                    "prompts are not shared with other gateways until the service is restarted; calls are"
                )
            else:
                index = gate.picker.index
        self._sharing = Sharing(os.urandom(8).hex(), index, int(settings.heads_kib_s * 1024 * PERIOD_S))
        self._machine = socket.gethostname()
        self._doors: dict[str, Endpoint] = {}
        self._of: Mapping[str, Endpoint] | None = None
        self._away, self._told_at = False, -TELL_S
        self._unreadable = self._strange = False

    async def run(self) -> None:
        """Say and hear, over and over."""
        figures = self._gate.figures
        pause_s = PERIOD_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                try:
                    await self._turn()
                    pause_s = PERIOD_S
                    self._back()
                except StoreAway as error:
                    pause_s = min(2 * pause_s, PAUSE_MOST_S)
                    self._gone(str(error))
                except Exception as error:  # a fault of a library must not end it
                    pause_s = PAUSE_MOST_S
                    self._gone(repr(error))
                self._show(figures)
        finally:
            self._leave()
            await self._stream.close()

    async def _turn(self) -> None:
        doors, loop = self.doors(), self._gate.loop
        old, fresh = await self._stream.turn(self._sharing.say(doors))
        doors = self.doors()
        self._sharing.learn_heads(old, doors)
        self._sharing.hear(fresh, doors, loop.time())
        self._sharing.add_up(doors, loop.time())
        if self._gate.waitroom.waiting:
            self._gate.waitroom.look()

    def doors(self) -> dict[str, Endpoint]:
        """The endpoints by the names that all gateways know them by."""
        if self._of is not self._gate.endpoints:  # it is replaced whole when the fleet changes
            self._of = self._gate.endpoints
            self._doors = {door(one.facts, self._machine): one for one in self._of.values()}
        return self._doors

    def _gone(self, why: str) -> None:
        now = self._gate.loop.time()
        self._sharing.add_up(self.doors(), now)  # who is not heard of expires
        self._sharing.outbox.empty()
        if not self._away or now - self._told_at >= TELL_S:
            self._told_at = now
            self._trouble(f"nothing is shared with other gateways, which is served without: {why}")
        self._away = True

    def _back(self) -> None:
        if self._away:
            self._away = False
            self._trouble("what is in flight is shared with other gateways again")
        if self._sharing.unreadable and not self._unreadable:
            self._unreadable = True
            self._trouble(
                "another gateway hashes prompts in another way (another version of Python?): its calls count, and "
                "which prompts its engines have seen is not known here"
            )
        if self._stream.strange and not self._strange:
            self._strange = True
            self._trouble("somebody without our secret writes where gateways share what they have in flight")

    def _show(self, figures: Figures) -> None:
        sharing = self._sharing
        for endpoint in self._doors.values():
            figures.others(endpoint.name, endpoint.others.calls)
        figures.sharing(not self._away, sharing.others, sharing.heads_taken, sharing.outbox.left_out)

    def _leave(self) -> None:
        """Nothing is known of others from now on."""
        if self._sharing.index is not None:
            self._sharing.index.outbox = None
        for endpoint in self._gate.endpoints.values():
            endpoint.hear_others(NOBODY)


def opened(settings: Settings) -> NewsStream:
    """The stream that the settings name; nothing is asked of it yet.

    Raises:
        StoreAway: the library for it is not installed.
    """
    try:
        from gemstead.ledger.counters.news import NewsStream
    except ImportError as error:
        raise StoreAway(
            f"sharing between gateways needs {error.name}: install it with `pip install 'gemstead[shared]'`"
        ) from error
    return NewsStream(settings.store, settings.secret)
