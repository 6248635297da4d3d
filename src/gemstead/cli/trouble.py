"""The last handler: whatever a command raised, as a line or two for a person.

What we raise on purpose says itself what to do and is printed as it is. Anything else is our mistake: it
gets one line, and its traceback goes to a file that a bug report can carry.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

FAILED, USAGE = 1, 2


class Trouble(Exception):
    """A command cannot do what was asked. The text is for the user and says what to do."""

    def __init__(self, sentence: str, *, code: int = FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def said(error: Exception) -> int:
    """Print the error for a person; the exit code."""
    name = type(error).__name__
    if isinstance(error, Trouble):
        return _print(str(error), error.code)
    if name == "SpecError":
        return _print(str(error), USAGE)
    if getattr(error, "for_user", False) or any(kind.__name__ in EXPECTED for kind in type(error).__mro__):
        return _print(str(error), FAILED)
    if isinstance(error, OSError):
        return _print(_os_error(error), FAILED)
    return _print(
        f"{name}: {error}\nThis is a mistake in Gemstead. The details are in {_kept(error)}", FAILED
    )


# Raised on purpose, with a sentence that says what to do, these and kinds of them. By name, so that none of their
# modules is imported here.
EXPECTED = {
    "Refused",
    "LedgerTrouble",
    "UnknownKey",
    "StoreTrouble",
    "CannotRun",
    "AlreadyRuns",
    "ProviderTrouble",
    "BadPassword",
}


def _print(text: str, code: int) -> int:
    for number, line in enumerate(text.splitlines() or ["failed"]):
        print(f"gemstead: {line}" if number == 0 else line, file=sys.stderr)
    return code


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _kept(error: Exception) -> str:
    """Where the traceback was written."""
    text = "".join(traceback.format_exception(error))
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (Path(state) / "gemstead", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(text, "utf-8")
        except OSError:
            continue
        return str(path)
    return "nothing: no folder could be written"
