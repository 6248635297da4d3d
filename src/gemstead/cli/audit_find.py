"""`audit find`: records of calls or of acts by time, tenant, caller and outcome, the latest first."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.ledger.search import Found

ASKED = {
    "tenant": "whose",
    "app": "of which application (calls)",
    "user": "of whom (calls)",
    "caller": "by which key or issuer:subject; of acts: who did it, with or without its kind",
    "client": "from which address",
    "model": "of which model (calls)",
    "outcome": "how it ended, such as served or rate_limited; of acts: done, refused, failed",
    "action": "what was done, such as key.create (acts)",
    "target": "to what it was done (acts)",
}


def add(verbs: Any) -> None:
    from gemstead.cli.options import add_common

    find = verbs.add_parser(
        "find",
        help="records of calls, or of acts, by what they say",
        description="Show records of calls, or of what was done to the service, the latest first.",
        allow_abbrev=False,
    )
    find.add_argument("--acts", action="store_true", help="what was done to the service, instead of calls")
    words = "a span back such as 7d, or a date"
    find.add_argument("--from", default="24h", metavar="WHEN", dest="since", help=f"{words} (24h)")
    find.add_argument("--to", metavar="WHEN", dest="until", help=f"{words} (now)")
    for name, says in ASKED.items():
        find.add_argument(f"--{name}", default="", metavar="NAME", help=says)
    find.add_argument(
        "-n", "--lines", type=int, default=100, metavar="N", help="at most so many (100; 0: all)"
    )
    add_common(find)
    find.set_defaults(run=show_found)


def show_found(args: argparse.Namespace) -> int:
    found = _found(args)
    if args.json:
        import json

        from gemstead.ledger.search import told

        for one in found:
            print(json.dumps(told(one)))
        return 0
    if not found:
        print("no such records in that time", file=sys.stderr)
        return 0
    from gemstead.cli.tables import show

    show(*(_acts(found) if args.acts else _calls(found)))
    return 0


def _found(args: argparse.Namespace) -> list[Found]:
    """All of them, or as many as were asked for, page by page."""
    import os

    from gemstead.cli.options import read_places
    from gemstead.ledger.search import MOST, Question
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import audit_log

    now = time.time()
    asked = {name: getattr(args, name) for name in ASKED}
    since, until = _moment(args.since, now), _moment(args.until, now) if args.until else now + 1.0
    log = audit_log(state_dir(read_places(args), os.environ))
    found: list[Found] = []
    after = ""
    while True:
        most = MOST if args.lines <= 0 else min(MOST, args.lines - len(found))
        records = "acts" if args.acts else "calls"
        page = log.find(Question(since=since, until=until, records=records, most=most, after=after, **asked))
        found += page.records
        after = page.next
        if not after or 0 < args.lines <= len(found):
            return found


def _calls(found: list[Found]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    from gemstead.cli.spans import shown

    heads = (
        "TIME (UTC)",
        "OUTCOME",
        "STATUS",
        "TENANT",
        "USER",
        "CALLER",
        "MODEL",
        "PROMPT",
        "OUTPUT",
        "CALL",
    )
    rows: list[tuple[object, ...]] = []
    for one in found:
        call: Any = one.record
        who = (call.tenant, call.user, call.key_id, call.pool or call.model)
        counts = (call.prompt_tokens, call.output_tokens)
        rows.append((shown(call.began), call.outcome, call.status, *who, *counts, call.call_id))
    return heads, rows


def _acts(found: list[Found]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    from gemstead.cli.spans import shown

    heads = ("TIME (UTC)", "ACTION", "OUTCOME", "WHO", "ROLE", "FROM", "TENANT", "TARGET", "DETAIL")
    rows: list[tuple[object, ...]] = []
    for one in found:
        act: Any = one.record
        whose = (act.actor, act.role, act.client, act.tenant)
        rows.append((shown(act.at), act.action, act.outcome, *whose, act.target, act.detail))
    return heads, rows


def _moment(text: str, now: float) -> float:
    from gemstead.cli.spans import moment

    try:
        return moment(text, now=now, back=True)
    except argparse.ArgumentTypeError as error:
        raise Trouble(f"--from, --to: {error}", code=USAGE) from None
