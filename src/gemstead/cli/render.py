"""`gemstead render` writes the plan as files for one target; `gemstead diff` says how files that are there differ.

Each file takes its old one's place whole. Files in the folder that are not of the bundle are left alone, but for those
of an earlier bundle, which `.gemstead-bundle` lists.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.render import Target
    from gemstead.render.bundle import Bundle
    from gemstead.render.deployment import Deployment
    from gemstead.spec.model import Spec

LIST = ".gemstead-bundle"  # in a bundle's folder: what it wrote, one path to a line


def add(subparsers: Any) -> None:
    """Register `render` and `diff`."""
    render_ = subparsers.add_parser("render", description="Write the plan as files for a target.")
    render_.add_argument("target", nargs="?", metavar="TARGET", help="see --list")
    render_.add_argument("--list", action="store_true", help="which targets there are")
    render_.add_argument("--out", metavar="DIR", help="folder to write to (default: deploy/TARGET)")
    render_.add_argument(
        "--pin",
        action="store_true",
        help="ask the registries what the images' tags stand for, and keep it in gemstead.images.lock beside the file; "
        "without TARGET: for every target",
    )
    render_.add_argument("--stdout", action="store_true", help="print the files and write nothing")
    _add_choices(render_)
    render_.set_defaults(run=render)
    diff_ = subparsers.add_parser(
        "diff", description="Say what `render` would change. Exit code 1: something would change."
    )
    diff_.add_argument("target", metavar="TARGET", help="see `gemstead render --list`")
    diff_.add_argument(
        "--live", action="store_true", help="compare with what runs there, as `apply --dry-run`"
    )
    diff_.add_argument("--against", metavar="DIR", help="folder to compare with (default: deploy/TARGET)")
    _add_choices(diff_)
    diff_.set_defaults(run=diff)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    from gemstead.cli.options import add_common

    parser.add_argument(
        "--gpu", metavar="NAME", help="card, over deploy.hardware.gpu; `none` for the processor"
    )
    parser.add_argument("--count", type=int, metavar="N", help="cards, over deploy.hardware.count")
    add_common(parser)


def render(args: argparse.Namespace) -> int:
    """Write or print the bundle."""
    if args.pin and not args.list:
        from gemstead.cli.render_pin import pin

        code = pin(args)
        if not args.target:
            return code
    if args.list or not args.target:
        return _list(args)
    bundle = made(args)
    if args.stdout or (args.json and not args.out):
        if args.json:
            print(
                json.dumps({"target": bundle.target, "files": bundle.files, "notes": bundle.notes}, indent=2)
            )
        else:
            for path, text in bundle.files.items():
                print(f"# {path}\n{text}")
        return 0
    folder = Path(args.out or f"deploy/{args.target}")
    write(bundle, folder)
    if args.json:
        print(
            json.dumps(
                {"target": bundle.target, "folder": str(folder), "files": list(bundle.files)}, indent=2
            )
        )
        return 0
    print(f"wrote {len(bundle.files)} files to {folder}")
    for note in bundle.notes:
        print(f"note: {note}")
    return 0


def diff(args: argparse.Namespace) -> int:
    """Print the differences; 1 when there are any."""
    if args.live:
        from gemstead.cli.apply import live

        return live(args)
    from gemstead.render.bundle import diff as differences

    folder = Path(args.against or f"deploy/{args.target}")
    bundle = made(args)
    changes = differences(read(folder, bundle), bundle.files)
    if args.json:
        print(
            json.dumps([{"path": one.path, "kind": one.kind, "diff": one.text} for one in changes], indent=2)
        )
    else:
        print("".join(one.text for one in changes) or f"{folder} is what would be rendered\n", end="")
    return 1 if changes else 0


def made(args: argparse.Namespace) -> Bundle:
    """The bundle for the options.

    Raises:
        Refused: an unknown target or card, or a plan that fits nowhere.
    """
    found, deployment = planned(args)
    return found.render(deployment)


def planned(args: argparse.Namespace) -> tuple[Target, Deployment]:
    """The target of the options, and what it is handed.

    Raises:
        Refused: an unknown target or card, or a plan that fits nowhere.
    """
    from gemstead.cli.options import file_of
    from gemstead.operate.catalogue import load
    from gemstead.render import target
    from gemstead.render.pins import digests
    from gemstead.wiring.deployment import deployment
    from gemstead.wiring.images import pins

    found = target(args.target)
    return found, deployment(chosen(args), load(os.environ), digests(pins(file_of(args))))


def chosen(args: argparse.Namespace) -> Spec:
    """The one file with the options' hardware."""
    from gemstead.cli.options import read_spec

    if args.gpu is not None:
        args.overrides.append(f"deploy.hardware.gpu={'' if args.gpu.casefold() == 'none' else args.gpu}")
    if args.count is not None:
        args.overrides.append(f"deploy.hardware.count={args.count}")
    return read_spec(args)


def write(bundle: Bundle, folder: Path) -> None:
    """The bundle's files in the folder; those of an earlier bundle that are no longer of it are removed.

    Raises:
        Trouble: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in bundle.files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f".{place.name}.{os.getpid()}")
            draft.write_text(text, "utf-8")
            if text.startswith("#!"):
                draft.chmod(0o755)
            draft.replace(place)
        for path in _listed(folder) - bundle.files.keys():
            (folder / path).unlink(missing_ok=True)
        (folder / LIST).write_text("".join(f"{path}\n" for path in bundle.files), "utf-8")
    except OSError as error:
        raise Trouble(f"{folder}: cannot be written ({error.strerror or error})") from error


def read(folder: Path, bundle: Bundle) -> Mapping[str, str]:
    """What is in the folder of this bundle's files, and of those that an earlier one wrote.

    Raises:
        Trouble: the folder is not there.
    """
    if not folder.is_dir():
        raise Trouble(
            f"{folder}: there is no such folder; `gemstead render {bundle.target}` writes it", code=USAGE
        )
    paths = bundle.files.keys() | _listed(folder)
    return {path: (folder / path).read_text("utf-8") for path in paths if (folder / path).is_file()}


def _listed(folder: Path) -> set[str]:
    """Paths that an earlier bundle wrote there; what leads out of the folder is passed over."""
    try:
        lines = (folder / LIST).read_text("utf-8").splitlines()
    except OSError:
        return set()
    return {line for line in lines if line and not line.startswith("/") and ".." not in line.split("/")}


def _list(args: argparse.Namespace) -> int:
    from gemstead.render import TARGETS, target

    rows = {name: target(name).SUMMARY for name in TARGETS}
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for name, summary in rows.items():
        print(f"  {name:<14} {summary}")
    if not args.list:
        print("\ngemstead render: name a target", file=sys.stderr)
        return USAGE
    return 0
