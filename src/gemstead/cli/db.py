"""`gemstead db`: which form the ledger's tables have, in files and in a store, and bringing them forward or back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemstead.spec.model import Spec
    from gemstead.wiring.files import StateDir


def add(subparsers: Any) -> None:
    """Register `db`."""
    from gemstead.cli.options import add_common

    db = subparsers.add_parser(
        "db", description="The ledger's tables: their form, and bringing them forward or back."
    )
    verbs = db.add_subparsers(dest="db_verb", required=True, metavar="VERB")
    status_ = verbs.add_parser(
        "status",
        description="Show the form of each file and of the store. Exit code 1: one is older than this Gemstead, or "
        "newer.",
    )
    add_common(status_)
    status_.set_defaults(run=status)
    current_ = verbs.add_parser("current", description="Show at which step the tables are, one a line.")
    add_common(current_)
    current_.set_defaults(run=current)
    upgrade_ = verbs.add_parser(
        "upgrade",
        description="Bring older files forward, each after a whole copy beside it, and the store. Works while the "
        "service runs.",
    )
    upgrade_.add_argument("--no-copy", action="store_true", help="do not copy files first")
    add_common(upgrade_)
    upgrade_.set_defaults(run=upgrade)
    downgrade_ = verbs.add_parser(
        "downgrade",
        description="Bring the tables back to an earlier step, for an older Gemstead. What later steps added is lost. "
        "Stop the service first: whoever opens a file with this Gemstead brings it forward again.",
    )
    downgrade_.add_argument(
        "step", metavar="STEP", help="such as audit_2, as `gemstead db current` names them"
    )
    downgrade_.add_argument("--yes", action="store_true", help="do it; without this it is only said")
    downgrade_.add_argument("--no-copy", action="store_true", help="do not copy the file first")
    add_common(downgrade_)
    downgrade_.set_defaults(run=downgrade)
    import_ = verbs.add_parser(
        "import",
        description="Take this gateway's own keys, secrets and audit records into an empty store that several gateways "
        "are to share.",
    )
    add_common(import_)
    import_.set_defaults(run=take_over)
    reseal_ = verbs.add_parser(
        "reseal",
        description="Seal the secrets of a shared store under another secret than `ledger.secret` leads to. Gateways "
        "go on with what they have; then have `ledger.secret` lead to the new one, and reload each.",
    )
    reseal_.add_argument(
        "secret", metavar="REFERENCE", help="where the new secret is, such as file:/etc/gemstead/store.new"
    )
    add_common(reseal_)
    reseal_.set_defaults(run=reseal)


def status(args: argparse.Namespace) -> int:
    """Print the form of each file and of the store; 1 when one is not as this Gemstead writes it."""
    from gemstead.cli.tables import show
    from gemstead.ledger.schema import states

    _, folder, files = _places(args)
    rows = [
        {"path": str(one.path), "schema": one.version, "newest": one.newest, "state": one.state}
        | {"bytes": one.size_bytes}
        for one in states(files)
    ]
    rows += _store_rows(folder)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        show(("FILE OR STORE", "SCHEMA", "NEWEST", "STATE", "BYTES"), [tuple(row.values()) for row in rows])
    return 0 if all(row["state"] in ("current", "missing") for row in rows) else 1


def _store_rows(folder: StateDir) -> list[dict[str, Any]]:
    """The store as `status` shows it, a row for each branch of its tables."""
    if folder.place is None:
        return []
    from gemstead.ledger.migrations import BRANCHES
    from gemstead.ledger.postgres.link import linked
    from gemstead.ledger.postgres.place import shown
    from gemstead.ledger.postgres.schema import places

    url = folder.place.url()
    with linked(url) as link:
        found = places(link)
    words = {-1: "older", 0: "current", 1: "newer"}
    return [
        {
            "path": f"{shown(url)} ({branch})",
            "schema": number,
            "newest": len(BRANCHES[branch]),
            "state": "missing" if not number else words[_sign(number - len(BRANCHES[branch]))],
            "bytes": None,
        }
        for branch, number in found.items()
    ]


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def current(args: argparse.Namespace) -> int:
    """Print the steps that the tables are at."""
    from gemstead.ledger.migrations import FILES
    from gemstead.ledger.schema import states

    _, folder, files = _places(args)
    rows = [
        {"where": str(one.path), "step": f"{FILES[name]}_{one.version}"}
        for name, one in zip(files, states(files), strict=True)
        if one.version
    ]
    for row in _store_rows(folder):
        where, _, branch = row["path"].rstrip(")").rpartition(" (")
        rows.append({"where": where, "step": f"{branch}_{row['schema']}"})
    if args.json:
        print(json.dumps(rows, indent=2))
    for row in () if args.json else rows:
        print(f"{row['step']:<12} {row['where']}")
    return 0


def downgrade(args: argparse.Namespace) -> int:
    """Bring one branch of the tables back."""
    from gemstead.ledger.migrations import IN_POSTGRES
    from gemstead.ledger.migrations.road import parsed

    _, folder, files = _places(args)
    branch, number = parsed(args.step)
    if folder.place is not None and branch in IN_POSTGRES:
        from gemstead.ledger.postgres.place import shown
        from gemstead.ledger.postgres.schema import downgrade as back

        url = folder.place.url()
        if not args.yes:
            return _only_said(f"the {branch} tables of {shown(url)}", args.step, "copy it with pg_dump first")
        was = back(url, args.step)[branch]
        print(f"{shown(url)}: {branch}_{was} to {args.step}")
        return 0
    from gemstead.ledger.schema import downgrade_file

    path = files[f"{branch}.db"]
    if not args.yes:
        return _only_said(str(path), args.step, "the file is copied first")
    step, kept = downgrade_file(path, branch, number, copy=not args.no_copy)
    print(f"{path}: {branch}_{step} to {args.step}" + (f"; as it was: {kept}" if kept else ""))
    return 0


def _only_said(where: str, step: str, how: str) -> int:
    print(
        f"this would bring {where} back to {step}; what later steps added is lost ({how}). Say --yes to do it"
    )
    return 1


def take_over(args: argparse.Namespace) -> int:
    """Bring what this gateway had by itself into the store."""
    from gemstead.cli.trouble import Trouble
    from gemstead.wiring.files import is_held
    from gemstead.wiring.ledger import take_over as take

    _, folder, _ = _places(args)
    if folder.place is None:
        raise Trouble("the file names no `ledger.store` to take anything into")
    if is_held(folder):
        raise Trouble("stop the service first: `gemstead stop`")
    taken = take(folder)
    print(f"{taken.keys} keys, {taken.denials} denials and {taken.records} audit records are in the store")
    if taken.holds:
        print(f"{taken.holds} legal holds too")
    return 0


def reseal(args: argparse.Namespace) -> int:
    """Seal the store anew."""
    import os
    from dataclasses import replace

    from gemstead.cli.trouble import Trouble
    from gemstead.ledger.acts import new_act
    from gemstead.operate.secrets.keeper import Keeper
    from gemstead.wiring.ledger import audit_log
    from gemstead.wiring.ledger import reseal as sealed_anew
    from gemstead.wiring.secrets import CannotRun, resolved

    spec, folder, _ = _places(args)
    if folder.place is None:
        raise Trouble("the file names no `ledger.store`: there is nothing sealed")
    try:
        secret = resolved(args.secret, os.environ, "the new secret", Keeper(spec.secrets, os.environ))
    except CannotRun as error:
        raise Trouble(str(error)) from None
    count = sealed_anew(folder, secret)
    now = replace(folder, place=replace(folder.place, secret=lambda: secret))
    audit_log(now).remember(new_act("store.reseal", detail={"values": count}))
    print(
        f"{count} values are sealed under the new secret: have ledger.secret lead to it now, and reload each gateway"
    )
    return 0


def upgrade(args: argparse.Namespace) -> int:
    """Bring them forward and say what was done."""
    from gemstead.ledger.schema import upgrade

    _, folder, files = _places(args)
    done = upgrade(files, copy=not args.no_copy)
    moved = _store_upgraded(folder)
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
        rows += [{"path": row[0], "from": row[1], "to": row[2], "copy": None} for row in moved]
        print(json.dumps(rows, indent=2))
        return 0
    for where, before, after in moved:
        print(f"{where}: schema {before} to {after}")
    for was, kept in done:
        print(f"{was.path}: schema {was.version} to {was.newest}" + (f"; as it was: {kept}" if kept else ""))
    if not done and not moved:
        print("nothing to do: all is as this Gemstead writes it")
    return 0


def _store_upgraded(folder: StateDir) -> list[tuple[str, int, int]]:
    """Which tables of the store were brought from which step to which."""
    if folder.place is None:
        return []
    from gemstead.ledger.migrations import BRANCHES
    from gemstead.ledger.postgres.place import shown
    from gemstead.ledger.postgres.schema import upgrade

    url = folder.place.url()
    before = upgrade(url).items()
    return [
        (f"{shown(url)} ({branch})", was, len(BRANCHES[branch]))
        for branch, was in before
        if was != len(BRANCHES[branch])
    ]


def _places(args: argparse.Namespace) -> tuple[Spec, StateDir, dict[str, Path]]:
    import os

    from gemstead.cli.options import read_spec
    from gemstead.wiring.files import state_dir

    spec = read_spec(args)
    folder = state_dir(spec, os.environ)
    batch = Path(spec.batch.path).expanduser().absolute() if spec.batch.path else folder.path / "batch"
    files = {"keys.db": folder.keys, "audit.db": folder.audit, "batches.db": batch / "batches.db"}
    return spec, folder, files | {"ship.db": folder.audit.with_name("ship.db")}
