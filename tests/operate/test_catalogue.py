"""A user's facts come from a file or an address, whole or not at all, and the old ones are kept."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gemstead.operate.catalogue import CatalogueTrouble, fetch, load, origin_of, path_of, store
from gemstead.spec.fault import SpecError

TEXT = "catalogue: 1\nas_of: 2026-11-01\nrent:\n  - {gpu: H100, usd_hour: 2.10}\n"
DAY = datetime.date(2026, 11, 21)


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to"):
            self.send_response(302)
            self.send_header(
                "Location",
                {"/to-good": "/good", "/to-plain": "http://example.test/x"}.get(self.path, "/to-itself"),
            )
            self.end_headers()
            return
        body = {
            "/good": TEXT.encode(),
            "/faulty": b"catalogue: 9\nas_of: 2026-11-01\n",
            "/large": b"#" * (2 << 20),
            "/latin": b"# caf\xe9\n",
        }.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("page", ["/good", "/to-good"])
def test_an_address_gives_checked_facts(site: str, page: str) -> None:
    fetched = fetch(site + page)
    assert fetched.text == TEXT
    assert fetched.origin == site + page
    assert fetched.overlay.rents[0].usd_hour == 2.10


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("/none", "answered 404; nothing was changed"),
        ("/large", "is larger than 1 MiB"),
        ("/latin", "/latin:1: is not UTF-8 text"),
        ("/to-itself", "sends on more than 3 times"),
        ("/to-plain", "fetched over https only"),
    ],
)
def test_an_address_that_gives_nothing_of_use_is_refused(site: str, page: str, why: str) -> None:
    with pytest.raises(CatalogueTrouble, match=why):
        fetch(site + page)


def test_a_fault_behind_an_address_has_its_line(site: str) -> None:
    with pytest.raises(SpecError, match=r"/faulty:1 catalogue: should be 1"):
        fetch(site + "/faulty")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("http://example.test/facts.yaml", "over https only"),
        ("ftp://example.test/facts.yaml", "over https only"),
        ("https://me:secret@example.test/x", "password"),
        ("https://127.0.0.1:1/x", "cannot reach 127.0.0.1 .* Without a network"),
        ("nowhere.yaml", "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_had_says_what_to_do(source: str, why: str) -> None:
    with pytest.raises(CatalogueTrouble, match=why) as trouble:
        fetch(source)
    assert "secret" not in str(trouble.value)


def test_facts_are_kept_counted_and_the_old_ones_put_aside(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    path = path_of(environ)
    assert load(environ).overlay is None
    mine = tmp_path / "mine.yaml"
    mine.write_text(TEXT)
    assert store(fetch(str(mine)), path, DAY) is None
    assert load(environ).rents_of("h100-sxm")[0].usd_hour == 2.10
    assert origin_of(path) == str(mine)
    first = path.read_text()
    mine.write_text(TEXT.replace("2.10", "1.90"))
    kept = store(fetch(origin_of(path)), path, DAY)
    assert kept is not None
    assert kept.read_text() == first
    assert load(environ).rents_of("h100-sxm")[0].usd_hour == 1.90
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "catalogue.yaml",
        "catalogue.yaml.before",
    ]


def test_a_file_written_by_hand_counts_and_its_faults_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    environ = {"GEMSTEAD_CATALOGUE": str(path)}
    path.write_text(TEXT)
    assert load(environ).rents_of("h100-sxm")[0].mine
    assert origin_of(path) == ""
    path.write_text(TEXT + "pries: []\n")
    with pytest.raises(SpecError, match=r"own\.yaml:5 pries"):
        load(environ)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(TEXT)
    with pytest.raises(CatalogueTrouble, match="cannot be written"):
        store(fetch(str(mine)), mine / "below" / "catalogue.yaml", DAY)
