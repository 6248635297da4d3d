"""The ledger that a service's file means: files of its own, or a store that several gateways share.

`key_store` and `audit_log` are what the command line and the admin port ask. `StoreProcess` is the store as the head
sees it: made ready before anything else, kept in step by a process of its own (`ledger/postgres`), and told of in
`gemstead ps`. A store that is away never keeps a gateway from serving that has been in step with it once.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gemstead.ledger import hashkeys, retention
from gemstead.ledger.acts import checkpoint
from gemstead.ledger.audit import HashKey
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.keys import KeyStore, open_keys
from gemstead.ledger.log import AuditLog, SqliteLog
from gemstead.ledger.postgres.place import Place
from gemstead.ledger.postgres.settings import Finish, Renewed, StoreSettings, StoreState, ToHead, Told
from gemstead.ledger.secrets import secret_at
from gemstead.ledger.signing import Signer, folder_beside, renew
from gemstead.supervise.logs import RotatedLog
from gemstead.supervise.workers import Worker
from gemstead.wiring.files import StateDir, is_held
from gemstead.wiring.password import PasswordFile

SETTLED_S = 1.0
LAST_S = 5.0  # for what the store does not have yet when the service ends
DECODER = msgspec.json.Decoder(ToHead)


def key_store(folder: StateDir, *, mint: bool = True) -> KeyStore:
    """The keys of a service. `mint`: new ones will be made, which needs (and may make) the pepper."""
    if folder.place is not None:
        from gemstead.ledger.postgres.keys import PostgresKeys

        return PostgresKeys(folder.place, lambda number: _settled(folder, number))
    return open_keys(folder.keys, secret_at(folder.pepper) if mint else b"")


def _settled(folder: StateDir, number: int) -> None:
    """Wait until the gateway of this machine, if one runs, has come to a change: whoever made it may use it at once."""
    from gemstead.ledger.postgres.pull import read_seen

    until = time.monotonic() + SETTLED_S
    while is_held(folder) and read_seen(folder.ledger).changes < number and time.monotonic() < until:
        time.sleep(0.01)


def audit_log(folder: StateDir, *, beside: bool = False) -> AuditLog:
    """The audit log of a service. With a store, this machine has the keys that sign and verify afterwards.

    Args:
        beside: a process keeps this machine's chain in step with the store, so nothing need be brought there by us.

    Raises:
        LedgerTrouble: they cannot be had.
    """
    if folder.place is None:
        return SqliteLog(folder.audit)
    from gemstead.ledger.postgres.log import PostgresLog

    if not beside:
        fetch_secrets(folder)
    return PostgresLog(folder.audit, folder.place, bring=not beside)


def fetch_secrets(folder: StateDir) -> None:
    """With a store: have its secrets on this machine, the keys that sign and verify among them.

    Raises:
        LedgerTrouble: they cannot be had, and are not here yet.
    """
    if folder.place is None:
        return
    from gemstead.ledger.postgres.link import StoreAway, linked
    from gemstead.ledger.postgres.vault import Vault, hand_out

    try:
        with linked(folder.place.url()) as link:
            hand_out(Vault(link, folder.place.secret()), folder.ledger)
    except StoreAway:
        if not (folder.ledger / "audit.key").exists():
            raise


def renew_signing_key(folder: StateDir) -> Signer:
    """Another key, which signs checkpoints from now on.

    Raises:
        LedgerTrouble: it cannot be made.
    """
    key = folder.ledger / "audit.key"
    if folder.place is None:
        return renew(key)
    from gemstead.ledger.postgres.link import linked
    from gemstead.ledger.postgres.vault import Vault, hand_out

    with linked(folder.place.url()) as link:
        vault = Vault(link, folder.place.secret())
        vault.renew_signing()
        hand_out(vault, folder.ledger)
    return Signer(key)


def password_file(folder: StateDir) -> PasswordFile:
    """The break-glass password of a service; with a store, the one of all gateways."""
    place = folder.place
    if place is None:
        return PasswordFile(folder.password)

    def share(kept: bytes) -> None:
        from gemstead.ledger.postgres.link import linked
        from gemstead.ledger.postgres.vault import Vault

        with linked(place.url()) as link:
            Vault(link, place.secret()).set_password(kept)

    from gemstead.ledger.postgres.tries import StoreTries

    return PasswordFile(folder.password, share, StoreTries(place))


def reseal(folder: StateDir, secret: str) -> int:
    """Seal the store's secrets under another secret than `ledger.secret` leads to; how many there are.

    Raises:
        LedgerTrouble: the present secret is not the one, the new one is too short, or the store is away.
    """
    from gemstead.ledger.postgres.link import linked
    from gemstead.ledger.postgres.vault import Vault

    assert folder.place is not None, "there is a store"
    if secret == folder.place.secret():
        raise LedgerTrouble("this is the secret that `ledger.secret` leads to already: nothing was changed")
    with linked(folder.place.url()) as link:
        return Vault(link, folder.place.secret()).reseal(secret)


def new_hash_key(folder: StateDir, tenant: str) -> HashKey:
    """A new generation of the key behind prompt hashes, for all tenants or for one.

    Raises:
        LedgerTrouble: it cannot be made.
    """
    if folder.place is None:
        return hashkeys.rotate(folder.hash_key, tenant)
    return _hash_keys_changed(folder, folder.place, lambda keys: hashkeys.added(keys, tenant))


def forget_hash_key(folder: StateDir, key_id: str) -> None:
    """Destroy a generation that is no longer used.

    Raises:
        LedgerTrouble: there is none of that id, or it is in use.
    """
    if folder.place is None:
        hashkeys.forget(folder.hash_key, key_id)
    else:
        _hash_keys_changed(folder, folder.place, lambda keys: hashkeys.removed(keys, key_id))


def _hash_keys_changed(folder: StateDir, place: Place, change: Callable[[list[HashKey]], HashKey]) -> HashKey:
    from gemstead.ledger.postgres.link import linked
    from gemstead.ledger.postgres.vault import Vault, hand_out

    with linked(place.url()) as link:
        vault = Vault(link, place.secret())
        said = vault.change_hash_keys(change)
        if not is_held(folder):  # a gateway that runs fetches them itself, and takes them with a reload
            hand_out(vault, folder.ledger)
    return said


def prepare(folder: StateDir) -> str:
    """Bring a store's tables forward and its keys and secrets here; "" or, if the store is away, how it goes on.

    Raises:
        LedgerTrouble: the store is away and was never here, or is not for this Gemstead.
    """
    if folder.place is None:
        return ""
    from gemstead.ledger.postgres.link import StoreAway, linked
    from gemstead.ledger.postgres.pull import Puller, read_seen
    from gemstead.ledger.postgres.schema import ready
    from gemstead.ledger.postgres.vault import handed_out

    try:
        ready(folder.place.url())
        with linked(folder.place.url()) as link:
            Puller(folder.ledger).pull(link, folder.place.secret())
    except StoreAway as away:
        if not handed_out(folder.ledger):
            raise
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(read_seen(folder.ledger).at))
        return f"{away}; this gateway begins with the keys as they were on {at} UTC"
    return ""


class Taken(msgspec.Struct, frozen=True):
    """What came into a store from a gateway that had kept its ledger by itself."""

    keys: int
    denials: int
    records: int
    holds: int


def take_over(folder: StateDir) -> Taken:
    """Bring the keys, secrets and audit records that this gateway had before there was a store into an empty one.

    Raises:
        LedgerTrouble: there is nothing to take, or the store is not empty, or away.
    """
    from gemstead.ledger.postgres.keys import put
    from gemstead.ledger.postgres.link import linked
    from gemstead.ledger.postgres.log import put_holds
    from gemstead.ledger.postgres.push import Pusher
    from gemstead.ledger.postgres.schema import ready
    from gemstead.ledger.postgres.vault import Vault

    assert folder.place is not None and folder.own is not None, "there is a store"
    own = StateDir(folder.path, folder.own)
    if not own.keys.exists():
        raise LedgerTrouble(f"{own.keys} does not exist: there is nothing to take over")
    signer = Signer(own.ledger / "audit.key")
    checkpoint(own.audit, signer, time.time())  # the store's copy is vouched for to its end
    kept = retention.holds(own.audit)
    password = own.password.read_bytes() if own.password.is_file() else None
    known = [path.read_text() for path in sorted(folder_beside(own.ledger / "audit.key").glob("*.pem"))]
    ready(folder.place.url())
    with linked(folder.place.url()) as link, link.transaction():
        vault = Vault(link, folder.place.secret())
        signing = (own.ledger / "audit.key").read_bytes()
        vault.take_over(secret_at(own.pepper), hashkeys.hash_keys(own.hash_key), signing, known, password)
        keys, denials = put(link, own.keys)
        put_holds(link, kept)
    pusher = Pusher(own.audit, folder.place.node)
    with linked(folder.place.url()) as link:
        records = 0
        while count := pusher.push(link):
            records += count
    pusher.close()
    return Taken(keys, denials, records, len(kept))


class StoreProcess:
    """The process that keeps this gateway in step with a store. Use from one event loop."""

    def __init__(
        self,
        folder: StateDir,
        log_of: Callable[[str], RotatedLog],
        trouble: Callable[[str], None],
        reload: Callable[[], Awaitable[Any]],
    ) -> None:
        self._folder, self._log_of, self._trouble, self._reload = folder, log_of, trouble, reload
        self.state: StoreState | None = None
        self._settings: StoreSettings | None = None
        self._worker: Worker | None = None
        self._tasks: set[asyncio.Future[Any]] = set()

    def start(self, place: Place) -> None:
        """Begin; nothing is waited for."""
        self._take(place)
        argv = [sys.executable, "-m", "gemstead.ledger.postgres"]
        self._worker = Worker(
            "store",
            argv,
            log=self._log_of("store"),
            joined=self._joined,
            said=self._said,
            left=self._left,
        )
        self._keep(self._worker.run())

    def follow(self, place: Place | None) -> None:
        """Another file is in force, or a secret is another. That there is a store cannot change while it runs."""
        if self._worker is not None and place is not None and self._take(place):
            self._joined(self._worker)

    async def end(self) -> None:
        """Bring what is still here into the store, for `LAST_S` at most, and stop."""
        worker = self._worker
        if worker is None:
            return
        worker.stop()
        worker.tell(msgspec.json.encode(Finish(within_s=LAST_S)))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_S + 1.0)
        worker.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    def describe(self) -> dict[str, object] | None:
        """What `gemstead ps` shows; None where there is no store."""
        worker, state = self._worker, self.state
        if worker is None:
            return None
        said = msgspec.to_builtins(state) if state is not None else {}
        return {"node": self._settings.node if self._settings else "", "pid": worker.pid,
                "restarts": max(worker.restarts, 0), **said}  # fmt: skip

    def _take(self, place: Place) -> bool:
        """Whether the settings are others than before."""
        try:
            made = StoreSettings(
                folder=str(self._folder.ledger),
                url=place.url(),
                secret=place.secret(),
                node=place.node,
            )
        except LedgerTrouble as trouble:
            self._trouble(str(trouble))
            return False
        changed, self._settings = made != self._settings, made
        return changed

    def _joined(self, worker: Worker) -> None:
        if self._settings is not None:
            worker.tell(msgspec.json.encode(self._settings))

    def _said(self, worker: Worker, line: bytes) -> None:
        match DECODER.decode(line):
            case StoreState() as state:
                self.state = state
            case Told(sentence=sentence):
                self._trouble(sentence)
            case Renewed():
                self._keep(self._reload())

    def _keep(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _left(self, worker: Worker, how: str) -> None:
        if not worker.stopped:
            self._trouble(f"the process that keeps the store in step {how}; another takes its place")
