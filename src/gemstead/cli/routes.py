"""`gemstead routes dry-run`: what the file's routes would have changed for the calls in the audit log.

The log says of a call whose it was, which model it named and how long its prompt was; not which headers, tools, images
and turns it had, nor how long an answer it allowed. Where a route asks for one of these it can only be said that it
*might* be for a call, and that is how such calls are counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.ledger.audit import AuditRecord
    from gemstead.traffic.routes import Routes
    from gemstead.traffic.rules import Rule

LINES = 10_000


@dataclass(slots=True)
class Change:
    """Calls of one model that one route would have sent elsewhere, or left. `might`: it cannot be said for certain."""

    calls: float = 0.0
    might: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    routes = subparsers.add_parser("routes", description="See what the file's routes do.", allow_abbrev=False)
    verbs = routes.add_subparsers(dest="act", required=True, metavar="dry-run")
    dry = verbs.add_parser(
        "dry-run",
        help="what they would have changed",
        description="Show which calls of the audit log the file's routes would have sent to which model.",
    )
    dry.add_argument(
        "-n", "--lines", type=int, default=LINES, metavar="N", help=f"the last N calls ({LINES:,})"
    )
    dry.add_argument("--json", action="store_true", help="as JSON")
    add_file(dry)
    dry.set_defaults(run=dry_run)


def dry_run(args: argparse.Namespace) -> int:
    """Print what would have gone where."""
    import os

    from gemstead.cli.options import read_spec
    from gemstead.cli.tables import show
    from gemstead.traffic.routes import Routes
    from gemstead.wiring.desired import pools_of
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import audit_log
    from gemstead.wiring.routes import rules

    if args.lines < 1:
        raise Trouble("-n takes a number above zero", code=USAGE)
    spec = read_spec(args)
    pools = pools_of(spec)
    told = rules(spec, pools)
    if not told:
        raise Trouble("the file has no `routes`")
    known = Routes((pool.name, (*pool.aliases, *pool.adapters)) for pool in pools)
    log = audit_log(state_dir(spec, os.environ))
    entries = log.tail(args.lines)
    found = changes((entry.record for entry in entries), told, known)
    rows = [
        (*key, round(one.calls), round(one.might), round(one.prompt_tokens), round(one.output_tokens))
        for key, one in sorted(found.items())
    ]
    if args.json:
        names = ("route", "from", "to", "calls", "might", "prompt_tokens", "output_tokens")
        print(
            json.dumps(
                {"records": len(entries), "rows": [dict(zip(names, row, strict=True)) for row in rows]}
            )
        )
        return 0
    if not rows:
        print(f"no calls for models of this file in {log.name}")
        return 0
    show(("ROUTE", "NAMED", "WOULD GO TO", "CALLS", "MIGHT", "PROMPT TOKENS", "ANSWER TOKENS"), rows)
    if any(row[4] for row in rows):
        print(
            "\nMIGHT: the log does not hold headers, tools, images, turns and max_tokens, which routes ask for."
        )
    return 0


def changes(
    records: Iterable[AuditRecord], rules: Sequence[Rule], known: Routes
) -> Mapping[tuple[str, str, str], Change]:
    """By route ("-": none is for them), model named and model that would answer: the calls."""
    from gemstead.refused import Refused
    from gemstead.traffic.rules import Asked, matches

    found: dict[tuple[str, str, str], Change] = {}
    for record in records:
        if not record.pool or record.reason.startswith("mirror of "):
            continue
        try:
            pool = known.pool(record.model)
        except Refused:
            continue
        asked = Asked(pool=pool, tenant=record.tenant, prompt_tokens=record.prompt_tokens or None)
        certain = True
        for rule in rules:
            holds = matches(rule, asked)
            if holds is False:
                continue
            _count(found, rule, pool, record, certain and holds is True)
            certain = False
            if holds:
                break
        else:
            _add(found, ("-", pool, pool), record, 1.0, certain)
    return found


def _count(
    found: dict[tuple[str, str, str], Change], rule: Rule, pool: str, record: AuditRecord, certain: bool
) -> None:
    """A route's targets each get their part of the call."""
    total = sum(one.weight for one in rule.targets)
    for name, part in [(one.pool, one.weight / total) for one in rule.targets] or [(pool, 1.0)]:
        _add(found, (rule.name, pool, name), record, part, certain)


def _add(
    found: dict[tuple[str, str, str], Change],
    key: tuple[str, str, str],
    record: AuditRecord,
    part: float,
    certain: bool,
) -> None:
    change = found.setdefault(key, Change())
    if not certain:
        change.might += part
        return
    change.calls += part
    change.prompt_tokens += part * record.prompt_tokens
    change.output_tokens += part * record.output_tokens
