"""What people do with their own: keys for their programs, and what they have used.

Whoever signs in at an issuer can make keys that may do what a program may (`service`) and no more than he himself, see
them, rotate and revoke them. A key ends after 90 days unless asked otherwise, and after a year at most. Its note says
who made it, so that `gemstead deny subject --keys` finds it when that person leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.routing import Route

from gemstead.console.asked import Asked, Witness, answering
from gemstead.console.door import Door
from gemstead.console.forms import OwnKey
from gemstead.console.keys import handed, told
from gemstead.ledger.key import Key, Minted, made_by
from gemstead.ledger.keys import Grant, KeyStore
from gemstead.ledger.log import AuditLog
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller

DAY_S = 86_400.0
LIVING_MOST = 20  # keys of one person


class Own:
    """The routes."""

    def __init__(
        self, door: Door, store: KeyStore, audit: AuditLog, clock: Callable[[], float] = time.time
    ) -> None:
        self._door, self._store, self._audit, self._clock = door, store, audit, clock
        self._witness = Witness(audit)

    def routes(self) -> list[Route]:
        acts: dict[str, Callable[[Asked], Any]] = {
            "GET /admin/keys/own": self.keys,
            "POST /admin/keys/own": self.create,
            "POST /admin/keys/own/{id}/rotate": self.rotate,
            "DELETE /admin/keys/own/{id}": self.revoke,
            "GET /admin/usage/own": self.used,
        }
        return [
            Route(route.partition(" ")[2], answering(route, act), methods=[route.partition(" ")[0]])
            for route, act in acts.items()
        ]

    def keys(self, asked: Asked) -> Any:
        """The caller's keys."""
        return [told(key, self._clock()) for key in self._store.list() if mine(key, asked.caller)]

    def create(self, asked: Asked) -> Any:
        """A new key: its secret is shown this once."""
        form: OwnKey = asked.form
        now, caller = self._clock(), asked.caller
        if "inference" not in self._door.roles.rights(caller.roles):
            raise Refused(Reason.FORBIDDEN, "your roles let you call no model, so a key would be of no use")
        living = [key for key in self._store.list() if mine(key, caller) and key.state(now) == "active"]
        if len(living) >= LIVING_MOST:
            raise Refused(Reason.FORBIDDEN, f"you have {len(living)} keys: revoke one first")
        grant = Grant(
            tenant=caller.tenant,
            app=form.app,
            user=caller.user,
            roles=("service",),
            priority=min(caller.priority, 0),
            models=caller.models,
            limit=caller.limit,
            note=made_by(caller.key_id),
            expires=now + form.days * DAY_S,
        )
        return self._handed(asked, "key.create", self._store.create(grant, now=now))

    def rotate(self, asked: Asked) -> Any:
        """A key in place of another, which works for an hour more."""
        key = self._mine(asked)
        minted = self._store.rotate(key.key_id, now=self._clock(), overlap_s=3600.0)
        return self._handed(asked, "key.rotate", minted, replaces=key.key_id)

    def revoke(self, asked: Asked) -> Any:
        """The key as it is now: refused everywhere."""
        before, now = self._mine(asked), self._clock()
        key = self._store.revoke(before.key_id, now=now)
        if before.revoked_at is None:
            self._witness.saw(asked, "key.revoke", key.key_id, {"roles": key.roles}, tenant=key.tenant)
        return told(key, now)

    def used(self, asked: Asked) -> Any:
        """What the caller has used in the last 30 days, by model."""
        now, caller = self._clock(), asked.caller
        rows = self._audit.usage(now - 30 * DAY_S, now, by=("tenant", "user", "model"))
        plain = [msgspec.to_builtins(row) for row in rows]
        own = {"tenant": caller.tenant, "user": caller.user}
        return [row for row in plain if caller.user and own.items() <= row["by"].items()]

    # -- behind them ------------------------------------------------------------------------------------

    def _mine(self, asked: Asked) -> Key:
        wanted = asked.path["id"]
        for key in self._store.list():
            if key.key_id == wanted and mine(key, asked.caller):
                return key
        raise Refused(Reason.FORBIDDEN, "you have no such key")

    def _handed(self, asked: Asked, action: str, minted: Minted, **more: Any) -> Any:
        return handed(self._store, self._witness, asked, action, minted, self._clock(), **more)


def mine(key: Key, caller: Caller) -> bool:
    """Whether the key was made by this very person, whatever name it carries."""
    return bool(caller.key_id) and key.tenant == caller.tenant and key.note == made_by(caller.key_id)
