"""The rendered Compose project for one host without a card, started: weights fetched, engine and gateway, check passed.

`podman-compose` starts it. A second file, as Compose merges them, changes only what this place lacks: the hub, which is
a pretend one in the project's network, and limits of open files, which a sandbox may not raise.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from podman import Podman, llama_base

from conftest import Built
from gemstead.catalog.catalogue import built_in
from gemstead.cli.render import write
from gemstead.render import target
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

COMPOSE = shutil.which("podman-compose", path=str(Path(sys.executable).parent)) or shutil.which(
    "podman-compose"
)
HELPERS = [Path("/usr/lib/podman") / name for name in ("netavark", "aardvark-dns")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPOSE is None, reason="needs podman-compose (pip install podman-compose)"),
    pytest.mark.skipif(
        not all(one.exists() for one in HELPERS),
        reason="needs Debian's netavark and aardvark-dns: names in networks",
    ),
]
MODEL = Path(__file__).parents[2] / "src/gemstead/embedded/models/tiny-gemma-4-E2B-it-q8_0.gguf"
FILE = {"models": [{"name": "gemma-4-e2b"}], "deploy": {"name": "gemstead-test"}}
HUB = """
import pathlib
from gemstead.testing import hub
file = pathlib.Path("/model.gguf")
known = hub.PretendHub(files={{"{file}": file.read_bytes()}}, repo="{repo}")
hub._Server(("0.0.0.0", 8080), hub._handler(known)).serve_forever()
"""
HERE = """
services:
  hub:
    image: {image}
    entrypoint: [/opt/gemstead/bin/python, /hub.py]
    volumes: ["./hub.py:/hub.py:ro", "{model}:/model.gguf:ro"]
    networks: [outside]
  models:
    environment: {{HF_ENDPOINT: "http://hub:8080", HF_HUB_DISABLE_XET: "1"}}
    ulimits: {{nofile: 4096, nproc: 4096}}
  gateway:
    ulimits: {{nofile: 4096, nproc: 4096}}
  gemma-4-e2b-0:
    ulimits: {{nofile: 4096, nproc: 4096}}
"""
CONTAINERS = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""


class Project:
    def __init__(self, podman: Podman, folder: Path, image: str) -> None:
        (folder / "containers.conf").write_text(CONTAINERS)
        store = f'[storage]\ndriver = "overlay"\ngraphroot = "{podman.folder}/store"\nrunroot = "{podman.folder}/run"\n'
        (folder / "storage.conf").write_text(store)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.folder = folder
        self.environ = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "GEMSTEAD_IMAGE": image,
            "GEMSTEAD_LISTEN": f"127.0.0.1:{self.port}",
        }

    def __call__(self, *words: str, timeout_s: float = 120, check: bool = True) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def compose(self, *words: str, check: bool = True) -> str:
        return self(str(COMPOSE), "-f", "compose.yaml", "-f", "here.yaml", *words, timeout_s=200, check=check)


@pytest.fixture(scope="module")
def project(gateway: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("compose")
    deployed = deployment(Spec.model_validate(FILE, strict=False), built_in())
    (pool,) = deployed.pools
    llama_base(gateway.podman, pool.image.reference, tmp_path_factory.mktemp("llama"))
    write(target("compose").render(deployed), folder)
    shutil.copy(folder / ".env.example", folder / ".env")
    checkpoint = pool.setup.checkpoint
    (folder / "hub.py").write_text(HUB.format(file=checkpoint.file, repo=checkpoint.repo))
    image = f"localhost/{gateway.tag}"
    (folder / "here.yaml").write_text(HERE.format(image=image, model=MODEL))
    found = Project(gateway.podman, folder, image)
    try:
        found.compose("up", "-d")
        yield found
    finally:
        found.compose("down", "--volumes", "-t", "5", check=False)


def test_it_starts_answers_and_passes_its_check(project: Project) -> None:
    ends = time.monotonic() + 120
    while "Ready after" not in (said := project("podman", "logs", "gemstead-test_gateway_1", check=False)):
        assert time.monotonic() < ends, said + project("podman", "ps", "--all")
        time.sleep(0.5)
    (key, *_) = re.findall(r"gms_[0-9A-Za-z]+", said)
    url = f"http://127.0.0.1:{project.port}/v1/models"
    assert "gemma-4-e2b" in project(
        "curl", "-fsS", "--noproxy", "*", url, "-H", f"Authorization: Bearer {key}"
    )
    inside = (
        "podman",
        "exec",
        "gemstead-test_gateway_1",
        "/opt/gemstead/bin/gemstead",
        "check",
        "--key",
        key,
    )
    checked = project(*inside, timeout_s=300, check=False)
    assert ", 0 failed" in checked, checked


def test_engines_reach_nobody(project: Project) -> None:
    """Their network leads nowhere: not even to the hub that stands in the other one."""
    inside = ("podman", "exec", "gemstead-test_gemma-4-e2b-0_1", "curl", "-sS", "--max-time", "3")
    assert "ok" in project(*inside, "http://127.0.0.1:8000/health")
    assert "resolve host" in project(*inside, "http://hub:8080/", check=False)
