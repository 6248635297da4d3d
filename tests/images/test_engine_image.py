"""An engine's image with the weights baked in, built from what is rendered, and a call answered by it.

llama.cpp's own image is stood in for (`podman.llama_base`), and so is the hub that the weights come from; what is built
is the rendered Dockerfile, and what serves is llama.cpp with the plan's launch line.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from container import container
from podman import Podman, llama_base

from conftest import TOKEN, Workshop
from gemstead.catalog.catalogue import built_in
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "src/gemstead/embedded/models/tiny-gemma-4-E2B-it-q8_0.gguf"
FILE = {"models": [{"name": "gemma-4-e2b"}], "deploy": {"cache": {"kind": "image"}}}


@pytest.fixture(scope="module")
def engine(podman: Podman, workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tag of the engine's image."""
    deployed = deployment(Spec.model_validate(FILE, strict=False), built_in())
    (pool,) = deployed.pools
    llama_base(podman, pool.image.reference, tmp_path_factory.mktemp("llama"))
    checkpoint = pool.setup.checkpoint
    workshop.hub.others[checkpoint.repo] = {checkpoint.file: MODEL.read_bytes()}
    workshop.build(deployed, "gemstead-gemma-4-e2b:test")
    assert any(TOKEN in one for one in workshop.hub.tokens), "the token was not used"
    return "gemstead-gemma-4-e2b:test"


def test_the_weights_lie_in_a_layer_of_their_own_and_the_token_in_none(podman: Podman, engine: str) -> None:
    root = Path(podman("image", "mount", engine))
    try:
        (weights,) = (root / "models").glob("*.gguf")
        assert weights.read_bytes() == MODEL.read_bytes()
        assert weights.stat().st_uid == 10001
        for path in [
            *(root / "models").rglob("*"),
            *(root / "root").rglob("*"),
            *(root / "cache").rglob("*"),
        ]:
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    finally:
        podman("image", "unmount", engine)
    said = podman.image(engine)
    assert TOKEN not in json.dumps(said) + podman("history", "--no-trunc", engine)
    assert said["Config"]["User"] == "10001:0" and said["Labels"]["dev.gemstead.engine"].startswith(
        "llamacpp"
    )
    assert said["Config"]["Entrypoint"][:3] == ["/app/llama-server", "--model", f"/models/{weights.name}"]


def test_it_answers_on_a_read_only_root_and_ends_when_told(podman: Podman, engine: str) -> None:
    with container(podman, "engine", engine, "--network=none") as running:
        running.until("listening")
        running.until_healthy()
        body = {
            "model": "gemma-4-e2b",
            "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
        }
        caller = running.asking("", body, "http://127.0.0.1:8000/v1/chat/completions")
        said, _ = caller.communicate(timeout=90)
        assert caller.returncode == 0, said + running.logs()
        assert "Lima" in json.loads(said)["choices"][0]["message"]["content"]
        podman("stop", "--time", "20", "engine", timeout_s=60)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", "engine") == "0"
