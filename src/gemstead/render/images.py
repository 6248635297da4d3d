"""Container images: which one each engine runs in, and how it is pinned.

A tag can be moved by whoever owns it; a digest cannot. Digests that are known come from the lock file (`pins.py`) and
are used; where none is, the tag of an exact version is, and the reader is told how to pin it. `deploy.images` wins over
both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gemstead.catalog.engine_versions import engine_facts
from gemstead.engines.container import UNSURE, published, started
from gemstead.engines.flag import Command
from gemstead.plan.setup import Setup
from gemstead.refused import Reason, Refused

Digests = Mapping[str, str]  # "repository:tag" -> "sha256:..."
NONE: Digests = {}


@dataclass(frozen=True, slots=True)
class Image:
    """One image: how it is written in a file, and why it is this one."""

    reference: str
    reason: str

    @property
    def pinned(self) -> bool:
        """Whether nobody can change what it stands for."""
        return "@sha256:" in self.reference


def engine_image(setup: Setup, own: str = "", digests: Digests = NONE) -> Image:
    """The image that a replica runs in; `own` is the user's choice.

    Raises:
        Refused: nobody has said which, and no version is known that serves Gemma 4.
    """
    if own:
        return chosen(own, digests)
    facts, vendor = engine_facts(setup.engine), setup.accelerator.vendor
    another = f"name an image: deploy.images.{setup.engine}"
    if why := UNSURE.get((setup.engine, vendor)):
        raise Refused(Reason.BAD_REQUEST, f"{setup.accelerator.name}: {why}; {another}")
    version = setup.version or facts.latest_seen
    if not version:
        raise Refused(
            Reason.BAD_REQUEST, f"no version of {facts.title} is known to serve it; {another}, which does"
        )
    found = published(setup.engine, version, vendor)
    if not found:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{facts.title}'s makers publish no image for {setup.accelerator.name} that is known; {another}",
        )
    return pinned(found, f"{facts.title} {version}, the version that the flags were checked against", digests)


def in_image(command: Command, vendor: str) -> Command:
    """The command as the engine's own image has it: with where its program lies, and what has to be read before it."""
    if command.engine not in ("llamacpp", "vllm"):
        return command
    return replace(command, program=(*started(command.engine, vendor), *command.program[1:]))


def gateway_image(built: str, digests: Digests = NONE) -> Image:
    """Our image of the gateway, which is named by what is in it."""
    return pinned(built, "built by `gemstead render docker`", digests)


def content(*texts: str) -> str:
    """Eight hex digits of what an image is built from."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def chosen(own: str, digests: Digests = NONE) -> Image:
    """The user's image, by its digest where it names none and the lock file does."""
    digest = digests.get(own, "") if own and "@" not in own else ""
    return Image(f"{own}@{digest}" if digest else own, "as the file says")


def pinned(reference: str, reason: str, digests: Digests = NONE) -> Image:
    """The image by its digest where that is known."""
    if digest := digests.get(reference):
        return Image(f"{reference}@{digest}", reason)
    return Image(reference, f"{reason}; by tag only: gemstead render --pin")
