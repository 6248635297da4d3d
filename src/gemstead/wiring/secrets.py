"""References to values: `env:NAME` and `file:PATH` become secrets here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class CannotRun(Exception):
    """The service cannot be started as asked. The text is for the user and says what to do."""


def resolved(reference: str | None, environ: Mapping[str, str], where: str) -> str:
    """The secret that the reference stands for; "" for no reference. `where` is the field's path, for errors.

    Raises:
        CannotRun: it is not there, or empty.
    """
    if not reference:
        return ""
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = environ.get(name, "")
        missing = f"{where}: the environment variable {name} is not set; set it and start again"
    else:
        path = Path(name).expanduser()
        try:
            value = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise CannotRun(f"{where}: cannot read {path}: {reason}") from None
        missing = f"{where}: {path} is empty; put the secret into it"
    if not value:
        raise CannotRun(missing)
    if not value.isascii() or any(letter.isspace() for letter in value):
        raise CannotRun(f"{where}: {reference} holds something that cannot be sent in a header")
    return value
