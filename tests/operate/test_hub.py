"""Against a real local server that speaks as much of the hub's language as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gemstead.operate.hub import PART, HubFile, HubTrouble, cached, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = bytes(range(256)) * 12_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BIG = bytes(range(256)) * 49_152  # 12 MiB
FILES = {"model.gguf": CONTENT, "big.gguf": BIG}
MODEL = HubFile("google/tiny", COMMIT, "model.gguf", len(CONTENT), DIGEST)


@dataclass
class Pretend:
    """A hub with one repository and one file, that can misbehave."""

    status: int = 200
    error: str = ""  # X-Error-Code
    cut_after: int = 0  # the next answer ends after so many bytes
    damaged: bool = False
    heads: int = 0
    ranges: list[str] = field(default_factory=list)  # of each GET; "" without one
    tokens: set[str] = field(default_factory=set)
    url: str = ""


def handler(hub: Pretend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            hub.heads += 1
            self._answer(body=False)

        def do_GET(self) -> None:
            hub.ranges.append(self.headers.get("Range", ""))
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            folder, _, name = self.path.rpartition("/")
            if hub.status != 200 or folder != f"/google/tiny/resolve/{COMMIT}" or name not in FILES:
                status = hub.status if hub.status != 200 else 404
                text = json.dumps({"error": hub.error or "no"}).encode()
                self.send_response(status)
                if hub.error or status == 404:
                    self.send_header("X-Error-Code", hub.error or "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if body:
                    self.wfile.write(text)
                return
            begin = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            whole = FILES[name]
            digest = hashlib.sha256(whole).hexdigest()
            content = (whole[::-1] if hub.damaged else whole)[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(whole)))
            self.send_header("Accept-Ranges", "bytes")
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body and hub.cut_after:
                content, hub.cut_after, self.close_connection = content[: hub.cut_after], 0, True
            if body:
                self.wfile.write(content)

    return Handler


@contextmanager
def serving(hub: Pretend) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub() -> Iterator[Pretend]:
    pretend = Pretend()
    with serving(pretend):
        yield pretend


def environ(hub: Pretend, folder: Path, **more: str) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), **more}


def trouble(wanted: HubFile, **given: object) -> HubTrouble:
    with pytest.raises(HubTrouble) as caught:
        fetch(wanted, **given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_file_is_fetched_with_its_progress_told(hub: Pretend, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = fetch(MODEL, environ=environ(hub, tmp_path), progress=lambda *news: told.append(news))
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "hub")
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_is_there_is_never_asked_for_again(hub: Pretend, tmp_path: Path) -> None:
    first = fetch(MODEL, environ=environ(hub, tmp_path))
    heads, gets = hub.heads, len(hub.ranges)
    assert fetch(MODEL, environ=environ(hub, tmp_path)) == first
    assert fetch(MODEL, environ=environ(hub, tmp_path), offline=True) == first
    assert (hub.heads, len(hub.ranges)) == (heads, gets)


def test_what_an_earlier_run_began_is_gone_on_with(hub: Pretend, tmp_path: Path) -> None:
    begun = 1_000_000
    blobs = tmp_path / "hub" / "models--google--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{DIGEST}{PART}").write_bytes(CONTENT[:begun])
    told: list[int] = []
    path = fetch(MODEL, environ=environ(hub, tmp_path), progress=lambda done, _total: told.append(done))
    assert path.read_bytes() == CONTENT
    assert hub.ranges == [f"bytes={begun}-"]
    assert told[0] == begun


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: Pretend, tmp_path: Path) -> None:
    hub.cut_after = 11 << 20  # past one of the client's pieces of 10 MiB
    big = HubFile(MODEL.repo, MODEL.revision, "big.gguf", len(BIG), hashlib.sha256(BIG).hexdigest())
    assert fetch(big, environ=environ(hub, tmp_path)).read_bytes() == BIG
    assert hub.ranges == ["", f"bytes={10 << 20}-"]


def test_the_hub_client_finds_what_we_fetched(hub: Pretend, tmp_path: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    path = fetch(MODEL, environ=environ(hub, tmp_path))
    found = try_to_load_from_cache(MODEL.repo, MODEL.file, cache_dir=tmp_path / "hub", revision=COMMIT)
    assert found == str(path)


def test_what_the_progress_callback_raises_ends_the_transfer(hub: Pretend, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done:
            raise Stop

    with pytest.raises(Stop):
        fetch(MODEL, environ=environ(hub, tmp_path), progress=stop)
    assert cached(MODEL, tmp_path / "hub") is None


def test_a_damaged_file_is_deleted_and_that_is_said(hub: Pretend, tmp_path: Path) -> None:
    hub.damaged = True
    said = trouble(MODEL, environ=environ(hub, tmp_path))
    assert said.kind == "corrupt"
    assert "deleted" in str(said)
    assert cached(MODEL, tmp_path / "hub") is None
    hub.damaged = False
    assert fetch(MODEL, environ=environ(hub, tmp_path)).read_bytes() == CONTENT


def test_without_a_known_sum_the_hubs_own_is_checked(hub: Pretend, tmp_path: Path) -> None:
    hub.damaged = True
    unknown = HubFile(MODEL.repo, MODEL.revision, MODEL.file)
    assert trouble(unknown, environ=environ(hub, tmp_path)).kind == "corrupt"


def test_too_little_room_is_said_before_anything_is_asked(hub: Pretend, tmp_path: Path) -> None:
    said = trouble(MODEL, environ=environ(hub, tmp_path), free=lambda _folder: 1_000_000)
    assert said.kind == "space"
    assert "0.3 GB" in str(said) and "0.0 GB" in str(said) and "HF_HOME" in str(said)
    assert (hub.heads, hub.ranges) == (0, [])


@pytest.mark.parametrize(
    ("status", "error", "kind", "word"),
    [
        (401, "GatedRepo", "gated", "HF_TOKEN"),
        (403, "GatedRepo", "gated", "HF_TOKEN"),
        (401, "RepoNotFound", "missing", "HF_TOKEN"),
        (404, "RepoNotFound", "missing", "--demo"),
        (404, "RevisionNotFound", "missing", "--demo"),
        (404, "EntryNotFound", "missing", "model.gguf"),
        (429, "", "busy", "429"),
        (503, "", "failed", "503"),
    ],
)
def test_a_refusal_is_a_sentence_with_a_way_out(
    hub: Pretend, tmp_path: Path, status: int, error: str, kind: str, word: str
) -> None:
    hub.status, hub.error = status, error
    said = trouble(MODEL, environ=environ(hub, tmp_path))
    assert said.kind == kind
    assert word in str(said)


def test_the_token_of_the_environment_is_shown_to_the_hub_and_nobody_else(
    hub: Pretend, tmp_path: Path
) -> None:
    hub.status, hub.error = 403, "GatedRepo"
    said = trouble(MODEL, environ=environ(hub, tmp_path, HF_TOKEN="hf_secret"))
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in str(said)


def test_no_network_is_noticed_soon_and_said(tmp_path: Path) -> None:
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    said = trouble(MODEL, environ=nobody)
    assert said.kind == "offline"
    assert "--demo" in str(said)


@pytest.mark.parametrize("switch", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_switched_off_nothing_is_asked(hub: Pretend, tmp_path: Path, switch: dict[str, str]) -> None:
    said = trouble(MODEL, environ=environ(hub, tmp_path, **switch), offline=not switch)
    assert said.kind == "offline"
    assert (hub.heads, hub.ranges) == (0, [])


def test_two_at_once_fetch_once(hub: Pretend, tmp_path: Path) -> None:
    got: list[Path] = []
    both = [
        threading.Thread(target=lambda: got.append(fetch(MODEL, environ=environ(hub, tmp_path))))
        for _ in "ab"
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert len(got) == 2 and got[0] == got[1]
    assert len(hub.ranges) == 1
