"""`gemstead limits`: how much of each limit and budget is used, and letting one begin anew."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any
from urllib.parse import urlencode

from gemstead.cli.trouble import Trouble


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    limits = subparsers.add_parser(
        "limits", description="Show how much of each limit and budget is used, or let one begin anew."
    )
    acts = limits.add_subparsers(dest="act")
    show = acts.add_parser("show", description="What is used and left of each limit, most used first.")
    show.add_argument("rule", nargs="?", default="", help="only this rule's")
    reset = acts.add_parser("reset", description="Let the counters of a rule begin anew.")
    reset.add_argument("rule", help="the rule's name in the file; `keys` for the limits of single keys")
    reset.add_argument(
        "who", nargs="?", default="", help="only this counter, as `show` writes it: tenant=acme"
    )
    for parser, run in ((limits, show_limits), (show, show_limits), (reset, reset_limits)):
        add_file(parser)
        parser.set_defaults(run=run)
    for parser in (limits, show, reset):
        parser.add_argument("--json", action="store_true", help="as JSON")


def show_limits(args: argparse.Namespace) -> int:
    """`gemstead limits show`."""
    found = asked(args, "GET", "/admin/limits")
    rows = [row for row in found["limits"] if getattr(args, "rule", "") in ("", row["rule"])]
    if args.json:
        print(json.dumps({**found, "limits": rows}, indent=2))
        return 0
    if not rows:
        print("nothing is counted: no limit is in use yet")
        return 0
    print_limits(rows)
    return 0


def print_limits(rows: list[dict[str, Any]]) -> None:
    """A table of counters, as `GET /admin/limits` has them."""
    table: list[tuple[str, ...]] = [
        ("RULE", "WHO", "LIMIT", "USED", "HELD", "LEFT", "OF", "SHARE", "ANEW IN")
    ]
    table += [_row(row, time.time()) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def reset_limits(args: argparse.Namespace) -> int:
    """`gemstead limits reset`."""
    done = asked(args, "POST", "/admin/limits/reset?" + urlencode({"rule": args.rule, "who": args.who}))
    if args.json:
        print(json.dumps(done, indent=2))
    else:
        for name in done["reset"]:
            print(f"begins anew: {name.replace('|', ' ')}")
    return 0


def asked(args: argparse.Namespace, method: str, path: str) -> dict[str, Any]:
    """What the running service answers."""
    from gemstead.cli.running import ask, find, nothing_runs

    folder, card = find(args)
    if card is None:
        raise Trouble(nothing_runs(folder))
    found = ask(card, method, path)
    if "refused" in found:
        raise Trouble("; ".join(found["refused"]))
    return found


def _row(row: dict[str, Any], now: float) -> tuple[str, ...]:
    until = row["until"]
    return (
        row["rule"],
        row["who"] or "everybody",
        row["limit"],
        _figure(row["used"]),
        _figure(row["held"]),
        _figure(row["left"]),
        _figure(row["most"]),
        f"{row['used_share']:.0%}",
        _span(until - now) if until else "",
    )


def _figure(value: float) -> str:
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.4f}" if value >= 0.01 else f"{value:.7f}".rstrip("0")


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    hours = max(int(seconds // 3600), 0)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else f"{hours} h {int(seconds % 3600 // 60)} min"
