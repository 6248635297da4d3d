"""`gemstead db`: which form the ledger's files have, and bringing them forward before an upgrade needs it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Register `db`."""
    from gemstead.cli.options import add_common

    db = subparsers.add_parser("db", description="The ledger's files: their form, and bringing them forward.")
    verbs = db.add_subparsers(dest="db_verb", required=True, metavar="VERB")
    status_ = verbs.add_parser(
        "status",
        description="Show each file's form. Exit code 1: one is older than this Gemstead, or newer.",
    )
    add_common(status_)
    status_.set_defaults(run=status)
    upgrade_ = verbs.add_parser(
        "upgrade",
        description="Bring older files forward, each after a whole copy beside it. Works while the service runs.",
    )
    upgrade_.add_argument("--no-copy", action="store_true", help="do not copy files first")
    add_common(upgrade_)
    upgrade_.set_defaults(run=upgrade)


def status(args: argparse.Namespace) -> int:
    """Print each file's form; 1 when one is not as this Gemstead writes it."""
    from gemstead.cli.tables import show
    from gemstead.ledger.schema import states

    found = states(_files(args))
    if args.json:
        rows = [
            {"path": str(one.path), "schema": one.version, "newest": one.newest, "state": one.state}
            | {"bytes": one.size_bytes}
            for one in found
        ]
        print(json.dumps(rows, indent=2))
    else:
        show(
            ("FILE", "SCHEMA", "NEWEST", "STATE", "BYTES"),
            [(str(one.path), one.version, one.newest, one.state, one.size_bytes) for one in found],
        )
    return 0 if all(one.state in ("current", "missing") for one in found) else 1


def upgrade(args: argparse.Namespace) -> int:
    """Bring them forward and say what was done."""
    from gemstead.ledger.schema import upgrade

    done = upgrade(_files(args), copy=not args.no_copy)
    if args.json:
        rows = [
            {
                "path": str(was.path),
                "from": was.version,
                "to": was.newest,
                "copy": str(kept) if kept else None,
            }
            for was, kept in done
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for was, kept in done:
        print(f"{was.path}: schema {was.version} to {was.newest}" + (f"; as it was: {kept}" if kept else ""))
    if not done:
        print("nothing to do: every file is as this Gemstead writes it")
    return 0


def _files(args: argparse.Namespace) -> dict[str, Path]:
    import os

    from gemstead.cli.options import read_spec
    from gemstead.wiring.files import state_dir

    spec = read_spec(args)
    folder = state_dir(spec, os.environ)
    batch = Path(spec.batch.path).expanduser().absolute() if spec.batch.path else folder.path / "batch"
    return {"keys.db": folder.keys, "audit.db": folder.audit, "batches.db": batch / "batches.db"}
