"""Where a service keeps its state, and who runs there: one folder, one lock, one card.

The lock says whether a service runs (the kernel gives it back when the holder dies, however it dies); the
card `running.json` says where. The card holds the admin token, so the folder is for its owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.postgres.place import Place, checked_secret, checked_url, this_node
from gemstead.operate.secrets.keeper import Keeper
from gemstead.spec.model import Spec
from gemstead.wiring.secrets import CannotRun, resolved


@dataclass(frozen=True, slots=True)
class Card:
    """How to find a running service."""

    pid: int
    gateway: str  # base address, such as "http://127.0.0.1:4367"
    admin: str
    token: str = field(repr=False)
    keys: bool = True  # whether callers need one
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class StateDir:
    """The folder of one service. Nothing is made until it is needed."""

    path: Path
    ledger: Path
    place: Place | None = field(default=None, compare=False)  # of the store that several gateways share
    own: Path | None = None  # what the ledger's folder would be without a store

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def card(self) -> Path:
        return self.path / "running.json"

    @property
    def keys(self) -> Path:
        return self.ledger / "keys.db"

    @property
    def audit(self) -> Path:
        return self.ledger / "audit.db"

    @property
    def pepper(self) -> Path:
        return self.ledger / "pepper"

    @property
    def hash_key(self) -> Path:
        return self.ledger / "hash.key"

    @property
    def password(self) -> Path:
        return self.ledger / "admin.password"

    def make(self) -> None:
        """The folders, for their owner only."""
        for folder in (self.path, self.ledger, self.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def state_dir(spec: Spec, environ: Mapping[str, str]) -> StateDir:
    """Where this Spec keeps its state."""
    if spec.state_dir:
        path = Path(spec.state_dir).expanduser()
    else:
        base = environ.get("XDG_STATE_HOME") or "~/.local/state"
        path = Path(base).expanduser() / "gemstead"
    path = path.absolute()
    ledger = Path(spec.ledger.path).expanduser().absolute() if spec.ledger.path else path
    place = place_of(spec, environ)
    return StateDir(path, ledger / "shared", place, ledger) if place else StateDir(path, ledger)


def place_of(spec: Spec, environ: Mapping[str, str]) -> Place | None:
    """The store that the file names; None: this gateway keeps its ledger by itself."""
    said = spec.ledger
    if said.store is None:
        return None

    def read(reference: str | None, where: str) -> str:
        try:
            return resolved(reference, environ, where, Keeper(spec.secrets, environ))
        except CannotRun as error:
            raise LedgerTrouble(str(error)) from None

    return Place(
        url=lambda: checked_url(read(said.store, "ledger.store")),
        secret=lambda: checked_secret(read(said.secret, "ledger.secret")),
        node=this_node(said.node),
        spool_mib=said.spool_mib,
    )


class Held:
    """The lock of a state folder, held until `release` or our death."""

    def __init__(self, descriptor: int, folder: StateDir) -> None:
        self._descriptor, self._folder = descriptor, folder

    def release(self) -> None:
        self._folder.card.unlink(missing_ok=True)
        os.close(self._descriptor)


def hold(folder: StateDir) -> Held | None:
    """Take the folder for ourselves; None when a service already has it."""
    folder.make()
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    folder.card.unlink(missing_ok=True)  # of one that was killed
    return Held(descriptor, folder)


def write_card(folder: StateDir, card: Card) -> None:
    """Say where we run: whole or not at all."""
    draft = folder.card.with_suffix(f".{secrets.token_hex(4)}")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(asdict(card)) + "\n", "utf-8")
    draft.replace(folder.card)


def running(folder: StateDir) -> Card | None:
    """The card of the service that runs here now; None when none does, or none can be asked yet."""
    if not is_held(folder):
        return None
    try:
        return Card(**json.loads(folder.card.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_held(folder: StateDir) -> bool:
    """Whether a service runs here, or is just starting."""
    try:
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
