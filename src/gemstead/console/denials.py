"""Denials over the admin API: tokens, people and certificates that are refused although they are signed and valid."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from gemstead.console.asked import Asked, Witness, Wrong, answering, asked_for
from gemstead.console.forms import NewDenial, OneDenial
from gemstead.ledger.denials import ANY_ISSUER, Denial
from gemstead.ledger.key import is_made_by
from gemstead.ledger.keys import KeyStore
from gemstead.spec.model import Spec


class Denials:
    """The routes. `spec` gives the file in force."""

    def __init__(
        self,
        store: KeyStore,
        witness: Witness,
        spec: Callable[[], Spec],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._witness, self._spec, self._clock = store, witness, spec, clock

    def routes(self) -> list[Route]:
        return [
            Route("/admin/denials", answering("GET /admin/denials", self.denials)),
            Route("/admin/denials", answering("POST /admin/denials", self.deny), methods=["POST"]),
            Route("/admin/denials", answering("DELETE /admin/denials", self.lift), methods=["DELETE"]),
        ]

    def denials(self, asked: Asked) -> Any:
        """All of them, oldest first."""
        return {"denials": self._store.denied()}

    def deny(self, asked: Asked) -> Any:
        """What is refused from now on, and the keys that such a person has made: revoked, or still good."""
        form: NewDenial = asked.form
        now, subject = self._clock(), form.kind == "subject"
        if (form.for_s is not None and subject) or (not subject and (form.forever or form.keys)):
            raise Wrong(400, "`for_s` is of a token; `forever` and `keys` are of a subject")
        entry = Denial(
            issuer=form.issuer,
            kind=form.kind,
            value=form.value,
            at=now,
            forever=form.forever,
            expires=None if form.for_s is None else now + form.for_s,
            note=form.note,
        )
        with asked_for():
            entry.check()
        self._store.deny(entry)
        living = [
            key.key_id
            for key in (self._store.list() if subject else ())
            if is_made_by(key.note, form.issuer, form.value) and key.state(now) in ("active", "retiring")
        ]
        for key_id in living if form.keys else ():
            self._store.revoke(key_id, now=now)
        told = {"kind": form.kind, "issuer": form.issuer, "note": form.note, "forever": form.forever}
        self._witness.saw(asked, "token.deny", form.value, told)
        for key_id in living if form.keys else ():
            self._witness.saw(asked, "key.revoke", key_id, {"why": f"{form.value} was denied"})
        identity = self._spec().identity
        known = {one.name for one in identity.issuers} | {one.name for one in identity.certificates}
        return {
            "denial": entry,
            "known": form.issuer == ANY_ISSUER or form.issuer in known,  # a mistyped issuer refuses nobody
            "revoked": living if form.keys else [],
            "living": [] if form.keys else living,
        }

    def lift(self, asked: Asked) -> Any:
        """What is refused no longer."""
        form: OneDenial = asked.form
        if not self._store.lift(form.issuer, form.kind, form.value):
            raise Wrong(404, f"there is no denial of {form.kind} {form.value} of {form.issuer}")
        self._witness.saw(asked, "token.lift", form.value, {"kind": form.kind, "issuer": form.issuer})
        return {"lifted": {"kind": form.kind, "value": form.value, "issuer": form.issuer}}
