"""Addresses of media in a request: an engine would fetch them, from inside the network that it stands in.

vLLM, SGLang and llama.cpp fetch whatever `image_url` says (vLLM issue #57157, CVE-2025-6242), and some open local
files that are named there. So unless the file allows it, media comes inside the request (`data:` or base64), and
anything else is refused here. This module only looks; what may be fetched is found by `mediaurl.py`.

Requests without media cost a few searches for bytes. Where a name of such a field may stand, in plain letters or as
escapes (`\\u0069mage_url`), the body is read whole, and every occurrence of a repeated field counts, because
readers differ in which they take.
"""

from __future__ import annotations

import json
from typing import Final

from gemstead.openai.pairs import Pairs
from gemstead.refused import Reason, Refused

# Objects or texts under these names are media; so is the `source` of an Anthropic image or document.
NAMES = frozenset({"image_url", "audio_url", "video_url", "file_url", "input_audio"})
_PARTS: Final = (b"_url", b"_aud")  # one is in each name
_BACKSLASH: Final = 0x5C
_UNDERSCORES: Final = 64  # that are looked at one by one; in program code they are many
IN = "messages", "input", "prompt", "system", "instructions", "content"
_SAID = (
    "The {name} is an address, and this service fetches none: send the content itself, as "
    "`data:image/png;base64,...` (the operator may allow addresses with `gateway.media`)."
)


def check(body: bytes, sources: bool = False) -> None:
    """Nothing, when no medium in this JSON is an address.

    Args:
        sources: the route knows Anthropic's `source`.

    Raises:
        Refused: BAD_REQUEST: one is. The field is named.
    """
    if not maybe(body, sources):
        return
    try:
        read = json.loads(body, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        raise Refused(Reason.BAD_REQUEST, "The request's body cannot be read as JSON.") from None
    if isinstance(read, Pairs):
        for name, value in read:
            if name in IN:
                _walk(value, name)


def maybe(body: bytes, sources: bool) -> bool:
    """Whether a medium may be an address in this body: a few searches for bytes, for which most need not be read."""
    if _named(body) or (_BACKSLASH in body and body.find(b"\\u00") >= 0):
        return True
    return sources and body.find(b'urce"') >= 0


def _named(body: bytes) -> bool:
    """Whether one of NAMES may stand there in plain letters.

    Python looks for one byte twenty times as fast as for a few, and for fewer than six five times as fast as for more.
    (And `b"_" in body` raises and drops an exception in there before it looks; a number does not.)
    """
    at = -1
    for _ in range(_UNDERSCORES):
        at = body.find(b"_", at + 1)
        if at < 0:
            return False
        if body.startswith(_PARTS, at):
            return True
    return body.find(b"_url") >= 0 or body.find(b"_aud") >= 0


def _walk(value: object, path: str) -> None:
    """Looks at everything below; a stack, so that depth costs nothing."""
    waiting: list[tuple[object, str]] = [(value, path)]
    while waiting:
        one, where = waiting.pop()
        if isinstance(one, Pairs):
            for name, inner in one:
                at = f"{where}.{name}"
                if name in NAMES or (name == "source" and _is_source(inner)):
                    _judge(inner, name, at)
                waiting.append((inner, at))
        elif isinstance(one, list):
            waiting += [(inner, f"{where}[{number}]") for number, inner in enumerate(one)]


def _is_source(value: object) -> bool:
    """Whether it is what Anthropic's images and documents have."""
    return isinstance(value, Pairs) and any(name in ("url", "file_id") for name, _ in value)


def _judge(value: object, name: str, at: str) -> None:
    """Refuses a text that is no content."""
    if isinstance(value, str):
        if not is_content(value, name):
            raise Refused(Reason.BAD_REQUEST, _SAID.format(name=name), param=at, code="media_address")
    elif isinstance(value, Pairs):
        for inner_name, inner in value:
            if inner_name in ("url", "data", "file_id", "path", "uri") and isinstance(inner, str):
                _judge(inner, inner_name if inner_name == "data" else name, f"{at}.{inner_name}")


def is_content(text: str, name: str) -> bool:
    """Whether this text is a medium: a `data:` URL, or bare base64 where that is the form."""
    if text[:5].lower() == "data:" or not text:
        return True
    return name in ("data", "input_audio") and not any(mark in text[:64] for mark in (":", ".", "~", "\\"))
