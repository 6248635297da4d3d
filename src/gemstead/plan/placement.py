"""One engine replica in its place: what it is (`Setup`), where it listens, and what callers may send it.

Memory and speed depend on the setup alone; a launch line (`engines/commands`) needs the rest as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemstead.plan.setup import Setup

DEFAULT_IMAGE_TOKENS = (
    280  # Gemma 4's own default; 70, 140, 560 and 1120 are the others (transformers 5.23, processor)
)


@dataclass(frozen=True, slots=True)
class Media:
    """How many items of each kind one prompt may hold. What is 0 is switched off, and its memory saved."""

    images: int = 0
    videos: int = 0
    audios: int = 0
    image_tokens: int = DEFAULT_IMAGE_TOKENS  # most tokens of one image
    domains: tuple[str, ...] = ()  # that the engine itself may fetch from; none: items come inline

    @property
    def any(self) -> bool:
        """Whether anything but text is taken."""
        return bool(self.images or self.videos or self.audios)


@dataclass(frozen=True, slots=True)
class Placement:
    """A replica that can be started."""

    setup: Setup
    name: str = ""  # the model's name for callers; empty: the checkpoint's
    host: str = "127.0.0.1"  # the gateway stands before it, so nobody else need reach it
    port: int = 8000
    devices: tuple[str, ...] = ()  # indices or UUIDs of its cards; empty: whichever there are
    media: Media = Media()
    thinking: bool = False  # the default when a request does not say
    drain_s: int = 60  # for running answers to end when it is stopped
