"""Digests of images, asked of a real registry on this machine: Debian's `docker-registry`."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import trustme
import yaml

from gemstead.operate.hub import Hub
from gemstead.operate.images import ask, full_name
from gemstead.operate.store.place import Place

PROGRAM = shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Debian's docker-registry")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TODAY = "2026-11-21"


@contextmanager
def registry(folder: Path, more: str = "", verify: ssl.SSLContext | bool = True) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\nhttp:\n  addr: '127.0.0.1:{port}'\n{more}"
    )
    process = subprocess.Popen(
        [str(PROGRAM), "serve", str(folder / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def place(tmp_path: Path) -> Place:
    environ = {"HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    hub = Hub.of(environ)
    return Place(path=hub.cache, hub=hub, environ=environ)


def push(base: str, name: str, tag: str, text: str, *architectures: str, **options: object) -> str:
    """Push an image, or an index of one for each architecture; the digest of what the tag stands for."""
    with httpx2.Client(base_url=base, **options) as client:  # type: ignore[arg-type]

        def blob(content: bytes) -> dict[str, object]:
            digest = "sha256:" + hashlib.sha256(content).hexdigest()
            begun = client.post(f"/v2/{name}/blobs/uploads/").headers["Location"]
            assert client.put(f"{begun}&digest={digest}", content=content).status_code == 201
            return {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}

        def manifest(content: str, at: str) -> dict[str, object]:
            body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": blob(content.encode()), "layers": []}
            return put(body, at)

        def put(body: dict[str, object], at: str) -> dict[str, object]:
            written = json.dumps(body).encode()
            digest = "sha256:" + hashlib.sha256(written).hexdigest()
            kind = str(body["mediaType"])
            answer = client.put(
                f"/v2/{name}/manifests/{at or digest}", content=written, headers={"Content-Type": kind}
            )
            assert answer.status_code == 201, answer.text
            return {"mediaType": kind, "digest": digest, "size": len(written)}

        if not architectures:
            return str(manifest(text, tag)["digest"])
        inner = [
            manifest(f"{text} {one}", "") | {"platform": {"os": "linux", "architecture": one}}
            for one in architectures
        ]
        return str(put({"schemaVersion": 2, "mediaType": INDEX, "manifests": inner}, tag)["digest"])


def test_the_index_is_pinned_where_there_is_one(plain: str, place: Place) -> None:
    index = push(f"http://{plain}", "acme/vllm", "v1", "x", "amd64", "arm64", "unknown")
    single = push(f"http://{plain}", "acme/one", "v1", "y")
    first, second = ask([f"{plain}/acme/vllm:v1", f"{plain}/acme/one:v1"], place, TODAY)
    assert first.pin and second.pin
    assert (first.pin.digest, first.pin.platforms) == (index, ("linux/amd64", "linux/arm64"))
    assert (second.pin.digest, second.pin.platforms, second.pin.seen) == (single, (), TODAY)


def test_what_cannot_be_had_says_why_and_costs_nobody_else(plain: str, place: Place) -> None:
    push(f"http://{plain}", "acme/there", "v1", "z")
    names = [f"{plain}/acme/none:v1", f"{plain}/acme/there:v1", "127.0.0.1:9/x:1", "UPPER/case:1"]
    missing, there, offline, odd = ask(names, place, TODAY)
    assert there.pin is not None
    assert missing.pin is None and "is not there" in missing.trouble
    assert "cannot be reached" in offline.trouble
    assert "names no artifact of a registry" in odd.trouble


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("vllm/vllm-openai:v1", "docker.io/vllm/vllm-openai:v1"),
        ("ghcr.io/ggml-org/llama.cpp:server-b1", "ghcr.io/ggml-org/llama.cpp:server-b1"),
        ("localhost/mine:1", "localhost/mine:1"),
        ("registry:5000/mine:1", "registry:5000/mine:1"),
    ],
)
def test_short_names_are_dockers(image: str, full: str) -> None:
    assert full_name(image) == full


class Tokens(http.server.BaseHTTPRequestHandler):
    """A registry over TLS that gives a manifest only to who has a token, and the token to anybody."""

    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": []}).encode()
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/token"):
            self.answer(200, b'{"token": "t0k"}')
        elif self.headers.get("Authorization") != "Bearer t0k":
            realm = f"https://localhost:{self.server.server_address[1]}/token"
            scope = "repository:acme/private:pull"
            challenge = f'Bearer realm="{realm}",service="here",scope="{scope}"'
            self.answer(401, b"{}", {"WWW-Authenticate": challenge})
        else:
            self.answer(200, self.body)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


ASK = """
import json, os, sys
from gemstead.operate.hub import Hub
from gemstead.operate.images import pin
from gemstead.operate.store.place import Place
hub = Hub.of(os.environ)
print(pin(sys.argv[1], Place(path=hub.cache, hub=hub), "2026-11-21").digest)
"""


def test_over_tls_a_token_is_asked_for_as_the_challenge_says(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("registry.test", "localhost").configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # A name that is not of this machine's own, so that HTTPS is spoken; it leads here in this one process.
        name = f"registry.test:{server.server_address[1]}"
        hosts = "import socket as s; f = s.getaddrinfo\ns.getaddrinfo = lambda h, *a, **k: f('127.0.0.1', *a, **k)\n"
        environ = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
        done = subprocess.run(
            [sys.executable, "-c", hosts + ASK, f"{name}/acme/private:1"], capture_output=True, text=True,
            env=environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "HOME": str(tmp_path)}, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout.strip() == "sha256:" + hashlib.sha256(Tokens.body).hexdigest(), done.stderr
        assert any("scope=repository" in path and "service=here" in path for path in Tokens.asked)
    finally:
        server.shutdown()
        server.server_close()


def gemstead(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gemstead", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_render_pins_keeps_and_tells_of_a_tag_that_was_moved(plain: str, tmp_path: Path) -> None:
    image = f"{plain}/acme/llama:v1"
    (tmp_path / "gemstead.yaml").write_text(
        f"models:\n  - {{name: gemma-4-e2b, engine: llamacpp, image: '{image}'}}\n"
        f"deploy: {{images: {{gateway: '{plain}/acme/gateway:1'}}}}\n"
    )
    before = push(f"http://{plain}", "acme/llama", "v1", "first", "amd64")
    push(f"http://{plain}", "acme/gateway", "1", "gateway")
    said = gemstead(tmp_path, "render", "kubernetes", "--pin")
    assert f"{image}: {before}" in said and "2 of 2 images are pinned" in said
    lock = yaml.safe_load((tmp_path / "gemstead.images.lock").read_text())
    assert lock["images"][image]["digest"] == before
    first = {file: file.read_bytes() for file in (tmp_path / "deploy").rglob("*") if file.is_file()}
    assert any(f"{image}@{before}".encode() in text for text in first.values())

    after = push(f"http://{plain}", "acme/llama", "v1", "second", "amd64")
    gemstead(tmp_path, "render", "kubernetes")  # asks nobody
    assert {file: file.read_bytes() for file in first} == first
    gemstead(tmp_path, "diff", "kubernetes")
    said = gemstead(tmp_path, "render", "--pin", "kubernetes")
    assert f"{after}; the tag was moved since" in said and before in said
    assert any(f"{image}@{after}".encode() in file.read_bytes() for file in first)


def test_without_a_registry_files_keep_their_tags_and_the_lock_what_it_had(tmp_path: Path) -> None:
    (tmp_path / "gemstead.yaml").write_text(
        "models:\n  - {name: gemma-4-e2b, engine: llamacpp, image: '127.0.0.1:9/x/y:1'}\n"
        "deploy: {images: {gateway: '127.0.0.1:9/x/g:1'}}\n"
    )
    said = gemstead(tmp_path, "render", "kubernetes", "--pin")
    assert "cannot be reached" in said and "files keep their tags" in said
    assert not (tmp_path / "gemstead.images.lock").exists()
    (tmp_path / "gemstead.images.lock").write_text("version: 7\n")
    said = gemstead(tmp_path, "render", "kubernetes", code=1)
    assert "newer than this Gemstead knows" in said and "Traceback" not in said
