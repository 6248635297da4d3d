"""A user's own facts for the catalogue: where they are kept, how they come there, and the catalogue that they lie over.

They lie in one file, `catalogue.yaml` in the configuration folder, which people may also write by hand. A fetched text
takes the file's place only when every line of it is right, and the one that was there is kept beside it. Nothing is
ever fetched on its own: only `gemstead catalog refresh` asks, and it says what it found.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gemstead.catalog.catalogue import Catalogue, built_in, overlaid
from gemstead.catalog.overlay import Overlay, parse

MOST_BYTES = 1 << 20
FETCH_S = 10.0
MOST_REDIRECTS = 3
FROM = "# Fetched by `gemstead catalog refresh` from "
FILE = "catalogue.yaml"


class CatalogueTrouble(Exception):
    """A file of facts cannot be had or kept. The text says what to do."""

    for_user = True


@dataclass(frozen=True, slots=True)
class Fetched:
    """A checked text, and where it came from."""

    text: str
    overlay: Overlay
    origin: str
    sha256: str


def path_of(environ: Mapping[str, str]) -> Path:
    """The file of the user's own facts: `GEMSTEAD_CATALOGUE`, else in the configuration folder."""
    if named := environ.get("GEMSTEAD_CATALOGUE"):
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser().absolute() / "gemstead" / FILE


def load(environ: Mapping[str, str]) -> Catalogue:
    """The catalogue with the user's own facts, where there are any.

    Raises:
        SpecError: the file has faults; every one, with its line.
        CatalogueTrouble: it cannot be read.
    """
    path = path_of(environ)
    if not path.exists():
        return built_in()
    return overlaid(built_in(), parse(_text_of(path), str(path)))


def fetch(source: str) -> Fetched:
    """The facts of a file or an https address, checked.

    Raises:
        SpecError: the text has faults; every one, with its line.
        CatalogueTrouble: it cannot be had; nothing has been changed.
    """
    if "://" in source:
        text, origin = _downloaded(source), source
    else:
        path = Path(source).expanduser().absolute()
        text, origin = _text_of(path), str(path)
    overlay = parse(text, origin if "://" in source else source)
    return Fetched(text, overlay, origin, hashlib.sha256(text.encode()).hexdigest())


def store(fetched: Fetched, path: Path, today: datetime.date) -> Path | None:
    """Put the text in the place of the user's file; where the old one is kept, if there was one.

    Raises:
        CatalogueTrouble: the folder cannot be written.
    """
    head = f"{FROM}{fetched.origin}\n# on {today}, sha256 of what follows {fetched.sha256}\n"
    body = fetched.text
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        draft.write_text(head + body, "utf-8")
        kept = None
        if path.exists():
            kept = path.with_name(path.name + ".before")
            path.replace(kept)
        draft.replace(path)
    except OSError as error:
        raise CatalogueTrouble(f"{path}: cannot be written ({error.strerror or error})") from error
    return kept


def origin_of(path: Path) -> str:
    """Where the user's file was fetched from; empty: it was written by hand, or there is none."""
    if not path.exists():
        return ""
    first = _text_of(path).partition("\n")[0]
    return first.removeprefix(FROM) if first.startswith(FROM) else ""


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CatalogueTrouble(f"{path}: cannot be read ({error.strerror or error})") from error
    return _decoded(content, str(path))


def _decoded(content: bytes, name: str) -> str:
    if len(content) > MOST_BYTES:
        raise CatalogueTrouble(
            f"{name}: is larger than {MOST_BYTES >> 20} MiB, so it is no catalogue of yours"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CatalogueTrouble(f"{name}:{line}: is not UTF-8 text") from error


def _downloaded(url: str) -> str:
    """The text behind an address. Only https, or http on this machine, also after being sent elsewhere."""
    import httpx2

    _check(url)
    unchanged = "nothing was changed"
    try:
        with httpx2.Client(timeout=FETCH_S, trust_env=not _is_local(url)) as client:
            for _ in range(MOST_REDIRECTS + 1):
                with client.stream("GET", url) as answer:
                    if answer.next_request is not None:
                        url = str(answer.next_request.url)
                        _check(url)
                        continue
                    if answer.status_code != 200:
                        raise CatalogueTrouble(f"{url} answered {answer.status_code}; {unchanged}")
                    content = b""
                    for piece in answer.iter_bytes():
                        content += piece
                        if len(content) > MOST_BYTES:
                            break
                    return _decoded(content, url)
    except httpx2.InvalidURL as error:
        raise CatalogueTrouble(f"{url}: is no address ({error})") from error
    except httpx2.HTTPError as error:
        host = urlsplit(url).hostname
        raise CatalogueTrouble(
            f"cannot reach {host} ({error or type(error).__name__}); {unchanged}. Without a network, fetch the file "
            "elsewhere and give its path: gemstead catalog refresh FILE"
        ) from error
    raise CatalogueTrouble(f"{url} sends on more than {MOST_REDIRECTS} times; {unchanged}")


def _check(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_local(url)):
        raise CatalogueTrouble(
            f"{url}: facts are fetched over https only, so that nobody on the way can change them; nothing was changed"
        )
    if parts.username or parts.password:
        raise CatalogueTrouble("an address with a password in it would be written down; nothing was changed")


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
