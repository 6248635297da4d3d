"""`gemstead doctor`: what is well and what is not with this machine, each with its evidence and its remedy.

Looks at the machine for some seconds, changes nothing. The file says which ports, certificates and models count.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemstead.operate.doctor import Finding
    from gemstead.operate.doctor.probe import Wants
    from gemstead.spec.model import Spec

SIGNS = {"problem": "✗", "warning": "!", "unknown": "?", "note": "-", "ok": "✓"}
PLAIN_SIGNS = {"problem": "x", "warning": "!", "unknown": "?", "note": "-", "ok": "ok"}
COLOURS = {"problem": "red", "warning": "yellow", "unknown": "magenta", "note": "dim", "ok": "green"}


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_common

    parser = subparsers.add_parser(
        "doctor",
        description="Look at this machine: cards, driver, errors, heat, disk, memory, network, ports, clock, "
        "certificates, engines. Exit code 1 when something will not work.",
    )
    parser.add_argument("--quick", action="store_true", help="leave out the disk's speed and the network")
    parser.add_argument("--problems", action="store_true", help="only what is not well")
    add_common(parser)
    parser.set_defaults(run=doctor)


def doctor(args: argparse.Namespace) -> int:
    """Exit code 0 when nothing is a problem, else 1."""
    from gemstead.cli.options import read_spec
    from gemstead.operate.catalogue import load
    from gemstead.operate.doctor import judge, probe

    catalogue = load(os.environ)
    findings = judge(probe(wants(read_spec(args), os.environ), os.environ, quick=args.quick), catalogue)
    shown = [one for one in findings if not args.problems or one.level in ("problem", "warning", "unknown")]
    problems = sum(one.level == "problem" for one in findings)
    if args.json:
        print(json.dumps({"ok": not problems, "findings": [one.as_dict() for one in shown]}, indent=2))
    else:
        _print(shown)
        warnings = sum(one.level == "warning" for one in findings)
        print(f"\n{_count(problems, 'problem')}, {_count(warnings, 'warning')}")
    return 1 if problems else 0


def wants(spec: Spec, environ: Any) -> Wants:
    """What the file asks of this machine."""
    from gemstead.operate.doctor.probe import Wants
    from gemstead.operate.store.place import Place
    from gemstead.wiring.files import is_held, state_dir

    store = Place.of(spec, environ).path
    tls = spec.gateway.tls
    return Wants(
        models=store,
        needs=_needs(spec, store),
        listen=(spec.gateway.listen, spec.admin.listen),
        ours=is_held(state_dir(spec, environ)),
        certificates=(str(tls.certificate),) if tls else (),
        hub=spec.hub,
    )


def _needs(spec: Spec, cache: Path) -> int:
    """Bytes of the models in the file that are still to be fetched."""
    from gemstead.catalog.check import facts_of

    needed = 0
    for model in spec.models:
        facts = facts_of(model)
        if facts is None or model.file or model.endpoints:
            continue
        folder = cache / f"models--{facts.gguf.repo.replace('/', '--')}"
        if not any(folder.glob(f"snapshots/*/{facts.gguf.file}")):
            needed += facts.gguf.bytes + facts.gguf.projector_bytes
    return needed


def _print(findings: list[Finding]) -> None:
    """One finding to a line; what to do beneath it."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False)
        for one in findings:
            console.print(
                Text(f"{SIGNS[one.level]} ", COLOURS[one.level]) + Text(one.cause) + _seen(one, Text)
            )
            if one.remedy and one.level != "ok":
                console.print(Text(f"    {one.remedy}", "cyan"))
        return
    for one in findings:
        print(f"{PLAIN_SIGNS[one.level]:<3} {one.cause}" + (f" ({one.evidence})" if one.evidence else ""))
        if one.remedy and one.level != "ok":
            print(f"      {one.remedy}")


def _seen(one: Finding, text: Any) -> Any:
    return text(f"  {one.evidence}", "dim") if one.evidence else text("")


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'s' * (number != 1)}"
