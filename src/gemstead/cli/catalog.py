"""`gemstead catalog`: what is known of models, checkpoints, cards, prices, engines and what is known to break.

`list` shows a kind in a table, `show` one thing with its sources and dates, `refresh` takes a user's own facts from a
file or an https address, checked, and says what they change.
"""

from __future__ import annotations

import argparse
import datetime
import os
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.catalog.catalogue import Catalogue
    from gemstead.cli.catalog_pages import Page

KINDS = ("models", "checkpoints", "gpus", "machines", "prices", "api", "engines", "known-bad")


def add(subparsers: Any) -> None:
    """Register `catalog list`, `show` and `refresh`."""
    parser = subparsers.add_parser(
        "catalog", description="What is known: models, cards, prices, what breaks."
    )
    verbs = parser.add_subparsers(dest="what", required=True)

    list_ = verbs.add_parser(
        "list", description="One kind in a table; without a kind, how much there is of each."
    )
    list_.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(KINDS))
    list_.add_argument("words", nargs="*", metavar="WORD", help="only rows that hold these words")
    list_.add_argument("--json", action="store_true", help="print JSON")
    list_.set_defaults(run=list_kind)

    show_ = verbs.add_parser("show", description="One thing, with its sources and dates.")
    show_.add_argument(
        "name",
        nargs="+",
        metavar="NAME",
        help="a model, checkpoint, card, slice, machine, engine or ledger entry",
    )
    show_.add_argument("--json", action="store_true", help="print JSON")
    show_.set_defaults(run=show)

    refresh_ = verbs.add_parser(
        "refresh",
        description="Take your own prices, cards and findings from a file or an https address. The text is checked "
        "whole, what it changes is printed, and it lies over what is built in until you remove it.",
    )
    refresh_.add_argument(
        "source", nargs="?", metavar="FILE|URL", help="default: where the last one came from"
    )
    refresh_.add_argument(
        "--dry-run", action="store_true", help="check it and say what it changes; keep nothing"
    )
    refresh_.add_argument("--remove", action="store_true", help="go back to what is built in")
    refresh_.add_argument("--json", action="store_true", help="print JSON")
    refresh_.set_defaults(run=refresh)


def list_kind(args: argparse.Namespace) -> int:
    """Print a kind, or what kinds there are."""
    from gemstead.cli import catalog_rows, tables
    from gemstead.operate.catalogue import load
    from gemstead.spec.fault import nearest

    catalogue = load(os.environ)
    if args.kind is None:
        pages = [(kind, len(catalog_rows.rows_of(kind, catalogue))) for kind in KINDS]
        if args.json:
            _print_json({"kinds": dict(pages), **_origin(catalogue)})
            return 0
        tables.show(["kind", "entries"], pages)
        _print_origin(catalogue)
        return 0
    if args.kind not in KINDS:
        close = nearest(args.kind, KINDS)
        hint = f"did you mean `{close}`?" if close else f"known: {', '.join(KINDS)}"
        raise Trouble(f"there is no kind `{args.kind}`; {hint}", code=USAGE)
    rows = [row for row in catalog_rows.rows_of(args.kind, catalogue) if _holds(row, args.kind, args.words)]
    if args.json:
        _print_json({"kind": args.kind, "entries": rows, **_origin(catalogue)})
        return 0
    headings = catalog_rows.HEADINGS[args.kind]
    tables.show(list(headings), [[row.get(name) for name in headings.values()] for row in rows])
    _print_origin(catalogue, catalog_rows.staleness_of(args.kind, catalogue, _today()))
    return 0


def show(args: argparse.Namespace) -> int:
    """Print one thing."""
    from gemstead.cli import catalog_pages
    from gemstead.operate.catalogue import load

    catalogue = load(os.environ)
    page = catalog_pages.page_of(" ".join(args.name), catalogue, _today())
    if args.json:
        _print_json({**page.as_json(), **_origin(catalogue)})
    else:
        _print_page(page)
    return 0


def refresh(args: argparse.Namespace) -> int:
    """Take in a file of facts, or put the one that is there away."""
    from gemstead.cli.catalog_changes import changes_of
    from gemstead.operate import catalogue as kept

    path = kept.path_of(os.environ)
    if args.remove:
        return _remove(args)
    source = args.source or kept.origin_of(path)
    if not source:
        raise Trouble(
            "name a file or an https address: gemstead catalog refresh FILE. Nothing is fetched from anywhere on its "
            f"own; {path} may also be written by hand (docs/catalogue.md has its form)",
            code=USAGE,
        )
    fetched = kept.fetch(source)
    changes = list(changes_of(fetched.overlay))
    before = None if args.dry_run else kept.store(fetched, path, _today())
    if args.json:
        _print_json(
            {
                "source": fetched.origin,
                "sha256": fetched.sha256,
                "as_of": fetched.overlay.as_of.isoformat(),
                "counts": fetched.overlay.counts,
                "changes": changes,
                "stored": None if args.dry_run else str(path),
                "before": str(before) if before else None,
            }
        )
        return 0
    print(f"{fetched.origin}: OK, as of {fetched.overlay.as_of} ({fetched.overlay.source})")
    print("\n".join(f"  {line}" for line in changes) or "  it changes nothing")
    if args.dry_run:
        print("dry run: nothing was kept")
    else:
        print(f"kept in {path}" + (f"; the one before is {before.name}" if before else ""))
    return 0


def _remove(args: argparse.Namespace) -> int:
    from gemstead.operate import catalogue as kept

    path = kept.path_of(os.environ)
    if args.source:
        raise Trouble("--remove takes no file: it puts your own facts away", code=USAGE)
    there = path.exists()
    away = path.with_name(path.name + ".before")
    if there and not args.dry_run:
        path.replace(away)
    if args.json:
        _print_json({"removed": there and not args.dry_run, "before": str(away) if there else None})
    elif not there:
        print(f"there is none: {path}; what is built in counts")
    else:
        print(f"{'would put' if args.dry_run else 'put'} {path} away as {away.name}; what is built in counts")
    return 0


def _holds(row: dict[str, Any], kind: str, words: list[str]) -> bool:
    """Whether a row, as it is shown, holds all the words."""
    from gemstead.cli.catalog_rows import HEADINGS

    text = " ".join(str(row.get(name)) for name in HEADINGS[kind].values()).casefold()
    return all(word.casefold() in text for word in words)


def _today() -> datetime.date:
    return datetime.datetime.now(tz=datetime.UTC).date()


def _origin(catalogue: Catalogue) -> dict[str, Any]:
    overlay = catalogue.overlay
    return {
        "compiled": catalogue.compiled.isoformat(),
        "overlay": {"source": overlay.source, "as_of": overlay.as_of.isoformat(), "counts": overlay.counts}
        if overlay
        else None,
    }


def _print_origin(catalogue: Catalogue, warning: str = "") -> None:
    import sys

    said = f"compiled {catalogue.compiled}"
    if catalogue.overlay:
        said += f"; over it: {catalogue.overlay.source}, as of {catalogue.overlay.as_of}"
    print(f"({said})", file=sys.stderr)
    if warning:
        print(f"note: {warning}", file=sys.stderr)


def _print_page(page: Page) -> None:
    from gemstead.cli import tables

    print(page.title)
    width = max(len(name) for name, _ in page.lines)
    for name, value in page.lines:
        print(f"  {name.ljust(width)}  {tables.plain(value)}")
    for table in page.tables:
        print(f"\n{table.title}")
        if table.rows:
            tables.show(table.headings, table.rows)
        else:
            print("  none known")
    for note in page.notes:
        print(f"\n{note}")


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
