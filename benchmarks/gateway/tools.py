"""The mock engine and the load generator: compiled at first use, started, and spoken to.

Both are C programs (native/) so that they cost a fraction of any gateway under test. They are built with the
machine's `cc` into build/, again whenever a source is newer. Linux only: they are written on epoll.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.gateway.processes import Cpus, spawn, stop

HERE = Path(__file__).parent
BUILD = HERE / "build"
MODEL = "gemma-4-e2b"  # the name that the mock engine goes by


class CannotRun(Exception):
    """Something outside is missing; the message says what to do."""


def build() -> tuple[Path, Path]:
    """The paths of the mock engine and the load generator, compiled if need be.

    Raises:
        CannotRun: not on Linux, no C compiler, or the compiler fails.
    """
    if not sys.platform.startswith("linux"):
        raise CannotRun("the mock engine and load generator use epoll: run this benchmark on Linux")
    return _compiled("engine"), _compiled("load")


def _compiled(name: str) -> Path:
    source, target = HERE / "native" / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime for path in (source, HERE / "native" / "wire.h"))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotRun(
            "no C compiler (cc, gcc or clang) is installed; on Debian: apt-get install gcc libc6-dev"
        )
    BUILD.mkdir(exist_ok=True)
    command = [compiler, "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"{' '.join(command)} failed:\n{done.stderr}")
    return target


class Engine:
    """A running mock engine; every one of its ports is the same engine."""

    def __init__(self, program: Path, cpus: Cpus, ports: int = 16) -> None:
        self._process = spawn([str(program), str(ports)], cpus.engine, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.ports: list[int] = json.loads(self._process.stdout.readline())["ports"]

    def behave(self, *, tokens: int = 200, pace_us: int = 50_000, silent: int = 0) -> None:
        """From now on: streams of so many tokens at that pace (0: a flood); silent 1 or 2, see engine.c."""
        self._get(f"/mock/set?tokens={tokens}&pace_us={pace_us}&silent={silent}")

    def stats(self) -> dict[str, float]:
        answer: dict[str, float] = self._get("/mock/stats")
        return answer

    def idle(self, within_s: float) -> int:
        """The requests still running after so many seconds at most; 0 as soon as there are none."""
        until = time.monotonic() + within_s
        while (active := int(self.stats()["active"])) and time.monotonic() < until:
            time.sleep(0.02)
        return active

    def close(self) -> None:
        stop(self._process)

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}{path}", timeout=10) as answer:
            return json.load(answer)


def start_load(program: Path, cpus: Cpus, kind: str, **options: object) -> subprocess.Popen[bytes]:
    """A started load generator; its one line of JSON is on stdout when it ends. Options: see load.c."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return spawn([str(program), kind, *words], cpus.load, stdout=subprocess.PIPE)
