"""What a source of model files is: it lists what it has, and reads a range of one file. Each kind is one file here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gemstead.catalog.addresses import safe
from gemstead.operate.store.trouble import StoreTrouble

BLOCK_BYTES = 1 << 20
CONNECT_S, READ_S = 10.0, 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a source has."""

    path: str
    bytes: int
    sha256: str = ""  # what the source says it is; empty: it does not say
    git_sha1: str = ""  # of the hub's small files, which have no SHA-256
    identity: str = ""  # changes when the content does; names the part on its way


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source has at one revision."""

    revision: str  # a name for exactly this content: commit, digest, or a sum over the listing
    files: tuple[Found, ...]
    licence: str = ""
    gated: bool = False


class Source(Protocol):
    """One place of model files."""

    def listing(self) -> Listing:
        """What is there.

        Raises:
            StoreTrouble, Passing: it cannot be said; the sentence says why and what to do.
        """
        ...

    def read(self, file: Found, begin: int, end: int) -> Iterator[bytes]:
        """The bytes of [begin, end), in pieces; may end early.

        Raises:
            Passing: try again. StoreTrouble: it makes no sense to.
        """
        ...


Open = Callable[[], Source]


def checked(listing: Listing, where: str) -> Listing:
    """The listing, when it is one that may be trusted with our folders.

    Raises:
        StoreTrouble: a file's name leads elsewhere, or there are no files.
    """
    for file in listing.files:
        if not safe(file.path):
            raise StoreTrouble(
                "failed", f"{where} names a file {file.path[:80]!r}, which leads out of its folder"
            )
    if not listing.files:
        raise StoreTrouble("missing", f"{where} has no files")
    return listing
