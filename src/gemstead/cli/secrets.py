"""`gemstead secrets check`: reads every secret that the file refers to, and prints none of them."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(subparsers: Any) -> None:
    """Register `secrets`."""
    from gemstead.cli.options import add_common

    secrets_ = subparsers.add_parser("secrets", description="What the file says about secrets.")
    verbs = secrets_.add_subparsers(dest="secrets_verb", required=True, metavar="VERB")
    check_ = verbs.add_parser(
        "check",
        description="Read each secret once, from where the file says, and print whether that worked. No secret is "
        "printed. Exit code 1: one cannot be read.",
    )
    add_common(check_)
    check_.set_defaults(run=check)


def check(args: argparse.Namespace) -> int:
    """Read them all; 1 when one cannot be read."""
    import os

    from gemstead.cli.options import read_spec
    from gemstead.cli.tables import show
    from gemstead.operate.secrets.check import checked
    from gemstead.operate.secrets.keeper import Keeper

    spec = read_spec(args)
    rows = checked(spec, Keeper(spec.secrets, os.environ))
    if args.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        show(
            ("FIELD", "REFERENCE", "", "SAID"),
            [(row["field"], row["reference"], "ok" if row["ok"] else "no", row["said"]) for row in rows],
        )
    else:
        print("the file refers to no secret")
    return 0 if all(row["ok"] for row in rows) else 1
