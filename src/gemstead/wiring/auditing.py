"""The audit log as the head sees it: acts written down, checkpoints signed, old records deleted, records sent away.

All of it is beside the request path. Acts, checkpoints and deletions are done by one thread, one after the other, so
acts keep their order and the head waits for none. Sending away is a process of its own (`ledger/ship`), run only
where the file names a receiver.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from gemstead.console.asked import actor_of
from gemstead.gateway.issuers import Came
from gemstead.ledger import acts, retention
from gemstead.ledger.audit import SEEN, Act
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.ship.cursors import shipped_everywhere
from gemstead.ledger.ship.sink import ShipSettings, SinkSettings
from gemstead.ledger.signing import Signer
from gemstead.spec.audit import AuditSpec, RetentionSpec
from gemstead.spec.model import Spec
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.workers import Worker
from gemstead.traffic.caller import Caller
from gemstead.wiring.files import StateDir
from gemstead.wiring.ledger import audit_log
from gemstead.wiring.secrets import Resolve

PRUNE_S = 3600.0
DAY_S = 86_400.0
SEEN_S = 0.5  # those who came are written down together
SEEN_MOST = 100_000  # of whom it is remembered what was written
QUERY_MOST = 512  # characters that are kept of what was asked for, such as how many replicas
STRANGER_S = 1.0  # between two records of requests by nobody who is known
LAST_S = 5.0  # for what is still to be written when the service ends


class Auditor:
    """One service's audit log. Use from one event loop; What it is told to write is written in that order."""

    def __init__(
        self, folder: StateDir, log_of: Callable[[str], RotatedLog], trouble: Callable[[str], None]
    ) -> None:
        self.folder, self.path, self._key = folder, folder.audit, folder.ledger / "audit.key"
        self._log_of, self._trouble = log_of, trouble
        self._spec = AuditSpec()
        self._ship = ShipSettings(audit=str(self.path))
        self._print = ""  # of the file in force
        self._holder = f"{folder.place.node}/{secrets.token_hex(8)}" if folder.place is not None else ""
        self._thread = ThreadPoolExecutor(1, "audit")
        self._worker: Worker | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failing = False
        self._strangers, self._stranger_at = 0, 0.0
        self._noted: dict[str, tuple[Came, int]] = {}  # what was written of somebody, and on which day
        self._coming: deque[Act] = deque()  # to be written down; for two threads

    def sinks(self, spec: Spec, resolve: Resolve) -> tuple[SinkSettings, ...]:
        """The receivers of a file, their secrets read; raises what `resolve` raises."""
        made = []
        for number, sink in enumerate(spec.audit.ship):
            said = sink.model_dump() | {"token": resolve(sink.token, f"audit.ship[{number}].token")}
            paths = {
                name: str(Path(said[name]).expanduser())
                for name in ("ca", "certificate", "key")
                if said[name]
            }
            made.append(SinkSettings(**{k: v for k, v in said.items() if v is not None} | paths))
        return tuple(made)

    def start(self, spec: Spec, sinks: tuple[SinkSettings, ...]) -> None:
        """Begin, with the file in force."""
        self._take(spec, sinks)
        self.act("service.start", "gateway", after=self._print)
        self._tasks = [asyncio.create_task(self._tick(self._sign, lambda: self._spec.checkpoint_s)),
                       asyncio.create_task(self._tick(self._prune, lambda: PRUNE_S))]  # fmt: skip

    def follow(self, spec: Spec, sinks: tuple[SinkSettings, ...]) -> None:
        """Another file is in force."""
        before = self._print
        self._take(spec, sinks)
        self.act("config.reload", "gemstead.yaml", before=before, after=self._print)

    def act(
        self, action: str, target: str = "", *, actor: str = "gemstead", detail: Any = None, **fields: str
    ) -> None:
        """Write an act down, soon and in order; what hinders it is told."""
        self._later(self._write, acts.new_act(action, target, actor=actor, detail=detail, **fields))

    def asked(
        self, caller: Caller | None, method: str, path: str, query: str, client: str, status: int
    ) -> None:
        """Somebody asked the admin port to change something."""
        if caller is None:  # anyone can knock: that is remembered, and must not fill the disk
            self._strangers += 1
            if time.monotonic() - self._stranger_at < STRANGER_S:
                return
            self._stranger_at = time.monotonic()
        done = "done" if status < 400 else "refused" if status < 500 else "failed"
        self.act(
            f"admin.{method.lower()}",
            path,
            actor=actor_of(caller),
            role=",".join(caller.roles) if caller else "",
            tenant=caller.tenant if caller else "",
            client=client,
            outcome=done,
            detail={"status": status, "query": query[:QUERY_MOST]}
            if caller
            else {"status": status, "strangers": self._strangers},
        )

    def seen(self, came: Came) -> None:
        """Somebody came by a token or certificate. It is written down once a day, and when what they may do changes."""
        noted = (came, int(time.time() // DAY_S))
        if self._noted.get(came.who) == noted:  # told by another worker
            return
        if len(self._noted) >= SEEN_MOST:
            del self._noted[next(iter(self._noted))]
        self._noted[came.who] = noted
        detail = {"kind": came.kind, "user": came.user, "roles": came.roles, "groups": came.groups}
        if not self._coming:
            asyncio.get_running_loop().call_later(SEEN_S, self._later, self._note)
        self._coming.append(acts.new_act(SEEN, came.who, actor="gemstead", tenant=came.tenant, detail=detail))

    def _note(self) -> None:
        """Write down who came; what cannot be written is tried again when the log is signed."""
        many = [self._coming.popleft() for _ in range(len(self._coming))]
        try:
            if many:
                acts.remember_all(self.path, many)
        except LedgerTrouble:
            self._coming.extendleft(reversed(many))
            raise

    async def end(self) -> None:
        """Write what is still to be written, sign it, and stop."""
        self._later(self._note)
        self.act("service.stop", "gateway")
        self._later(self._sign)
        if self._worker is not None:
            self._worker.stop()
            self._worker.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closing = asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        await asyncio.wait({asyncio.ensure_future(closing)}, timeout=LAST_S)

    def describe(self) -> dict[str, object] | None:
        """What `gemstead ps` shows of the shipping process; None where nothing is sent away."""
        worker = self._worker
        return None if worker is None else {"pid": worker.pid, "restarts": max(worker.restarts, 0)}

    def _take(self, spec: Spec, sinks: tuple[SinkSettings, ...]) -> None:
        self._spec = spec.audit
        self._print = acts.fingerprint(spec.model_dump_json())
        self._ship = ShipSettings(audit=str(self.path), sinks=sinks, store=self._store(), holder=self._holder)
        if self._worker is not None:
            self._worker.tell(msgspec.json.encode(self._ship))
        elif sinks:
            argv = [sys.executable, "-m", "gemstead.ledger.ship"]
            self._worker = Worker(
                "audit-ship",
                argv,
                log=self._log_of("audit-ship"),
                joined=self._joined,
                said=self._said,
                left=self._left,
            )
            self._tasks.append(asyncio.create_task(self._worker.run()))

    def _store(self) -> str:
        """The address of the store, read anew; the last one while that cannot be."""
        if self.folder.place is None:
            return ""
        try:
            return self.folder.place.url()
        except LedgerTrouble as trouble:
            self._trouble(str(trouble))
            return self._ship.store

    def _joined(self, worker: Worker) -> None:
        worker.tell(msgspec.json.encode(self._ship))

    def _said(self, worker: Worker, line: bytes) -> None:
        self._trouble(msgspec.json.decode(line, type=str))

    def _left(self, worker: Worker, how: str) -> None:
        if not worker.stopped:
            self._trouble(f"audit-ship {how}; another takes its place and goes on where it was")

    async def _tick(self, work: Callable[[], None], pause_s: Callable[[], float]) -> None:
        while True:
            self._later(work)
            await asyncio.sleep(pause_s())

    def _later(self, work: Callable[..., None], *args: Any) -> None:
        try:
            self._thread.submit(self._try, work, *args)
        except RuntimeError:  # the service has ended
            pass

    def _try(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except LedgerTrouble as trouble:
            if not self._failing:
                self._trouble(f"the audit log cannot be kept as it should: {trouble}")
            self._failing = True
        except Exception as error:  # a fault of ours must not end the thread's work
            self._trouble(f"the audit log met a fault: {error!r}")
        else:
            self._failing = False

    def _write(self, one: Act) -> None:
        acts.remember(self.path, one)

    def _sign(self) -> None:
        self._note()
        acts.checkpoint(self.path, Signer(self._key), time.time())

    def _prune(self) -> None:
        if self._spec.retention:
            upto = shipped_everywhere(self.path, (sink.name for sink in self._ship.sinks))
            log = audit_log(self.folder, beside=True)
            log.prune(rules(self._spec.retention), time.time(), Signer(self._key), upto=upto)


def rules(said: tuple[RetentionSpec, ...]) -> list[retention.Rule]:
    """The file's rules, as `ledger/retention.py` takes them."""
    return [retention.Rule(**rule.model_dump()) for rule in said]
