"""What people do with their own: keys for their programs, and what they have used.

Whoever signs in at an issuer can make keys that may do what a program may (`service`) and no more than he himself, see
them, rotate and revoke them. A key ends after 90 days unless asked otherwise, and after a year at most. Its note says
who made it, so that `gemstead deny subject --keys` finds it when that person leaves.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gemstead.console.door import Door, no
from gemstead.ledger import acts
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.key import Key, Minted, made_by
from gemstead.ledger.keys import Grant, KeyStore
from gemstead.ledger.log import AuditLog
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller

DAY_S = 86_400.0
DAYS, DAYS_MOST = 90, 365
BODY_MOST = 4096  # bytes
LIVING_MOST = 20  # keys of one person


class Own:
    """The routes."""

    def __init__(
        self, door: Door, store: KeyStore, audit: AuditLog, clock: Callable[[], float] = time.time
    ) -> None:
        self._door, self._store, self._audit, self._clock = door, store, audit, clock

    def routes(self) -> list[Route]:
        return [
            Route("/admin/keys/own", self._answer(self.keys)),
            Route("/admin/keys/own", self._answer(self.create), methods=["POST"]),
            Route("/admin/keys/own/{id}/rotate", self._answer(self.rotate), methods=["POST"]),
            Route("/admin/keys/own/{id}", self._answer(self.revoke), methods=["DELETE"]),
            Route("/admin/usage/own", self._answer(self.used)),
        ]

    def keys(self, caller: Caller, asked: dict[str, Any]) -> Any:
        """The caller's keys."""
        return [self._told(key) for key in self._store.list() if mine(key, caller)]

    def create(self, caller: Caller, asked: dict[str, Any]) -> Any:
        """A new key: its secret is shown this once."""
        now, days = self._clock(), asked.get("days", DAYS)
        if "inference" not in self._door.roles.rights(caller.roles):
            raise Refused(Reason.FORBIDDEN, "your roles let you call no model, so a key would be of no use")
        if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= DAYS_MOST:
            raise Refused(Reason.BAD_REQUEST, f"`days` is a number from 1 to {DAYS_MOST}")
        living = [key for key in self._store.list() if mine(key, caller) and key.state(now) == "active"]
        if len(living) >= LIVING_MOST:
            raise Refused(Reason.FORBIDDEN, f"you have {len(living)} keys: revoke one first")
        grant = Grant(
            tenant=caller.tenant,
            app=str(asked.get("app", "")),
            user=caller.user,
            roles=("service",),
            priority=min(caller.priority, 0),
            models=caller.models,
            limit=caller.limit,
            note=made_by(caller.key_id),
            expires=now + days * DAY_S,
        )
        return self._minted(caller, "key.create", self._store.create(grant, now=now))

    def rotate(self, caller: Caller, asked: dict[str, Any]) -> Any:
        """A key in place of another, which works for an hour more."""
        key = self._mine(caller, asked)
        minted = self._store.rotate(key.key_id, now=self._clock(), overlap_s=3600.0)
        return self._minted(caller, "key.rotate", minted)

    def revoke(self, caller: Caller, asked: dict[str, Any]) -> Any:
        """The key as it is now: refused everywhere."""
        key = self._store.revoke(self._mine(caller, asked).key_id, now=self._clock())
        self._remember(caller, "key.revoke", key.key_id)
        return self._told(key)

    def used(self, caller: Caller, asked: dict[str, Any]) -> Any:
        """What the caller has used in the last 30 days, by model."""
        now = self._clock()
        rows = self._audit.usage(now - 30 * DAY_S, now, by=("tenant", "user", "model"))
        plain = [msgspec.to_builtins(row) for row in rows]
        own = {"tenant": caller.tenant, "user": caller.user}
        return [row for row in plain if caller.user and own.items() <= row["by"].items()]

    # -- behind them ------------------------------------------------------------------------------------

    def _mine(self, caller: Caller, asked: dict[str, Any]) -> Key:
        key = next(
            (one for one in self._store.list() if one.key_id == asked["id"] and mine(one, caller)), None
        )
        if key is None:
            raise Refused(Reason.FORBIDDEN, "you have no such key")
        return key

    def _minted(self, caller: Caller, action: str, minted: Minted) -> Any:
        self._remember(caller, action, minted.key.key_id)
        return {"key": minted.secret, **self._told(minted.key)}

    def _told(self, key: Key) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(key, order="deterministic")
        return {**plain, "state": key.state(self._clock())}

    def _remember(self, caller: Caller, action: str, target: str) -> None:
        self._audit.remember(acts.new_act(action, target, actor=caller.key_id))

    def _answer(self, act: Callable[[Caller, dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                asked = {**await _body(request), **request.path_params}
                return JSONResponse(await asyncio.to_thread(act, request.state.caller, asked))
            except Refused as refusal:
                return no(refusal)
            except LedgerTrouble as trouble:
                return JSONResponse({"error": str(trouble)}, 409)

        return endpoint


def mine(key: Key, caller: Caller) -> bool:
    """Whether the key was made by this very person, whatever name it carries."""
    return bool(caller.key_id) and key.tenant == caller.tenant and key.note == made_by(caller.key_id)


async def _body(request: Request) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_MOST:
            raise Refused(Reason.BAD_REQUEST, "the body is too large")
    try:
        found = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(Reason.BAD_REQUEST, "the body is no JSON object")
    return found
