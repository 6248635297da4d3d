"""`audit verify`, `export`, `checkpoint`, `key`, `hold`, `prune` and the hash keys: proof, and what may be deleted.

All of it works on the files, whether the service runs or not. Exit code 1: the log is not what was written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.ledger.log import AuditLog
    from gemstead.ledger.proof import Verified
    from gemstead.ledger.signing import PublicKeys
    from gemstead.spec.model import Spec
    from gemstead.wiring.files import StateDir


def add(verbs: Any) -> None:
    verify = _verb(verbs, "verify", verify_log, "name the first record that is not as it was written")
    verify.add_argument("--export", metavar="FILE", help="an export, instead of this service's own log")
    verify.add_argument("--public-key", action="append", default=[], metavar="FILE", dest="keys",
                        help="a public key to trust, in PEM (default: those beside the log)")  # fmt: skip
    verify.add_argument("--checkpoint", action="append", default=[], metavar="FILE", dest="outside",
                        help="a checkpoint that was kept elsewhere")  # fmt: skip
    export = _verb(verbs, "export", export_log, "write a part of the log that can be verified elsewhere")
    _period(export)
    export.add_argument("--tenant", metavar="NAME", help="only this tenant's records; of others only hashes")
    export.add_argument("--out", metavar="FILE", help="where to (default: standard output)")
    _verb(
        verbs, "checkpoint", make_checkpoint, "sign where the log ends now, and print that: keep it elsewhere"
    )
    _verb(verbs, "key", show_key, "print the public key that verifies the log")
    _verb(verbs, "rotate-signing-key", rotate_signing_key, "sign with a new key from now on")
    rotate = _verb(verbs, "rotate-hash-key", rotate_hash_key, "hash prompts with a new key from now on")
    rotate.add_argument("--tenant", default="", metavar="NAME", help="only for this tenant")
    rotate.add_argument(
        "--forget", metavar="ID", help="destroy a retired key: its hashes can never be compared again"
    )
    hashed = _verb(
        verbs, "hash-prompt", hash_prompt, "what a prompt on standard input hashes to, under each key"
    )
    hashed.add_argument("--tenant", default="default", metavar="NAME", help="whose prompt (default)")
    hold = verbs.add_parser("hold", help="legal holds: what may not be deleted", allow_abbrev=False)
    acts = hold.add_subparsers(dest="hold", required=True, metavar="add|list|release")
    new = _verb(acts, "add", add_hold, "keep records, whatever the rules say")
    new.add_argument("--tenant", default="*", metavar="PATTERN", help="whose (all)")
    new.add_argument("--user", default="*", metavar="PATTERN", help="only this user's (all)")
    new.add_argument("--key", default="*", metavar="PATTERN", help="only of this key, by its public id (all)")
    _period(new, required=False)
    new.add_argument("--reason", required=True, help="why; it is written into the log")
    _verb(acts, "list", list_holds, "every legal hold")
    end = _verb(acts, "release", release_hold, "end a legal hold")
    end.add_argument("hold_id", metavar="ID")
    prune = _verb(verbs, "prune", prune_log, "delete what `audit.retention` no longer keeps, now")
    prune.add_argument("--dry-run", action="store_true", help="only count")


def _verb(verbs: Any, name: str, run: Any, says: str) -> argparse.ArgumentParser:
    from gemstead.cli.options import add_common

    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=says, description=f"{says[0].upper()}{says[1:]}.", allow_abbrev=False
    )
    add_common(parser)
    parser.set_defaults(run=run)
    return parser


def _period(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    words = "a span back such as 7d, or a date"
    parser.add_argument("--from", required=required, metavar="WHEN", dest="since", help=words)
    parser.add_argument("--to", metavar="WHEN", dest="until", help=f"{words} (now)")


def verify_log(args: argparse.Namespace) -> int:
    import msgspec

    from gemstead.ledger.chain import Checkpoint
    from gemstead.ledger.proof import verify_exports

    if args.export:
        with _opened(args.export).open("rb") as lines:
            found = verify_exports(lines, _trusted(args, None))
        where = args.export
    else:
        from gemstead.wiring.ledger import audit_log

        folder = _looked_at(args)
        try:
            outside = [
                msgspec.json.decode(_opened(name).read_bytes(), type=Checkpoint) for name in args.outside
            ]
        except msgspec.MsgspecError as error:
            raise Trouble(f"--checkpoint: this is no checkpoint: {error}", code=USAGE) from None
        log = audit_log(folder)
        found = log.verify(_trusted(args, folder), outside)
        where = log.name
        _remember_verified(log, found, len(outside))
    if args.json:
        print(msgspec.json.encode(found[0] if len(found) == 1 else found).decode())
    elif not found:
        print(f"{where}: there are no records yet")
    for one in () if args.json else found:
        _tell(one, f"{where} chain {one.chain}" if len(found) > 1 else where)
    return 0 if all(one.fault is None for one in found) else 1


def _remember_verified(log: AuditLog, found: list[Verified], outside: int) -> None:
    """That the log is as it was written is evidence, and written down where it can be.

    A log that is not is left as it was found, and one that cannot be written can be verified all the same.
    """
    from contextlib import suppress

    from gemstead.ledger.acts import new_act
    from gemstead.ledger.database import LedgerTrouble

    if not any(one.last for one in found) or any(one.fault is not None for one in found):
        return
    with suppress(LedgerTrouble):
        log.remember(new_act("audit.verify", detail={"intact": True, "outside": outside}))


def _tell(found: Verified, where: str) -> None:
    from gemstead.cli.spans import shown

    if found.fault is not None:
        print(f"{where}: BROKEN at record {found.fault.seq} ({found.fault.kind}): {found.fault.what}")
        if found.records or found.deleted:
            print(f"records {found.first} to {found.last} are as they were written")
    elif not found.last:
        print(f"{where}: there are no records yet")
    else:
        print(f"{where}: records {found.first} to {found.last} are as they were written ({found.records} there, "
              f"{found.deleted} deleted by rule or not told; chain {found.chain})")  # fmt: skip
    if found.vouched:
        print(f"signed up to record {found.vouched}, last on {shown(found.vouched_at)} UTC")
    elif found.last:
        print("note: no signature that could be checked vouches for any of them", file=sys.stderr)
    if found.gap:
        print(f"note: {found.gap}", file=sys.stderr)
    if found.unsealed:
        print(f"note: {found.unsealed} older records are from before there was a chain", file=sys.stderr)
    if found.unknown_keys:
        print(
            f"note: signed also by keys that are not known here: {', '.join(found.unknown_keys)}",
            file=sys.stderr,
        )


def export_log(args: argparse.Namespace) -> int:
    from gemstead.ledger.acts import new_act
    from gemstead.ledger.signing import Signer
    from gemstead.wiring.ledger import audit_log

    _, folder = _service(args)
    since, until = _span(args)
    log = audit_log(folder)
    lines = log.export(since, until, args.tenant, Signer(_key(folder)))
    first = next(lines)  # before anything is written: it says when there is nothing
    if args.out:
        handle = os.open(args.out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(first)
            file.writelines(lines)
    else:
        sys.stdout.buffer.write(first)
        sys.stdout.buffer.writelines(lines)
        sys.stdout.flush()
    detail = {"from": since, "to": until, "tenant": args.tenant}
    log.remember(new_act("audit.export", args.tenant or "", detail=detail))
    print("verify it anywhere: gemstead audit verify --export FILE --public-key KEY.pem", file=sys.stderr)
    return 0


def make_checkpoint(args: argparse.Namespace) -> int:
    import msgspec

    from gemstead.ledger.signing import Signer
    from gemstead.wiring.ledger import audit_log

    _, folder = _service(args)
    log = audit_log(folder)
    if log.checkpoint(Signer(_key(folder)), time.time()) is None:
        print("nothing new since the last checkpoint; that one is shown", file=sys.stderr)
    last = log.last_checkpoint()
    print(msgspec.json.encode(last).decode())
    return 0


def show_key(args: argparse.Namespace) -> int:
    from gemstead.ledger.signing import Signer
    from gemstead.wiring.ledger import fetch_secrets

    _, folder = _service(args)
    fetch_secrets(folder)
    signer = Signer(_key(folder))
    if args.json:
        import json

        print(json.dumps({"key_id": signer.key_id, "public_key": signer.public_pem}))
    else:
        print(signer.public_pem, end="")
        print(f"key {signer.key_id}; keep a copy away from this machine", file=sys.stderr)
    return 0


def rotate_signing_key(args: argparse.Namespace) -> int:
    from gemstead.ledger.acts import new_act
    from gemstead.ledger.signing import Signer
    from gemstead.wiring.ledger import audit_log, renew_signing_key

    _, folder = _service(args)
    log = audit_log(folder)
    old = Signer(_key(folder))
    log.checkpoint(old, time.time())  # all that there is, by the key that was in force
    new = renew_signing_key(folder)
    log.remember(new_act("audit.rotate-signing-key", new.key_id, detail={"before": old.key_id}))
    log.checkpoint(new, time.time())
    print(f"key {new.key_id} signs from now on; {old.key_id} still verifies what it signed", file=sys.stderr)
    return show_key(args)


def rotate_hash_key(args: argparse.Namespace) -> int:
    from gemstead.cli.running import ask
    from gemstead.ledger.acts import new_act
    from gemstead.wiring.files import running
    from gemstead.wiring.ledger import audit_log, forget_hash_key, new_hash_key

    _, folder = _service(args)
    if args.forget:
        forget_hash_key(folder, args.forget)
        audit_log(folder).remember(new_act("audit.forget-hash-key", args.forget))
        print(f"hash key {args.forget} is destroyed")
        return 0
    new = new_hash_key(folder, args.tenant)
    audit_log(folder).remember(new_act("audit.rotate-hash-key", new.id, detail={"tenant": args.tenant}))
    print(f"prompts of {args.tenant or 'all tenants'} are hashed with key {new.id}", end="")
    card = running(folder)
    if card is None:
        print(" from the next start on")
        return 0
    done = ask(card, "POST", "/admin/reload", patience_s=3600.0)
    if "refused" in done:
        raise Trouble(" once the service has reloaded, which it refused: " + "; ".join(done["refused"]))
    print(" from now on")
    return 0


def hash_prompt(args: argparse.Namespace) -> int:
    from gemstead.ledger.audit import hasher_of
    from gemstead.ledger.hashkeys import hash_keys
    from gemstead.wiring.ledger import fetch_secrets

    _, folder = _service(args)
    fetch_secrets(folder)
    prompt = sys.stdin.buffer.read()
    for key in hash_keys(folder.hash_key):
        if key.tenant in ("", args.tenant):
            print(hasher_of(key.id, bytes.fromhex(key.secret), args.tenant).hash(prompt))
    return 0


def add_hold(args: argparse.Namespace) -> int:
    from gemstead.wiring.ledger import audit_log

    _, folder = _service(args)
    now = time.time()
    since = _moment(args.since, now, "--from") if args.since else None
    until = _moment(args.until, now, "--to") if args.until else None
    one = audit_log(folder).hold(args.tenant, since, until, args.reason, now, args.key, args.user)
    print(one.hold_id)
    return 0


def list_holds(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import shown
    from gemstead.wiring.ledger import audit_log

    _, folder = _service(args)
    found = audit_log(folder).holds()
    if args.json:
        import msgspec

        print(msgspec.json.encode(found).decode())
        return 0
    from gemstead.cli.tables import show

    if not found:
        print("no legal holds", file=sys.stderr)
        return 0
    show(
        ("ID", "TENANT", "KEY", "USER", "FROM", "TO", "MADE", "RELEASED", "REASON"),
        [
            (
                one.hold_id,
                one.tenant,
                one.key,
                one.user,
                shown(one.since),
                shown(one.until),
                shown(one.made),
                shown(one.released),
                one.reason,
            )
            for one in found
        ],
    )
    return 0


def release_hold(args: argparse.Namespace) -> int:
    from gemstead.wiring.ledger import audit_log

    _, folder = _service(args)
    audit_log(folder).release(args.hold_id, time.time())
    print(f"{args.hold_id} is released")
    return 0


def prune_log(args: argparse.Namespace) -> int:
    from gemstead.ledger.acts import local_actor
    from gemstead.ledger.ship.cursors import shipped_everywhere
    from gemstead.ledger.signing import Signer
    from gemstead.wiring.auditing import rules
    from gemstead.wiring.ledger import audit_log

    spec, folder = _service(args)
    if not spec.audit.retention:
        raise Trouble("the file says nothing of `audit.retention`, so everything is kept")
    done = audit_log(folder).prune(
        rules(spec.audit.retention),
        time.time(),
        None if args.dry_run else Signer(_key(folder)),
        actor=local_actor(),
        upto=shipped_everywhere(folder.audit, (sink.name for sink in spec.audit.ship)),
    )
    if args.json:
        import msgspec

        print(msgspec.json.encode(done).decode())
        return 0
    verb = "would be" if args.dry_run else "were"
    print(
        f"{done.calls} calls and {done.acts} acts {verb} deleted; {done.held} are due and under a legal hold"
    )
    return 0


def _service(args: argparse.Namespace) -> tuple[Spec, StateDir]:
    from gemstead.cli.options import read_spec
    from gemstead.wiring.files import state_dir

    spec = read_spec(args)
    return spec, state_dir(spec, os.environ)


def _looked_at(args: argparse.Namespace) -> StateDir:
    """The folder alone, also where the file has faults."""
    from gemstead.cli.options import read_places
    from gemstead.wiring.files import state_dir

    return state_dir(read_places(args), os.environ)


def _key(folder: StateDir) -> Path:
    return folder.ledger / "audit.key"


def _trusted(args: argparse.Namespace, folder: StateDir | None) -> PublicKeys:
    from gemstead.ledger.signing import known_keys, public_keys

    if args.keys:
        return public_keys(Path(name) for name in args.keys)
    if folder is None:
        folder = _looked_at(args)
    return known_keys(_key(folder))


def _opened(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise Trouble(f"{name}: there is no such file", code=USAGE)
    return path


def _span(args: argparse.Namespace) -> tuple[float, float]:
    now = time.time()
    since = _moment(args.since, now, "--from")
    return since, _moment(args.until, now, "--to") if args.until else now + 1.0


def _moment(text: str, now: float, option: str) -> float:
    from gemstead.cli.spans import moment

    try:
        return moment(text, now=now, back=True)
    except argparse.ArgumentTypeError as error:
        raise Trouble(f"{option}: {error}", code=USAGE) from None
