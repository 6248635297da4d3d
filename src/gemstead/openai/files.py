"""Files in OpenAI's form: what an upload may say, and how a file, a list and a deletion look.

A file here is the input or the output of a batch. This module holds no bytes of it: it reads the fields of the
upload's form and shapes answers. Field names and shapes: https://platform.openai.com/docs/api-reference/files
(as the official Python client 3.52 types them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gemstead.refused import Reason, Refused

UPLOADED, OUTPUT = "batch", "batch_output"  # what a file is for; only the first can be uploaded
NAME_MOST = 255  # characters
EXPIRES_LEAST_S, EXPIRES_MOST_S = 3600, 2_592_000  # of `expires_after`, from OpenAI's reference
LIST_MOST = 10_000  # of one page of files


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is kept. Times in Unix seconds."""

    file_id: str
    tenant: str
    purpose: str
    filename: str
    size_bytes: int
    created_at: int
    expires_at: int | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list is asked for."""

    after: str = ""  # the last id of the page before
    limit: int = 20
    ascending: bool = False
    purpose: str = ""


def form(file: File) -> dict[str, Any]:
    """The file object."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def listing(objects: Sequence[dict[str, Any]], more: bool) -> dict[str, Any]:
    """One page of a list."""
    return {
        "object": "list",
        "data": list(objects),
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": more,
    }


def deleted(file_id: str) -> dict[str, Any]:
    """What a deletion answers."""
    return {"id": file_id, "object": "file", "deleted": True}


def check_purpose(purpose: str | None) -> None:
    """Raises:
    Refused: BAD_REQUEST, when the upload is for something that this service does not do with files.
    """
    if purpose != UPLOADED:
        said = "is missing" if purpose is None else f"is {purpose[:64]!r}"
        raise Refused(
            Reason.BAD_REQUEST,
            f"`purpose` {said}: files are kept here for batches, so send `purpose=batch`.",
            param="purpose",
        )


def clean_name(name: str) -> str:
    """What the sender calls the file, without folders and control characters; it is only ever shown."""
    bare = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in bare if letter.isprintable())[:NAME_MOST] or "file"


def expiry(fields: Mapping[str, str], created_at: int, kept_s: int) -> int:
    """When an upload expires: as `expires_after[...]` says, and never later than what is kept at most, `kept_s`.

    Raises:
        Refused: BAD_REQUEST, naming the field.
    """
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return created_at + kept_s
    if anchor != "created_at":
        raise Refused(
            Reason.BAD_REQUEST,
            "`expires_after[anchor]` must be `created_at`.",
            param="expires_after[anchor]",
        )
    digits = seconds or ""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 12):
        raise _seconds()
    return created_at + min(bounded_expiry(int(digits)), kept_s)


def bounded_expiry(seconds: int) -> int:
    """`seconds`, if OpenAI would take it.

    Raises:
        Refused: BAD_REQUEST.
    """
    if not EXPIRES_LEAST_S <= seconds <= EXPIRES_MOST_S:
        raise _seconds()
    return seconds


def _seconds() -> Refused:
    return Refused(
        Reason.BAD_REQUEST,
        f"`expires_after[seconds]` must be a whole number from {EXPIRES_LEAST_S} to {EXPIRES_MOST_S}.",
        param="expires_after[seconds]",
    )


def read_page(query: Mapping[str, str], *, usual: int, most: int) -> Page:
    """The page that a query string asks for.

    Raises:
        Refused: BAD_REQUEST, naming the field.
    """
    said = query.get("limit", str(usual))
    if not (said.isascii() and said.isdigit() and len(said) < 10 and 1 <= int(said) <= most):
        raise Refused(Reason.BAD_REQUEST, f"`limit` must be a number from 1 to {most}.", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Refused(Reason.BAD_REQUEST, "`order` must be `asc` or `desc`.", param="order")
    return Page(
        after=query.get("after", "")[:128],
        limit=int(said),
        ascending=order == "asc",
        purpose=query.get("purpose", "")[:64],
    )
