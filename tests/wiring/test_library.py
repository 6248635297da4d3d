"""What a service does with the store: fetches, keeps to the lock, and marks what it uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gemstead.catalog.addresses import parse
from gemstead.catalog.manifest import Lock, lock_text
from gemstead.catalog.sources import Want
from gemstead.operate.store.keep import held, remove
from gemstead.operate.store.trouble import StoreTrouble
from gemstead.spec.model import Spec
from gemstead.testing.hub import PretendHub, serving
from gemstead.wiring.library import Library, lock_at, lock_path
from gemstead.wiring.secrets import CannotRun

SPEC = Spec.model_validate({"store": {"min_free_gb": 0.0}})


@pytest.fixture
def hub() -> Iterator[PretendHub]:
    with serving(PretendHub(files={"a.gguf": b"GGUF" * 5000, "b.gguf": b"GGUF" * 6000})) as pretend:
        yield pretend


def library(hub: PretendHub, tmp_path: Path) -> Library:
    environ = hub.environ(tmp_path / "hub", GEMSTEAD_CONFIG=str(tmp_path / "gemstead.yaml"))
    return Library.of(SPEC, environ, lambda *_: None)


def test_a_branch_is_looked_up_once_and_not_at_every_start(hub: PretendHub, tmp_path: Path) -> None:
    folder = library(hub, tmp_path).folder("google/tiny", "a.gguf")
    assert (folder / "a.gguf").read_bytes() == hub.files["a.gguf"]
    assert not (folder / "b.gguf").exists()
    hub.asked.clear()
    assert library(hub, tmp_path).folder("google/tiny", "a.gguf") == folder
    assert hub.asked == []


def test_what_runs_cannot_be_removed(hub: PretendHub, tmp_path: Path) -> None:
    ours = library(hub, tmp_path)
    ours.folder("google/tiny", "a.gguf")
    with pytest.raises(StoreTrouble, match="in use"):
        remove(held(ours.place))


def test_a_service_keeps_to_the_lock_beside_its_file(hub: PretendHub, tmp_path: Path) -> None:
    first = library(hub, tmp_path).get(Want(parse("google/tiny"), include=("a.gguf",))).manifest
    lock_path({"GEMSTEAD_CONFIG": str(tmp_path / "gemstead.yaml")}).write_text(
        lock_text(Lock({}).pinned(first))
    )
    hub.files["a.gguf"] = b"other" * 5000
    elsewhere = tmp_path / "elsewhere"
    environ = hub.environ(elsewhere, GEMSTEAD_CONFIG=str(tmp_path / "gemstead.yaml"))
    with pytest.raises(StoreTrouble, match=r"a\.gguf .*models pin"):
        Library.of(SPEC, environ, lambda *_: None).folder("google/tiny", "a.gguf")


@pytest.mark.parametrize(
    "text", ["{", '{"form": "other"}', '{"form": "gemstead-lock-1", "models": {"x": {}}}']
)
def test_a_lock_that_is_none_stops_the_service_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "gemstead.lock").write_text(text)
    with pytest.raises(CannotRun, match=r"gemstead\.lock: .*models pin"):
        lock_at(tmp_path / "gemstead.lock")


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    with serving(PretendHub()) as hub:
        assert library(hub, tmp_path).folder(str(tmp_path)) == tmp_path
        assert hub.asked == []
