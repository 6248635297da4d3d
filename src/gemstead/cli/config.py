"""The verbs about the one file: `init` writes it, `validate` checks it, `schema` prints its JSON Schema."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemstead.catalog.models import ModelFacts
    from gemstead.plan.first_model import Fit
    from gemstead.spec.example import Fitted
    from gemstead.spec.fault import Fault
    from gemstead.spec.load import Loaded

FILE = "gemstead.yaml"


def add(subparsers: Any) -> None:
    """Register `init`, `validate` and `schema`."""
    from gemstead.cli.options import add_common

    init_ = subparsers.add_parser(
        "init", description="Write a commented gemstead.yaml fitted to this machine."
    )
    init_.add_argument(
        "file", nargs="?", default=FILE, metavar="FILE", help=f"where to write it (default: {FILE})"
    )
    init_.add_argument("--force", action="store_true", help="write over a file that is there")
    init_.add_argument("--stdout", action="store_true", help="print it and write nothing")
    init_.set_defaults(run=init)

    validate_ = subparsers.add_parser(
        "validate",
        description="Check a gemstead.yaml with the environment and --set laid over it. Exit code 1: it has faults.",
    )
    validate_.add_argument("file", nargs="?", metavar="FILE", help=f"the file to check (default: {FILE})")
    add_common(validate_)
    validate_.set_defaults(run=validate)

    schema_ = subparsers.add_parser(
        "schema", description="Print the JSON Schema of gemstead.yaml, for editors."
    )
    schema_.set_defaults(run=schema)


def init(args: argparse.Namespace) -> int:
    """Write the file and its schema; refuse to write over one that is there."""
    from gemstead.cli.trouble import Trouble
    from gemstead.operate.probe import machine
    from gemstead.plan.first_model import fit
    from gemstead.spec.example import commented
    from gemstead.spec.schema import FILE as SCHEMA_FILE
    from gemstead.spec.schema import text as schema_text

    path = Path(args.file)
    if path.is_dir():
        path /= FILE
    if path.exists() and not (args.force or args.stdout):
        raise Trouble(f"{path} is there already; --force writes over it, --stdout only prints")
    found = machine()
    chosen = fit(found.memory_bytes, found.cpus, found.disk_free_bytes)
    text = commented(fitted(chosen, found.memory_bytes, found.cpus))
    if args.stdout:
        print(text, end="")
        return 0
    path.write_text(text, encoding="utf-8")
    beside = path.with_name(SCHEMA_FILE)
    beside.write_text(schema_text(), encoding="utf-8")
    print(f"wrote {path} (and {beside.name} for your editor): {chosen.facts.title}, {chosen.slots} slots")
    if chosen.tight:
        print("This machine has little memory for any Gemma 4; expect it to be slow.")
    print(f"next: gemstead serve{'' if path == Path(FILE) else f' --config {path}'}")
    return 0


def fitted(fit: Fit, memory_bytes: int, cpus: int) -> Fitted:
    """The choice in the words of the example file."""
    from gemstead.catalog.models import models
    from gemstead.plan.first_model import needed_bytes
    from gemstead.spec.example import Fitted

    facts = fit.facts
    others = [
        f"{other.name:<16} {_gb(other):>7} to download, "
        f"{needed_bytes(other, fit.context, fit.slots) / 2**30:.0f} GiB of memory"
        for other in models()
        if other is not facts
    ]
    return Fitted(
        machine=f"{cpus} CPU{'s' * (cpus != 1)} and {memory_bytes / 2**30:.1f} GiB of memory",
        name=facts.name,
        title=facts.title,
        download=_gb(facts),
        context=fit.context,
        longest_context=facts.context_tokens,
        slots=fit.slots,
        threads=fit.threads,
        others=tuple(others),
    )


def validate(args: argparse.Namespace) -> int:
    """Print what the file says, or everything that is wrong with it."""
    import sys

    from gemstead.cli.options import file_of, load, shown
    from gemstead.spec.fault import SpecError

    args.config = args.file or args.config
    path = file_of(args)
    try:
        loaded = load(args)
        if faults := disagreements(loaded):
            raise SpecError(faults)
    except SpecError as error:
        if args.json:
            _print_json({"ok": False, "faults": [_as_json(fault) for fault in error.faults]})
            return 1
        print(error, file=sys.stderr)
        count = len(error.faults)
        print(f"{count} fault{'s' * (count != 1)}", file=sys.stderr)
        return 1
    if args.json:
        _print_json(
            {"ok": True, "file": str(path) if path else None, "spec": loaded.spec.model_dump(mode="json")}
        )
    else:
        print(f"{shown(path) if path else 'no gemstead.yaml here: the default'}: OK")
        print("\n".join(f"  {line}" for line in summary(loaded)))
    return 0


def disagreements(loaded: Loaded) -> list[Fault]:
    """What `serve` and `reload` would refuse besides: routes and limits of models that the file has not."""
    from gemstead.spec.fault import Fault
    from gemstead.spec.overrides import parse_path
    from gemstead.wiring.desired import pools_of
    from gemstead.wiring.limits import rulebook
    from gemstead.wiring.routes import rules
    from gemstead.wiring.secrets import CannotRun

    pools, found = pools_of(loaded.spec), []
    for judge in (rules, rulebook):
        try:
            judge(loaded.spec, pools)
        except CannotRun as refusal:
            where, _, what = str(refusal).partition(": ")
            path = parse_path(where)
            found.append(Fault((), str(refusal)) if path is None else Fault(path, what))
    return loaded.located(found)


def summary(loaded: Loaded) -> list[str]:
    """What will run, in a few lines."""
    from gemstead.catalog.check import facts_of

    lines = []
    for model in loaded.spec.models:
        facts = facts_of(model)
        where = model.file or (facts.gguf.repo if facts else "")
        if model.endpoints:
            where = ", ".join(endpoint.url for endpoint in model.endpoints)
        name = facts.name if facts else model.name
        lines.append(
            f"model    {name} from {where}" + (f", {model.replicas} replicas" if model.replicas > 1 else "")
        )
    spec = loaded.spec
    scheme = "https" if spec.gateway.tls else "http"
    lines.append(f"gateway  {scheme}://{spec.gateway.listen}, keys {spec.gateway.keys}")
    lines.append(f"admin    http://{spec.admin.listen}")
    return lines


def schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    from gemstead.spec.schema import text

    print(text(), end="")
    return 0


def _as_json(fault: Fault) -> dict[str, Any]:
    return {
        "source": fault.place.source,
        "line": fault.place.line or None,
        "path": fault.field,
        "message": fault.message,
        "suggestion": fault.suggestion or None,
    }


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def _gb(facts: ModelFacts) -> str:
    """What is downloaded for a model: its file and its projector."""
    return f"{(facts.gguf.bytes + facts.gguf.projector_bytes) / 1e9:.1f} GB"
