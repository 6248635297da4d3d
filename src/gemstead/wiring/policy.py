"""What stands behind the admin API's pages of keys, denials, audit and reviews: one service's ledger and its file.

`pages` makes them all. Verifying and exporting are done by a process of their own (`ledger/examine.py`): they read the
whole log, and this process has calls to count.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from starlette.routing import Route

from gemstead.console.asked import Asked, Witness
from gemstead.console.audit import Audit
from gemstead.console.denials import Denials
from gemstead.console.door import Door
from gemstead.console.keys import Keys
from gemstead.console.own import Own
from gemstead.console.review import Review
from gemstead.ledger.audit import HashKey
from gemstead.ledger.chain import Checkpoint
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.examine import Order
from gemstead.ledger.hashkeys import hash_keys
from gemstead.ledger.keys import KeyStore
from gemstead.ledger.log import AuditLog
from gemstead.ledger.retention import Pruned
from gemstead.ledger.ship.cursors import shipped_everywhere
from gemstead.ledger.signing import Signer
from gemstead.operate.compliance.evidence import Evidence, gather
from gemstead.operate.secrets.check import checked
from gemstead.operate.secrets.keeper import Keeper
from gemstead.spec.model import Spec
from gemstead.wiring import ledger, shipping
from gemstead.wiring.auditing import rules
from gemstead.wiring.files import StateDir

PIECE = 65_536  # bytes
Reload = Callable[[], Awaitable[dict[str, Any]]]


class Policy:
    """One service's. `spec` gives the file in force; `reload` puts a changed one in force."""

    def __init__(
        self,
        folder: StateDir,
        spec: Callable[[], Spec],
        keys: KeyStore,
        log: AuditLog,
        reload: Reload,
        environ: Mapping[str, str],
    ) -> None:
        self.folder, self.spec, self.keys, self.log, self._reload = folder, spec, keys, log, reload
        self._environ = environ
        self._key = folder.ledger / "audit.key"

    def reload(self) -> Awaitable[dict[str, Any]]:
        """Put the file in force as it is now."""
        return self._reload()

    def evidence(self) -> Evidence:
        """What this installation can show."""
        password = ledger.password_file(self.folder).set_at()
        return gather(self.spec(), self.keys, self.log, time.time(), password=password)

    def secrets(self) -> list[dict[str, Any]]:
        """Which secrets of the file can be read, by a keeper that remembers none."""
        spec = self.spec()
        return checked(spec, Keeper(spec.secrets, self._environ))

    def signer(self) -> Signer:
        """The key that signs now."""
        return Signer(self._key)

    def renew_signing_key(self) -> Signer:
        """Another one in its place."""
        return ledger.renew_signing_key(self.folder)

    def hash_keys(self) -> Sequence[HashKey]:
        """The generations of the key behind hashes of prompts, the latest last."""
        return hash_keys(self.folder.hash_key)

    def new_hash_key(self, tenant: str) -> HashKey:
        """A new generation, for all tenants or for one."""
        return ledger.new_hash_key(self.folder, tenant)

    def forget_hash_key(self, key_id: str) -> None:
        """Destroy a generation that is no longer used."""
        ledger.forget_hash_key(self.folder, key_id)

    def prune(self, actor: str, *, dry_run: bool) -> Pruned:
        """Delete what is due by the file's rules, or count it.

        Raises:
            LedgerTrouble: the file has no rules, or it cannot be done.
        """
        said = self.spec().audit
        if not said.retention:
            raise LedgerTrouble("the file says nothing of `audit.retention`, so everything is kept")
        upto = shipped_everywhere(self.folder.audit, (sink.name for sink in said.ship))
        signer = None if dry_run else self.signer()
        return self.log.prune(rules(said.retention), time.time(), signer, actor=actor, upto=upto)

    def receivers(self) -> list[str]:
        """To whom records are sent, as the file names them."""
        return shipping.receivers(self.spec())

    def standing(self) -> list[dict[str, Any]]:
        """How far each has come."""
        return shipping.standing(self.folder, self.spec())

    def refused(self, sink: str) -> list[dict[str, Any]]:
        """What one of them will never take."""
        return shipping.refused(self.folder, sink)

    def replay(self, sink: str, since: float | None) -> dict[str, dict[str, int]]:
        """Have one sent records again."""
        return shipping.replay(self.folder, sink, since)

    async def verify(self, outside: Sequence[Checkpoint]) -> list[dict[str, Any]]:
        """What each chain is worth."""
        run = await Examination.begun(msgspec.structs.replace(self._order(), outside=list(outside)))
        try:
            found: list[dict[str, Any]] = msgspec.json.decode(b"".join([piece async for piece in run]))
        finally:
            run.end()
        return found

    async def export(self, since: float, until: float, tenant: str | None) -> Examination:
        """An export whose first piece is there: until then it can be refused."""
        order = self._order()
        return await Examination.begun(
            msgspec.structs.replace(order, export=True, since=since, until=until, tenant=tenant)
        )

    def _order(self) -> Order:
        place = self.folder.place
        return Order(
            audit=str(self.folder.audit),
            key=str(self._key),
            store=place.url() if place is not None else "",
            node=place.node if place is not None else "",
        )


class Examination:
    """A process that reads the whole log, and the pieces of what it answers. `end` it, however it went."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._first = process, b""

    @classmethod
    async def begun(cls, order: Order) -> Examination:
        """One whose first piece is there.

        Raises:
            LedgerTrouble: it gives no answer, with what to do.
        """
        pipe, argv = asyncio.subprocess.PIPE, (sys.executable, "-m", "gemstead.ledger.examine")
        run = cls(await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe))
        try:
            await run._begin(order)
        except BaseException:
            run.end()
            raise
        return run

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        while piece := await self._piece():
            yield piece

    def end(self) -> None:
        """Nobody listens any more."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _begin(self, order: Order) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):  # what it died of is told below
            self._process.stdin.write(msgspec.json.encode(order))
            await self._process.stdin.drain()
        self._process.stdin.close()
        self._first = await self._piece()

    async def _piece(self) -> bytes:
        assert self._process.stdout is not None and self._process.stderr is not None
        if piece := await self._process.stdout.read(PIECE):
            return piece
        said = (await self._process.stderr.read()).decode("utf-8", "replace").strip()
        if await self._process.wait():
            raise LedgerTrouble(said.splitlines()[-1] if said else "the log could not be read to its end")
        return b""


def pages(policy: Policy, door: Door) -> list[Route]:
    """Every route of keys, denials, audit and reviews. Those of one's own come first: their addresses are narrower."""
    witness = Witness(policy.log)

    def may(asked: Asked, right: str) -> bool:
        return right in door.roles.rights(asked.caller.roles)

    return [
        *Own(door, policy.keys, policy.log).routes(),
        *Keys(door, policy.keys, witness, policy.spec).routes(),
        *Denials(policy.keys, witness, policy.spec).routes(),
        *Audit(policy, may).routes(),
        *Review(door, policy.evidence, policy.secrets, witness).routes(),
    ]
