"""`keys`: make, list, show, revoke and rotate API keys. Works on the files, whether the service runs or not.

A new key's secret goes to standard output and nowhere else, so `KEY=$(gemstead keys create)` works; what is
said about it goes to standard error.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.ledger.key import Key, Minted
    from gemstead.ledger.keys import KeyStore
    from gemstead.spec.model import Spec
    from gemstead.traffic.caller import RateLimit
    from gemstead.wiring.files import StateDir


def add(subparsers: Any) -> None:
    keys = subparsers.add_parser("keys", description="Create, list, show, revoke and rotate API keys.")
    verbs = keys.add_subparsers(dest="act", required=True, metavar="create|list|show|revoke|rotate")
    _create_options(_verb(verbs, "create", create, "Make a key and show it, this once."))
    _verb(verbs, "list", list_keys, "List keys: their ids, rights and state. Secrets are kept nowhere.")
    _verb(verbs, "show", show, "Show one key.").add_argument("id", help="as in `gemstead keys list`")
    end = _verb(verbs, "revoke", revoke, "Refuse keys from now on and for good, in every gateway worker.")
    end.add_argument("id", nargs="*", help="as in `gemstead keys list`")
    for name in ("tenant", "user", "app"):
        end.add_argument(f"--{name}", metavar="NAME", help=f"instead: every key of this {name}")
    turn = _verb(verbs, "rotate", rotate, "Replace a key by a new one with the same rights.")
    turn.add_argument("id", help="as in `gemstead keys list`")
    turn.add_argument(
        "--overlap", default="1h", metavar="SPAN", help="the old key works this much longer (1h)"
    )


def _verb(verbs: Any, name: str, run: Any, description: str) -> argparse.ArgumentParser:
    from gemstead.cli.options import add_file

    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_file(parser)
    parser.set_defaults(run=run)
    return parser


def _create_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tenant", default="default", help="who pays: the name in usage and metrics (default)"
    )
    parser.add_argument("--app", default="", help="which application it is for")
    parser.add_argument("--user", default="", help="whose it is")
    parser.add_argument("--role", action="append", metavar="ROLE", help="may be given again (service)")
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="a model it may call; may be given again (all)"
    )
    parser.add_argument(
        "--network",
        action="append",
        metavar="CIDR",
        help="an address or network that it may be used from; may be given again (any)",
    )
    parser.add_argument("--expires", metavar="WHEN", help="a span such as 30d, or a date (never)")
    parser.add_argument("--priority", type=int, default=0, help="below 0 is shed first under load (0)")
    parser.add_argument("--rpm", type=int, metavar="N", help="requests per minute")
    parser.add_argument("--tpm", type=int, metavar="N", help="tokens per minute")
    parser.add_argument("--concurrent", type=int, metavar="N", help="calls at the same time")
    parser.add_argument(
        "--unlimited",
        action="store_true",
        help="no limit at all; without any of these four the file's `limits` hold",
    )
    parser.add_argument("--note", default="", help="anything you want to remember")


def create(args: argparse.Namespace) -> int:
    from gemstead.ledger.granting import Unfit, checked_roles, limit_of, pool_of
    from gemstead.ledger.keys import Grant

    spec, folder, store = _open(args)
    now = time.time()
    if args.unlimited and any(most is not None for most in (args.rpm, args.tpm, args.concurrent)):
        raise Trouble("--unlimited goes with none of --rpm, --tpm and --concurrent", code=USAGE)
    try:
        roles = checked_roles(args.role or ("service",), spec)
        models = frozenset(pool_of(name, spec) for name in args.model) if args.model else None
        limit = limit_of(args.rpm, args.tpm, args.concurrent, unlimited=args.unlimited)
    except Unfit as unfit:
        raise Trouble(str(unfit), code=USAGE) from None
    grant = Grant(
        tenant=args.tenant,
        app=args.app,
        user=args.user,
        roles=roles,
        priority=args.priority,
        models=models,
        limit=limit,
        note=args.note,
        expires=_moment(args.expires, now, "--expires") if args.expires else None,
        networks=tuple(args.network or ()),
    )
    minted = store.create(grant, now=now)
    _remember(folder, "key.create", minted.key)
    return _hand_over(minted, args, spec, folder)


def list_keys(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import shown

    _, folder, store = _open(args, mint=False)
    keys, now = store.list(), time.time()
    if args.json:
        return _print_json([_plain(key, now) for key in keys])
    if not keys:
        print(f"no keys yet in {folder.keys}; `gemstead keys create` makes one", file=sys.stderr)
        return 0
    from gemstead.cli.tables import show as show_table

    headings = ("ID", "STATE", "TENANT", "APP", "USER", "MODELS", "LIMITS", "EXPIRES", "LAST USED", "NOTE")
    show_table(
        headings,
        [
            (
                key.key_id,
                key.state(now),
                key.tenant,
                key.app,
                key.user,
                _models(key),
                _limits(key.limit),
                shown(key.expires, "never"),
                shown(key.last_used, "-"),
                key.note,
            )
            for key in keys
        ],
    )
    return 0


def show(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import shown
    from gemstead.cli.tables import plain

    _, _, store = _open(args, mint=False)
    key, now = store.get(_id(args.id)), time.time()
    if args.json:
        return _print_json(_plain(key, now))
    for name, value in (
        ("id", f"{key.key_id}...{key.last4}"),
        ("state", key.state(now)),
        ("tenant", key.tenant),
        ("app", key.app),
        ("user", key.user),
        ("roles", ", ".join(key.roles)),
        ("models", _models(key)),
        ("networks", ", ".join(key.networks) or "any"),
        ("priority", key.priority),
        ("limits", _limits(key.limit)),
        ("created", shown(key.created)),
        ("expires", shown(key.expires, "never")),
        ("revoked", shown(key.revoked_at)),
        ("replaced by", key.replaced_by),
        ("last used", shown(key.last_used)),
        ("note", key.note),
    ):
        print(f"{name:<12} {plain(value)}")
    return 0


def revoke(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import shown
    from gemstead.ledger.key import living_of

    _, folder, store = _open(args, mint=False)
    now = time.time()
    whose = {name: getattr(args, name) for name in ("tenant", "user", "app") if getattr(args, name)}
    if bool(args.id) == bool(whose):
        raise Trouble("say which keys: their ids, or one or more of --tenant, --user and --app", code=USAGE)
    before = [store.get(_id(text)) for text in args.id]  # all of them are known before the first is revoked
    before = before or living_of(store.list(), now, **whose)
    after = [store.revoke(key.key_id, now=now) for key in before]
    for key in before:
        if key.revoked_at is None:
            _remember(folder, "key.revoke", key)
    if args.json:
        return _print_json([_plain(key, now) for key in after])
    if not before:
        print(
            "no key that is accepted is of " + ", ".join(f"{k} {v}" for k, v in whose.items()),
            file=sys.stderr,
        )
    for key in before:
        if key.revoked_at is not None:
            print(f"{key.key_id} was already revoked on {shown(key.revoked_at)}")
            continue
        print(f"{key.key_id} is revoked: every gateway worker refuses it from now on")
        if key.replaced_by is not None:
            print(f"note: its successor {key.replaced_by} goes on working")
    return 0


def rotate(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import shown

    spec, folder, store = _open(args)
    now = time.time()
    overlap_s = _moment(args.overlap, 0.0, "--overlap")
    minted = store.rotate(_id(args.id), now=now, overlap_s=overlap_s)
    old = store.get(_id(args.id))
    _remember(folder, "key.rotate", old, replaced_by=minted.key.key_id)
    print(f"{old.key_id} works until {shown(old.expires)} UTC; this key takes its place:", file=sys.stderr)
    return _hand_over(minted, args, spec, folder)


def _remember(folder: StateDir, action: str, key: Key, **further: str) -> None:
    """Write into the audit log what was done to a key. It is done: a log that is away is only told."""
    from gemstead.ledger.acts import new_act
    from gemstead.ledger.database import LedgerTrouble
    from gemstead.wiring.ledger import audit_log

    detail = {"roles": list(key.roles), "expires": key.expires, **further}
    try:
        audit_log(folder).remember(new_act(action, key.key_id, tenant=key.tenant, detail=detail))
    except LedgerTrouble as trouble:
        print(
            f"warning: this is done and could not be written into the audit log: {trouble}", file=sys.stderr
        )


def _hand_over(minted: Minted, args: argparse.Namespace, spec: Spec, folder: StateDir) -> int:
    """Print a new key, with what to know about it."""
    from gemstead.cli.spans import shown

    key = minted.key
    if args.json:
        return _print_json({"key": minted.secret, **_plain(key, key.created)})
    print(minted.secret, flush=True)
    end = "it never expires" if key.expires is None else f"it expires on {shown(key.expires)} UTC"
    secret = minted.secret if sys.stdout.isatty() else "$KEY"  # not into a log beside a captured secret
    for line in (
        "",
        "Keep it now: it is shown once and stored nowhere.",
        f"Its id is {key.key_id}, for tenant {key.tenant}; {end}.",
        "",
        f"curl {_address(spec, folder)}/v1/chat/completions \\",
        f'  -H "Authorization: Bearer {secret}" -H "Content-Type: application/json" \\',
        f'  -d \'{{"model": "{_first_model(key, spec)}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'',
    ):
        print(line, file=sys.stderr)
    if spec.gateway.keys == "off":
        print("\nnote: gateway.keys is off, so this gateway asks for no key", file=sys.stderr)
    return 0


def _open(args: argparse.Namespace, *, mint: bool = True) -> tuple[Spec, StateDir, KeyStore]:
    """The file's Spec, its state folder and its keys; only who makes keys needs (and may make) the pepper."""
    import os

    from gemstead.cli.options import read_places, read_spec
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import key_store

    spec = read_spec(args) if mint else read_places(args)
    folder = state_dir(spec, os.environ)
    return spec, folder, key_store(folder, mint=mint)


def _id(text: str) -> str:
    """The id that a person means, who may have pasted a whole key or left out the prefix."""
    from gemstead.ledger.keyform import PREFIX, key_id_of

    return key_id_of(text) if text.startswith(PREFIX) else PREFIX + text


def _moment(text: str, now: float, option: str) -> float:
    from gemstead.cli.spans import moment

    try:
        return moment(text, now=now, back=False)
    except argparse.ArgumentTypeError as error:
        raise Trouble(f"{option}: {error}", code=USAGE) from None


def _address(spec: Spec, folder: StateDir) -> str:
    from gemstead.wiring.files import running

    if (card := running(folder)) is not None:
        return card.gateway
    host, _, port = spec.gateway.listen.rpartition(":")
    if host in ("", "0.0.0.0", "[::]"):
        host = "127.0.0.1"
    return f"{'https' if spec.gateway.tls else 'http'}://{host}:{port}"


def _first_model(key: Key, spec: Spec) -> str:
    from gemstead.ledger.granting import pool_of

    return min(key.models) if key.models else pool_of(spec.models[0].name, spec)


def _models(key: Key) -> str:
    return "all" if key.models is None else ", ".join(sorted(key.models))


def _limits(limit: RateLimit | None) -> str:
    if limit is None:
        return "default"
    parts = (
        (limit.requests_per_minute, "requests/min"),
        (limit.tokens_per_minute, "tokens/min"),
        (limit.concurrent, "at once"),
    )
    return ", ".join(f"{most} {what}" for most, what in parts if most is not None) or "none"


def _plain(key: Key, now: float) -> dict[str, Any]:
    """The key as JSON has it. Times in Unix seconds."""
    import msgspec

    return {**msgspec.to_builtins(key, order="deterministic"), "state": key.state(now)}


def _print_json(value: object) -> int:
    import json

    print(json.dumps(value, indent=2))
    return 0
