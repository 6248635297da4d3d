"""The lock file of images: the same plan and the same lock give the same bytes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_golden import CLUSTER, EIGHT, NO_GPU

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.render.pins import Pin, digests, read, written
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment
from gemstead.wiring.images import Wanted

DIGEST = "sha256:" + "ab" * 32
IMAGE = st.from_regex(
    r"[a-z0-9]{1,8}(\.[a-z]{2,3})?(:[0-9]{2,4})?/[a-z0-9]{1,9}(:[\w.-]{1,12})?", fullmatch=True
)
PIN = st.builds(
    Pin,
    st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format),
    st.dates().map(str),
    st.lists(st.sampled_from(["linux/amd64", "linux/arm64/v8"]), unique=True).map(tuple),
)


def bundle(name: str, file: dict[str, object], known: Wanted) -> Bundle:
    return target(name).render(deployment(Spec.model_validate(file, strict=False), built_in(), known))


def everything(name: str, file: dict[str, object]) -> Wanted:
    wanted = Wanted({})
    bundle(name, file, wanted)
    return wanted


@given(st.dictionaries(IMAGE, PIN, max_size=6))
def test_what_is_written_is_read(pins: dict[str, Pin]) -> None:
    assert read(written(pins)) == pins
    assert written(read(written(pins))) == written(dict(reversed(pins.items())))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version: 2\n", "newer than this Gemstead knows"),
        ("- a\n", "not a mapping"),
        ("images: [a]\n", "`images` is not a mapping"),
        ("images: {a: b: c}\n", ":1: it is not YAML"),
        ("images: {'a:1': {digest: 'sha256:12'}}\n", "a:1 has no digest"),
        ("images: {'a:1': 5}\n", "a:1 has no digest"),
    ],
)
def test_what_is_no_lock_file_is_refused_with_what_to_do(text: str, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)) as refused:
        read(text)
    assert "pin" in refused.value.message


def test_a_person_may_write_only_the_digest_and_an_empty_file_pins_nothing() -> None:
    assert digests(read(f"images: {{'a:1': '{DIGEST}'}}")) == {"a:1": DIGEST}
    assert read("") == {} == read("version: 1\nimages:\n")


@pytest.mark.parametrize(("name", "file"), [("docker", NO_GPU), ("compose", EIGHT), ("kubernetes", CLUSTER)])
def test_every_image_that_has_a_digest_is_written_with_it(name: str, file: dict[str, object]) -> None:
    asked = everything(name, file).asked
    assert len(asked) > 1 and all(asked)
    bases = dict.fromkeys(asked, DIGEST)
    again = Wanted(bases)
    bundle(name, file, again)  # what is built on them is named by what is in it: a second image to ask for
    known = bases | dict.fromkeys(again.asked, DIGEST)
    pinned = bundle(name, file, Wanted(known))
    found = [
        image.strip("\"'").partition(":-")[2].rstrip("}") or image.strip("\"'")
        for text in pinned.files.values()
        for image in re.findall(r"^(?:FROM| *(?:- )?image:) (\S+)", text, re.MULTILINE)
    ]
    assert found and all(one.endswith(f"@{DIGEST}") for one in found), found
    assert bundle(name, file, Wanted(known)).files == pinned.files
    assert not [note for note in pinned.notes if "tag only" in note]


def test_what_is_not_known_keeps_its_tag_and_says_so() -> None:
    text = bundle("docker", NO_GPU, Wanted({})).files["engine-gemma-4-e2b/Dockerfile"]
    assert "by tag only: gemstead render --pin" in text.replace("\n# ", " ")
    assert "@sha256" not in text


def test_an_image_that_the_file_names_with_a_digest_is_left_alone() -> None:
    own = "acme/llama:1@sha256:" + "cd" * 32
    file = {"models": [{"name": "gemma-4-e2b", "image": own}]}
    asked = everything("docker", file).asked
    assert own not in asked
    assert (
        f"FROM {own}\n"
        in bundle("docker", file, Wanted({own: DIGEST})).files["engine-gemma-4-e2b/Dockerfile"]
    )
