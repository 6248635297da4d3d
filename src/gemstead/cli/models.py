"""`models`: fetch, list, show, verify, pin, remove, export and import models.

Reads print a table, or JSON with `--json`. What takes long shows a bar on a terminal and a line now and then in a
pipe; Ctrl-C ends it, and what came is kept for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import Trouble

if TYPE_CHECKING:
    from gemstead.catalog.manifest import Manifest
    from gemstead.catalog.sources import Want
    from gemstead.operate.store.keep import Held
    from gemstead.operate.store.place import Place
    from gemstead.operate.store.pull import Pulled, Telling
    from gemstead.spec.model import ModelSpec, Spec

WORTH_BYTES = 10_000_000  # smaller things need no bar
NAME_HELP = "a model (gemma-4-e2b), owner/name[@revision] of the hub, s3://, gs://, oci://, or a path"
STORED_HELP = (
    "a model, or a source as `gemstead models list` shows it, with @revision where there are several"
)


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("models", description="Fetch, list, verify and carry models.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_pull(actions)
    stored = _action(actions, "list", "list what is in the store", list_models)
    stored = _action(actions, "show", "show one model: source, revision, licence, files, sums", show)
    stored.add_argument("name", help=STORED_HELP)
    verify = _action(
        actions, "verify", "look whether files are what they should be; names every damaged one", verify_
    )
    verify.add_argument("names", nargs="*", metavar="NAME", help=f"{STORED_HELP}; default: everything")
    verify.add_argument(
        "--fast", action="store_true", help="by sizes, times and inodes; default: every file's SHA-256"
    )
    pin = _action(actions, "pin", "write the revision and sums of models into gemstead.lock", pin_)
    pin.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{STORED_HELP}; default: the models of gemstead.yaml"
    )
    pin.add_argument("--remove", action="store_true", help="take them out of gemstead.lock")
    rm = _action(actions, "rm", "remove models that nothing uses", remove)
    rm.add_argument("names", nargs="+", metavar="NAME", help=STORED_HELP)
    out = _action(
        actions, "export", "write models to a folder or one .tar, for a place without a network", export
    )
    out.add_argument("names", nargs="+", metavar="NAME", help=STORED_HELP)
    out.add_argument(
        "--to", required=True, metavar="PATH", help="a folder, a .tar, a .tar.zst, or - (standard output)"
    )
    into = _action(actions, "import", "take models from an export, or a folder of your own", import_)
    into.add_argument("source", metavar="PATH", help="a folder, a .tar, a .tar.zst, or - (standard input)")
    into.add_argument(
        "--as", dest="name", metavar="OWNER/NAME", help="the name of a folder or file that is no export"
    )


def _action(actions: Any, name: str, does: str, run: Any) -> argparse.ArgumentParser:
    from gemstead.cli.options import add_common

    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=does, description=does[0].upper() + does[1:] + "."
    )
    add_common(parser)
    parser.set_defaults(run=run)
    return parser


def _add_pull(actions: Any) -> None:
    parser = _action(actions, "pull", "fetch models into the store", pull)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{NAME_HELP}; default: the models of gemstead.yaml"
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        metavar="FORMAT",
        help="which weights: bf16, fp8, nvfp4, int4, gguf, or a repository",
    )
    parser.add_argument(
        "--engine", default="vllm", help="for which engine a checkpoint is chosen (default: vllm)"
    )
    parser.add_argument(
        "--drafter", action="store_true", help="with the drafter that goes with the checkpoint"
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only files that match, such as '*Q4_K_M*'",
    )


def pull(args: argparse.Namespace) -> int:
    """`gemstead models pull`."""
    from gemstead.operate.store.pull import pull as pulling
    from gemstead.wiring.library import lock_at

    spec, place = _open(args)
    wants = _wants(args, spec)
    lock, screen, taken = lock_at(_lock_path(args)), _screen(args), []
    for want in wants:
        with screen:
            taken.append(pulling(want, place, lock=lock, telling=screen.telling))
        if not args.json:
            print(_pulled(taken[-1]))
    if args.json:
        print(json.dumps([_pulled_json(one) for one in taken], indent=2))
    return 0


def list_models(args: argparse.Namespace) -> int:
    """`gemstead models list`."""
    from gemstead.cli.tables import show as table
    from gemstead.operate.store.keep import held
    from gemstead.operate.store.trouble import size

    spec, place = _open(args)
    there, wanted, lock = held(place), _wanted_by(spec), _lock(args)
    if args.json:
        models = [_json(one, wanted, lock.revision(one.source)) for one in there]
        print(json.dumps({"path": str(place.path), "models": models}, indent=2))
        return 0
    if not there:
        print(f"no models in {place.path}; `gemstead models pull` fetches one")
        return 0
    rows = []
    for one in there:
        unfinished = f" + {size(one.unfinished_bytes)} unfinished" if one.unfinished_bytes else ""
        rows.append(
            (
                one.source.removeprefix("hf:"),
                one.revision[:12],
                f"{size(one.bytes)}{unfinished}",
                len(one.manifest.files) if one.manifest else None,
                one.licence,
                "now" if one.users is not None else _ago(one.last_used),
                ", ".join(wanted.get(one.source, ())),
                "pinned" if lock.revision(one.source) == one.revision != "" else None,
            )
        )
    table(("SOURCE", "REVISION", "SIZE", "FILES", "LICENCE", "USED", "MODEL", "LOCK"), rows)
    return 0


def show(args: argparse.Namespace) -> int:
    """`gemstead models show`."""
    from gemstead.cli.tables import show as table
    from gemstead.operate.store.keep import matching
    from gemstead.operate.store.trouble import size

    spec, place = _open(args)
    wanted, lock = _wanted_by(spec), _lock(args)
    some = [_json(one, wanted, lock.revision(one.source), files=True) for one in matching(place, args.name)]
    if args.json:
        print(json.dumps(some, indent=2))
        return 0
    for one in some:
        for name in ("source", "revision", "licence", "pulled", "path"):
            print(f"{name:<9} {one[name] or '-'}")
        print(f"{'size':<9} {size(one['bytes'])}")
        print(f"{'pinned':<9} {'yes' if one['pinned'] else 'no'}\n")
        table(("FILE", "BYTES", "SHA-256"), [(f["path"], f["bytes"], f["sha256"]) for f in one["files"]])
    return 0


def verify_(args: argparse.Namespace) -> int:
    """`gemstead models verify`: 1 when a file is damaged."""
    from gemstead.operate.store.keep import held, matching, verified

    _, place = _open(args)
    some = [one for name in args.names for one in matching(place, name)] if args.names else held(place)
    lock, screen, said, bad = _lock(args), _screen(args), [], 0
    if not some:
        print(f"no models in {place.path}: nothing to verify", file=sys.stderr)
    for one in some:
        if not one.revision:
            continue
        with screen:
            damage = verified(one, whole=not args.fast, look=screen.telling.progress)
        problems = [{"path": each.path, "problem": each.how} for each in damage]
        if one.manifest and (pin := lock.pins.get(one.source)) and pin.revision == one.revision:
            problems += [
                {"path": file.path, "problem": said_}
                for file in one.manifest.files
                if (said_ := lock.contradiction(one.source, file.path, file.sha256, file.bytes))
            ]
        bad += len(problems)
        said.append({"name": one.name, "whole": not problems, "damaged": problems})
        if not args.json:
            print(f"{one.name}: {'whole' if not problems else 'DAMAGED'}")
            for each in problems:
                print(f"  {each['path']} {each['problem']}")
    if args.json:
        print(json.dumps(said, indent=2))
    if bad and not args.json:
        print(f"gemstead: {bad} damaged; `gemstead models pull NAME` fetches them anew", file=sys.stderr)
    return 1 if bad else 0


def pin_(args: argparse.Namespace) -> int:
    """`gemstead models pin`: fetches what is not there, and writes the lock file."""
    from gemstead.catalog.manifest import Lock, lock_text
    from gemstead.operate.store.pull import pull as pulling

    spec, place = _open(args)
    path, lock, screen = _lock_path(args), _lock(args), _screen(args)
    args.checkpoint, args.engine, args.drafter, args.include = "", "vllm", False, []
    done = []
    for want in _wants(args, spec):
        if args.remove:
            lock = lock.without(want.address.key)
            done.append({"source": want.address.key, "revision": None})
            continue
        with screen:
            pulled = pulling(want, place, lock=Lock({}), telling=screen.telling)
        lock = lock.pinned(pulled.manifest)
        done.append({"source": want.address.key, "revision": pulled.manifest.revision})
    _write(path, lock_text(lock))
    if args.json:
        print(json.dumps({"lock": str(path), "models": done}, indent=2))
        return 0
    for one in done:
        print(f"{one['source']}: {one['revision'] or 'no longer pinned'}")
    print(f"written to {path}; keep it beside gemstead.yaml, in version control")
    return 0


def remove(args: argparse.Namespace) -> int:
    """`gemstead models rm`."""
    from gemstead.operate.store.keep import matching
    from gemstead.operate.store.keep import remove as removing
    from gemstead.operate.store.trouble import size

    spec, place = _open(args)
    some = [one for name in args.names for one in matching(place, name)]
    wanted = _wanted_by(spec)
    freed = removing(some)
    names = [one.name for one in some]
    if args.json:
        print(json.dumps({"removed": names, "freed_bytes": freed}, indent=2))
        return 0
    for one in some:
        print(f"removed {one.name}")
        if models := wanted.get(one.source):
            print(f"  gemstead.yaml wants it for {', '.join(models)}: the next start fetches it again")
    print(f"{size(freed)} are free again")
    return 0


def export(args: argparse.Namespace) -> int:
    """`gemstead models export`."""
    from gemstead.operate.store.keep import matching
    from gemstead.operate.store.pack import export as exporting

    _, place = _open(args)
    some = [one for name in args.names for one in matching(place, name) if one.revision]
    to = Path(args.to) if args.to == "-" else Path(args.to).expanduser().absolute()
    if args.to == "-" and sys.stdout.isatty():
        raise Trouble("standard output is a terminal: name a file with --to, or pipe it on", code=2)
    screen = _screen(args, quiet=args.to == "-")
    with screen:
        exporting(some, to, place, screen.telling.progress)
    if args.json and args.to != "-":
        print(json.dumps({"path": str(to), "models": [one.name for one in some]}, indent=2))
    elif args.to != "-":
        print(f"{', '.join(one.name for one in some)} written to {to}")
        print(f"there: gemstead models import {to.name}")
    return 0


def import_(args: argparse.Namespace) -> int:
    """`gemstead models import`."""
    from gemstead.operate.store.pack import bring, bring_as

    _, place = _open(args)
    source = Path(args.source) if args.source == "-" else Path(args.source).expanduser().absolute()
    screen = _screen(args)
    with screen:
        if args.name:
            taken = [bring_as(source, _own_name(args.name), place, screen.telling)]
        else:
            taken = bring(source, place, screen.telling)
    if args.json:
        print(json.dumps([{"source": one.source, "revision": one.revision} for one in taken], indent=2))
        return 0
    for one in taken:
        print(f"{one.source.removeprefix('hf:')}@{one.revision[:12]} is in {place.path}, every sum is right")
    return 0


# What is meant.


def _open(args: argparse.Namespace) -> tuple[Spec, Place]:
    from gemstead.cli.options import read_spec
    from gemstead.wiring.library import place_of

    spec = read_spec(args)
    return spec, place_of(spec, os.environ)


def _wants(args: argparse.Namespace, spec: Spec) -> list[Want]:
    from gemstead.catalog import sources

    said = {"engine": args.engine, "drafter": args.drafter, "include": args.include}
    if args.names:
        return [
            want
            for name in args.names
            for want in sources.wanted(name, checkpoint_name=args.checkpoint, **said)
        ]
    wants = [want for model in spec.models for want in _of_model(model)]
    if not wants:
        raise Trouble("gemstead.yaml names no model whose files are to be fetched; name one", code=2)
    return wants


def _of_model(model: ModelSpec) -> list[Want]:
    """What a model of the file needs from elsewhere: its checkpoint, else the catalogue's GGUF file."""
    from gemstead.catalog import addresses, sources

    if model.endpoints or model.file:
        return []
    if model.checkpoint:
        if not addresses.is_address(model.checkpoint):
            return list(sources.wanted(model.name, checkpoint_name=model.checkpoint))
        if addresses.parse(model.checkpoint).scheme == "file":
            return []
        return list(sources.wanted(model.checkpoint))
    if model.quantization and model.engine not in ("embedded", "llamacpp", "auto"):
        return list(sources.wanted(model.name, checkpoint_name=model.quantization, engine=model.engine))
    return list(sources.wanted(model.name))


def _wanted_by(spec: Spec) -> dict[str, list[str]]:
    """Which models of the file need which source."""
    from gemstead.refused import Refused

    found: dict[str, list[str]] = {}
    for model in spec.models:
        try:
            for want in _of_model(model):
                found.setdefault(want.address.key, []).append(model.name)
        except Refused:
            continue
    return found


def _own_name(name: str) -> str:
    from gemstead.catalog import addresses

    if not addresses.is_address(name) or (address := addresses.parse(name)).scheme != "hf" or address.file:
        raise Trouble(f"--as {name}: write OWNER/NAME, such as acme/gemma-support", code=2)
    return address.place


def _lock_path(args: argparse.Namespace) -> Path:
    from gemstead.cli.options import file_of
    from gemstead.wiring.library import lock_path

    file = file_of(args)
    return lock_path({"GEMSTEAD_CONFIG": str(file)} if file else {})


def _lock(args: argparse.Namespace) -> Any:
    from gemstead.wiring.library import lock_at

    return lock_at(_lock_path(args))


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, "utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# What is printed.


class _Screen:
    """Progress while something takes long. Ctrl-C is said what it means."""

    def __init__(self, quiet: bool) -> None:
        from gemstead.cli.serve import Terminal
        from gemstead.operate.store.pull import Telling

        self.terminal = None if quiet else Terminal()
        self.telling: Telling = Telling(self._progress, self._say)

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.terminal is not None:
            self.terminal._end_bar()
        if kind is KeyboardInterrupt:
            print("\ngemstead: stopped; what came is kept, run it again to go on", file=sys.stderr, end="")

    def _progress(self, what: str, done: int, total: int) -> None:
        if self.terminal is not None and what and total >= WORTH_BYTES:
            self.terminal.fetching(what, done, total)

    def _say(self, sentence: str) -> None:
        if self.terminal is not None:
            self.terminal.say(sentence)


def _screen(args: argparse.Namespace, quiet: bool = False) -> _Screen:
    return _Screen(quiet or args.json)


def _pulled(one: Pulled) -> str:
    from gemstead.operate.store.trouble import size

    came = f"{size(one.fetched_bytes)} fetched" if one.fetched_bytes else "already here, nothing fetched"
    return f"{one.address.key.removeprefix('hf:')}@{one.manifest.revision[:12]}: {came}; {one.path}"


def _pulled_json(one: Pulled) -> dict[str, Any]:
    said = _manifest_json(one.manifest)
    return {"path": str(one.path), "fetched_bytes": one.fetched_bytes, **said}


def _manifest_json(manifest: Manifest) -> dict[str, Any]:
    from gemstead.catalog.manifest import as_json

    return as_json(manifest)


def _json(one: Held, wanted: dict[str, list[str]], pinned: str, files: bool = False) -> dict[str, Any]:
    manifest = one.manifest
    said: dict[str, Any] = {
        "name": one.name,
        "source": one.source,
        "revision": one.revision,
        "refs": list(one.refs),
        "bytes": one.bytes,
        "unfinished_bytes": one.unfinished_bytes,
        "licence": one.licence,
        "pulled": manifest.pulled if manifest else None,
        "path": str(one.shelf.snapshot(one.revision)) if one.revision else None,
        "last_used": one.last_used,
        "in_use": one.users is not None,
        "users": list(one.users or ()),
        "models": wanted.get(one.source, []),
        "pinned": bool(pinned) and pinned == one.revision,
    }
    if files:
        said["files"] = _manifest_json(manifest)["files"] if manifest else []
    return said


def _ago(moment: float | None) -> str | None:
    if moment is None:
        return None
    hours = max(0.0, time.time() - moment) / 3600
    return "today" if hours < 24 else f"{hours / 24:.0f} days ago"
