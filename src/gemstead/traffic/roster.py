"""The endpoints of one pool, and which of them can take a call now.

What an endpoint may do changes some times a second (a load arrives, a breaker moves); calls come thousands of
times a second. So the answer is kept until one of them says that it has changed, or until the earliest moment
at which time alone changes it: a load that grows stale, a breaker that lets a probe through.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from gemstead.traffic.endpoint import Endpoint


class Roster(list[Endpoint]):
    """A list of endpoints that remembers who is able. `revise` is called by the endpoints themselves."""

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        super().__init__(endpoints)
        self.good_until = -inf  # of `able`
        self.able: list[Endpoint] = []
        self.names: list[str] = []
        for endpoint in self:
            endpoint.roster = self

    def revise(self) -> None:
        """One of the endpoints has changed."""
        self.good_until = -inf

    def able_at(self, now: float) -> list[Endpoint]:
        """The endpoints that are open and well; perhaps none."""
        self.able = [endpoint for endpoint in self if endpoint.open_from <= now < endpoint.well_until]
        self.names = [endpoint.name for endpoint in self.able]
        self.good_until = min(
            [inf]
            + [endpoint.open_from for endpoint in self if endpoint.open_from > now]
            + [endpoint.well_until for endpoint in self if endpoint.well_until > now]
        )
        return self.able
