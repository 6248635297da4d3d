"""Addresses of media that the gateway may fetch: found in a request, judged, and replaced by what was fetched.

This module decides and asks nobody; `gateway/fetch.py` does the asking. Three questions:

    wanted    which media of a request are addresses, and where they stand in its bytes
    read      is an address written as one may be, and is its host one that the file allows
    unfit     may this IP address be connected to. Only what is public, or in a network that the file names

Every other byte of the request stays as the client wrote it: the n-th text of a JSON document is its n-th pair of
quotation marks, so a text is replaced by its number, without writing the document anew.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gemstead.openai.media import IN, NAMES, is_content, maybe
from gemstead.openai.pairs import Pairs
from gemstead.refused import Reason, Refused

MOST_BYTES = 4096  # of an address
_KINDS = {"image_url": "image", "audio_url": "audio", "video_url": "video"}
_FIELDS = ("url", "data", "file_id", "path", "uri")
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9._-]{0,252}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[!-\"$-;=?-\[\]^-~]*|\?[!-\"$-;=?-\[\]^-~]*)?(?:#[!-~]*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A medium that is an address. Numbers count the texts of the JSON document, names of fields among them."""

    kind: str  # "image", "audio", "video"
    address: str
    where: str  # the field, for the caller
    number: int  # of the address
    name: int = -1  # of Anthropic's field name `url`, which becomes `data`
    form: int = -1  # of its `type`, which becomes `base64`


@dataclass(frozen=True, slots=True)
class Address:
    """Where to ask."""

    tls: bool
    host: str  # lower case, without brackets
    port: int
    target: str  # path and query

    @property
    def authority(self) -> str:
        """As the `Host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def wanted(body: bytes, sources: bool = False) -> list[Wanted]:
    """The media of this request that are addresses, in the order in which they stand there.

    Raises:
        Refused: BAD_REQUEST: the body is no JSON, or one is of a kind that is not fetched.
    """
    if not maybe(body, sources):
        return []
    try:
        read = json.loads(body.decode(), object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        raise Refused(Reason.BAD_REQUEST, "The request's body cannot be read as JSON.") from None
    reader = _Reader()
    if isinstance(read, Pairs):
        for name, value in read:
            reader.count += 1
            reader.walk(value, name, "", name in IN)
    return reader.found


class _Reader:
    """Goes through a document in the order of its bytes and counts texts. Depth is bounded by `openai/depth.py`."""

    def __init__(self) -> None:
        self.count, self.found = 0, list[Wanted]()

    def walk(self, value: object, where: str, medium: str, looking: bool) -> None:
        """`medium` is the name of the field that the value is in, where that is one of a medium's."""
        if isinstance(value, str):
            if looking and medium:
                self.judge(value, medium, where, self.count)
            self.count += 1
        elif isinstance(value, Pairs):
            if looking and medium == "source":
                self.source(value, where)
            for name, inner in value:
                self.count += 1
                field = medium if name in _FIELDS and medium and isinstance(inner, str) else ""
                if name in NAMES or (name == "source" and _is_source(inner)):
                    field = name
                elif medium == "source":
                    field = ""
                self.walk(inner, f"{where}.{name}", field, looking)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                self.walk(inner, f"{where}[{number}]", "", looking)

    def judge(self, text: str, medium: str, where: str, number: int) -> None:
        if is_content(text, medium if not where.endswith(".data") else "data"):
            return
        if (kind := _KINDS.get(medium)) is None or where.endswith((".data", ".file_id", ".path", ".uri")):
            raise _no("An address in this field is not fetched: send the content itself.", where)
        self.found.append(Wanted(kind, text, where, number))

    def source(self, value: Pairs, where: str) -> None:
        """Anthropic's `{"type": "url", "url": ...}`."""
        at, name, form, address = self.count, -1, -1, ""
        for field, inner in value:
            if field == "url" and isinstance(inner, str) and name < 0:
                name, address = at, inner
            elif field == "type" and inner == "url" and form < 0:
                form = at + 1
            elif field in _FIELDS or field == "type" or not isinstance(inner, str):
                raise _no('A source is fetched as `{"type": "url", "url": "https://..."}`.', where)
            at += 2
        if name < 0 or form < 0:
            raise _no('A source is fetched as `{"type": "url", "url": "https://..."}`.', where)
        self.found.append(Wanted("image", address, f"{where}.url", name + 1, name, form))


def _is_source(value: object) -> bool:
    return isinstance(value, Pairs) and any(name in ("url", "file_id") for name, _ in value)


def inlined(body: bytes, brought: Sequence[tuple[Wanted, str, bytes]]) -> bytes:
    """The body with each address replaced by the medium's type and content."""
    put: dict[int, bytes] = {}
    for one, content_type, data in brought:
        content, kind = base64.b64encode(data), content_type.encode()
        if one.name < 0:
            put[one.number] = b'"data:%s;base64,%s"' % (kind, content)
        else:
            put[one.name] = b'"media_type":"%s","data"' % kind
            put[one.number], put[one.form] = b'"%s"' % content, b'"base64"'
    pieces, end = list[bytes](), 0
    for number, text in enumerate(_TEXT.finditer(body)):
        if (new := put.get(number)) is not None:
            pieces += (body[end : text.start()], new)
            end = text.end()
    return b"".join([*pieces, body[end:]])


def read(text: str, hosts: Sequence[str], plain: bool = False) -> Address:
    """An address as parts. `hosts` are those that the file allows; `plain`: HTTP without TLS is.

    Raises:
        Refused: BAD_REQUEST: it is not written as one may be, or its host is not allowed. It is never repeated: what
            a caller sends is content.
    """
    if len(text) > MOST_BYTES or (parts := _ADDRESS.fullmatch(text)) is None:
        raise _no("This is not an address that can be fetched: send `https://host/path`, percent-encoded.")
    tls = parts["scheme"].lower() == "https"
    host = parts["host"].lower().strip("[]")
    port = int(parts["port"] or (443 if tls else 80))
    if not tls and not plain:
        raise _no("Only `https://` addresses are fetched.")
    if not 0 < port < 65_536 or ".." in host:
        raise _no("This is not an address that can be fetched: its host or port cannot be.")
    if not allowed(host, port, tls, hosts):
        raise _no(
            "Media from this host are not fetched: send the content itself, or ask the operator to allow the host "
            "(`gateway.fetch.hosts`)."
        )
    path = parts["path"] or "/"
    return Address(tls, host, port, path if path.startswith("/") else f"/{path}")


def allowed(host: str, port: int, tls: bool, hosts: Sequence[str]) -> bool:
    """Whether the file's list has this host: `name`, `*.name` for all below it, `*`; `:port` where it is not usual."""
    for entry in hosts:
        name, _, number = (
            entry.lower().rpartition(":") if re.search(r"[^:]:\d+$", entry) else (entry.lower(), "", "")
        )
        if port != (int(number) if number else (443 if tls else 80)):
            continue
        name = name.strip("[]")
        if name in ("*", host) or (
            name.startswith("*.") and host.endswith(name[1:]) and len(host) >= len(name)
        ):
            return True
    return False


# Beside what Python's `is_global` knows: relays that carry one address inside another (6to4, Teredo, NAT64), what
# Azure's machines reach their own host under (168.63.129.16), and blocks of IANA's registries of special addresses that
# older releases of Python take for public.
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "64:ff9b::/96", "64:ff9b:1::/48"),
        *("2001::/23", "2002::/16", "3fff::/20"),
    )
)
_GLOBAL = ipaddress.ip_network("2000::/3")  # all that is given out of IPv6 (RFC 4291, IANA)


def unfit(text: str, networks: Sequence[str] = ()) -> str:
    """Why no connection may be made to this IP address; "" when one may. `networks` are those that the file allows."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "no IP address"
    if any(address in ipaddress.ip_network(network) for network in networks):
        return ""
    if any(address in network for network in _NEVER):
        return "not public"
    if address.version == 6 and address not in _GLOBAL:
        return "not public"
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return "not public"
    return ""


# What media begin with. What is none of these is no medium, whatever its sender calls it.
_BEGIN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\xff\xf2", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
)


def content_type(data: bytes, kind: str) -> str:
    """What these bytes are, as their beginning says; "" where they are no medium of this kind."""
    for at, begin, found in _BEGIN:
        if data.startswith(begin, at) and (at != 8 or data.startswith(b"RIFF")):
            return found if found.startswith(f"{kind}/") else ""
    return ""


def _no(message: str, where: str | None = None) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, param=where, code="media_address")
