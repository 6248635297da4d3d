"""Everybody's keys over the admin API: list, make, rotate and revoke, as `gemstead keys` does.

A secret is in the answer that makes it and nowhere else, ever. Whoever makes or rotates keys gives no right that
governs others and that he does not have himself (`Roles.beyond`): else whoever may make keys could be anybody. A key
whose making cannot be written into the audit log is revoked again and not handed out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.routing import Route

from gemstead.console.asked import Asked, Witness, Wrong, answering, asked_for, moment
from gemstead.console.door import Door
from gemstead.console.forms import KeyFilter, KeysOf, NewKey, Rotation
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.granting import checked_roles, limit_of, pool_of
from gemstead.ledger.key import Grant, Key, Minted, living_of
from gemstead.ledger.keyform import PREFIX, key_id_of
from gemstead.ledger.keys import KeyStore
from gemstead.refused import Reason, Refused
from gemstead.spec.model import Spec


class Keys:
    """The routes. `spec` gives the file in force."""

    def __init__(
        self,
        door: Door,
        store: KeyStore,
        witness: Witness,
        spec: Callable[[], Spec],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._door, self._store, self._witness, self._spec, self._clock = door, store, witness, spec, clock

    def routes(self) -> list[Route]:
        return [
            Route("/admin/keys", answering("GET /admin/keys", self.keys)),
            Route("/admin/keys", answering("POST /admin/keys", self.create), methods=["POST"]),
            Route("/admin/keys", answering("DELETE /admin/keys", self.revoke_all), methods=["DELETE"]),
            Route("/admin/keys/{id}", answering("GET /admin/keys/{id}", self.show)),
            Route("/admin/keys/{id}", answering("DELETE /admin/keys/{id}", self.revoke), methods=["DELETE"]),
            Route(
                "/admin/keys/{id}/rotate",
                answering("POST /admin/keys/{id}/rotate", self.rotate),
                methods=["POST"],
            ),
        ]

    def keys(self, asked: Asked) -> Any:
        """Those that fit, in the order in which they were made, a page at a time."""
        form: KeyFilter = asked.form
        now, found = self._clock(), self._store.list()
        if form.after:
            places = [number for number, key in enumerate(found) if key.key_id == form.after]
            if not places:
                raise Wrong(400, "`after` is no key: take `next` from the page before")
            found = found[places[0] + 1 :]
        fits = [
            key
            for key in found
            if form.tenant in (None, key.tenant)
            and form.user in (None, key.user)
            and form.state in (None, key.state(now))
        ]
        page = fits[: form.limit]
        rest = page[-1].key_id if len(fits) > len(page) else ""
        return {"keys": [told(key, now) for key in page], "next": rest}

    def show(self, asked: Asked) -> Any:
        """One key."""
        return told(self._store.get(named(asked)), self._clock())

    def create(self, asked: Asked) -> Any:
        """A new key: its secret is shown this once."""
        form: NewKey = asked.form
        now, spec = self._clock(), self._spec()
        grant = Grant(
            tenant=form.tenant,
            app=form.app,
            user=form.user,
            roles=checked_roles(form.roles, spec),
            priority=form.priority,
            models=None if form.models is None else frozenset(pool_of(name, spec) for name in form.models),
            limit=limit_of(
                form.requests_per_minute,
                form.tokens_per_minute,
                form.concurrent,
                unlimited=form.unlimited,
            ),
            note=form.note,
            expires=None if form.expires is None else moment(form.expires, now, "expires"),
            networks=form.networks,
        )
        with asked_for():
            grant.check(now)
        self._may_give(asked, grant.roles)
        return self._handed(asked, "key.create", self._store.create(grant, now=now))

    def rotate(self, asked: Asked) -> Any:
        """A key in place of another, with the same rights."""
        form: Rotation = asked.form
        old = self._store.get(named(asked))
        self._may_give(asked, old.roles)
        minted = self._store.rotate(old.key_id, now=self._clock(), overlap_s=form.overlap_s)
        return self._handed(asked, "key.rotate", minted, replaces=old.key_id, overlap_s=form.overlap_s)

    def revoke(self, asked: Asked) -> Any:
        """The key as it is now: refused everywhere."""
        before, now = self._store.get(named(asked)), self._clock()
        key = self._store.revoke(before.key_id, now=now)
        if before.revoked_at is None:
            self._witness.saw(asked, "key.revoke", key.key_id, {"roles": key.roles}, tenant=key.tenant)
        return told(key, now)

    def revoke_all(self, asked: Asked) -> Any:
        """The keys of a tenant, a user or an application, which are refused everywhere from now on."""
        form: KeysOf = asked.form
        if not (form.tenant or form.user or form.app):
            raise Wrong(400, "say whose keys: `tenant`, `user`, `app` or several of these")
        now = self._clock()
        found = living_of(
            self._store.list(),
            now,
            tenant=form.tenant or None,
            user=form.user or None,
            app=form.app or None,
        )
        for key in found:
            self._store.revoke(key.key_id, now=now)
        for key in found:
            self._witness.saw(asked, "key.revoke", key.key_id, {"roles": key.roles}, tenant=key.tenant)
        return {"revoked": [key.key_id for key in found]}

    def _may_give(self, asked: Asked, roles: tuple[str, ...]) -> None:
        if beyond := self._door.roles.beyond(asked.caller.roles, roles):
            said = f"your roles do not let you give anybody {', '.join(beyond)}: ask an admin"
            raise Refused(Reason.FORBIDDEN, said)

    def _handed(self, asked: Asked, action: str, minted: Minted, **more: Any) -> Any:
        return handed(self._store, self._witness, asked, action, minted, self._clock(), **more)


def handed(
    store: KeyStore, witness: Witness, asked: Asked, action: str, minted: Minted, now: float, **more: Any
) -> Any:
    """The answer with a new secret, once it is written down who was given what."""
    key = minted.key
    said = {"roles": key.roles, "user": key.user, "expires": key.expires, **more}
    try:
        witness.saw(asked, action, key.key_id, said, tenant=key.tenant)
    except LedgerTrouble as trouble:
        store.revoke(key.key_id, now=now)
        sentence = f"the new key was revoked again, since nobody could tell who has it: {trouble}"
        raise Wrong(503, sentence) from None
    return {"key": minted.secret, **told(key, now)}


def named(asked: Asked) -> str:
    """The id that is meant, by somebody who may have sent it without its prefix. A whole key is sent to nobody."""
    text = asked.path["id"]
    return key_id_of(text) if text.startswith(PREFIX) else PREFIX + text


def told(key: Key, now: float) -> dict[str, Any]:
    """A key as people see it: all but its secret, which is kept nowhere."""
    plain: dict[str, Any] = msgspec.to_builtins(key, order="deterministic")
    return {**plain, "state": key.state(now)}
