"""`usage`, `audit tail` and `audit show`: what was used, and by whom; read from the ledger, running or not."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.ledger.log import AuditLog
    from gemstead.ledger.read import Entry, Usage

FOLLOW_S = 0.25
_LINE = "{:<19}  {:<16}  {:>6}  {:<12}  {:<12}  {:<16}  {:>7}  {:>6}  {:>7}  {:>7}  {}"


def add(subparsers: Any) -> None:
    usage = subparsers.add_parser(
        "usage", description="Show tokens and calls by tenant, app, user, key or model.", allow_abbrev=False
    )
    usage.add_argument(
        "--since", default="24h", metavar="WHEN", help="a span back such as 7d, or a date (24h)"
    )
    usage.add_argument("--until", metavar="WHEN", help="a span back, or a date (now)")
    usage.add_argument(
        "--by",
        default="tenant,model",
        metavar="NAMES",
        help="tenant, app, user, key, model, version, endpoint, route, client, outcome, day, hour; "
        "several with commas (tenant,model); `total` for one line",
    )
    _common(usage, show_usage)
    audit = subparsers.add_parser("audit", description="Read the audit log. It never holds content.")
    verbs = audit.add_subparsers(
        dest="act", required=True, metavar="tail|find|show|verify|export|hold|prune|ship|..."
    )
    tail = verbs.add_parser("tail", help="the latest records", description="Show the latest records.")
    tail.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    tail.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="begin with the last N (20)")
    tail.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only these, such as outcome=rate_limited or tenant=acme; may be given again",
    )
    _common(tail, show_tail)
    one = verbs.add_parser("show", help="one call", description="Show all that is known of one call.")
    one.add_argument("call_id", help="the answer's request id (`x-request-id`)")
    _common(one, show_call)
    from gemstead.cli import audit_chain, audit_find, audit_ship

    audit_find.add(verbs)
    audit_chain.add(verbs)
    audit_ship.add(verbs)


def _common(parser: argparse.ArgumentParser, run: Any) -> None:
    from gemstead.cli.options import add_file

    parser.add_argument("--json", action="store_true", help="as JSON")
    add_file(parser)
    parser.set_defaults(run=run)


def show_usage(args: argparse.Namespace) -> int:
    now = time.time()
    since = _moment(args.since, now, "--since")
    until = _moment(args.until, now, "--until") if args.until else now + 1.0
    by = [] if args.by == "total" else [name.strip() for name in args.by.split(",")]
    log = _log(args)
    rows, missing = log.usage(since, until, by), log.gaps(since, until)
    limits, why = _limits(args)
    if args.json:
        said = {"since": since, "until": until, "rows": _builtins(rows), "missing": _builtins(missing)}
        return _print_json({**said, "limits": limits})
    if rows:
        _usage_table(by, rows)
    else:
        print(f"no calls in that time (ledger {log.name})", file=sys.stderr)
    if limits:
        from gemstead.cli.limits import print_limits

        print()
        print_limits(limits)
    elif why:
        print(f"note: limits are not shown: {why}", file=sys.stderr)
    for gap in missing:
        print(f"note: {_missing(gap)}", file=sys.stderr)
    return 0


def _limits(args: argparse.Namespace) -> tuple[list[dict[str, Any]] | None, str]:
    """What is used, held and left of each limit, as the running service says; or None, and why."""
    from gemstead.cli.limits import asked

    try:
        return list(asked(args, "GET", "/admin/limits")["limits"]), ""
    except Trouble as trouble:
        return None, str(trouble).partition("\n")[0]


def _usage_table(by: list[str], rows: list[Usage]) -> None:
    from gemstead.cli.tables import show

    counts = ("requests", "refused", "failed", "left", "prompt_tokens", "cached_tokens", "output_tokens")
    headings = [
        *(name.upper() for name in by),
        *(name.removesuffix("_tokens").upper() for name in counts),
        "TTFT MEAN",
        "P50",
        "P99",
    ]
    show(
        headings,
        [
            (
                *(row.by[name] for name in by),
                *(getattr(row, name) for name in counts),
                *(
                    _rounded(t)
                    for t in (row.first_token_mean_s, row.first_token_p50_s, row.first_token_p99_s)
                ),
            )
            for row in rows
        ],
    )


def show_tail(args: argparse.Namespace) -> int:
    log, where = _log(args), _where(args.where)
    mark = log.mark()  # asked first, so that nothing is overlooked between the two questions
    entries = [entry for entry in log.tail(args.lines, where) if entry.seq <= mark.get(entry.chain, 0)]
    if not entries and not args.follow:
        print(f"no audit records{' like that' if where else ' yet'} in {log.name}", file=sys.stderr)
    if not args.json and (entries or args.follow):
        print(_LINE.format("TIME (UTC)", "OUTCOME", "STATUS", "TENANT", "KEY", "MODEL", "PROMPT", "OUTPUT",
                           "TTFT", "SECONDS", "CALL"))  # fmt: skip
    _print_entries(entries, args.json)
    while args.follow:
        entries, mark = log.newer(mark, 1000, where)
        _print_entries(entries, args.json)
        if len(entries) < 1000:
            time.sleep(FOLLOW_S)
    return 0


def _print_entries(entries: list[Entry], as_json: bool) -> None:
    from gemstead.cli.spans import shown
    from gemstead.cli.tables import plain

    if as_json:
        import json

        for entry in entries:
            chain = {"chain": entry.chain} if entry.chain else {}
            print(json.dumps({"seq": entry.seq, **chain, **_fields(entry.record)}))
    else:
        for entry in entries:
            one = entry.record
            first, seconds = (_fixed(value) for value in (one.first_token_s, one.seconds))
            counts = (one.prompt_tokens, one.output_tokens)
            who = (plain(one.tenant), plain(one.key_id), plain(one.pool or one.model))
            cells = (shown(one.began), plain(one.outcome), one.status, *who, *counts, first, seconds)
            print(_LINE.format(*cells, plain(one.call_id)))
    sys.stdout.flush()


def show_call(args: argparse.Namespace) -> int:
    from gemstead.cli.spans import shown
    from gemstead.cli.tables import plain

    log = _log(args)
    record = log.show(args.call_id)
    if record is None:
        raise Trouble(
            f"no record of call {plain(args.call_id)} in {log.name}; `gemstead audit tail` shows the latest "
            "(a call is written when it ends)"
        )
    values = _fields(record)
    if args.json:
        return _print_json(values)
    for name, value in values.items():
        print(f"{name:<14} {shown(value) + ' UTC' if name == 'began' else plain(value)}")
    return 0


def _log(args: argparse.Namespace) -> AuditLog:
    import os

    from gemstead.cli.options import read_places
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import audit_log

    return audit_log(state_dir(read_places(args), os.environ))


def _moment(text: str, now: float, option: str) -> float:
    from gemstead.cli.spans import moment

    try:
        return moment(text, now=now, back=True)
    except argparse.ArgumentTypeError as error:
        raise Trouble(f"{option}: {error}", code=USAGE) from None


def _where(tests: list[str]) -> dict[str, str]:
    found = {}
    for test in tests:
        name, equals, value = test.partition("=")
        if not equals:
            raise Trouble(f"--where {test}: write it as NAME=VALUE, such as outcome=served", code=USAGE)
        found[name] = value
    return found


def _missing(gap: Any) -> str:
    from gemstead.cli.spans import shown

    return (
        f"{gap.records} records between {shown(gap.began)} and {shown(gap.ended)} UTC could not be kept "
        "and are missing here"
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _fixed(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f}"


def _builtins(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def _fields(record: Any) -> dict[str, Any]:
    """All fields, also those with their default value."""
    import msgspec

    return msgspec.structs.asdict(record)


def _print_json(value: object) -> int:
    import json

    print(json.dumps(value, indent=2))
    return 0
