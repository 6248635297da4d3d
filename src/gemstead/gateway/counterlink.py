"""A worker's way to the counters: over the socket to its head, or straight to the store that several gateways share.

Both answer every batch within `WITHIN_S`, with None when nothing came; a later answer is not looked at, because the
same batch is said again then (`traffic/hold.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gemstead.gateway.allowances import Answer
from gemstead.ledger.counters import Counters, StoreAway, opened
from gemstead.traffic.window import Batch, Grant

WITHIN_S = 1.0
PAUSE_S = 0.25  # after a failure, before the store is asked again
TELL_S = 60.0  # between two words to the operator about the same trouble


class HeadLink:
    """To the head, which keeps the counters of one gateway in its memory."""

    def __init__(self, loop: asyncio.AbstractEventLoop, say: Callable[[Batch], None]) -> None:
        self._loop = loop
        self._say = say
        self._waits: tuple[int, Answer, asyncio.TimerHandle] | None = None

    def __call__(self, batch: Batch, answer: Answer) -> None:
        self._waits = (batch.number, answer, self._loop.call_later(WITHIN_S, self._late, batch.number))
        self._say(batch)

    def given(self, number: int, grants: list[Grant]) -> None:
        """The head has answered."""
        if self._waits is not None and self._waits[0] == number:
            _, answer, timer = self._waits
            self._waits = None
            timer.cancel()
            answer(grants)

    def _late(self, number: int) -> None:
        if self._waits is not None and self._waits[0] == number:
            answer = self._waits[1]
            self._waits = None
            answer(None)

    async def finish(self) -> None:
        """Nothing is under way that has not been said."""


class StoreLink:
    """To Redis, Valkey or PostgreSQL, from this worker itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str, trouble: Callable[[str], None]) -> None:
        self._loop = loop
        self._trouble = trouble
        self._store: Counters = opened(url)
        self._task: asyncio.Task[None] | None = None
        self._told_at = -TELL_S
        self._failing = False

    def __call__(self, batch: Batch, answer: Answer) -> None:
        self._task = self._loop.create_task(self._ask(batch, answer))

    async def _ask(self, batch: Batch, answer: Answer) -> None:
        if self._failing:
            await asyncio.sleep(PAUSE_S)
        grants: list[Grant] | None = None
        try:
            grants = await asyncio.wait_for(self._store.apply(batch), WITHIN_S)
        except (StoreAway, TimeoutError) as error:
            self._say_failing(str(error) or f"no answer within {WITHIN_S:g} s")
        except Exception as error:  # a fault of a library must not leave calls waiting
            self._say_failing(repr(error))
        if grants is not None and self._failing:
            self._failing, self._told_at = False, -TELL_S
            self._trouble("the store of limits answers again")
        answer(grants)

    def _say_failing(self, why: str) -> None:
        self._failing = True
        now = self._loop.time()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self._trouble(f"the store of limits does not answer: {why}")

    async def finish(self) -> None:
        """The last batch has been said."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=WITHIN_S)
        await self._store.close()
