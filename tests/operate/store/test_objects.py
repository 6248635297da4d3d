"""Against a real S3 server on this machine: moto's, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gemstead.catalog.addresses import parse
from gemstead.catalog.sources import Known, Want
from gemstead.operate.hub import Hub
from gemstead.operate.store.keep import matching
from gemstead.operate.store.pack import export
from gemstead.operate.store.place import Place
from gemstead.operate.store.pull import pull
from gemstead.operate.store.trouble import StoreTrouble
from gemstead.refused import Refused

obstore = pytest.importorskip("obstore", reason="pip install 'gemstead[s3]'")
moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")

BIG = bytes(range(256)) * 81_920  # 20 MiB: two ranges


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import httpx2

    httpx2.put(f"http://{host}:{port}/models")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def place(endpoint: str, tmp_path: Path) -> Place:
    environ = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    hub = Hub.of(environ)
    return Place(path=hub.cache, hub=hub, min_free_bytes=0, environ=environ)


def upload(endpoint: str, files: dict[str, bytes]) -> None:
    store = obstore.store.S3Store(
        "models",
        config={"endpoint": endpoint, "access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"},
        client_options={"allow_http": True},
    )
    for path, content in files.items():
        obstore.put(store, path, content)


def test_a_prefix_is_a_model_and_a_changed_object_a_new_revision(endpoint: str, place: Place) -> None:
    upload(endpoint, {"a/model.safetensors": BIG, "a/config.json": b"{}", "b/other.json": b"1"})
    want = Want(parse("s3://models/a"))
    first = pull(want, place)
    assert {file.path for file in first.manifest.files} == {"model.safetensors", "config.json"}
    assert first.file("model.safetensors").read_bytes() == BIG
    assert pull(want, place).fetched_bytes == 0
    upload(endpoint, {"a/config.json": b"{1}"})
    again = pull(want, place)
    assert again.manifest.revision != first.manifest.revision
    assert again.file("config.json").read_bytes() == b"{1}"


def test_one_object_is_a_model_too(endpoint: str, place: Place) -> None:
    upload(endpoint, {"one/mine.gguf": b"GGUF"})
    assert pull(Want(parse("s3://models/one/mine.gguf")), place).file("mine.gguf").read_bytes() == b"GGUF"


def test_an_export_in_a_bucket_is_held_to_its_manifest(endpoint: str, place: Place, tmp_path: Path) -> None:
    upload(endpoint, {"c/model.gguf": BIG})
    pull(Want(parse("s3://models/c")), place)
    export(matching(place, "s3://models/c"), tmp_path / "out", place, lambda *_: None)
    (folder,) = [path.parent for path in (tmp_path / "out").rglob("gemstead-manifest.json")]
    upload(endpoint, {f"d/{path.name}": path.read_bytes() for path in folder.iterdir()})
    assert pull(Want(parse("s3://models/d")), place).file("model.gguf").read_bytes() == BIG
    upload(endpoint, {"d/model.gguf": BIG[::-1]})
    with pytest.raises(StoreTrouble, match=r"model\.gguf came damaged"):
        pull(Want(parse("s3://models/d")), replace(place, path=tmp_path / "second"))


def test_a_rule_takes_a_hub_repository_from_the_bucket_and_the_known_sum_still_counts(
    endpoint: str, place: Place
) -> None:
    upload(endpoint, {"google/tiny/model.gguf": BIG})
    ruled = replace(place, rules={"google/*": "s3://models/{repo}"})
    want = Want(parse("google/tiny@" + "0" * 40), (Known("model.gguf", len(BIG)),))
    assert pull(want, ruled).file("model.gguf").read_bytes() == BIG
    wrong = replace(want, files=(Known("model.gguf", len(BIG), "0" * 64),))
    with pytest.raises(StoreTrouble, match="damaged"):
        pull(wrong, replace(ruled, path=place.path / "second"))


@pytest.mark.parametrize(
    ("address", "kind", "word"),
    [("s3://models/nothing-here", "missing", "prefix"), ("s3://no-such-bucket/a", "missing", "bucket")],
)
def test_what_is_not_there_is_said(place: Place, address: str, kind: str, word: str) -> None:
    with pytest.raises(StoreTrouble, match=word) as caught:
        pull(Want(parse(address)), place)
    assert caught.value.kind == kind


def test_a_word_that_is_no_bucket_is_refused() -> None:
    with pytest.raises(Refused, match="names no bucket"):
        parse("s3:///a")


def test_google_cloud_storage_is_read_the_same_way(endpoint: str, place: Place) -> None:
    """Against the same server: Google's XML interface asks for lists and ranges as S3's does."""
    upload(endpoint, {"g/model.safetensors": BIG})
    environ = {**place.environ, "STORAGE_EMULATOR_HOST": endpoint}
    pulled = pull(Want(parse("gs://models/g")), replace(place, environ=environ))
    assert pulled.file("model.safetensors").read_bytes() == BIG
