"""Real engines for tests: installed once by our own `gemstead engines install`, kept outside the repository.

    make test-engines

Nothing here runs with `make test`: the first run installs 4 GB. The folder is `GEMSTEAD_TEST_ENGINES`, else
`~/.cache/gemstead/test-engines`. What cannot be had (no network, no room, no checkpoint) skips the tests and says why.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine_service import GEMSTEAD, Service, environment, until

VLLM, TRANSFORMERS = "0.32.0", "5.23.0"
NEEDS_GIB = {"vllm": 8, "transformers": 4}
NEEDS_MEMORY_GIB = 6  # two replicas of vLLM take 1.5 GB each, and loading takes more for a moment
INSTALL_S = 600
REPOSITORY = Path(__file__).parents[3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("GEMSTEAD_ENGINE_TESTS") == "1":
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="the tier of real engines: make test-engines"))


@pytest.fixture(scope="session")
def state() -> Path:
    """A state folder whose engines are kept between runs."""
    named = os.environ.get("GEMSTEAD_TEST_ENGINES")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = Path(named).expanduser().absolute() if named else cache / "gemstead" / "test-engines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def vllm(state: Path) -> Path:
    """vLLM for processors, with which two replicas fit on a small machine."""
    return have(state, "vllm", VLLM)


@pytest.fixture(scope="session")
def transformers(state: Path) -> Path:
    return have(state, "transformers", TRANSFORMERS)


def have(state: Path, engine: str, version: str) -> Path:
    """The engine's folder, installed if it is not yet; the tests are skipped when it cannot be."""
    folder = state / "engines" / f"{engine}-{version}"
    if sys.platform != "linux":
        pytest.skip("the builds for processors are for Linux")
    free = shutil.disk_usage(state).free >> 30
    if not (folder / "gemstead-engine.json").exists() and free < NEEDS_GIB[engine]:
        pytest.skip(f"{engine} needs {NEEDS_GIB[engine]} GiB of disk, and {state} has {free}")
    memory = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) >> 20
    if memory < NEEDS_MEMORY_GIB:
        pytest.skip(f"real engines need {NEEDS_MEMORY_GIB} GiB of memory, and {memory} are free")
    words = [
        *GEMSTEAD,
        "engines",
        "install",
        f"{engine}=={version}",
        "--cpu",
        "--json",
        "--set",
        f"state_dir={state}",
    ]
    began = time.monotonic()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_S, env=environment())
    except subprocess.TimeoutExpired:
        pytest.skip(f"installing {engine} took more than {INSTALL_S} s; the next run goes on where it was")
    if done.returncode:
        pytest.skip(f"{engine} {version} cannot be installed here: {done.stderr.strip()[-400:]}")
    took = time.monotonic() - began
    assert json.loads(done.stdout)["argv_prefix"] == [str(folder / "bin" / engine)]
    print(f"{engine} {version}: ready after {took:.0f} s")
    return folder


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    """Tiny checkpoints with the real architecture."""
    named = os.environ.get("GEMSTEAD_TEST_CHECKPOINTS")
    folder = Path(named).expanduser().absolute() if named else REPOSITORY / "tests" / "data" / "checkpoints"
    for name in ("tiny-gemma-4-31B-it", "tiny-gemma-4-31B-it-assistant", "tiny-gemma-4-31B-it-lora-ahoy"):
        if not any((folder / name).glob("*.safetensors")):
            pytest.skip(f"no checkpoint {folder / name}: recipes/tiny_gemma4/README.md says how it is made")
    return folder


FILE = """\
models:
  - name: gemma-4-31b
    engine: vllm
    checkpoint: {checkpoints}/tiny-gemma-4-31B-it
    replicas: 2
    context: 2048
    draft: "off"
    adapters:
      - name: ahoy
        path: {checkpoints}/tiny-gemma-4-31B-it-lora-ahoy
        rank: 8
    flags:
      - --enforce-eager
      - --dtype bfloat16
      - --block-size 32
      - --kv-cache-memory-bytes 64M
      - --max-num-seqs {seqs}
      - '--speculative-config {{"method": "mtp", "model": "{checkpoints}/tiny-gemma-4-31B-it-assistant",
        "num_speculative_tokens": 4}}'
supervise: {{start_s: 300, backoff_s: 0.5}}
gateway:
  deadlines: {{drain_s: 60}}
"""


@pytest.fixture(scope="session")
def fleet(
    vllm: Path, checkpoints: Path, state: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """`gemstead serve` with two replicas of vLLM: 31B-shaped, an adapter, a drafter."""
    folder = tmp_path_factory.mktemp("fleet")
    text = FILE.format(checkpoints=checkpoints, seqs=8)
    with Service(folder, text, engines=state / "engines") as service:
        began = time.monotonic()
        service.wait_ready(replicas=2, within_s=300)
        print(f"two replicas of vLLM ready after {time.monotonic() - began:.0f} s")
        yield service


@pytest.fixture
def whole(fleet: Service) -> Service:
    """The fleet with both replicas ready, whatever the test before did to it."""
    until(lambda: fleet.ready_count() == 2, 300, lambda: fleet.told())
    return fleet
