"""`gemstead comply report` and `gemstead access-review`: what an auditor asks for, out of the file and the ledger."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import Trouble

if TYPE_CHECKING:
    from gemstead.operate.compliance.evidence import Evidence

COLUMNS = {"kind": "KIND", "key_id": "WHO", "tenant": "TENANT", "user": "USER", "app": "APP", "roles": "ROLES",
           "state": "STATE", "created": "CREATED", "expires": "EXPIRES", "last_used": "LAST USED",
           "notice": "NOTICE"}  # fmt: skip
TIMES = ("created", "expires", "last_used")
FRAMEWORKS = ("soc2", "iso27001", "hipaa", "eu-ai-act", "gdpr")


def add(subparsers: Any) -> None:
    """Register `comply` and `access-review`."""
    from gemstead.cli.options import add_common

    comply = subparsers.add_parser("comply", description="What is set and recorded here for a framework.")
    verbs = comply.add_subparsers(dest="comply_verb", required=True, metavar="VERB")
    report_ = verbs.add_parser(
        "report",
        description="Each control that Gemstead touches: the setting, what was found, the test that proves it, and "
        "what is left to people. It says nothing about whether anyone complies.",
    )
    report_.add_argument("--framework", choices=FRAMEWORKS, required=True)
    add_common(report_)
    report_.set_defaults(run=report)

    review_ = subparsers.add_parser(
        "access-review",
        description="Who may do what: every key, rule of identity and caller, last used, and what is stale.",
    )
    review_.add_argument(
        "--record", action="store_true", help="write into the audit log that it was reviewed now"
    )
    add_common(review_)
    review_.set_defaults(run=review)


def report(args: argparse.Namespace) -> int:
    """Print the report; 0 also when controls are open."""
    from gemstead.operate.compliance.access import rows_of
    from gemstead.operate.compliance.judge import as_json, frameworks, judged

    evidence = _evidence(args)
    lines = judged(args.framework, evidence)
    about = frameworks()[args.framework]
    if args.json:
        said = {"framework": args.framework, **about, "at": evidence.now, "trouble": evidence.trouble}
        print(json.dumps({**said, "controls": as_json(lines), "access": rows_of(evidence)}, indent=2))
        return 0
    print(f"{about['name']}\n{about['about']}\n")
    for line in lines:
        print(f"[{line.state:^5}] {line.control.id}  {line.control.title}")
        print(f"        {line.control.does}")
        for _, met, seen in line.seen:
            print(f"        {'ok  ' if met else 'OPEN'} {seen}")
        for test in line.control.tests:
            print(f"        test {test}")
        print(f"        you: {line.control.operator}")
    count = [sum(line.state == state for line in lines) for state in ("set", "open", "yours")]
    print(f"\n{count[0]} set, {count[1]} open, {count[2]} yours alone. This is evidence, not a judgement.")
    rows = rows_of(evidence)
    noticed = sum(bool(row["notice"]) for row in rows)
    print(f"Access: {len(rows)} ways in, {noticed} to look at; `gemstead access-review` lists them.")
    for trouble in evidence.trouble:
        print(f"could not be read: {trouble}")
    return 0


def review(args: argparse.Namespace) -> int:
    """Print who may do what; with --record remember that it was looked at."""
    from gemstead.cli.tables import show
    from gemstead.ledger.key import date
    from gemstead.operate.compliance.access import rows_of

    evidence = _evidence(args)
    if evidence.trouble:  # a list that lacks some of those who may come in is worse than none
        raise Trouble("; ".join(evidence.trouble))
    rows = rows_of(evidence)
    if args.record:
        _record(args, rows)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    cells = [
        [date(row[name]) if name in TIMES and row[name] is not None else row[name] for name in COLUMNS]
        for row in rows
    ]
    show(tuple(COLUMNS.values()), cells)
    print()
    for roles, may in sorted({(row["roles"], ", ".join(row["may"])) for row in rows if row["roles"]}):
        print(f"{roles}: {may or 'nothing'}")
    kinds = [row["kind"] for row in rows]
    print(
        f"\n{kinds.count('key')} keys that can be used, {kinds.count('caller')} callers by token or certificate; "
        f"{sum(bool(row['notice']) for row in rows)} to look at"
    )
    return 0


def _record(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    import os

    from gemstead.cli.options import read_spec
    from gemstead.ledger.acts import new_act
    from gemstead.operate.compliance.evidence import REVIEWED, counted
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import audit_log

    act = new_act(REVIEWED, detail=counted(rows))
    audit_log(state_dir(read_spec(args), os.environ)).remember(act)


def _evidence(args: argparse.Namespace) -> Evidence:
    import os
    import time

    from gemstead.cli.options import read_spec
    from gemstead.operate.compliance.evidence import gather
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import audit_log, key_store, password_file

    spec = read_spec(args)
    folder = state_dir(spec, os.environ)
    set_at = password_file(folder).set_at()
    return gather(spec, key_store(folder, mint=False), audit_log(folder), time.time(), password=set_at)
