"""What the tests here share: the gateway's image, built from the folder that is rendered with this checkout inside, and
images of engines, built from theirs while a pretend hub has the weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from podman import Podman, missing, python_base

from gemstead.catalog.catalogue import built_in
from gemstead.cli.render import write
from gemstead.render import target
from gemstead.render.deployment import Deployment
from gemstead.render.docker_gateway import PYTHON_IMAGE
from gemstead.spec.model import Spec
from gemstead.testing.hub import PretendHub, serving
from gemstead.wiring.deployment import deployment

ROOT = Path(__file__).parents[2]
FILE = {"models": [{"name": "gemma-4-e2b"}], "deploy": {"cache": {"kind": "image"}}}


@dataclass(frozen=True)
class Built:
    """Where images are, what was rendered, and the tag of the gateway's."""

    podman: Podman
    folder: Path  # the rendered bundle
    deployed: Deployment
    tag: str
    said: str  # by the build


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    if why := missing():
        pytest.skip(f"no image is built: {why}")
    kept = os.environ.get("IMAGES_STORE", "")  # a folder that is kept, for whoever works on these tests
    found = Podman(Path(kept) if kept else tmp_path_factory.mktemp("podman"))
    try:
        python_base(found)
        yield found
    finally:
        found.remove(everything=not kept)


@pytest.fixture(scope="session")
def gateway(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The image as `docker build gateway` makes it from a checkout, compiled."""
    folder = tmp_path_factory.mktemp("docker")
    deployed = deployment(Spec.model_validate(FILE, strict=False), built_in())
    write(target("docker").render(deployed), folder)
    archive(folder / "gateway/source", "sdist")
    tag = "gemstead-gateway:test"
    return Built(podman, folder, deployed, tag, podman.build(folder / "gateway", tag))


TOKEN = "hf_of_the_test"


@dataclass(frozen=True)
class Workshop:
    """Builds images of engines; the weights come from a hub of the test's."""

    podman: Podman
    hub: PretendHub
    folder: Path

    def build(self, deployed: Deployment, tag: str) -> Path:
        """The image of the only model's engine, under this tag; the folder that was rendered."""
        (pool,) = deployed.pools
        folder = self.folder / tag.partition(":")[0]
        write(target("docker").render(deployed), folder)
        self.podman.build(
            folder / f"engine-{pool.name}", tag, "--secret", f"id=hf_token,src={self.folder}/token",
            "--build-context", f"{PYTHON_IMAGE}=container-image://localhost/python-with-hub",
        )  # fmt: skip
        return folder


@pytest.fixture(scope="session")
def workshop(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "token").write_text(TOKEN)
    with serving(PretendHub()) as hub:
        base = tmp_path_factory.mktemp("base")
        lines = f"FROM {PYTHON_IMAGE}\nENV HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1\n"
        (base / "Dockerfile").write_text(lines)
        podman.build(base, "localhost/python-with-hub")
        yield Workshop(podman, hub, folder)


def archive(folder: Path, kind: str) -> None:
    """This checkout as `sdist` or `wheel`, alone in the folder."""
    for old in folder.glob("gemstead*"):
        old.unlink()
    words = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
