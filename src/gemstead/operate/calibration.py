"""What this machine's start-up logs taught, kept in its state folder: `calibration.json`, a small file to read by eye.

It holds the last corrections of each engine and card (`plan.from_log.Correction`), newest last. What they mean and how
they are applied is decided in `plan/from_log.py`; here they are only kept. A file that cannot be read is refused with
its name and left as it is: a plan made without what the machine taught would be wrong in silence.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

from gemstead.plan.from_log import Correction
from gemstead.refused import Reason, Refused

FILE = "calibration.json"
VERSION = 1
MOST = 9  # kept for each engine and card: the middle of them counts, so one odd start does not


def load(folder: Path) -> tuple[Correction, ...]:
    """All corrections that are kept in a state folder; none when nothing was ever learnt.

    Raises:
        Refused: BAD_REQUEST, when the file is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']}")
        return tuple(_correction(entry) for entry in found["corrections"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise _refused(path, problem) from None


def remember(folder: Path, correction: Correction) -> tuple[Correction, ...]:
    """Keep one more correction; returns all that are kept now. The file is replaced whole, never half.

    Raises:
        Refused: BAD_REQUEST, when what is there is damaged, or the folder cannot be written.
    """
    known = [*load(folder), correction]
    kind = (correction.engine, correction.accelerator)
    same = [one for one in known if (one.engine, one.accelerator) == kind][-MOST:]
    kept = [one for one in known if (one.engine, one.accelerator) != kind] + same
    text = json.dumps({"version": VERSION, "corrections": [asdict(one) for one in kept]}, indent=2)
    try:
        _replace(folder, text + "\n")
    except OSError as problem:
        raise _refused(folder / FILE, problem) from None
    return tuple(kept)


def forget(folder: Path) -> bool:
    """Drop everything that was learnt; whether there was anything."""
    try:
        (folder / FILE).unlink()
    except FileNotFoundError:
        return False
    return True


def _replace(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".calibration-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(folder / FILE)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _correction(entry: dict[str, object]) -> Correction:
    unknown = entry.keys() - {field.name for field in fields(Correction)}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)}")
    made = Correction(**entry)  # type: ignore[arg-type]
    if not isinstance(made.overhead_bytes, int) or not isinstance(made.weights_bytes, int | None):
        raise ValueError("a size that is no whole number")
    return made


def _refused(path: Path, problem: Exception) -> Refused:
    message = f"{path} cannot be used: {problem}. Delete it to plan without what this machine's logs taught."
    return Refused(Reason.BAD_REQUEST, message, param="calibration", code="unreadable_calibration")
