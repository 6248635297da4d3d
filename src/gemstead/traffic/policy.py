"""What any way of choosing endpoints has to offer, so that the gateway, Envoy's picker and the simulator can
use each in the place of another: the product's own (`picker.py`) and the named ones (`policies/`).

A policy is asked in this order, and never waits:

    pick          which endpoint takes this call; nothing is booked
    charge        it goes there: book it, before it is sent
    first_token   the first piece of the answer is here
    settle        it has ended, however; also without a first token, and said twice it counts once
    forget        an endpoint has gone or has restarted with an empty cache

A call that fails before its first token is settled with `ok=False`, its endpoint's name is put into
`call.tried`, and it is picked for again. Times are seconds of the caller's one monotonic clock; a policy has
no other clock, and no randomness but what it was given when it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint

UNKNOWN = -1  # of a count of tokens that nobody has reported
NO_TIME = -1.0  # of a time that the caller did not hand in


class Policy(Protocol):
    """A way of choosing endpoints, with the books that it keeps."""

    def pick(self, call: Call, endpoints: Sequence[Endpoint], now: float) -> Endpoint:
        """The endpoint that should take the call.

        Raises:
            Refused: NO_ENDPOINT, when all are starting, draining or tried.
        """

    def read_s(self, call: Call, endpoints: Sequence[Endpoint]) -> float:
        """Seconds that reading the call's prompt takes where most of it is known; 0 is unknown. For the queue."""

    def charge(self, endpoint: Endpoint, call: Call) -> None:
        """Book the call on the endpoint that was just picked for it."""

    def first_token(self, endpoint: Endpoint, call: Call, now: float = NO_TIME) -> None:
        """The endpoint has begun to answer."""

    def settle(
        self,
        endpoint: Endpoint,
        call: Call,
        ok: bool | None,
        now: float,
        output_tokens: int = UNKNOWN,
        cached_tokens: int = UNKNOWN,
    ) -> None:
        """The call has ended: well (True), by the endpoint's fault (False), or without a verdict (None).

        `output_tokens` were generated and `cached_tokens` of the prompt were found in the cache, as the engine
        said; UNKNOWN where it did not.
        """

    def passed(self, now: float) -> None:
        """Time has passed without a pick."""

    def forget(self, endpoint_name: str) -> None:
        """The endpoint is gone, or its cache is empty."""
