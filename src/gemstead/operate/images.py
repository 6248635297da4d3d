"""What an image's tag stands for now, asked of its registry (OCI distribution protocol, HTTPS).

Asked for is the index where there is one, so that a pin holds for every kind of processor that the image is made for.
The digest is worked out from the bytes that came. Short names are Docker's: `python:3.11` is
`docker.io/library/python:3.11`. Who we are is what `docker login` or `podman login` keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gemstead.catalog.addresses import parse
from gemstead.catalog.sources import Want
from gemstead.operate.store.oci import RegistrySource
from gemstead.operate.store.place import Place
from gemstead.operate.store.trouble import Passing, StoreTrouble
from gemstead.refused import Refused
from gemstead.render.pins import Pin

AT_ONCE = 4  # questions to registries; Docker Hub counts them
PAUSES_S = (1.0, 4.0)  # before a question is asked again


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one image: a pin, or why there is none."""

    image: str
    pin: Pin | None
    trouble: str = ""


def full_name(image: str) -> str:
    """The image with its registry, as Docker reads a short name: github.com/distribution/reference."""
    first, slash, rest = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    if "." in first or ":" in first or first == "localhost":
        return image
    return f"docker.io/{first}/{rest}"


def ask(images: Iterable[str], place: Place, today: str) -> list[Answer]:
    """An answer for each image, in order. A registry that does not answer costs its own images only."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda image: _asked(image, place, today), images))


def _asked(image: str, place: Place, today: str, pause: Callable[[float], None] = time.sleep) -> Answer:
    try:
        return Answer(image, _patiently(image, place, today, pause))
    except StoreTrouble as trouble:
        return Answer(image, None, str(trouble))
    except Refused as refused:
        return Answer(image, None, refused.message)


def _patiently(image: str, place: Place, today: str, pause: Callable[[float], None]) -> Pin:
    for wait_s in (*PAUSES_S, None):
        try:
            return pin(image, place, today)
        except Passing as passing:
            if wait_s is None:
                raise passing.last or StoreTrouble("failed", str(passing)) from None
            pause(min(max(wait_s, passing.after_s), 30.0))
    raise AssertionError("the last try returns or raises")


def pin(image: str, place: Place, today: str) -> Pin:
    """What the image's tag stands for.

    Raises:
        Refused: it is no image's name.
        StoreTrouble: there is none, or it may not be read.
        Passing: the registry did not answer; it may in a moment.
    """
    source = RegistrySource(Want(parse(f"oci://{full_name(image)}")), place)
    with source.client:
        body, digest = source.manifest(source.reference)
    found = {}
    for one in body.get("manifests") or ():
        on = one.get("platform") or {}
        name = "/".join(str(on[part]) for part in ("os", "architecture", "variant") if on.get(part))
        if name and "unknown" not in name:  # as attestations are filed
            found[name] = True
    return Pin(digest, today, tuple(sorted(found)))
