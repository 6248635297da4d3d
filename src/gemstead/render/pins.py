"""`gemstead.images.lock`: which bytes each image's tag stood for, so that nobody changes them behind a bundle's back.

The file lies beside `gemstead.yaml` and is committed with it. `gemstead render --pin` asks the registries and writes
it; every rendering reads it. So the same plan and the same lock give the same bytes, also without a network. What is
not in it keeps its tag, and the file that is rendered says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from gemstead.refused import Reason, Refused

NAME = "gemstead.images.lock"
VERSION = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEAD = """# Made by gemstead render --pin: what each image's tag stood for. Commit it beside gemstead.yaml;
# the same command takes in what the tags stand for by then.
"""


@dataclass(frozen=True, slots=True)
class Pin:
    """What a tag stood for."""

    digest: str  # "sha256:..."; of the index, where one stands for several processors
    seen: str  # the day, "2026-11-21"
    platforms: tuple[str, ...] = ()  # such as "linux/amd64"


def read(text: str, name: str = NAME) -> dict[str, Pin]:
    """The pins of a lock file, by image as it is written in files.

    Raises:
        Refused: it is no lock file, or a newer Gemstead has written it.
    """
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _wrong(f"{name}:{mark.line + 1 if mark else 1}", "it is not YAML") from None
    if not isinstance(found, dict):
        raise _wrong(name, "it is not a mapping")
    version = found.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{name}: version {version} is newer than this Gemstead knows ({VERSION}); update Gemstead, or remove the "
            "file and pin again",
        )
    images = found.get("images") or {}
    if not isinstance(images, dict):
        raise _wrong(name, "`images` is not a mapping")
    return {str(image): _pin(image, said, name) for image, said in images.items()}


def written(pins: Mapping[str, Pin]) -> str:
    """The text of the lock file; the same pins give the same bytes."""
    images = {
        image: {"digest": pin.digest, "seen": pin.seen}
        | ({"platforms": list(pin.platforms)} if pin.platforms else {})
        for image, pin in sorted(pins.items())
    }
    return _HEAD + yaml.safe_dump({"version": VERSION, "images": images}, sort_keys=False, width=200)


def digests(pins: Mapping[str, Pin]) -> dict[str, str]:
    """Digest by image."""
    return {image: pin.digest for image, pin in pins.items()}


def _pin(image: object, said: Any, name: str) -> Pin:
    if isinstance(said, str):  # the shortest that a person may write
        said = {"digest": said}
    digest = said.get("digest") if isinstance(said, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _wrong(name, f"{image} has no digest `sha256:` and 64 digits")
    platforms = said.get("platforms") or ()
    return Pin(digest, str(said.get("seen", "")), tuple(str(one) for one in platforms))


def _wrong(where: str, why: str) -> Refused:
    return Refused(
        Reason.BAD_REQUEST, f"{where}: {why}; remove the file and write it anew: gemstead render --pin"
    )
