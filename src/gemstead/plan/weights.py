"""The size of a checkpoint's weights from what lies on disk, when it does: exact, where the catalogue is a guide.

Two texts say it. A safetensors index (`model.safetensors.index.json`) sums up all its files in
`metadata.total_size`. The header of one safetensors file (its first bytes: a length in 8 bytes, little-endian, then
JSON) gives each tensor's place, and the last place is the size. Both are read by whoever has the files; here only
their content is judged.

Formats: huggingface.co/docs/safetensors, "Format"; huggingface.co/docs/transformers, "Sharded checkpoints".
"""

from __future__ import annotations

import json
from typing import Any

from gemstead.refused import Reason, Refused

MOST_HEADER = 100_000_000  # bytes: the format's own limit


def from_index(text: str) -> int:
    """Bytes of all tensors that a safetensors index lists.

    Raises:
        Refused: BAD_REQUEST, when it is no such index.
    """
    found = _json(text, "a safetensors index")
    metadata = found.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float) or total <= 0:
        raise _refused(
            "The safetensors index has no `metadata.total_size`: it is not the index of a whole model."
        )
    return int(total)


def from_header(head: bytes) -> int:
    """Bytes of all tensors in one safetensors file; `head` is its beginning, at least the whole header.

    Raises:
        Refused: BAD_REQUEST, when it is not one, or cut before the header's end.
    """
    length = int.from_bytes(head[:8], "little") if len(head) >= 8 else 0
    if not 2 <= length <= MOST_HEADER:
        raise _refused("This is not a safetensors file: its first eight bytes are no header's length.")
    if len(head) < 8 + length:
        raise _refused(f"The safetensors header is {length} bytes long and only {len(head) - 8} were read.")
    try:
        text = head[8 : 8 + length].decode("utf-8")
    except UnicodeDecodeError:
        raise _refused("The safetensors header is not text: the file is damaged.") from None
    found = _json(text, "a safetensors header")
    tensors = [value for name, value in found.items() if name != "__metadata__"]
    try:
        return max((int(value["data_offsets"][1]) for value in tensors), default=0)
    except (TypeError, KeyError, IndexError, ValueError):
        raise _refused(
            "The safetensors header names a tensor without its place: the file is damaged."
        ) from None


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(f"This is not {what}: it is no JSON.") from None
    if not isinstance(found, dict):
        raise _refused(f"This is not {what}: it is no JSON object.")
    return found


def _refused(message: str) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, param="weights", code="unreadable_weights")
