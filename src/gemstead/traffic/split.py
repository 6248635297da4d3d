"""How a pool's calls are divided between two releases of a model: first the release by weight, then the endpoint.

An endpoint's weight is its part of the pool's calls beside the others'; a release has the sum of its endpoints that
take calls. While all weights are alike there is nothing to divide, and `split` says so by None: the picker then
chooses among all endpoints as ever. A release of weight 0 is given no call as long as any other can take one: it is
warming, or kept warm to be switched back to.

Which release a call gets is chance (handed in), so that a release is compared with the other on like calls; or, where
callers shall not be moved to and fro between releases, a hash of the caller: the same caller then has the same release
for as long as the weights stay. A call that has failed on one endpoint goes on to whatever release has another, so a
bad release costs its callers a detour and not an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from zlib import crc32

from gemstead.refused import Refused
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint
from gemstead.traffic.policy import Policy

FINE: Final = 1 << 20  # chance is drawn in parts of a millionth


class Split:
    """The releases of one pool that have unlike weights. Made anew when the fleet changes."""

    def __init__(self, endpoints: Sequence[Endpoint], choose: Callable[[int], int], sticky: bool) -> None:
        self._all = endpoints
        self._choose, self._sticky = choose, sticky
        groups: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            groups.setdefault(endpoint.facts.release, []).append(endpoint)
        weighed = [(sum(e.facts.weight for e in group if e.takes_calls), group) for group in groups.values()]
        weighed.sort(key=lambda one: -one[0])
        self._groups = [group for _, group in weighed]
        total = sum(weight for weight, _ in weighed) or 1.0
        self._upto: list[float] = []  # cumulative shares, in the order of the groups
        share = 0.0
        for weight, _ in weighed:
            share += weight / total
            self._upto.append(share)

    def pick(self, picker: Policy, call: Call, caller: str, now: float) -> Endpoint:
        """The endpoint that should take the call; nothing is booked yet.

        Raises:
            Refused: NO_ENDPOINT, when no release can take it.
        """
        place = self._place(caller)
        for number in [place, *(n for n in range(len(self._groups)) if n != place)]:
            group = self._groups[number]
            able = [e for e in group if e.open_from <= now and e.takes_calls and e.name not in call.tried]
            if able:
                try:
                    return picker.pick(call, able, now)
                except Refused:
                    continue
        return picker.pick(call, self._all, now)

    def _place(self, caller: str) -> int:
        """Which group a call belongs to."""
        drawn = crc32(caller.encode()) % FINE if self._sticky else self._choose(FINE)
        share = drawn / FINE
        for place, upto in enumerate(self._upto):
            if share < upto:
                return place
        return 0


def split(endpoints: Sequence[Endpoint], choose: Callable[[int], int], sticky: bool = False) -> Split | None:
    """How these endpoints of one pool share its calls; None when they simply share them."""
    weights = {endpoint.facts.weight for endpoint in endpoints}
    return Split(endpoints, choose, sticky) if len(weights) > 1 else None
