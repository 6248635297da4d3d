"""`python -m benchmarks.gateway [run|install|list]`; without a word it runs what is installed."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gateway import report
from benchmarks.gateway.campaign import Order, carry_out
from benchmarks.gateway.peers import PEERS, install
from benchmarks.gateway.scenarios import SCENARIOS
from benchmarks.gateway.subjects import SUBJECTS
from benchmarks.gateway.tools import BUILD, CannotRun


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every process we started is ended
    arguments = _parser().parse_args(sys.argv[1:] or ["run"])
    try:
        return int(arguments.do(arguments))
    except CannotRun as trouble:
        print(trouble, file=sys.stderr)
    except subprocess.CalledProcessError as trouble:
        print(f"the installer failed: {trouble}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=report.__doc__)
    words = parser.add_subparsers(required=True)
    run = words.add_parser("run", help="measure what is installed, side by side")
    run.add_argument(
        "--only", metavar="A,B", help=f"of {', '.join(SUBJECTS)}; the first is the base of ratios"
    )
    run.add_argument("--quick", action="store_true", help="under three minutes for three gateways")
    run.add_argument("--rounds", type=int, help="default 3, with --quick 2")
    run.add_argument("--scenarios", metavar="A,B", help=f"of {', '.join(s.name for s in SCENARIOS)}")
    run.add_argument("--no-behaviour", action="store_true", help="load only")
    run.add_argument(
        "--behaviour-of", metavar="A,B", help="default: all measured; with --quick only the first"
    )
    run.add_argument("--strict", action="store_true", help="exit with 1 if a measured bar is missed")
    run.add_argument("--output", type=Path, default=BUILD, help="folder for results.json and results.md")
    run.set_defaults(do=_run)
    installing = words.add_parser("install", help="install peers from PyPI, each into its own environment")
    installing.add_argument(
        "names", nargs="*", metavar="name", help=f"of gemstead, {', '.join(PEERS)}; default: all"
    )
    installing.set_defaults(do=_install)
    words.add_parser("list", help="what can be measured here").set_defaults(
        do=lambda _: print(report.listing()) or 0
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    usual = {name: subject for name, subject in SUBJECTS.items() if not subject.named_only}
    subjects = _chosen(arguments.only, SUBJECTS) if arguments.only else list(usual)
    wanted = _chosen(arguments.scenarios, {s.name: s for s in SCENARIOS if s.quick or not arguments.quick})
    if arguments.no_behaviour:
        examined: list[str] = []
    elif arguments.behaviour_of:
        examined = _chosen(arguments.behaviour_of, SUBJECTS)
    else:
        examined = subjects[:1] if arguments.quick else subjects
    order = Order(
        subjects=subjects,
        rounds=arguments.rounds or (2 if arguments.quick else 3),
        scenarios=[scenario for scenario in SCENARIOS if scenario.name in wanted],
        behaviour_of=examined,
        quick=arguments.quick,
        scaling_of=[name for name in examined if name in report.JUDGED],
    )
    results = carry_out(order, lambda line: print(line, file=sys.stderr, flush=True))
    text = report.as_markdown(results)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.json").write_text(report.as_json(results))
    (arguments.output / "results.md").write_text(text)
    print(text)
    print(f"Written to {os.path.relpath(arguments.output)}/results.md and results.json.", file=sys.stderr)
    missed = [bar.name for bar in report.verdicts(results) if bar.verdict == "FAIL"]
    return 1 if missed and arguments.strict else 0


def _chosen(words: str | None, known: Mapping[str, object]) -> list[str]:
    names = words.split(",") if words else list(known)
    if strange := [name for name in names if name not in known]:
        raise CannotRun(f"{', '.join(strange)}: not known here; choose from {', '.join(known)}")
    return names


def _install(arguments: argparse.Namespace) -> int:
    for name in _chosen(",".join(arguments.names) or None, {"gemstead": None, **PEERS}):
        install(name)
    print(
        "nginx and HAProxy come from the distribution: apt-get install nginx-light haproxy", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
