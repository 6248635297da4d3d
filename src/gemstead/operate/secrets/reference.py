"""A reference to a secret, taken apart; and the one error that all sources raise. Values only."""

from __future__ import annotations

import json
from dataclasses import dataclass

KINDS = ("env", "file", "vault", "aws-sm", "gcp-sm", "k8s")
NEEDS_FIELD = ("vault", "k8s")


class NoSecret(Exception):
    """A secret cannot be had. The text says what to do and never holds a secret."""

    for_user = True


@dataclass(frozen=True, slots=True)
class Reference:
    """`kind:name#field`; `field` is "" where the whole value is meant."""

    kind: str
    name: str
    field: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" + (f"#{self.field}" if self.field else "")


def parse(text: str) -> Reference:
    """The reference in `text`.

    Raises:
        NoSecret: there is no such kind, or its name or field is missing.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS or not rest:
        raise NoSecret(f"{kind}: is no kind of reference; use {', '.join(f'{known}:' for known in KINDS)}")
    if kind in ("env", "file"):
        return Reference(kind, rest)
    name, _, field = rest.rpartition("#") if "#" in rest else (rest, "", "")
    if not name or (not field and kind in NEEDS_FIELD):
        raise NoSecret(f"{text}: say which field, as in {kind}:{name or 'name'}#token")
    return Reference(kind, name, field)


def field_of(reference: Reference, document: str) -> str:
    """The field of a document that is a JSON object; the whole document where none is named.

    Raises:
        NoSecret: it is no JSON object, or has no such field with a text in it.
    """
    if not reference.field:
        return document
    try:
        fields = json.loads(document)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise NoSecret(f"{reference}: is no JSON object, so it has no field; leave #{reference.field} out")
    return named(reference, fields)


def named(reference: Reference, fields: dict[str, object]) -> str:
    """The text of the field that the reference names.

    Raises:
        NoSecret: there is no such field; those that are there are named.
    """
    value = fields.get(reference.field)
    if not isinstance(value, str):
        there = ", ".join(sorted(fields)) or "none"
        raise NoSecret(f"{reference}: has no text field {reference.field}; its fields: {there}")
    return value
