"""A container in a network of its own, hardened as the rendered files harden it, and programs beside it there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from podman import LIMITS, Podman

HARDENED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "768m",
)  # fmt: skip
ASK = """
import json, sys, urllib.request as u
url, key, body = sys.argv[1:]
asked = u.Request(url, body.encode(), {"Content-Type": "application/json", "Authorization": "Bearer " + key})
try:
    with u.build_opener(u.ProxyHandler({})).open(asked, timeout=60) as answer:
        for line in answer:
            print(line.decode(), end="", flush=True)
except u.HTTPError as error:
    sys.exit(f"{error.code}: {error.read().decode()}")
"""


@dataclass(frozen=True)
class Container:
    podman: Podman
    name: str

    def inside(self, *words: str, timeout_s: float = 60, check: bool = True) -> str:
        """What a command in the container prints."""
        return self.podman("exec", self.name, *words, timeout_s=timeout_s, check=check)

    def beside(self, *words: str) -> subprocess.Popen[str]:
        """A program of this machine in the container's network."""
        return subprocess.Popen(
            self._there(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @contextmanager
    def serving(self, log: Path, *words: str) -> Iterator[None]:
        """A server there, from when it says that it is listening until the context is left."""
        with log.open("w") as file:
            process = subprocess.Popen(self._there(words), stdout=file, stderr=subprocess.STDOUT)
        try:
            ends = time.monotonic() + 90
            while "listening" not in (said := log.read_text()):
                assert process.poll() is None and time.monotonic() < ends, said
                time.sleep(0.1)
            yield
        finally:
            process.kill()
            process.wait()

    def _there(self, words: Sequence[str]) -> list[str]:
        pid = self.podman("inspect", "--format", "{{.State.Pid}}", self.name)
        return ["nsenter", "--net", "--target", pid, *words]

    def asking(
        self, key: str, body: object, url: str = "http://127.0.0.1:4367/v1/chat/completions"
    ) -> subprocess.Popen[str]:
        """A caller whose answer comes on its standard output."""
        return self.beside(sys.executable, "-c", ASK, url, key, json.dumps(body))

    def ask(self, key: str, body: object) -> str:
        """An answer."""
        caller = self.asking(key, body)
        said, _ = caller.communicate(timeout=90)
        assert caller.returncode == 0, said + self.logs()
        return said

    def logs(self) -> str:
        """What it wrote, on both of its outputs."""
        return self.podman("logs", self.name, errors=True)

    def until(self, wanted: str, within_s: float = 90) -> str:
        """The log, once it holds that."""
        ends = time.monotonic() + within_s
        while wanted not in (said := self.logs()):
            state = self.podman("inspect", "--format", "{{.State.Status}}", self.name)
            assert state == "running" and time.monotonic() < ends, f"{state}, no {wanted!r} in: {said}"
            time.sleep(0.2)
        return said

    def until_healthy(self, within_s: float = 90) -> None:
        """Return once the image's own health check is content."""
        ends = time.monotonic() + within_s
        while said := self.podman("healthcheck", "run", self.name, check=False):
            state = self.podman("inspect", "--format", "{{.State.Status}}", self.name)
            assert state == "running" and time.monotonic() < ends, said + self.logs()
            time.sleep(0.2)


@contextmanager
def container(
    podman: Podman, name: str, image: str, *words: str, after: Sequence[str] = ()
) -> Iterator[Container]:
    """The image, running until the context is left."""
    podman("run", "--detach", "--name", name, *LIMITS, *HARDENED, *words, image, *after)
    try:
        yield Container(podman, name)
    finally:
        podman("rm", "--force", "--volumes", "--time", "0", name, check=False)
