"""The installer of Python packages, as it is here: `uv` where there is one, else `pip` in the new environment.

It is run, its lines are handed on while it runs, and what it complains of becomes one sentence. Where packages come
from is the user's to say, in the ways that these tools know: a mirror or a folder of wheels that pip was told of
counts here too, and then no index is added of our own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gemstead.engines.recipe import Recipe, Step
from gemstead.operate.engines import EngineTrouble

KEPT_LINES = 60
Say = Callable[[str], None]

NETWORK = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Name or service not known|"
    r"Network is unreachable|Connection (?:refused|reset|timed out)|Read timed out|ConnectTimeout|ProxyError|"
    r"getaddrinfo|dns error|tcp connect error|error sending request|Could not connect|SSLError|CERTIFICATE_VERIFY",
    re.IGNORECASE,
)
FULL = re.compile(r"No space left on device|Disk quota exceeded|os error 28", re.IGNORECASE)
MISSING = re.compile(
    r"No matching distribution|Could not find a version|No solution found|no version of|not found in the package",
    re.IGNORECASE,
)
DAMAGED = re.compile(r"DO NOT MATCH THE HASHES|Hash mismatch|BadZipFile|invalid wheel", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """Where packages come from, as the command line says it over the tool's own settings."""

    indexes: tuple[str, ...] = ()  # besides the usual one
    links: tuple[str, ...] = ()  # folders or pages with wheels
    alone: bool = False  # only `links`: nothing is asked of an index
    constraint: str = ""  # a file of pins


@dataclass(frozen=True, slots=True)
class Tool:
    """Which installer, and what it has been told of indexes."""

    name: str  # uv | pip
    program: str
    told: bool  # the user has said where packages come from
    arguments: tuple[str, ...] = ()

    @staticmethod
    def of(environ: Mapping[str, str], source: Source) -> Tool:
        """`uv` when it is there; pip when only pip has been told where packages come from."""
        pip_told, uv_told = _pip_told(environ), _uv_told(environ)
        uv = shutil.which("uv", path=environ.get("PATH"))
        arguments = [word for index in source.indexes for word in ("--extra-index-url", index)]
        arguments += [word for place in source.links for word in ("--find-links", place)]
        if source.alone:
            arguments.append("--no-index")
        if source.constraint:
            arguments += ["--constraint", source.constraint]
        told = bool(source.indexes or source.links or source.alone)
        if uv and (uv_told or not pip_told):
            return Tool("uv", uv, told or uv_told, tuple(arguments))
        return Tool("pip", "", told or pip_told, tuple(arguments))

    def install(self, python: Path, step: Step) -> list[str]:
        """The command of one step."""
        words = [*self._pip(python), "install", *self.arguments]
        if step.alone:
            words.append("--no-deps")
        if step.index and not self.told:
            words += ["--extra-index-url", step.index]
            if (
                self.name == "uv"
            ):  # else it takes a name from the first index that has it, at whatever version
                words += ["--index-strategy", "unsafe-best-match"]
        return [*words, *step.packages]

    def uninstall(self, python: Path, packages: Sequence[str]) -> list[str]:
        """The command that takes packages away."""
        yes = ["--yes"] if self.name == "pip" else []
        return [*self._pip(python), "uninstall", *yes, *packages]

    def freeze(self, python: Path) -> list[str]:
        """The command that lists what there is."""
        return [*self._pip(python), "freeze"]

    def make(self, folder: Path, python: str) -> list[str]:
        """The command that makes an environment."""
        if self.name == "uv":
            return [self.program, "venv", "--allow-existing", "--python", python, str(folder)]
        return [python, "-m", "venv", str(folder)]

    def _pip(self, python: Path) -> list[str]:
        if self.name == "uv":
            return [self.program, "pip"]  # which environment, VIRTUAL_ENV says
        return [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]

    def environment(self, folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
        """What the tool runs in: nothing of an environment of ours leads it astray."""
        kept = {
            name: value
            for name, value in environ.items()
            if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "VIRTUAL_ENV")
        }
        return {
            **kept,
            "VIRTUAL_ENV": str(folder),
            "PYTHONUNBUFFERED": "1",
            "PIP_NO_COLOR": "1",
            "NO_COLOR": "1",
        }


def python_for(recipe: Recipe, environ: Mapping[str, str]) -> str:
    """A Python that the engine runs on: ours, else one on the path.

    Raises:
        EngineTrouble: there is none.
    """
    oldest, newest = recipe.pythons
    if oldest <= sys.version_info[:2] <= newest:
        return getattr(sys, "_base_executable", "") or sys.executable
    for minor in range(newest[1], oldest[1] - 1, -1):
        if found := shutil.which(f"python3.{minor}", path=environ.get("PATH")):
            return found
    raise EngineTrouble(
        "python",
        f"{recipe.engine} {recipe.version} needs Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}, and none "
        f"is on the path (this is {sys.version_info[0]}.{sys.version_info[1]}): install one, such as python3.12",
    )


def run(
    command: Sequence[str], *, say: Say, env: Mapping[str, str], lock: int | None = None, what: str = ""
) -> list[str]:
    """Run the tool, hand its lines on; the last of them. Ended with everything it started when we are interrupted.

    Raises:
        EngineTrouble: it failed; the sentence says why and what to do.
    """
    said: deque[str] = deque(maxlen=KEPT_LINES)
    network = False
    try:
        child = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),  # an orphan goes on holding the folder
        )
    except OSError as problem:
        raise EngineTrouble("failed", f"cannot start {command[0]}: {problem.strerror}") from None
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip():
                said.append(line.rstrip())
                network = network or bool(NETWORK.search(line))
                say(line.strip())
        code = child.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if code:
        raise complaint(list(said), code, what or command[0], network)
    return list(said)


def complaint(lines: Sequence[str], code: int, what: str, network: bool = False) -> EngineTrouble:
    """What the tool's last lines mean."""
    text = "\n".join(lines)
    if FULL.search(text):
        return EngineTrouble("space", f"the disk is full: {what} needs more room; free some and run it again")
    # pip says "no matching distribution" also when it could not ask anybody
    if network or NETWORK.search(text):
        return EngineTrouble(
            "offline",
            f"no package index can be reached for {what}: see the network or HTTPS_PROXY; with a mirror set "
            "PIP_INDEX_URL (UV_INDEX_URL for uv); without a network bring the wheels and say --find-links FOLDER "
            "--no-index (docs/engine-install.md)",
        )
    if MISSING.search(text):
        offered = re.search(r"\(from versions: ([^)]*)\)", text)
        names = [] if offered is None or offered[1] == "none" else offered[1].split(", ")
        last = f"; the newest there: {', '.join(names[-5:])}" if names else ""
        return EngineTrouble("version", f"the index has no {what} for this Python and processor{last}")
    if DAMAGED.search(text):
        return EngineTrouble("package", f"a package of {what} arrived damaged: run it again")
    told = [line for line in lines if "error" in line.lower()][-3:] or list(lines)[-3:]
    return EngineTrouble("failed", f"installing {what} failed (exit code {code}):\n  " + "\n  ".join(told))


def shown(line: str) -> str:
    """A tool's line in words for a person; empty: not worth showing."""
    if found := re.match(r"Downloading (?:https?://\S+/)?([A-Za-z0-9_.]+?)-[0-9]\S*(?: \(([^)]+)\))?", line):
        return f"fetching {found[1]}" + (f" ({found[2]})" if found[2] else "")
    if found := re.match(r"Collecting ([A-Za-z0-9_.-]+)", line):
        return f"looking for {found[1]}"
    if line.startswith("Installing collected packages"):
        return f"unpacking {line.count(',') + 1} packages"
    if found := re.match(r"(Resolved|Prepared|Installed) (\d+ packages?.*)", line):
        return f"{found[1].lower()} {found[2]}"
    if line.startswith(("Building wheel", "Preparing metadata", "Getting requirements")):
        return line.split(":", maxsplit=1)[0].lower()
    return ""


def _pip_told(environ: Mapping[str, str]) -> bool:
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CONFIG_FILE")
    home = Path(environ.get("HOME") or "~").expanduser()
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = (Path("/etc/pip.conf"), config / "pip" / "pip.conf", home / ".pip" / "pip.conf")
    return any(environ.get(name) for name in names) or any(map(_names_places, files))


def _names_places(file: Path) -> bool:
    try:
        text = file.read_text("utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^\s*(extra-)?index-url|^\s*find-links|^\s*no-index", text, re.MULTILINE) is not None


def _uv_told(environ: Mapping[str, str]) -> bool:
    names = (
        "UV_INDEX_URL",
        "UV_EXTRA_INDEX_URL",
        "UV_INDEX",
        "UV_DEFAULT_INDEX",
        "UV_FIND_LINKS",
        "UV_NO_INDEX",
    )
    return any(environ.get(name) for name in names)
