"""`gemstead backup` and `restore`: the ledger and its secrets in one file, put back, or tried (`--drill`)."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import Trouble

if TYPE_CHECKING:
    from gemstead.operate.backup import Drilled
    from gemstead.wiring.files import StateDir


def add(subparsers: Any) -> None:
    """Register `backup` and `restore`."""
    from gemstead.cli.options import add_common

    backup_ = subparsers.add_parser(
        "backup",
        description="Copy the ledger and its secrets into one file, also while the service runs. The file holds "
        "secrets: it is made for its owner only, and you should encrypt it where it goes.",
    )
    backup_.add_argument("file", nargs="?", metavar="FILE", help="default: gemstead-TIME.tar.gz here")
    add_common(backup_)
    backup_.set_defaults(run=back_up)
    restore_ = subparsers.add_parser(
        "restore",
        description="Put a backup in the place of the ledger. No service may run there; what was there is kept.",
    )
    restore_.add_argument("file", metavar="FILE", help="what `gemstead backup` wrote")
    restore_.add_argument(
        "--drill",
        action="store_true",
        help="only try it: unpack it elsewhere, verify all of it, and write into the audit log that this was done. "
        "Exit code 1: it could not be restored",
    )
    add_common(restore_)
    restore_.set_defaults(run=restore)


def back_up(args: argparse.Namespace) -> int:
    """Write the backup and say what is in it."""
    from gemstead.operate.backup import backup

    folder, now = _folder(args), time.time()
    name = args.file or time.strftime("gemstead-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime(now))
    made = backup(folder.ledger, Path(name), now)
    _remember(folder, "ledger.backup", Path(name).name, {"records": made.last, "keys": made.keys})
    if args.json:
        print(
            json.dumps({"file": name, "records": made.last, "keys": made.keys, "files": sorted(made.files)})
        )
    else:
        print(f"{name}: {made.keys} keys, audit log up to record {made.last}, {len(made.files)} files")
        print(f"try it: gemstead restore --drill {name}")
    return 0


def restore(args: argparse.Namespace) -> int:
    """Put it back, or try to."""
    from gemstead.operate.backup import drill
    from gemstead.operate.backup import restore as put_back
    from gemstead.wiring.files import hold

    folder, now = _folder(args), time.time()
    archive = Path(args.file)
    if args.drill:
        done = drill(archive, now)
        action = "restore.drill" if not done.trouble else "restore.drill.failed"
        _remember(folder, action, archive.name, _told(done))
        return _said(args, done, "drill", None)
    held = hold(folder)
    if held is None:
        raise Trouble(f"a service runs in {folder.path}: `gemstead stop` first")
    try:
        done, before = put_back(archive, folder.ledger, now)
        _remember(folder, "ledger.restore", archive.name, _told(done))
    finally:
        held.release()
    return _said(args, done, "restored", before)


def _folder(args: argparse.Namespace) -> StateDir:
    import os

    from gemstead.cli.options import read_spec
    from gemstead.wiring.files import state_dir

    spec = read_spec(args)
    if spec.ledger.store is not None:
        raise Trouble(
            "the ledger is in PostgreSQL (ledger.store): back that up with its own means (pg_basebackup, pg_dump), and "
            "keep ledger.secret"
        )
    return state_dir(spec, os.environ)


def _remember(folder: StateDir, action: str, target: str, detail: dict[str, Any]) -> None:
    from gemstead.ledger.acts import local_actor, new_act, remember

    remember(folder.audit, new_act(action, target, actor=local_actor(), detail=detail))


def _told(done: Drilled) -> dict[str, Any]:
    return {
        "made": done.made,
        "age_s": round(done.age_s, 1),
        "seconds": round(done.seconds, 3),
        "records": done.records,
        "keys": done.keys,
        "trouble": list(done.trouble),
    }


def _said(args: argparse.Namespace, done: Drilled, what: str, before: Path | None) -> int:
    if args.json:
        print(json.dumps({what: not done.trouble, "backup": done.backup, **_told(done)}))
        return 1 if done.trouble else 0
    for sentence in done.trouble:
        print(f"NOT WHOLE: {sentence}")
    if done.trouble:
        return 1
    print(
        f"{done.backup}: {what} in {done.seconds:.1f} s; {done.keys} keys, audit log up to record {done.records}; "
        f"it is {done.age_s / 3600:.1f} h old, and what was written since is not in it"
    )
    if before is not None:
        print(f"what was there lies in {before}")
    print(
        "audit records go on in a chain of their own: `gemstead audit verify` tells what lies between, and receivers "
        "know them from what they had before"
    )
    return 0
