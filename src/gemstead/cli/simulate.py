"""`gemstead simulate`: a fleet in virtual time. Which policy, how many engines, what if two die or traffic doubles.

The engines are what `gemstead plan` believes a card and a model to be; the picking is the code that runs in the
gateway. Nothing is sent anywhere and no card is needed. The same options and seed print the same table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.simulate.engine import Engine
    from gemstead.simulate.fleet import Change
    from gemstead.simulate.outcome import Run
    from gemstead.simulate.report import Summary
    from gemstead.simulate.workload import Workload

MOST_ENGINES, MOST_REQUESTS = 10_000, 5_000_000
WARM = 0.2
HEADINGS = (
    "policy", "TTFT p50 s", "p99 s", "mean s", "TPOT p50 ms", "p99 ms", "goodput %", "hits %", "preempted", "imbalance",
    "refused", "cut",
)  # fmt: skip


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_common

    parser = subparsers.add_parser(
        "simulate",
        description="Play a load against a pretended fleet in virtual time, with the gateway's own picking, and "
        "compare policies, sizes and failures.",
    )
    what = parser.add_argument_group("load")
    what.add_argument("--trace", metavar="FILE", help="a trace or an audit log (.csv, .jsonl, also .gz)")
    what.add_argument("--synthetic", metavar="KIND", help="chat, documents, agents or short (default: chat)")
    rate = what.add_mutually_exclusive_group()
    rate.add_argument(
        "--load", default="0.8", metavar="SHARE", help="of the fleet's capacity, or several: 0.6,0.8"
    )
    rate.add_argument("--rps", type=float, default=0, metavar="N", help="requests a second instead")
    what.add_argument("--requests", type=int, default=0, metavar="N", help="to play (250 for each engine)")
    what.add_argument(
        "--traffic",
        default="",
        metavar="2x[@60s]",
        help="multiply what comes, from the beginning or from a moment on",
    )
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument("--replicas", default="4", metavar="N", help="engines, or several sizes: 4,8,16")
    fleet.add_argument("--model", default="31B", metavar="NAME", help="such as 31B or E4B (31B)")
    fleet.add_argument("--gpu", default="H100", metavar="NAME", help="such as H100 or L4 (H100)")
    fleet.add_argument("--tp", type=int, metavar="N", help="cards to an engine (default: as `plan` chooses)")
    fleet.add_argument(
        "--weights", default="", metavar="FORM", help="BF16, FP8, INT4, NVFP4, or a repository"
    )
    fleet.add_argument("--mtp", action="store_true", help="with the model's drafter (multi-token prediction)")
    fleet.add_argument(
        "--draft", type=int, default=3, metavar="N", help="tokens to draft ahead with --mtp (3)"
    )
    fleet.add_argument(
        "--fail",
        action="append",
        default=[],
        metavar="2@60s",
        help="so many engines die then (may be repeated)",
    )
    fleet.add_argument(
        "--recover", action="append", default=[], metavar="2@120s", help="so many come back then, empty"
    )
    how = parser.add_argument_group("gateways")
    how.add_argument(
        "--policy", default="", metavar="NAMES", help="by commas, or all (default: ours,sticky,...)"
    )
    how.add_argument(
        "--gateways", type=int, default=1, metavar="N", help="that know nothing of each other (1)"
    )
    how.add_argument(
        "--share",
        type=float,
        default=0.0,
        metavar="S",
        help="they tell each other so often what they have in flight; 0: never (traffic.sharing: 0.25)",
    )
    how.add_argument(
        "--scrape",
        type=float,
        default=1.0,
        metavar="S",
        help="between looks at an engine's figures; 0: never",
    )
    how.add_argument("--scrape-delay", type=float, default=0.0, metavar="S", help="until a gateway has them")
    out = parser.add_argument_group("what to show")
    out.add_argument(
        "--ttft", type=float, default=2.0, metavar="S", help="goodput's bound on the first token (2)"
    )
    out.add_argument(
        "--tpot", type=float, default=50.0, metavar="MS", help="goodput's bound on each further one (50)"
    )
    out.add_argument("--seed", type=int, default=1, metavar="N", help="of all chance (1)")
    out.add_argument("--plot", metavar="FILE", help="draw waits over time and by share (.svg, .png)")
    add_common(parser)
    parser.set_defaults(run=show)


def show(args: argparse.Namespace) -> int:
    """Play every size and load that was asked for, and print a table for each."""
    from gemstead.cli import picture

    if args.plot:
        picture.check(args.plot)
    names = _policies(args.policy)
    sizes = [_whole(text, "--replicas", MOST_ENGINES) for text in args.replicas.split(",")]
    loads = [0.0] if args.rps else [_share(text) for text in args.load.split(",")]
    if not 1 <= args.gateways <= 64:
        raise Trouble("--gateways: from 1 to 64", code=USAGE)
    if args.requests < 0 or args.requests > MOST_REQUESTS:
        raise Trouble(f"--requests: at most {MOST_REQUESTS}", code=USAGE)
    changes = _changes(args)
    base = _workload(args, max(sizes))
    engine = _engine(args, base)
    found = []
    runs: dict[str, Run] = {}
    for size in sizes:
        if sum(change.count for change in changes if change.count > 0) >= size:
            raise Trouble(f"--fail: of {size} engines at least one has to stay", code=USAGE)
        for load in loads:
            played, rate = _scaled(args, base, engine, size, load)
            rows = {}
            for name in names:
                runs[_label(name, size, load, sizes, loads)] = run = _play(
                    args, name, played, engine, size, changes
                )
                rows[name] = _row(args, run)
            found.append(_cell(base.name, size, load, rate, len(played.requests), rows))
            if not args.json:
                _print(found[-1], rows)
    if args.json:
        print(json.dumps({"engine": asdict(engine), "seed": args.seed, "runs": found}, indent=2))
    if args.plot:
        from gemstead.simulate.chart import plot

        marks = [(f"{abs(one.count)} {'die' if one.count > 0 else 'return'}", one.at_s) for one in changes]
        picture.write(args.plot, plot(runs, WARM, marks, base.name))
    return 0


def _policies(text: str) -> list[str]:
    from gemstead.simulate.trial import NAMES, OURS

    if text == "all":
        return list(NAMES)
    names = [name.strip() for name in text.split(",") if name.strip()] or [
        OURS, "sticky", "cache-aware", "score-blend", "least-outstanding", "round-robin",
    ]  # fmt: skip
    for name in names:
        if name not in NAMES:
            raise Trouble(f"--policy {name}: there is {', '.join(NAMES)}, or all", code=USAGE)
    return names


def _whole(text: str, option: str, most: int) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= most:
        raise Trouble(f"{option} {text}: a whole number from 1 to {most}", code=USAGE)
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0.01 <= share <= 10:
        raise Trouble(f"--load {text}: a share of capacity from 0.01 to 10, such as 0.8 or 80%", code=USAGE)
    return share


def _at(text: str, option: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+)@(\d+(?:\.\d+)?)s?", text.strip())
    if not match or int(match[1]) < 1:
        raise Trouble(f"{option} {text}: how many and when, such as 2@60s", code=USAGE)
    return int(match[1]), float(match[2])


def _changes(args: argparse.Namespace) -> tuple[Change, ...]:
    from gemstead.simulate.fleet import Change

    dying = [Change(at_s, count) for count, at_s in (_at(text, "--fail") for text in args.fail)]
    back = [Change(at_s, -count) for count, at_s in (_at(text, "--recover") for text in args.recover)]
    return tuple(sorted([*dying, *back], key=lambda one: one.at_s))


def _workload(args: argparse.Namespace, size: int) -> Workload:
    from gemstead.simulate.synthetic import SHAPES, synthetic
    from gemstead.simulate.traces import read

    if args.trace and args.synthetic:
        raise Trouble("--trace and --synthetic: say one of them", code=USAGE)
    if not args.trace:
        kind = args.synthetic or "chat"
        if kind not in SHAPES:
            raise Trouble(f"--synthetic {kind}: there is {', '.join(SHAPES)}", code=USAGE)
        return synthetic(kind, max(4000, min(args.requests or 250 * size, 50_000)), 10.0, Random(args.seed))  # noqa: S311
    path = Path(args.trace).expanduser()
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            return read(lines, path.name)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Trouble(
            f"--trace {args.trace}: cannot be read ({getattr(error, 'strerror', None) or error})", code=USAGE
        ) from error


def _engine(args: argparse.Namespace, load: Workload) -> Engine:
    """The engine that the planner would run for prompts of these lengths."""
    from gemstead.operate.catalogue import load as catalogue
    from gemstead.plan.api import plan
    from gemstead.simulate.engine import planned

    prompts = [one.prompt_tokens for one in load.requests]
    answers = [one.output_tokens for one in load.requests]
    found = plan(
        args.model,
        args.gpu,
        args.tp or 8,
        prompt_tokens=max(1, sum(prompts) // len(prompts)),
        output_tokens=max(1, sum(answers) // len(answers)),
        context=min(131_072, max(one.prompt_tokens + one.output_tokens for one in load.requests)),
        engine="vllm",
        weights=args.weights,
        tp=args.tp,
        drafting=args.draft if args.mtp else 0,
        compare=False,
        catalogue=catalogue(os.environ),
    )
    chosen = found.chosen
    if not chosen.memory.fits:
        raise Trouble(f"{chosen.memory.verdict()} Try more cards with --tp, or smaller --weights.")
    if args.mtp and not chosen.setup.draft_tokens:
        raise Trouble("--mtp: the drafter does not fit beside the cache; try more cards with --tp")
    return planned(chosen.setup)


def _scaled(
    args: argparse.Namespace, base: Workload, engine: Engine, size: int, load: float
) -> tuple[Workload, float]:
    from gemstead.simulate.trial import PER_ENGINE, capacity
    from gemstead.simulate.workload import scaled, surged

    rate = args.rps or load * capacity(base, (engine,) * size)
    try:
        played = scaled(base, rate, args.requests or PER_ENGINE * size, Random(f"shift {args.seed}").random())  # noqa: S311
    except ValueError as error:
        raise Trouble(f"this load cannot be played: {error}", code=USAGE) from error
    if args.traffic:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)x(?:@(\d+(?:\.\d+)?)s?)?", args.traffic)
        if not match or not 0.01 <= float(match[1]) <= 100:
            raise Trouble(f"--traffic {args.traffic}: such as 2x, or 2x@60s", code=USAGE)
        played = surged(played, float(match[1]), float(match[2] or 0))
    return played, rate


def _play(
    args: argparse.Namespace,
    name: str,
    played: Workload,
    engine: Engine,
    size: int,
    changes: tuple[Change, ...],
) -> Run:
    from math import inf

    from gemstead.simulate.fleet import Conditions
    from gemstead.simulate.trial import SCRAPE_S, Trial, run

    scrape_s = min(args.scrape, SCRAPE_S.get(name, inf)) if args.scrape > 0 else inf
    conditions = Conditions(
        scrape_s, args.scrape_delay, args.share if args.share > 0 else inf, changes=changes
    )
    if sys.stderr.isatty():
        print(f"\r{name:20}", end="\r", file=sys.stderr)
    return run(
        Trial(played, (engine,) * size, name, args.gateways, conditions),
        Random(f"{name} {args.seed}").randrange,  # noqa: S311
    )


def _row(args: argparse.Namespace, run: Run) -> Summary:
    from gemstead.simulate.report import summary

    return summary(run, WARM, args.ttft, args.tpot / 1000)


def _cell(
    name: str, size: int, load: float, rate: float, requests: int, rows: Mapping[str, Summary]
) -> dict[str, Any]:
    return {
        "load_name": name,
        "replicas": size,
        "load": load or None,
        "requests_per_s": round(rate, 4),
        "requests": requests,
        "policies": {name: asdict(row) for name, row in rows.items()},
    }


def _label(name: str, size: int, load: float, sizes: list[int], loads: list[float]) -> str:
    parts = [name, f"{size}" if len(sizes) > 1 else "", f"{load:.0%}" if len(loads) > 1 else ""]
    return " ".join(part for part in parts if part)


def _print(cell: Mapping[str, Any], rows: Mapping[str, Summary]) -> None:
    from gemstead.cli.tables import show as table

    share = f", {cell['load']:.0%} of capacity" if cell["load"] else ""
    print(
        f"{cell['load_name']}: {cell['requests']} requests at {cell['requests_per_s']:.2f} a second, "
        f"{cell['replicas']} engines{share}; the first {WARM:.0%} warm up and are not counted"
    )
    table(HEADINGS, [_cells(name, row) for name, row in rows.items()])
    print()


def _cells(name: str, row: Summary) -> tuple[object, ...]:
    return (
        name,
        round(row.ttft_p50, 3),
        round(row.ttft_p99, 2),
        round(row.ttft_mean, 3),
        round(row.tpot_p50 * 1000, 1),
        round(row.tpot_p99 * 1000, 1),
        round(row.goodput * 100, 1),
        round(row.hit_rate * 100, 1),
        row.preemptions,
        round(row.imbalance, 2),
        row.refused,
        row.cut,
    )
