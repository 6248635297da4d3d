"""`deny`, `admin`, `roles`: have tokens refused, set the break-glass password, show who may do what."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.ledger.keys import KeyStore
    from gemstead.wiring.files import StateDir


def add(subparsers: Any) -> None:
    deny = subparsers.add_parser(
        "deny", description="Have signed tokens and client certificates refused, in every worker and at once."
    )
    acts = deny.add_subparsers(dest="act", required=True, metavar="token|subject|list|lift")
    for kind, of in (("token", "its `jti`, or a certificate's serial number"), ("subject", "its `sub`")):
        parser = _act(acts, kind, deny_one, f"Refuse by {of}.")
        parser.add_argument("value", help=of)
        parser.add_argument("--issuer", default="*", metavar="NAME", help="only of this issuer (any)")
        parser.add_argument("--note", default="", help="why")
        if kind == "subject":
            parser.add_argument(
                "--forever", action="store_true", help="also what is issued from now on, until lifted"
            )
            parser.add_argument("--keys", action="store_true", help="revoke the keys that it has made, too")
        else:
            parser.add_argument(
                "--for", dest="span", metavar="SPAN", help="forget it after this long, such as 30d"
            )
    _act(acts, "list", list_denied, "Show what is refused.")
    lift = _act(acts, "lift", lift_one, "Refuse no longer.")
    lift.add_argument("kind", choices=("token", "subject"))
    lift.add_argument("value")
    lift.add_argument("--issuer", default="*", metavar="NAME")

    admin = subparsers.add_parser("admin", description="The break-glass password of the admin port.")
    verbs = admin.add_subparsers(dest="act", required=True, metavar="set-password")
    _act(
        verbs,
        "set-password",
        set_password,
        "Set it: asked for twice, or read from standard input when that is no terminal.",
    )

    roles = subparsers.add_parser("roles", description="Show roles and what they may do.")
    how = roles.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="as JSON")
    how.add_argument(
        "--markdown", action="store_true", help="the whole matrix, as in docs/reference/roles.md"
    )
    from gemstead.cli.options import add_file

    add_file(roles)
    roles.set_defaults(run=show_roles)


def _act(acts: Any, name: str, run: Any, description: str) -> argparse.ArgumentParser:
    from gemstead.cli.options import add_file

    parser: argparse.ArgumentParser = acts.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    if name != "set-password":
        parser.add_argument("--json", action="store_true", help="as JSON")
    add_file(parser)
    parser.set_defaults(run=run)
    return parser


def deny_one(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import moment
    from gemstead.ledger.key import is_made_by
    from gemstead.ledger.keys import Denial

    folder, store = _open(args)
    now = time.time()
    try:
        expires = moment(args.span, now=now, back=False) if getattr(args, "span", None) else None
    except argparse.ArgumentTypeError as error:
        raise Trouble(f"--for: {error}", code=USAGE) from None
    entry = Denial(
        issuer=args.issuer,
        kind=args.act,
        value=args.value,
        at=now,
        forever=getattr(args, "forever", False),
        expires=expires,
        note=args.note,
    )
    store.deny(entry)
    _remember(folder, "token.deny", args.value, {"kind": args.act, "issuer": args.issuer, "note": args.note})
    subject = args.act == "subject"
    made = [key for key in store.list() if subject and is_made_by(key.note, args.issuer, args.value)]
    living = [key for key in made if key.state(now) in ("active", "retiring")]
    for key in living if getattr(args, "keys", False) else ():
        store.revoke(key.key_id, now=now)
        _remember(folder, "key.revoke", key.key_id, {"why": f"{args.value} was denied"})
    if args.json:
        return _print_json(entry)
    later = "" if args.act == "token" or args.forever else "; what is issued from now on counts"
    print(f"{args.act} {args.value} is refused by every gateway worker from now on{later}")
    if living:
        names = ", ".join(key.key_id for key in living)
        print(
            f"revoked with it: {names}"
            if args.keys
            else f"note: keys that it has made go on working: {names}"
        )
    _tell_if_unknown(args)
    return 0


def _tell_if_unknown(args: argparse.Namespace) -> None:
    """A mistyped issuer refuses nobody, and must not look as if it did."""
    from gemstead.cli.options import read_spec
    from gemstead.spec.fault import SpecError

    try:
        identity = read_spec(args).identity
    except SpecError:
        return
    known = [one.name for one in identity.issuers] + [one.name for one in identity.certificates]
    if args.issuer != "*" and args.issuer not in known:
        has = f"it has {', '.join(known)}" if known else "it has none"
        print(
            f"note: the file names no issuer {args.issuer} ({has}), so this refuses nobody", file=sys.stderr
        )


def list_denied(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import shown
    from gemstead.cli.tables import show

    _, store = _open(args)
    found = store.denied()
    if args.json:
        return _print_json(found)
    if not found:
        print("nothing is denied", file=sys.stderr)
        return 0
    rows = [
        (one.kind, one.value, one.issuer, shown(one.at), "yes" if one.forever else "", one.note)
        for one in found
    ]
    show(("KIND", "VALUE", "ISSUER", "SINCE", "FOREVER", "NOTE"), rows)
    return 0


def lift_one(args: argparse.Namespace) -> int:
    folder, store = _open(args)
    if not store.lift(args.issuer, args.kind, args.value):
        raise Trouble(
            f"no such denial: {args.kind} {args.value} of {args.issuer}; `gemstead deny list` shows them"
        )
    _remember(folder, "token.lift", args.value, {"kind": args.kind, "issuer": args.issuer})
    print(f"{args.kind} {args.value} is no longer refused")
    return 0


def set_password(args: argparse.Namespace) -> int:
    from getpass import getpass

    from gemstead.wiring.ledger import password_file

    folder, _ = _open(args)
    if sys.stdin.isatty():
        password = getpass("New break-glass password: ")
        if getpass("Again: ") != password:
            raise Trouble("these are two different passwords: nothing was changed", code=USAGE)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    password_file(folder).set(password, time.time())
    _remember(folder, "admin.password.change", "break-glass", None)
    print("the break-glass password is set; seal it away, and change it after each use")
    return 0


def show_roles(args: argparse.Namespace) -> int:
    from gemstead.cli.options import read_spec
    from gemstead.traffic.roles import RIGHTS, ROLE_SAYS, Roles

    if args.markdown:
        from gemstead.cli.rolespage import markdown

        print(markdown(), end="")
        return 0
    own = {one.name: (one.extends, one.allow) for one in read_spec(args).identity.roles}
    roles = Roles(own)
    if args.json:
        return _print_json({name: sorted(rights) for name, rights in roles.by_name.items()})
    for name, rights in roles.by_name.items():
        print(f"{name}: {ROLE_SAYS.get(name, 'of your file')}")
        for right, says in RIGHTS.items():
            if right in rights:
                print(f"  {right:<16} {says}")
    return 0


def _open(args: argparse.Namespace) -> tuple[StateDir, KeyStore]:
    import os

    from gemstead.cli.options import read_places
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import key_store

    folder = state_dir(read_places(args), os.environ)
    return folder, key_store(folder, mint=False)


def _remember(folder: StateDir, action: str, target: str, detail: Any) -> None:
    from gemstead.ledger.acts import new_act
    from gemstead.wiring.ledger import audit_log

    audit_log(folder).remember(new_act(action, target, detail=detail))


def _print_json(value: Any) -> int:
    import msgspec

    print(json.dumps(msgspec.to_builtins(value, order="deterministic"), indent=2))
    return 0
