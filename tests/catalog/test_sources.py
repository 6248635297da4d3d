"""Addresses, manifests and locks: what is a place, and what may be trusted with our folders."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog import sources
from gemstead.catalog.addresses import Address, is_address, of_key, parse, safe
from gemstead.catalog.manifest import (
    BadManifest,
    Lock,
    Manifest,
    ManifestFile,
    lock_text,
    read,
    read_lock,
    text,
)
from gemstead.catalog.models import models
from gemstead.refused import Refused

SHA = "a" * 64
MANIFEST = Manifest(
    "hf:google/tiny", "f" * 40, "apache-2.0", "2026-11-21T00:00:00Z", (ManifestFile("a/b.gguf", 7, SHA, SHA),)
)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("google/gemma-4-31B-it", Address("hf", "google/gemma-4-31B-it")),
        ("hf:google/gemma-4-31B-it@abc", Address("hf", "google/gemma-4-31B-it", "abc")),
        ("https://huggingface.co/a/b/blob/main/x.gguf", Address("hf", "a/b", "main", "x.gguf")),
        ("hf.co/a/b/x.gguf", Address("hf", "a/b", "", "x.gguf")),
        ("s3://models/gemma/", Address("s3", "models/gemma")),
        ("gs://models", Address("gs", "models")),
        ("oci://127.0.0.1:5000/ai/gemma", Address("oci", "127.0.0.1:5000/ai/gemma", "latest")),
        (f"oci://r.example/ai/gemma:1@sha256:{SHA}", Address("oci", "r.example/ai/gemma", f"sha256:{SHA}")),
        ("./mine", Address("file", "./mine")),
        ("file:///models/x", Address("file", "/models/x")),
    ],
)
def test_places_are_read_as_people_write_them(said, address):
    assert is_address(said)
    assert parse(said) == address
    assert of_key(address.key).place == address.place


@pytest.mark.parametrize(
    "said", ["s3://", "oci://r.example/Upper", "hf:one", "a/b@../c", "hf:a/b/../c", "gemma-4-e2b", "x\x00"]
)
def test_what_is_no_place_is_refused_with_how_places_are_written(said):
    with pytest.raises(Refused, match=r"s3://bucket/prefix"):
        parse(said)


def test_two_places_never_share_a_folder():
    places = [Address("s3", "a/b-c"), Address("s3", "a-b/c"), Address("gs", "a/b-c"), Address("hf", "a/b-c")]
    assert len({place.folder for place in places}) == 4


@given(st.text(max_size=40))
def test_a_safe_path_stays_in_its_folder(path):
    from pathlib import PurePosixPath

    if safe(path):
        assert ".." not in PurePosixPath(path).parts and not PurePosixPath(path).is_absolute()


def test_a_manifest_and_a_lock_come_back_as_they_were():
    assert read(text(MANIFEST)) == MANIFEST
    assert read_lock(lock_text(Lock({}).pinned(MANIFEST))).pins == {MANIFEST.source: MANIFEST}
    assert read_lock("").pins == {}


@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"path": "../evil", "bytes": 1, "sha256": SHA, "blob": SHA}]},
        {"files": [{"path": "/etc/passwd", "bytes": 1, "sha256": SHA, "blob": SHA}]},
        {"files": [{"path": "a", "bytes": 1, "sha256": SHA, "blob": "../../x"}]},
        {"files": [{"path": "a", "bytes": -1, "sha256": SHA, "blob": SHA}]},
        {"files": [{"path": "a", "bytes": 1, "sha256": SHA, "blob": SHA}] * 2},
        {"revision": "../../up"},
        {"revision": ""},
        {"form": "other"},
        {"files": None},
    ],
)
def test_a_manifest_that_would_leave_its_folder_is_none(change):
    with pytest.raises(BadManifest):
        read(json.dumps(json.loads(text(MANIFEST)) | change))


def test_a_lock_contradicts_only_what_it_knows():
    lock = Lock({}).pinned(MANIFEST)
    assert lock.contradiction("hf:google/tiny", "a/b.gguf", SHA, 7) == ""
    assert lock.contradiction("hf:google/tiny", "new", "b" * 64, 7) == ""
    assert "wants aaaaaaaaaaaa" in lock.contradiction("hf:google/tiny", "a/b.gguf", "b" * 64, 7)
    assert lock.without("hf:google/tiny").pins == {}


def test_a_name_is_the_catalogues_file_at_the_catalogues_commit():
    for facts in models():
        (want,) = sources.wanted(facts.name)
        assert (want.address.place, want.address.revision) == (facts.gguf.repo, facts.gguf.revision)
        assert want.licence == "apache-2.0"
        assert want.files[0].sha256 == (facts.gguf.sha256 or "")


def test_a_checkpoint_comes_with_its_drafter_when_asked():
    model, drafter = sources.wanted("gemma-4-31b", checkpoint_name="fp8", drafter=True)
    assert (model.address.place, drafter.address.place) == (
        "RedHatAI/gemma-4-31B-it-FP8-block",
        "google/gemma-4-31B-it-assistant",
    )


def test_a_rule_is_for_what_it_matches():
    rules = {"google/*": "s3://models/{repo}", "*": "/mnt/{name}"}
    assert sources.redirect(parse("google/gemma-4-31B-it"), rules).key == "s3://models/google/gemma-4-31B-it"
    assert sources.redirect(parse("RedHatAI/x"), rules) == Address("file", "/mnt/x")
    assert sources.redirect(parse("s3://a-b/c"), rules) == parse("s3://a-b/c")


def test_weights_are_not_fetched_twice():
    want = sources.Want(parse("a/b"))
    paths = ["model.safetensors", "pytorch_model.bin", "original/x.pth", "tokenizer.json", "mmproj.gguf"]
    assert sources.chosen(paths, want) == ("model.safetensors", "tokenizer.json")
    parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-f16.gguf"]
    assert sources.chosen(parts, want) == tuple(parts)
