"""`gemstead config show`: every setting as it is in force, and where it was said.

References to secrets are shown, never secrets; what looks like one (in an address, in an engine's flags) is masked.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemstead.spec.fault import Path
    from gemstead.spec.load import Loaded

MASK = "***"
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_AFTER = re.compile(r"(?i)((?:api[-_]?key|token|secret|password)[=: ]+)\S+")


def add(subparsers: Any) -> None:
    """Register `config`."""
    from gemstead.cli.options import add_common

    config = subparsers.add_parser(
        "config", description="What the file, the environment and --set say together."
    )
    verbs = config.add_subparsers(dest="config_verb", required=True, metavar="VERB")
    show_ = verbs.add_parser(
        "show",
        description="Print every setting as it is in force, and where it was said. No secret is printed.",
    )
    show_.add_argument(
        "only", nargs="?", default="", metavar="PATH", help="only this part, such as gateway.tls"
    )
    show_.add_argument("--said", action="store_true", help="only what was said, without defaults")
    add_common(show_)
    show_.set_defaults(run=show)


def show(args: argparse.Namespace) -> int:
    """Print them."""
    from gemstead.cli.options import load
    from gemstead.cli.tables import show as table
    from gemstead.cli.trouble import Trouble

    rows = [row for row in settings(load(args)) if row[2] != "default" or not args.said]
    rows = [row for row in rows if _within(row[0], args.only)]
    if args.only and not rows:
        raise Trouble(f"there is no setting {args.only}{' that was said' if args.said else ''}")
    if args.json:
        print(json.dumps([dict(zip(("path", "value", "from"), row, strict=True)) for row in rows], indent=2))
    else:
        table(("SETTING", "VALUE", "FROM"), [(path, _written(value), place) for path, value, place in rows])
    return 0


def settings(loaded: Loaded) -> list[tuple[str, Any, str]]:
    """Each setting's path, its value with secrets masked, and where it was said (`default`: nowhere)."""
    found = []
    for path, value in _leaves(loaded.spec.model_dump(mode="json"), ()):
        place = loaded.places.get(path)
        found.append((_dotted(path), _masked(value), str(place) if place is not None else "default"))
    return found


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every value that holds no others; an empty list or section is one."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, number))
    else:
        yield path, value


def _masked(value: Any) -> Any:
    """The value, without what may be a secret: a password in an address, a key among an engine's flags."""
    return _AFTER.sub(rf"\1{MASK}", _USER.sub(MASK, value)) if isinstance(value, str) else value


def _dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _within(path: str, only: str) -> bool:
    return not only or path == only or path.startswith((f"{only}.", f"{only}["))


def _written(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
