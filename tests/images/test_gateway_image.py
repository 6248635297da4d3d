"""The gateway's image, really built from what is rendered: what is in it, and that its process serves and ends.

Needs root, Podman and mmdebstrap, and the networks of Debian's packages and PyPI, because the build does what it does
for a user. Two minutes on two cores, most of it the compiler.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import Container, container

from conftest import Built, archive
from gemstead.render.docker_gateway import STATE
from gemstead.render.gatewayfile import gateway_file

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "src/gemstead/embedded/models/tiny-gemma-4-E2B-it-q8_0.gguf"
PACKAGES = "opt/gemstead/lib/python3.11/site-packages"
SLOW = """
import asyncio
from gemstead.testing.engine import FakeEngine
from gemstead.testing.answers import words
from gemstead.testing.script import Script
async def serve():
    async with FakeEngine(Script(pieces=words(40), pace_s=0.1), port=8001):
        print("listening", flush=True)
        await asyncio.sleep(300)
asyncio.run(serve())
"""
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of Peru?"}]}


@pytest.fixture(scope="session")
def root(gateway: Built) -> Iterator[Path]:
    """The image's root file system."""
    yield Path(gateway.podman("image", "mount", gateway.tag))
    gateway.podman("image", "unmount", gateway.tag)


def test_what_the_image_says_of_itself(gateway: Built) -> None:
    said = gateway.podman.image(gateway.tag)
    config = said["Config"]
    assert config["User"] == "10001:0"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["/opt/gemstead/bin/python", "-m", "gemstead", "serve"]
    assert set(config["ExposedPorts"]) == {"4367/tcp", "4368/tcp"} and set(config["Volumes"]) == {STATE}
    health = config.get("Healthcheck") or said["Healthcheck"]
    assert "/healthz" in health["Test"][-1]
    labels = said["Labels"]
    assert labels["org.opencontainers.image.version"] == gateway.deployed.version
    assert labels["org.opencontainers.image.base.name"].startswith("python:3.11-slim")
    assert not [
        one for one in config["Env"] if re.search(r"TOKEN|SECRET|KEY|PASSWORD|PROXY", one, re.IGNORECASE)
    ]


def test_it_holds_the_gateway_compiled_and_no_tool_of_the_build(root: Path) -> None:
    packages = root / PACKAGES
    assert list(packages.glob("gemstead/gateway/exchange.*.so"))
    assert (packages / "gemstead/embedded/models").is_dir()
    for left_out in ("pip", "setuptools", "xllamacpp", "mypy", "hatchling", "pytest"):
        assert not (packages / left_out).exists(), left_out
    for gone in (
        "build",
        "locks",
        "source",
        "gemstead",
        "root/.cache",
        "usr/bin/gcc",
        "opt/gemstead/bin/pip",
    ):
        assert not (root / gone).exists(), gone


def test_nothing_that_we_add_may_take_rights_or_is_open_to_all(root: Path) -> None:
    found = [path for top in ("opt/gemstead", STATE[1:], "cache") for path in (root / top).rglob("*")]
    assert len(found) > 1000
    for path in found:
        mode = path.lstat().st_mode
        assert path.is_symlink() or not mode & 0o6002, path
        assert path.lstat().st_uid == 0 or not str(path).startswith(str(root / "opt")), (
            "the user could change it"
        )
    assert (root / STATE[1:]).stat().st_uid == 10001


def test_our_layers_are_small(gateway: Built) -> None:
    layers = json.loads(gateway.podman("history", "--format", "json", gateway.tag))
    sizes = {layer["CreatedBy"]: layer["size"] for layer in layers}
    *ours, base = sizes.values()
    assert base > sum(ours)
    copied = [size for text, size in sizes.items() if "COPY" in text]  # the last one first
    assert len(copied) == 2
    assert copied[0] < 30e6 and copied[1] < 110e6, copied  # Gemstead; what it stands on


@pytest.fixture(scope="module")
def serving(gateway: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The image's process with a real engine and a slow pretend one beside it."""
    folder = tmp_path_factory.mktemp("etc")
    text = gateway_file(gateway.deployed, {"gemma-4-e2b": ["http://127.0.0.1:8000"]}, state_dir=STATE)
    slow = "models:\n  - {name: gemma-4-e4b, engine: external, endpoints: [{url: 'http://127.0.0.1:8001'}]}\n"
    (folder / "gemstead.yaml").write_text(text.replace("models:\n", slow, 1), "utf-8")
    (folder / "gemstead.yaml").chmod(0o644)
    volume = f"{folder}/gemstead.yaml:/etc/gemstead/gemstead.yaml:ro"
    with container(gateway.podman, "gateway", gateway.tag, "--network=none", "--volume", volume) as running:
        engine = (sys.executable, "-m", "gemstead.embedded", "--model", str(MODEL), "--port", "8000")
        named = ("--alias", "gemma-4-e2b", "--threads", "2")
        with (
            running.serving(folder / "engine.log", *engine, *named),
            running.serving(folder / "slow.log", sys.executable, "-c", SLOW),
        ):
            yield running
            assert "was not followed" not in running.logs(), (
                "the compiled processes do not understand each other"
            )


def key_of(serving: Container) -> str:
    return re.findall(r"gms_[0-9A-Za-z]+", serving.until("gms_"))[0]


def test_it_serves_on_a_read_only_root_as_a_user_without_rights(serving: Container) -> None:
    key = key_of(serving)
    ends = time.monotonic() + 60
    while serving.inside("/opt/gemstead/bin/python", "-c", READY, check=False) != "200":
        assert time.monotonic() < ends, serving.logs()
        time.sleep(0.3)
    answer = json.loads(serving.ask(key, {"model": "gemma-4-e2b", **QUESTION}))
    assert "Lima" in answer["choices"][0]["message"]["content"]
    serving.podman("healthcheck", "run", "gateway")
    status = serving.inside("cat", "/proc/1/status")
    assert re.search(r"^Uid:\s+10001\s", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE) and "NoNewPrivs:\t1" in status
    assert "Read-only" in serving.podman("exec", "gateway", "sh", "-c", "touch /x 2>&1", check=False)


READY = """
import urllib.error, urllib.request as u
try:
    print(u.urlopen("http://127.0.0.1:4368/readyz", timeout=4).status)
except OSError as error:
    print(error)
"""


def test_it_passes_its_own_check(serving: Container) -> None:
    words = ("gemstead", "check", "--key", key_of(serving), "--model", "gemma-4-e2b")
    said = serving.inside(*words, timeout_s=120, check=False)
    assert " passed, 0 failed" in said, said


def test_sigterm_lets_a_running_answer_end(serving: Container) -> None:
    caller = serving.asking(key_of(serving), {"model": "gemma-4-e4b", "stream": True, **QUESTION})
    assert caller.stdout is not None
    first = caller.stdout.readline()
    began = time.monotonic()
    serving.podman("stop", "--time", "30", "gateway", timeout_s=60)
    took = time.monotonic() - began
    said = first + caller.communicate(timeout=30)[0]
    assert said.rstrip().endswith("data: [DONE]"), said[-500:] + serving.logs()
    assert took < 20
    assert serving.podman("inspect", "--format", "{{.State.ExitCode}}", "gateway") == "0"
    assert "Stopped." in serving.logs()


def test_a_change_of_source_changes_one_layer(gateway: Built) -> None:
    before = gateway.podman.image(gateway.tag)["RootFS"]["Layers"]
    archive(gateway.folder / "gateway/source", "wheel")  # other bytes: the same, not compiled
    again = "gemstead-gateway:again"
    said = gateway.podman.build(gateway.folder / "gateway", again)
    after = gateway.podman.image(again)["RootFS"]["Layers"]
    differ = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len(differ) == 1, (before, after)
    assert "Using cache" in said and "argon2" not in said, "packages were installed again"
