"""Images of vLLM, SGLang and Ollama with the weights baked in, built from what is rendered and run as it says.

Their makers' images come from registries only, so each is stood in for by one that has a program of its name, which
takes the options of the version that is planned and nothing else (`stand_in_engine.py`); it computes nothing. What is
tried is ours: every instruction of the Dockerfile, the user, the read-only root, the launch line, where weights lie and
who may read them, the health check, and the end. test_vllm_image.py runs vLLM itself.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from container import container
from podman import Podman, engine_base

from conftest import TOKEN, Workshop
from gemstead.catalog.catalogue import built_in
from gemstead.engines.flaglist import flag_list
from gemstead.render.deployment import Deployment
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

pytestmark = pytest.mark.slow

CARDS = {"vllm": "L4", "sglang": "L4", "ollama": "L4", "vllm-intel": "B70"}


def planned(name: str) -> Deployment:
    engine = name.partition("-")[0]
    file = {
        "models": [{"name": "gemma-4-e4b", "engine": engine}],
        "deploy": {"hardware": {"gpu": CARDS[name], "count": 1}, "cache": {"kind": "image"}},
    }
    return deployment(Spec.model_validate(file, strict=False), built_in())


@pytest.fixture(scope="module", params=CARDS)
def engine(
    request: pytest.FixtureRequest,
    podman: Podman,
    workshop: Workshop,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Deployment]:
    """The tag of the engine's image, and what was planned."""
    deployed = planned(request.param)
    (pool,) = deployed.pools
    name, version = pool.setup.engine, pool.command.version
    options: dict[str, str] = {}
    if name != "ollama":
        options = {option: one.words for option, one in flag_list(name, version).options.items()}
    engine_base(podman, pool.image.reference, name, options, tmp_path_factory.mktemp("stand-in"))
    checkpoint = pool.setup.checkpoint
    weights = {"config.json": b"{}", "model.safetensors": b"weights" * 2000}
    workshop.hub.others[checkpoint.repo] = weights
    workshop.hub.others[checkpoint.drafter or pool.setup.model.assistant.repo] = weights
    tag = f"gemstead-{request.param}:test"
    workshop.build(deployed, tag)
    return tag, deployed


def body(deployed: Deployment, **more: Any) -> dict[str, Any]:
    (pool,) = deployed.pools
    name = pool.command.afterwards[0][-1] if pool.setup.engine == "ollama" else pool.name
    return {"model": name, "messages": [{"role": "user", "content": "The capital of Peru?"}], **more}


def test_weights_belong_to_who_runs_and_the_token_is_in_no_layer(
    podman: Podman, engine: tuple[str, Deployment]
) -> None:
    tag, deployed = engine
    (pool,) = deployed.pools
    root = Path(podman("image", "mount", tag))
    try:
        folder = root / "models"
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files and all(path.stat().st_uid == 10001 for path in files)
        assert (root / "cache").stat().st_uid == 10001
        everything = [*folder.rglob("*"), *(root / "root").rglob("*"), *(root / "cache").rglob("*")]
        for path in everything:
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    finally:
        podman("image", "unmount", tag)
    said = podman.image(tag)
    assert TOKEN not in json.dumps(said) + podman("history", "--no-trunc", tag)
    assert said["Config"]["User"] == "10001:0" and said["Config"]["StopSignal"] == "SIGTERM"
    assert said["Labels"]["dev.gemstead.engine"].startswith(pool.setup.engine)


def test_it_answers_on_a_read_only_root_and_lets_a_running_answer_end(
    podman: Podman, engine: tuple[str, Deployment]
) -> None:
    tag, deployed = engine
    with container(podman, "engine", tag, "--network=none", "--volume", "/cache") as running:
        running.until("listening")
        running.until_healthy()
        assert "uid=10001(gemstead) gid=0(root)" in running.inside("id")
        assert "Read-only" in podman("exec", "engine", "sh", "-c", "touch /usr/bin/x 2>&1 || true"), (
            "the root can be written"
        )
        url = "http://127.0.0.1:8000/v1/chat/completions"
        caller = running.asking("", body(deployed, user="1.5"), url)
        time.sleep(0.7)  # the answer runs: a moment of the stand-in's own, and half of it
        podman("stop", "--time", "20", "engine", timeout_s=60)
        said, _ = caller.communicate(timeout=30)
        assert caller.returncode == 0, said + running.logs()
        assert "Lima" in json.loads(said)["choices"][0]["message"]["content"]
        assert podman("inspect", "--format", "{{.State.ExitCode}}", "engine") == "0"


def test_the_health_check_notices_an_engine_that_is_not_there(
    podman: Podman, engine: tuple[str, Deployment]
) -> None:
    tag, _ = engine
    with container(podman, "absent", tag, "--network=none", "--entrypoint", "sleep", after=("60",)):
        check = podman.image(tag)["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        with pytest.raises(AssertionError, match=r"(?i)refused|could not connect"):
            podman("exec", "absent", *check[1:])
