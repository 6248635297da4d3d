"""The audit log over the admin API: looked through, verified, exported, held and shortened, as `gemstead audit` does.

It never holds content, so nothing here can show any. Whoever looks at it is remembered in it. Verifying and exporting
read the whole chain and are done by a process of their own, one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gemstead.console.asked import Asked, Witness, Wrong, actor_of, answering, moment
from gemstead.console.forms import Checkpoints, Exported, NewHold, Prompt, Pruning, Replay, Search, TenantKey
from gemstead.console.forms import Usage as UsageForm
from gemstead.ledger.audit import HashKey, hasher_of
from gemstead.ledger.chain import Checkpoint
from gemstead.ledger.log import AuditLog
from gemstead.ledger.retention import Pruned
from gemstead.ledger.search import Question, told
from gemstead.ledger.signing import Signer

DAY_S = 86_400.0
LINES = "application/x-ndjson"


class Run(Protocol):
    """A process that reads the whole log."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces of its answer."""

    def end(self) -> None:
        """Nobody listens any more."""


class Books(Protocol):
    """What stands behind the pages. Every method may raise LedgerTrouble."""

    log: AuditLog

    def signer(self) -> Signer: ...
    def renew_signing_key(self) -> Signer: ...
    def hash_keys(self) -> Sequence[HashKey]: ...
    def new_hash_key(self, tenant: str) -> HashKey: ...
    def forget_hash_key(self, key_id: str) -> None: ...
    def prune(self, actor: str, *, dry_run: bool) -> Pruned: ...
    def reload(self) -> Awaitable[dict[str, Any]]: ...
    def receivers(self) -> list[str]: ...
    def standing(self) -> list[dict[str, Any]]: ...
    def refused(self, sink: str) -> list[dict[str, Any]]: ...
    def replay(self, sink: str, since: float | None) -> dict[str, dict[str, int]]: ...
    async def verify(self, outside: Sequence[Checkpoint]) -> list[dict[str, Any]]: ...
    async def export(self, since: float, until: float, tenant: str | None) -> Run:
        """An export whose first piece is there."""


class Audit:
    """The routes. `may` says whether a caller holds a right."""

    def __init__(
        self,
        books: Books,
        may: Callable[[Asked, str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._books, self._may, self._clock = books, may, clock
        self._witness, self._reading = Witness(books.log), asyncio.Lock()

    def routes(self) -> list[Route]:
        acts: dict[str, Callable[[Asked], Any]] = {
            "GET /admin/usage": self.usage,
            "GET /admin/audit": self.search,
            "GET /admin/audit/calls/{id}": self.call,
            "GET /admin/audit/verify": self.verify,
            "POST /admin/audit/verify": self.verify,
            "GET /admin/audit/export": self.export,
            "GET /admin/audit/key": self.key,
            "POST /admin/audit/key/rotate": self.rotate_key,
            "POST /admin/audit/checkpoint": self.checkpoint,
            "GET /admin/audit/holds": self.holds,
            "POST /admin/audit/holds": self.hold,
            "DELETE /admin/audit/holds/{id}": self.release,
            "POST /admin/audit/prune": self.prune,
            "GET /admin/audit/ship": self.ship,
            "GET /admin/audit/ship/{sink}/refused": self.refused,
            "POST /admin/audit/ship/{sink}/replay": self.replay,
            "GET /admin/audit/hash-keys": self.hash_keys,
            "POST /admin/audit/hash-keys": self.rotate_hash_key,
            "DELETE /admin/audit/hash-keys/{id}": self.forget_hash_key,
            "POST /admin/audit/hash-prompt": self.hash_prompt,
        }
        return [
            Route(route.partition(" ")[2], answering(route, act), methods=[route.partition(" ")[0]])
            for route, act in acts.items()
        ]

    # -- looked at --------------------------------------------------------------------------------------

    def usage(self, asked: Asked) -> Any:
        """What was used, summed, and what is missing of that time."""
        form: UsageForm = asked.form
        since, until = self._span(form.since, form.until)
        by = [name.strip() for name in form.by.split(",")] if form.by else []
        log = self._books.log
        return {
            "since": since,
            "until": until,
            "rows": log.usage(since, until, by),
            "missing": log.gaps(since, until),
        }

    def search(self, asked: Asked) -> Any:
        """A page of the records that were asked for, the latest first."""
        form: Search = asked.form
        since, until = self._span(form.since, form.until)
        plain = msgspec.structs.asdict(form)
        filters = {name: plain[name] for name in Question.__struct_fields__ if name in plain}
        question = Question(**{**filters, "since": since, "until": until, "most": form.limit})
        found = self._books.log.find(question)
        if not form.after:
            wanted = {name: value for name, value in filters.items() if value not in ("", None)}
            self._witness.tried(asked, "audit.read", "", {**wanted, "since": since, "until": until})
        return {
            "since": since,
            "until": until,
            "records": [told(one) for one in found.records],
            "next": found.next,
        }

    def call(self, asked: Asked) -> Any:
        """One call."""
        record = self._books.log.show(asked.path["id"])
        if record is None:
            raise Wrong(404, "there is no record of such a call; it is written when the call ends")
        self._witness.tried(asked, "audit.read", record.call_id, {})
        return msgspec.structs.asdict(record)

    async def verify(self, asked: Asked) -> Any:
        """What each chain is worth."""
        outside = asked.form.checkpoints if isinstance(asked.form, Checkpoints) else []
        async with self._alone():
            chains = await self._books.verify(outside)
        intact = all(one.get("fault") is None for one in chains)
        said = {"intact": intact, "outside": len(outside)}
        outcome = "done" if intact else "failed"
        await asyncio.to_thread(self._witness.tried, asked, "audit.verify", "", said, outcome)
        return {"intact": intact, "chains": chains}

    async def export(self, asked: Asked) -> Any:
        """A part of the log that can be verified elsewhere."""
        form: Exported = asked.form
        since, until = self._span(form.since, form.until)
        said = {"from": since, "to": until, "tenant": form.tenant}
        await self._alone().acquire()
        try:
            run = await self._books.export(since, until, form.tenant)
        except BaseException:
            self._reading.release()
            raise
        answer = _Export(run, self._reading.release)
        try:
            await asyncio.to_thread(self._witness.saw, asked, "audit.export", form.tenant or "", said)
        except BaseException:
            answer.end()
            raise
        return answer

    def key(self, asked: Asked) -> Any:
        """The public key that verifies the log."""
        signer = self._books.signer()
        return {"key_id": signer.key_id, "public_key": signer.public_pem}

    # -- signed -----------------------------------------------------------------------------------------

    def checkpoint(self, asked: Asked) -> Any:
        """Where the log ends now, signed."""
        log = self._books.log
        log.checkpoint(self._books.signer(), self._clock())
        return log.last_checkpoint()

    def rotate_key(self, asked: Asked) -> Any:
        """Another key signs from now on."""
        log, old = self._books.log, self._books.signer()
        log.checkpoint(old, self._clock())  # all that there is, by the key that was in force
        new = self._books.renew_signing_key()
        self._witness.saw(asked, "audit.rotate-signing-key", new.key_id, {"before": old.key_id})
        log.checkpoint(new, self._clock())
        return {"key_id": new.key_id, "public_key": new.public_pem, "before": old.key_id}

    # -- kept and deleted -------------------------------------------------------------------------------

    def holds(self, asked: Asked) -> Any:
        """Every legal hold, oldest first."""
        return {"holds": self._books.log.holds()}

    def hold(self, asked: Asked) -> Any:
        """A new legal hold."""
        form: NewHold = asked.form
        since = None if form.since is None else moment(form.since, 0.0)
        until = None if form.until is None else moment(form.until, 0.0, "until")
        return self._books.log.hold(
            form.tenant,
            since,
            until,
            form.reason,
            self._clock(),
            form.key,
            form.user,
            actor_of(asked.caller),
        )

    def release(self, asked: Asked) -> Any:
        """A legal hold that has ended."""
        holds, hold_id = self._books.log.holds(), asked.path["id"]
        if not any(one.hold_id == hold_id for one in holds):
            raise Wrong(404, "there is no such legal hold")
        return self._books.log.release(hold_id, self._clock(), actor_of(asked.caller))

    def prune(self, asked: Asked) -> Any:
        """What was deleted by rule, or would be."""
        form: Pruning = asked.form
        return self._books.prune(actor_of(asked.caller), dry_run=form.dry_run)

    # -- sent away --------------------------------------------------------------------------------------

    def ship(self, asked: Asked) -> Any:
        """How far each receiver has come."""
        return {"named": self._books.receivers(), "receivers": self._books.standing()}

    def refused(self, asked: Asked) -> Any:
        """What a receiver will never take."""
        return {"refused_records": self._books.refused(self._receiver(asked))}

    def replay(self, asked: Asked) -> Any:
        """From where on a receiver is sent records again."""
        form: Replay = asked.form
        sink, said = self._receiver(asked), form.since
        since = None if said == "now" else 0.0 if said == "start" else moment(said, 0.0)
        done = self._books.replay(sink, since)
        detail = done[""] if list(done) == [""] else done
        self._witness.saw(asked, "audit.replay", sink, detail)
        return {"receiver": sink, "chains": done}

    def _receiver(self, asked: Asked) -> str:
        sink, known = asked.path["sink"], self._books.receivers()
        if sink not in known:
            raise Wrong(404, f"the file names no receiver {sink!r}; it names {', '.join(known) or 'none'}")
        return sink

    # -- hashes of prompts ------------------------------------------------------------------------------

    def hash_keys(self, asked: Asked) -> Any:
        """The generations of the key behind hashes of prompts; the keys themselves are told to nobody."""
        keys = self._books.hash_keys()
        last = {key.tenant: key.id for key in keys}
        return {
            "hash_keys": [
                {"id": key.id, "tenant": key.tenant, "in_use": last[key.tenant] == key.id} for key in keys
            ]
        }

    async def rotate_hash_key(self, asked: Asked) -> Any:
        """A new generation, for all tenants or for one. Workers take it with a reload, for whoever may have one."""
        form: TenantKey = asked.form
        new = await asyncio.to_thread(self._books.new_hash_key, form.tenant)
        await asyncio.to_thread(
            self._witness.saw, asked, "audit.rotate-hash-key", new.id, {"tenant": form.tenant}
        )
        done: dict[str, Any] = {"refused": ["your roles do not let you have the service reload"]}
        if self._may(asked, "config.apply"):
            done = await self._books.reload()
        refused = done.get("refused", [])
        return {"id": new.id, "tenant": new.tenant, "in_force": not refused, "reload_refused": refused}

    def forget_hash_key(self, asked: Asked) -> Any:
        """A generation that is destroyed."""
        key_id = asked.path["id"]
        if not any(key.id == key_id for key in self._books.hash_keys()):
            raise Wrong(404, "there is no such hash key")
        self._books.forget_hash_key(key_id)
        self._witness.saw(asked, "audit.forget-hash-key", key_id, {})
        return {"destroyed": key_id}

    def hash_prompt(self, asked: Asked) -> Any:
        """What a prompt hashes to, under each key that such a tenant has had."""
        form: Prompt = asked.form
        prompt = form.prompt.encode()
        return {
            "hashes": [
                hasher_of(key.id, bytes.fromhex(key.secret), form.tenant).hash(prompt)
                for key in self._books.hash_keys()
                if key.tenant in ("", form.tenant)
            ]
        }

    # -- behind them ------------------------------------------------------------------------------------

    def _span(self, since: str | float | None, until: str | float | None) -> tuple[float, float]:
        now = self._clock()
        return moment(since, now - DAY_S), moment(until, now + 1.0, "until")

    def _alone(self) -> asyncio.Lock:
        """Who reads the whole log; nobody waits in line for that."""
        if self._reading.locked():
            raise Wrong(409, "the log is being verified or exported for somebody else: try again soon")
        return self._reading


class _Export(StreamingResponse):
    """An export on its way. However it ends, so do its process and its turn."""

    def __init__(self, run: Run, release: Callable[[], None]) -> None:
        named = {"content-disposition": 'attachment; filename="audit.jsonl"'}
        super().__init__(run, media_type=LINES, headers=named)
        self._run, self._release = run, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()

    def end(self) -> None:
        self._run.end()
        self._release()
