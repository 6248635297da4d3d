"""The store as a service uses it: what runs here is fetched where it is missing, held to `gemstead.lock`, looked at
before it is trusted, and marked as in use for as long as this process lives, so that nobody removes it below us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gemstead.catalog import sources
from gemstead.catalog.addresses import of_key
from gemstead.catalog.manifest import LOCK_FILE, BadManifest, Lock, read_lock
from gemstead.catalog.sources import Known, Want
from gemstead.operate.secrets.keeper import Keeper
from gemstead.operate.store import locks
from gemstead.operate.store.place import Place
from gemstead.operate.store.pull import Pulled, Telling, pull
from gemstead.operate.store.shelf import Shelf
from gemstead.spec.model import Spec
from gemstead.wiring.secrets import CannotRun, resolved

_IN_USE: dict[Path, locks.Use] = {}  # until this process ends


@dataclass(frozen=True, slots=True)
class Library:
    """The models of one service."""

    place: Place
    lock: Lock
    telling: Telling

    @staticmethod
    def of(
        spec: Spec,
        environ: Mapping[str, str],
        fetching: Callable[[str, int, int], None],
        say: Callable[[str], None] = lambda _sentence: None,
        secrets: Keeper | None = None,
    ) -> Library:
        """The library of a Spec.

        Raises:
            CannotRun: `gemstead.lock` or the hub's token cannot be read.
        """
        return Library(place_of(spec, environ, secrets), lock_at(lock_path(environ)), Telling(fetching, say))

    def get(self, want: Want) -> Pulled:
        """The model, in the store and in use. Blocks for as long as a download.

        Raises:
            StoreTrouble, Refused: it cannot be had; the sentence says what to do.
            Whatever `fetching` raises.
        """
        pulled = pull(want, self.place, lock=self.lock, fresh=False, telling=self.telling)
        shelf = Shelf.of(self.place.path, pulled.address)
        if shelf.path not in _IN_USE:
            _IN_USE[shelf.path] = locks.use(shelf)
        return pulled

    def folder(self, address: str, file: str = "") -> Path:
        """The folder of a whole checkpoint, or of one file of it: a repository of the hub, a bucket's prefix, an
        artifact, a folder.

        Raises: as `get`.
        """
        (want,) = sources.wanted(address)
        if file:
            want = replace(want, files=(Known(file),))
        return Path(want.address.place).expanduser() if want.address.scheme == "file" else self.get(want).path


def place_of(spec: Spec, environ: Mapping[str, str], secrets: Keeper | None = None) -> Place:
    """The store of this machine, with the token that the file names for the hub.

    Raises:
        CannotRun: that token cannot be read.
    """
    place = Place.of(spec, environ)
    token = resolved(spec.store.token, environ, "store.token", secrets or Keeper(spec.secrets, environ))
    return replace(place, hub=replace(place.hub, token=token)) if token else place


def lock_path(environ: Mapping[str, str]) -> Path:
    """Where the lock file is: beside the file that GEMSTEAD_CONFIG names, else here."""
    file = environ.get("GEMSTEAD_CONFIG")
    return (Path(file).expanduser().absolute().parent if file else Path.cwd()) / LOCK_FILE


def lock_at(path: Path) -> Lock:
    """The lock of a file; without one, an empty lock.

    Raises:
        CannotRun: it cannot be read, or is none.
    """
    try:
        lock = read_lock(path.read_text("utf-8"))
        for key in lock.pins:
            of_key(key)
        return lock
    except FileNotFoundError:
        return Lock({})
    except (OSError, BadManifest, UnicodeDecodeError) as error:
        raise CannotRun(
            f"{path}: {error}; restore it, or remove it and pin again with `gemstead models pin`"
        ) from None
