"""What a worker's calls hold of each limit, for an operator who looks. Worked out when asked, never per call.

Limits that are counted in a store (the head's, or a shared one) are the store's to show; of those a worker knows what
its running calls hold and what it has taken ahead. A request is used as soon as it is made. Where
a worker counts by itself (one worker, limits of keys alone), it knows all.
"""

from __future__ import annotations

from time import monotonic

from gemstead.gateway.app import Gateway
from gemstead.gateway.control import Held
from gemstead.traffic import hold
from gemstead.traffic.limits import WINDOW_S, Account
from gemstead.traffic.window import Cap


def held(gate: Gateway) -> list[Held]:
    """What this worker has of every limit that is in use here."""
    if gate.allowances is not None:
        return [
            Held(one.cap, 0 if one.cap.unit == "requests" else one.held, _at_hand(one))
            for one in gate.allowances.accounts.accounts.values()
            if one.held or one.pool or one.slots or one.backs
        ]
    now = max(monotonic(), gate.limits.latest)
    return [found for key_id, account in gate.limits.accounts() for found in _of_key(key_id, account, now)]


def _at_hand(account: hold.Account) -> int:
    """What was taken from the store and is neither used nor held: ahead of time, or on its way back."""
    if account.cap.kind == "slots":
        return max(account.slots - account.held, 0)
    return account.pool + sum(account.backs.values())


def _of_key(key_id: str, account: Account, now: float) -> list[Held]:
    """A key's limits. What is owed is worked off with time, so it is what is used of the last minute."""
    limit, found = account.limit, []
    if limit.requests_per_minute is not None:
        used = _owed(account.requests_until - now, limit.requests_per_minute)
        found.append(
            Held(_cap(key_id, "requests_per_minute", "requests", limit.requests_per_minute), 0, 0, used)
        )
    if limit.tokens_per_minute is not None:
        used = _owed(account.tokens_until - now, limit.tokens_per_minute)
        running = min(sum(one.tokens for one in account.open), used)
        cap = _cap(key_id, "tokens_per_minute", "tokens", limit.tokens_per_minute)
        found.append(Held(cap, running, 0, used - running))
    if limit.concurrent is not None:
        cap = _cap(key_id, "concurrent", "calls", limit.concurrent, "slots")
        found.append(Held(cap, account.in_flight, 0, 0))
    return found


def _owed(seconds: float, per_minute: int) -> int:
    return -int(-max(seconds, 0.0) * per_minute / WINDOW_S // 1)


def _cap(key_id: str, name: str, unit: str, limit: int, kind: str = "rate") -> Cap:
    who = f"key={key_id}"
    return Cap(id=f"keys|{who}|{name}", kind=kind, unit=unit, limit=limit, name=name, rule="keys", who=who)
