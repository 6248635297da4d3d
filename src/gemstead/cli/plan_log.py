"""`gemstead plan --from-log FILE`: where the estimate was off, against what an engine itself printed at its start.

What the log teaches is kept for this machine and counts in every later plan for that engine and card.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from gemstead.cli.trouble import USAGE, Trouble

MOST_BYTES = 64 << 20


def learn(args: argparse.Namespace) -> int:
    """Compare, keep what was learnt, and say both. Exit code 1 when the log holds nothing to compare."""
    from gemstead.cli.options import read_spec
    from gemstead.cli.plan import cards
    from gemstead.operate import calibration
    from gemstead.operate.catalogue import load
    from gemstead.plan import from_log
    from gemstead.plan.api import model_named
    from gemstead.wiring.files import state_dir

    facts = from_log.read(_text(args.from_log), args.engine)
    card, _ = cards(args, load(os.environ))
    named = model_named(args.model).name if args.model else ""
    setup = from_log.setup_of(facts, card, named, args.weights)
    found = from_log.compare(facts, setup)
    kept = ""
    if found.correction is not None:
        folder = state_dir(read_spec(args), os.environ).path
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        calibration.remember(folder, found.correction)
        kept = str(folder / calibration.FILE)
    if args.json:
        rows = [asdict(row) for row in found.rows]
        print(json.dumps({"rows": rows, "notes": list(found.notes), "kept": kept or None}, indent=2))
    else:
        _show(
            found,
            f"{setup.model.title} ({setup.checkpoint.format}) on {setup.tp} x {card.name}, {setup.engine}",
            kept,
        )
    return 0 if found.rows else 1


def _show(found: object, title: str, kept: str) -> None:
    from gemstead.cli.tables import show
    from gemstead.plan.from_log import Comparison

    assert isinstance(found, Comparison)
    print(title)
    rows = [
        (row.name, _number(row.ours), _number(row.log), row.unit, f"{row.error:+.1%}") for row in found.rows
    ]
    show(("", "estimate", "log", "unit", "off by"), rows)
    for note in found.notes:
        print(f"- {note}")
    if kept:
        print(f"- kept for this machine in {kept}: later plans for this engine and card use it")


def _number(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _text(name: str) -> str:
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise Trouble(f"{name}: cannot be read ({error.strerror or error})", code=USAGE) from error
