"""The gateway's image without a shell, built from what is rendered over a base that has none either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from container import container
from podman import Podman, bare_base

from conftest import FILE, archive
from gemstead.catalog.catalogue import built_in
from gemstead.cli.render import write
from gemstead.render import target
from gemstead.render.docker_gateway import STATE
from gemstead.render.gatewayfile import gateway_file
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment

pytestmark = pytest.mark.slow

TAG = "gemstead-gateway:distroless"


@pytest.fixture(scope="module")
def folder(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the image was built, and the gateway's own file."""
    bare_base(podman)
    found = tmp_path_factory.mktemp("docker")
    deployed = deployment(Spec.model_validate(FILE, strict=False), built_in())
    write(target("docker").render(deployed), found)
    archive(found / "gateway/source", "wheel")  # the compiler's work is tried in test_gateway_image.py
    podman.build(found / "gateway", TAG, "--file", str(found / "gateway/Dockerfile.distroless"))
    text = gateway_file(deployed, {"gemma-4-e2b": ["http://127.0.0.1:8000"]}, state_dir=STATE)
    (found / "gemstead.yaml").write_text(text, "utf-8")
    yield found


def test_there_is_no_shell_and_no_package_manager(podman: Podman, folder: Path) -> None:
    root = Path(podman("image", "mount", TAG))
    try:
        assert (root / "usr/bin/python3").exists() and (root / "opt/gemstead/bin/gemstead").exists()
        for program in ("sh", "bash", "dash", "apt-get", "pip", "gcc", "perl"):
            for at in ("bin", "usr/bin", "usr/local/bin", "opt/gemstead/bin"):
                assert not (root / at / program).is_file(), f"{at}/{program}"
    finally:
        podman("image", "unmount", TAG)
    assert podman.image(TAG)["Config"]["User"] == "10001:0"


def test_it_serves_and_ends(podman: Podman, folder: Path) -> None:
    volume = f"{folder}/gemstead.yaml:/etc/gemstead/gemstead.yaml:ro"
    with container(podman, "bare", TAG, "--network=none", "--volume", volume) as running:
        running.until("gms_")
        running.until_healthy()
        assert "gemstead" in running.inside("/opt/gemstead/bin/gemstead", "version")
        podman("stop", "--time", "20", "bare", timeout_s=60)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", "bare") == "0"
