"""Against a real registry on this machine: Debian's `docker-registry`."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from gemstead.catalog.addresses import parse
from gemstead.catalog.sources import Want
from gemstead.operate.hub import Hub
from gemstead.operate.store.place import Place
from gemstead.operate.store.pull import pull
from gemstead.operate.store.trouble import StoreTrouble

PROGRAM = shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Debian's docker-registry")
BIG = bytes(range(256)) * 81_920  # 20 MiB: two ranges
SECRET = "$2b$04$GdTsWuwkGDNw4GMI0VJKMOiU0spVOWfu00K.kDup9NmbwiKgDrZq2"  # bcrypt of "secret"
TITLE = "org.opencontainers.image.title"
PATH = "org.cncf.model.filepath"


@contextmanager
def running(folder: Path, more: str = "") -> Iterator[str]:
    """A registry at a free port: host and port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{more}"
    )
    assert PROGRAM
    process = subprocess.Popen(
        [PROGRAM, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                httpx2.get(f"http://127.0.0.1:{port}/v2/", timeout=1)
                break
            except httpx2.HTTPError:
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def place(tmp_path: Path) -> Place:
    environ = {"HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    hub = Hub.of(environ)
    return Place(path=hub.cache, hub=hub, min_free_bytes=0, environ=environ)


def push(registry: str, name: str, tag: str, layers: list[tuple[bytes, str, dict[str, str]]]) -> str:
    """The manifest's digest."""

    def blob(content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        begun = httpx2.post(f"http://{registry}/v2/{name}/blobs/uploads/").headers["Location"]
        assert httpx2.put(f"{begun}&digest={digest}", content=content).status_code == 201
        return digest

    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": blob(b"{}"), "size": 2}
    body = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [
            {"mediaType": kind, "digest": blob(content), "size": len(content), "annotations": notes}
            for content, kind, notes in layers
        ],
        "annotations": {"org.opencontainers.image.licenses": "Apache-2.0"},
    }
    put = httpx2.put(
        f"http://{registry}/v2/{name}/manifests/{tag}",
        content=json.dumps(body),
        headers={"Content-Type": body["mediaType"]},
    )
    assert put.status_code == 201
    return str(put.headers["Docker-Content-Digest"])


RAW = "application/vnd.cncf.model.weight.v1.raw"


@pytest.mark.parametrize("note", [TITLE, PATH])
def test_an_artifact_is_a_model_and_its_digest_the_revision(registry: str, place: Place, note: str) -> None:
    name = f"ai/{note.rpartition('.')[2]}"
    digest = push(
        registry, name, "1", [(BIG, RAW, {note: "w/model.safetensors"}), (b"{}", RAW, {note: "config.json"})]
    )
    pulled = pull(Want(parse(f"oci://{registry}/{name}:1")), place)
    assert pulled.file("w/model.safetensors").read_bytes() == BIG
    assert (pulled.manifest.revision, pulled.manifest.licence) == (digest.replace(":", "-"), "Apache-2.0")
    assert pull(Want(parse(f"oci://{registry}/{name}@{digest}")), place).fetched_bytes == 0


def test_what_docker_model_pushes_has_names_too(registry: str, place: Place) -> None:
    kinds = (
        "application/vnd.docker.ai.gguf.v3",
        "application/vnd.docker.ai.mmproj",
        "application/vnd.docker.ai.license",
    )
    push(registry, "ai/docker", "latest", [(kind.encode(), kind, {}) for kind in kinds])
    pulled = pull(Want(parse(f"oci://{registry}/ai/docker")), place)
    assert [file.path for file in pulled.manifest.files] == ["LICENSE", "mmproj.gguf", "model.gguf"]


def test_archives_and_what_is_not_there_are_refused_with_what_to_do(registry: str, place: Place) -> None:
    push(registry, "ai/tar", "1", [(b"x", "application/vnd.oci.image.layer.v1.tar+gzip", {})])
    with pytest.raises(StoreTrouble, match="oras push"):
        pull(Want(parse(f"oci://{registry}/ai/tar:1")), place)
    with pytest.raises(StoreTrouble, match="the tag"):
        pull(Want(parse(f"oci://{registry}/ai/none:1")), place)
    with pytest.raises(StoreTrouble, match="cannot be reached"):
        pull(Want(parse("oci://127.0.0.1:9/ai/none:1")), place)


def test_a_name_that_leads_elsewhere_is_refused(registry: str, place: Place) -> None:
    push(registry, "ai/evil", "1", [(b"x", RAW, {TITLE: "../../evil"})])
    with pytest.raises(StoreTrouble, match="leads out"):
        pull(Want(parse(f"oci://{registry}/ai/evil:1")), place)


def test_a_registry_that_asks_who_we_are_is_shown_the_login_of_docker(place: Place, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"me:{SECRET}\n")
    with running(tmp_path, f"auth: {{htpasswd: {{realm: here, path: {tmp_path / 'users'}}}}}\n") as registry:
        want = Want(parse(f"oci://{registry}/ai/private:1"))
        with pytest.raises(StoreTrouble, match="docker login") as refused:
            pull(want, place)
        assert refused.value.kind == "gated"
        login = base64.b64encode(b"me:secret").decode()
        (tmp_path / ".docker").mkdir()
        (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {registry: {"auth": login}}}))
        with pytest.raises(StoreTrouble, match="the tag"):  # let in, and nothing is there
            pull(want, place)
