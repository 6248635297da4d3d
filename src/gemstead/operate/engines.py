"""The engines that were installed here: one folder each, `engines/ENGINE-VERSION` in the state folder.

A folder counts when its manifest lies in it, and the manifest is written last and whole. An installation that was
broken off, by Ctrl-C, a full disk or a power cut, therefore never counts; the same command goes on with what is
there. A manifest also says where an engine is that somebody else put there (`path`), and which image runs it
(`container`).

`installed` is what the rest of Gemstead asks. Nothing is started here, and nothing fetched: that is
`engines_install.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from gemstead.catalog import versions
from gemstead.engines.installed import Installed

FOLDER = "engines"
MANIFEST = "gemstead-engine.json"
PINS = "pins.txt"
FORM = 1  # of the manifest
Runner = Literal["venv", "container", "path"]


class EngineTrouble(Exception):
    """An engine cannot be installed, found or removed; the sentence says what to do.

    `kind` is one of busy, space, offline, version, python, package, failed, missing, used, tool.
    """

    for_user = True

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an installation says of itself."""

    engine: str
    version: str
    runner: Runner
    argv_prefix: tuple[str, ...]
    image: str = ""
    variant: str = ""  # "cpu", "cuda"
    package: str = ""  # the distribution that brought it
    python: str = ""
    tool: str = ""  # what installed it, such as "pip 24.0"
    at: str = ""  # when, in UTC
    seconds: float = 0.0  # how long it took
    bytes: int = 0  # on disk
    pins: int = 0  # packages in pins.txt, which as `--constraint` makes the same environment again
    notes: tuple[str, ...] = ()

    @property
    def installed(self) -> Installed:
        """As a launch needs it."""
        return Installed(self.engine, self.version, self.runner, self.argv_prefix, self.image)


@dataclass(frozen=True, slots=True)
class Place:
    """One folder under `engines/`: complete with a manifest, or begun."""

    name: str
    path: Path
    manifest: Manifest | None
    why: str = ""  # it does not count


def home_of(state_dir: Path) -> Path:
    """The folder of all engines."""
    return state_dir / FOLDER


def installed(state_dir: Path, engine: str, version: str | None = None) -> Installed | None:
    """The engine at that version, or its newest when None; None when it is not installed whole."""
    found = [place.manifest for place in places(state_dir) if place.manifest is not None]
    fitting = [one for one in found if one.engine == engine and version in (None, "", one.version)]
    if not fitting:
        return None
    return max(fitting, key=lambda one: versions.parsed(one.version) or ()).installed


def places(state_dir: Path) -> list[Place]:
    """Every installation, complete or begun, by name."""
    home = home_of(state_dir)
    try:
        folders = sorted(path for path in home.iterdir() if path.is_dir() and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [place_of(folder) for folder in folders]


def place_of(folder: Path) -> Place:
    """One folder, judged."""
    try:
        manifest = read(folder)
    except FileNotFoundError:
        return Place(folder.name, folder, None, "not finished: install it again to go on")
    except (OSError, ValueError, TypeError, KeyError) as problem:
        return Place(folder.name, folder, None, f"its manifest cannot be read ({problem}): install it again")
    program = manifest.argv_prefix[0]
    if manifest.runner != "container" and not os.access(program, os.X_OK):
        return Place(folder.name, folder, None, f"{program} is gone: install it again")
    return Place(folder.name, folder, manifest)


def read(folder: Path) -> Manifest:
    """The manifest of a complete installation.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one of ours.
    """
    said = json.loads((folder / MANIFEST).read_text("utf-8"))
    if said.pop("form") != FORM:
        raise ValueError("written by another version of Gemstead")
    known = {field.name for field in fields(Manifest)}
    said = {name: value for name, value in said.items() if name in known}
    made = Manifest(**{**said, **{name: tuple(said.get(name, ())) for name in ("argv_prefix", "notes")}})
    if not made.argv_prefix or f"{made.engine}-{made.version}" != folder.name:
        raise ValueError("it is about something else")
    return made


def write(folder: Path, manifest: Manifest) -> None:
    """Make an installation count: whole or not at all, even when the power goes."""
    text = json.dumps({"form": FORM, **asdict(manifest)}, indent=2) + "\n"
    draft = folder / f".{MANIFEST}.{secrets.token_hex(4)}"
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / MANIFEST)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def remove(place: Place, *, force: bool = False) -> int:
    """Delete an installation; the bytes that were freed. It stops counting before its first file goes.

    Raises:
        EngineTrouble: something of it runs (unless `force`), or somebody is installing it.
    """
    with held(place.path):
        if not force and (pids := used_by(place.path)):
            raise EngineTrouble(
                "used",
                f"{place.name} runs now (pid {', '.join(map(str, pids[:5]))}): stop it first, or add --force",
            )
        size = size_of(place.path)
        (place.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(place.path)
    return size


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Nobody else installs or removes it meanwhile. The descriptor may be left to a child, which then holds on.

    Raises:
        EngineTrouble: somebody does.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder.parent / f".{folder.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineTrouble(
                "busy", f"{folder.name} is being installed or removed by another process: wait for it"
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)


def used_by(folder: Path) -> list[int]:
    """Processes that were started from an environment (Linux; elsewhere none is seen)."""
    start = f"{folder}{os.sep}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if any(word.startswith(start) for word in path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    return sorted(pid for pid in found if pid != os.getpid())


def size_of(folder: Path) -> int:
    """Bytes on disk; a file with two names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                stat = os.lstat(os.path.join(root, name))  # noqa: PTH118
                if (stat.st_dev, stat.st_ino) not in seen:
                    seen.add((stat.st_dev, stat.st_ino))
                    total += stat.st_blocks * 512
    return total
