"""`audit ship`: how far each receiver of audit records has come, and sending again."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from pathlib import Path

    from gemstead.ledger.postgres.place import Place
    from gemstead.spec.model import Spec
    from gemstead.wiring.files import StateDir


def add(verbs: Any) -> None:
    from gemstead.cli.options import add_common

    ship = verbs.add_parser("ship", help="the sending of records to other places", allow_abbrev=False)
    acts = ship.add_subparsers(dest="ship", required=True, metavar="status|replay|refused")
    status = acts.add_parser(
        "status", help="how far each receiver has come", description="Show how far each receiver has come."
    )
    replay = acts.add_parser("replay", help="send records again", description="Send records again.")
    replay.add_argument("sink", metavar="NAME", help="which receiver")
    replay.add_argument(
        "--from",
        required=True,
        dest="since",
        metavar="WHEN",
        help="a span back, a date, `start`, or `now` to leave out what was not sent yet",
    )
    refused = acts.add_parser(
        "refused", help="records that a receiver will never take", description="Show what a receiver refused."
    )
    refused.add_argument("sink", metavar="NAME", help="which receiver")
    for parser, run in ((status, show_status), (replay, send_again), (refused, show_refused)):
        add_common(parser)
        parser.set_defaults(run=run)


def show_status(args: argparse.Namespace) -> int:
    import msgspec

    from gemstead.cli.spans import shown
    from gemstead.cli.tables import show
    from gemstead.ledger.ship.cursors import Cursor, Cursors, path_beside

    spec, folder = _service(args)
    if folder.place is not None:
        return _show_chains(spec, folder.place, as_json=args.json)
    audit = folder.audit
    end = _end(audit)
    known = {cursor.sink: cursor for cursor in Cursors(path_beside(audit)).all()}
    named = [sink.name for sink in spec.audit.ship]
    cursors = [known.get(name) or Cursor(sink=name) for name in (*named, *(known.keys() - set(named)))]
    if args.json:
        rows = [msgspec.to_builtins(one) | {"waiting": max(0, end - one.seq)} for one in cursors]
        print(msgspec.json.encode({"end": end, "receivers": rows}).decode())
        return 0
    if not cursors:
        print("records are sent nowhere: `audit.ship` in the file names receivers", file=sys.stderr)
        return 0
    rows = [
        (
            one.sink if one.sink in named else f"{one.sink} (no longer in the file)",
            one.seq,
            max(0, end - one.seq),
            one.refused,
            shown(one.shipped_at),
            one.trouble and f"{one.trouble} (since {shown(one.trouble_since)})",
        )
        for one in cursors
    ]
    show(("RECEIVER", "HAS", "WAITING", "REFUSED", "LAST SENT", "TROUBLE"), rows)
    return 0


def _show_chains(spec: Spec, place: Place, *, as_json: bool) -> int:
    """How far each receiver has come in each chain of the store."""
    import msgspec

    from gemstead.cli.spans import shown
    from gemstead.cli.tables import show
    from gemstead.ledger.postgres.cursors import StoreCursors

    found = StoreCursors(place.url).all()
    named = [sink.name for sink in spec.audit.ship]
    if as_json:
        rows = [
            msgspec.to_builtins(one) | {"end": end, "waiting": max(0, end - one.seq), "gateway": node}
            for one, end, node in found
        ]
        print(msgspec.json.encode({"receivers": rows}).decode())
        return 0
    if not named:
        print("records are sent nowhere: `audit.ship` in the file names receivers", file=sys.stderr)
    lines = [
        (
            one.sink if one.sink in named else f"{one.sink} (no longer in the file)",
            node,
            one.chain,
            one.seq,
            max(0, end - one.seq),
            one.refused,
            shown(one.shipped_at),
            one.trouble and f"{one.trouble} (since {shown(one.trouble_since)})",
        )
        for one, end, node in found
    ]
    show(("RECEIVER", "GATEWAY", "CHAIN", "HAS", "WAITING", "REFUSED", "LAST SENT", "TROUBLE"), lines)
    return 0


def send_again(args: argparse.Namespace) -> int:
    from gemstead.ledger.acts import new_act, remember
    from gemstead.ledger.ship.cursors import Cursors, path_beside

    spec, folder = _service(args)
    _known(spec, args.sink)
    if folder.place is not None:
        return _send_chains_again(args, folder, folder.place)
    audit = folder.audit
    seq = _place(audit, args.since)
    cursors = Cursors(path_beside(audit))
    before = cursors.of(args.sink).seq
    cursors.replay(args.sink, seq)
    remember(audit, new_act("audit.replay", args.sink, detail={"from": seq, "had": before}))
    print(f"{args.sink} is sent all records behind {seq} (it had {before})")
    return 0


def _send_chains_again(args: argparse.Namespace, folder: StateDir, place: Place) -> int:
    from gemstead.ledger.acts import new_act
    from gemstead.ledger.postgres.cursors import StoreCursors
    from gemstead.wiring.ledger import audit_log

    since = None if args.since == "now" else 0.0 if args.since == "start" else _moment(args.since)
    done = StoreCursors(place.url).replay(args.sink, since)
    detail = {chain: {"from": seq, "had": had} for chain, (seq, had) in done.items()}
    audit_log(folder).remember(new_act("audit.replay", args.sink, detail=detail))
    for chain, (seq, had) in done.items():
        print(f"{args.sink} is sent all records behind {seq} of chain {chain} (it had {had})")
    return 0


def show_refused(args: argparse.Namespace) -> int:
    import msgspec

    from gemstead.cli.tables import show
    from gemstead.ledger.ship.cursors import Cursors, path_beside

    spec, folder = _service(args)
    _known(spec, args.sink)
    if folder.place is not None:
        from gemstead.ledger.postgres.cursors import StoreCursors

        found = StoreCursors(folder.place.url).refused(args.sink)
        if args.json:
            every = [{"chain": chain, "seq": seq, "why": why} for chain, seq, why in found]
            print(msgspec.json.encode(every).decode())
        elif found:
            show(("CHAIN", "RECORD", "WHY"), found)
        else:
            print(f"{args.sink} has refused nothing", file=sys.stderr)
        return 0
    rows = Cursors(path_beside(folder.audit)).refused(args.sink)
    if args.json:
        print(msgspec.json.encode([{"seq": seq, "why": why} for seq, why in rows]).decode())
    elif rows:
        show(("RECORD", "WHY"), rows)
    else:
        print(f"{args.sink} has refused nothing", file=sys.stderr)
    return 0


def _service(args: argparse.Namespace) -> tuple[Spec, StateDir]:
    from gemstead.cli.options import read_spec
    from gemstead.wiring.files import state_dir

    spec = read_spec(args)
    return spec, state_dir(spec, os.environ)


def _known(spec: Spec, name: str) -> None:
    names = [sink.name for sink in spec.audit.ship]
    if name not in names:
        said = ", ".join(names) or "none"
        raise Trouble(f"there is no receiver {name} in the file; there are: {said}", code=USAGE)


def _end(audit: Path) -> int:
    from gemstead.wiring.shipping import end_of

    return end_of(audit)


def _place(audit: Path, text: str) -> int:
    """The place behind which everything is sent: before the first record of that time or later."""
    from gemstead.wiring.shipping import before

    if text in ("now", "start"):
        return _end(audit) if text == "now" else 0
    return before(audit, _moment(text))


def _moment(text: str) -> float:
    """The time, in Unix seconds, that `--from` says."""
    from gemstead.cli.spans import moment

    try:
        return moment(text, now=time.time(), back=True)
    except argparse.ArgumentTypeError as error:
        raise Trouble(f"--from: {error}", code=USAGE) from None
