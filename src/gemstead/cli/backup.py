"""`gemstead backup` and `restore`: the ledger and its secrets in one file, put back, or tried (`--drill`)."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.operate.backup import Drilled, Seal
    from gemstead.wiring.files import StateDir


def add(subparsers: Any) -> None:
    """Register `backup` and `restore`."""
    from gemstead.cli.options import add_common

    backup_ = subparsers.add_parser(
        "backup",
        description="Copy the ledger and its secrets into one file, also while the service runs. The file holds "
        "secrets: it is made for its owner only, and sealed when you say for whom, in the format of age.",
    )
    backup_.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="default: gemstead-TIME.tar.gz here, with .age when it is sealed",
    )
    backup_.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="age1...",
        help="seal it for whoever has the secret key to this; may be said again",
    )
    backup_.add_argument(
        "--passphrase", metavar="REFERENCE", help="seal it with a passphrase: `env:NAME`, `file:PATH`, ..."
    )
    backup_.add_argument(
        "--new-key",
        metavar="FILE",
        help="make no backup, but a secret key in this file, and print its recipient",
    )
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
    restore_.add_argument(
        "--identity",
        metavar="FILE",
        help="the secret key of a sealed backup, as `--new-key` or age-keygen write it",
    )
    restore_.add_argument("--passphrase", metavar="REFERENCE", help="the passphrase of a sealed backup")
    add_common(restore_)
    restore_.set_defaults(run=restore)


def back_up(args: argparse.Namespace) -> int:
    """Write the backup and say what is in it."""
    if args.new_key:
        return _new_key(Path(args.new_key))
    from gemstead.operate.backup import OPEN, backup

    folder, now = _folder(args), time.time()
    seal = _seal(args)
    ending = "" if seal == OPEN else ".age"
    name = args.file or time.strftime("gemstead-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime(now)) + ending
    made = backup(folder.ledger, Path(name), now, seal)
    _remember(folder, "ledger.backup", Path(name).name, {"records": made.last, "keys": made.keys})
    if args.json:
        print(
            json.dumps({"file": name, "records": made.last, "keys": made.keys, "files": sorted(made.files)})
        )
    else:
        print(f"{name}: {made.keys} keys, audit log up to record {made.last}, {len(made.files)} files")
        opens = (
            " --identity FILE" if seal.recipients else f" --passphrase {args.passphrase}" if ending else ""
        )
        print(f"try it: gemstead restore --drill {name}{opens}")
    return 0


def _new_key(path: Path) -> int:
    import os

    from gemstead.operate.sealed import new_identity

    secret, public = new_identity()
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Trouble(f"{path} is there already: give the key another name") from None
    except OSError as error:
        raise Trouble(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w") as file:
        file.write(f"# public key: {public}\n{secret}\n")
    print(public)
    print(f"keep {path} elsewhere than the backups: without it none of them can be opened", file=sys.stderr)
    return 0


def _seal(args: argparse.Namespace) -> Seal:
    """For whom a backup is to be sealed, or what opens one, as the words say."""
    from gemstead.operate.backup import Seal
    from gemstead.operate.sealed import SealTrouble, identities, recipient

    to, key = getattr(args, "recipient", []), getattr(args, "identity", None)
    if to and args.passphrase:
        raise Trouble("a backup is sealed for recipients or with a passphrase, not both", code=USAGE)
    try:
        return Seal(
            recipients=tuple(recipient(one) for one in to),
            identities=tuple(identities(Path(key).read_text())) if key else (),
            passphrase=_passphrase(args),
        )
    except SealTrouble as trouble:
        raise Trouble(f"{key}: {trouble}" if key else str(trouble), code=USAGE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{key} cannot be read: {error}") from None


def _passphrase(args: argparse.Namespace) -> str:
    import os

    from gemstead.cli.options import read_spec
    from gemstead.operate.secrets.keeper import Keeper
    from gemstead.wiring.secrets import CannotRun, resolved

    if not args.passphrase:
        return ""
    try:
        keeper = Keeper(read_spec(args).secrets, os.environ)
        return resolved(args.passphrase, os.environ, "--passphrase", keeper)
    except CannotRun as error:
        raise Trouble(str(error), code=USAGE) from None


def restore(args: argparse.Namespace) -> int:
    """Put it back, or try to."""
    from gemstead.operate.backup import drill
    from gemstead.operate.backup import restore as put_back
    from gemstead.wiring.files import hold

    folder, now = _folder(args), time.time()
    archive, seal = Path(args.file), _seal(args)
    if args.drill:
        done = drill(archive, now, seal)
        action = "restore.drill" if not done.trouble else "restore.drill.failed"
        _remember(folder, action, archive.name, _told(done))
        return _said(args, done, "drill", None)
    held = hold(folder)
    if held is None:
        raise Trouble(f"a service runs in {folder.path}: `gemstead stop` first")
    try:
        done, before = put_back(archive, folder.ledger, now, seal)
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
