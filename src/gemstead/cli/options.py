"""The options that most commands share: which file, what is set over it, and JSON instead of a table.

The file is the one of `--config`; else the one that `GEMSTEAD_CONFIG` names; else `gemstead.yaml` in this
folder; else none, which is the default: the smallest Gemma 4 on this machine. Only a file that was asked
for by name must be there. Nothing is imported here that `--help` can do without.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.spec.load import Loaded
    from gemstead.spec.model import Spec

DEFAULT_FILE = "gemstead.yaml"
PLACES = ("state_dir", "ledger", "secrets")  # what says where a service keeps its things
MOST_BYTES = 1 << 20


def add_file(parser: argparse.ArgumentParser) -> None:
    """The options `--config FILE` and `--set key=value`."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"the file to use (default: {DEFAULT_FILE} here, if there is one)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="say one setting over the file, such as models[0].context=8192 (may be repeated)",
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """`add_file`, and `--json`."""
    add_file(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def load(args: argparse.Namespace) -> Loaded:
    """The Spec of the file that the options point at, with environment and `--set` laid over it.

    Raises:
        Trouble: the file cannot be read.
        SpecError: what it says is not valid; every fault.
    """
    return load_file(file_of(args), args.overrides)


def read_spec(args: argparse.Namespace) -> Spec:
    """As `load`, for commands that need only the Spec."""
    return load(args).spec


def read_places(args: argparse.Namespace) -> Spec:
    """What the file says of where a service keeps its things, for verbs that look at what runs, stop it, or shut
    somebody out: a mistake elsewhere in the file is told and does not stop them.

    Raises:
        Trouble: the file cannot be read.
        SpecError: the mistake is where the places are said.
    """
    from gemstead.spec.fault import SpecError
    from gemstead.spec.load import salvaged

    file = file_of(args)
    try:
        return load_file(file, args.overrides).spec
    except SpecError as error:
        name, text = (shown(file), text_of(file)) if file else (DEFAULT_FILE, "")
        spec = salvaged(text, name, args.overrides, os.environ, PLACES)
        more = f" (and {len(error.faults) - 1} more)" if len(error.faults) > 1 else ""
        print(f"note: passed over: {error.faults[0]}{more}; `gemstead validate` tells", file=sys.stderr)
        return spec


def read(file: Path | None, overrides: Sequence[str]) -> Spec:
    """The Spec of a file found earlier (None for no file), read now: what a reload needs."""
    return load_file(file, overrides).spec


def load_file(file: Path | None, overrides: Sequence[str]) -> Loaded:
    """As `read`, with the places of what was said."""
    from gemstead.catalog.check import read as checked

    name, text = (shown(file), text_of(file)) if file else (DEFAULT_FILE, "")
    return checked(text, name, overrides, os.environ)


def file_of(args: argparse.Namespace) -> Path | None:
    """The absolute path of the file that counts; None when none was named and none lies here.

    Raises:
        Trouble: a file was named and is not there.
    """
    for named, by in ((args.config, "--config"), (os.environ.get("GEMSTEAD_CONFIG"), "GEMSTEAD_CONFIG")):
        if named:
            path = Path(named).expanduser().absolute()
            if not path.exists():
                raise Trouble(
                    f"{named}: there is no such file ({by}); `gemstead init` writes one", code=USAGE
                )
            return path
    here = Path(DEFAULT_FILE).absolute()
    return here if here.exists() or here.is_symlink() else None


def text_of(path: Path) -> str:
    """The file's text.

    Raises:
        Trouble: it is a folder, too large, not UTF-8, or may not be read.
    """
    name = shown(path)
    if path.is_dir():
        raise Trouble(
            f"{name}: is a folder; name the file in it, such as {Path(name) / DEFAULT_FILE}", code=USAGE
        )
    try:
        with path.open("rb") as file:  # may be a pipe, as in --config <(...)
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Trouble(f"{name}: cannot be read ({error.strerror or error})", code=USAGE) from error
    if len(content) > MOST_BYTES:
        raise Trouble(
            f"{name}: is larger than {MOST_BYTES >> 20} MiB, so it is no {DEFAULT_FILE}", code=USAGE
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Trouble(f"{name}:{line}: is not UTF-8 text; save it as UTF-8", code=USAGE) from error


def shown(path: Path) -> str:
    """The path as people know it: from the working folder where it lies in it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
