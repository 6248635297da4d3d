"""`gemstead engines`: install the engines that run on cards, each version in an environment of its own.

`install` makes an environment, notes a program that is already there (`--path`) or fetches an image (`--container`);
`list` shows what there is and what is known of it; `upgrade --plan` says what another version would change; `path`
prints a program for scripts; `rm` deletes. What is running is never touched: a new version comes in by a reload.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.engines.upgrade import Upgrade
    from gemstead.operate.engines import Manifest, Place


def add(subparsers: Any) -> None:
    """Register `engines list`, `install`, `rm`, `upgrade` and `path`."""
    from gemstead.cli.options import add_common

    parser = subparsers.add_parser(
        "engines", description="Install, list and upgrade the engines that serve models."
    )
    verbs = parser.add_subparsers(dest="what", required=True)

    list_ = verbs.add_parser(
        "list", description="What is installed, finished or not, and what is known of it."
    )
    list_.set_defaults(run=list_engines)

    install_ = verbs.add_parser(
        "install",
        description="Install an engine into an environment of its own under the state folder. Broken off, it never "
        "counts as installed; the same command goes on.",
    )
    install_.add_argument(
        "engine", metavar="ENGINE[==VERSION]", help="vllm, sglang, transformers, llama-cpp, ..."
    )
    how = install_.add_mutually_exclusive_group()
    how.add_argument("--path", metavar="PROGRAM", help="it is already here: take note of this program")
    how.add_argument(
        "--container",
        metavar="IMAGE",
        nargs="?",
        const="",
        help="run it in a container (Docker or Podman); default: the engine's own image",
    )
    install_.add_argument("--tool", choices=("docker", "podman"), default="", help="which runs the container")
    install_.add_argument("--no-pull", action="store_true", help="the image is already here")
    install_.add_argument(
        "--cpu", action="store_true", help="the build for processors, also where there are cards"
    )
    install_.add_argument(
        "--index", metavar="URL", action="append", default=[], help="a further package index"
    )
    install_.add_argument(
        "--find-links",
        metavar="FOLDER",
        action="append",
        default=[],
        help="a folder of wheels (may be repeated)",
    )
    install_.add_argument("--no-index", action="store_true", help="only what --find-links has: no network")
    install_.add_argument(
        "--constraint", metavar="FILE", help="pins, such as the pins.txt of another installation"
    )
    install_.add_argument("--again", action="store_true", help="do it again, although it is there")
    install_.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    install_.set_defaults(run=install)

    rm_ = verbs.add_parser("rm", description="Delete an installed engine, or one that was begun.")
    rm_.add_argument(
        "engine", metavar="ENGINE==VERSION", help="as `list` shows it; the version may be left out if one"
    )
    rm_.add_argument("--force", action="store_true", help="also when something of it runs")
    rm_.set_defaults(run=remove)

    upgrade_ = verbs.add_parser(
        "upgrade", description="What a newer version of an installed engine would change."
    )
    upgrade_.add_argument(
        "engine", metavar="ENGINE[==TARGET]", nargs="?", help="default: every engine installed"
    )
    upgrade_.add_argument(
        "--plan", action="store_true", help="say what changes and the steps (nothing is changed)"
    )
    upgrade_.set_defaults(run=plan_upgrade)

    path_ = verbs.add_parser(
        "path", description="Print the program of an installed engine (of its newest version)."
    )
    path_.add_argument("engine", metavar="ENGINE[==VERSION]")
    path_.set_defaults(run=path)

    for one in (list_, install_, rm_, upgrade_, path_):
        add_common(one)


def list_engines(args: argparse.Namespace) -> int:
    """Print every installation."""
    from gemstead.cli import tables
    from gemstead.operate.engines import places

    found = places(_state(args))
    if args.json:
        print(json.dumps({"engines": [_place_as_dict(place) for place in found]}, indent=2))
        return 0
    if not found:
        print(
            "none is installed; the embedded engine comes with Gemstead. For cards: gemstead engines install vllm"
        )
        return 0
    tables.show(
        ["engine", "version", "runs as", "build", "GB", "installed", "remarks"], [_row(one) for one in found]
    )
    return 0


def install(args: argparse.Namespace) -> int:
    """Install one engine; exit code 0 when it is there afterwards."""
    from gemstead.engines.recipe import asked, recipe
    from gemstead.operate.engines_install import Around, install_container, install_path
    from gemstead.operate.engines_install import install as install_packages
    from gemstead.operate.engines_pip import Source

    state = _state(args)
    source = Source(
        tuple(args.index), tuple(map(_absolute, args.find_links)), args.no_index, _file(args.constraint)
    )
    with _Progress(quiet=args.json) as progress:
        around = Around(state, dict(os.environ), progress.line, progress.stage, source=source)
        if args.path:
            return _done(install_path(args.engine, Path(args.path), around), args)
        host = _host(args.cpu)
        if args.container is not None:
            made = install_container(
                args.engine, args.container, host.vendor, around, pull=not args.no_pull, wanted=args.tool
            )
            return _done(made, args)
        chosen = recipe(*asked(args.engine), host)
        if args.dry_run:
            return _dry(chosen, state, args)
        progress.stage(f"installing {chosen.name} ({chosen.variant}) into {state / 'engines' / chosen.name}")
        try:
            manifest = install_packages(chosen, around, again=args.again)
        except KeyboardInterrupt:
            progress.stage(
                f"broken off: {chosen.name} is not installed; the same command goes on where it was"
            )
            raise
    return _done(manifest, args)


def remove(args: argparse.Namespace) -> int:
    """Delete one."""
    from gemstead.engines.recipe import asked
    from gemstead.operate.engines import places
    from gemstead.operate.engines import remove as delete

    named = args.engine.rstrip("/")
    found = [place for place in places(_state(args)) if place.name == named]
    if not found:
        engine, version = asked(named)
        found = [
            place
            for place in places(_state(args))
            if place.name == f"{engine}-{version}" or (not version and place.name.startswith(f"{engine}-"))
        ]
    if len(found) != 1:
        names = ", ".join(place.name for place in found or places(_state(args))) or "none"
        what = "more than one fits" if found else f"{args.engine} is not installed"
        raise Trouble(f"{what}; there is: {names}", code=USAGE)
    freed = delete(found[0], force=args.force)
    if args.json:
        print(json.dumps({"removed": found[0].name, "bytes": freed}))
    else:
        print(f"removed {found[0].name}: {freed / 1e9:.1f} GB freed")
    return 0


def plan_upgrade(args: argparse.Namespace) -> int:
    """Print what would change; nothing is changed."""
    from gemstead.engines.recipe import asked
    from gemstead.engines.upgrade import upgrade
    from gemstead.operate.engines import places

    if not args.plan:
        raise Trouble(
            "nothing is upgraded on its own: `gemstead engines upgrade --plan` says what changes and the steps",
            code=USAGE,
        )
    engine, target = asked(args.engine) if args.engine else ("", "")
    newest: dict[str, Manifest] = {}
    from gemstead.catalog.versions import parsed

    for place in places(_state(args)):
        made = place.manifest
        if made is not None and engine in ("", made.engine):
            old = newest.get(made.engine)
            if old is None or (parsed(made.version) or ()) > (parsed(old.version) or ()):
                newest[made.engine] = made
    if not newest:
        raise Trouble(
            f"{args.engine or 'no engine'} is {'not ' if args.engine else ''}installed; see engines list"
        )
    plans = [
        upgrade(name, made.version, variant=made.variant, target=target)
        for name, made in sorted(newest.items())
    ]
    if args.json:
        print(json.dumps({"upgrades": [one.as_dict() for one in plans]}, indent=2, default=str))
    else:
        print("\n\n".join(map(_upgrade_text, plans)))
    return 0


def path(args: argparse.Namespace) -> int:
    """Print the words that start it."""
    import shlex

    from gemstead.engines.recipe import asked
    from gemstead.operate.engines import installed

    engine, version = asked(args.engine)
    found = installed(_state(args), engine, version or None)
    if found is None:
        raise Trouble(f"{args.engine} is not installed; gemstead engines install {args.engine}")
    if args.json:
        said = {
            "engine": found.engine,
            "version": found.version,
            "runner": found.runner,
            "argv": found.argv_prefix,
        }
        print(json.dumps(said))
    else:
        print(shlex.join(found.argv_prefix))
    return 0


def _state(args: argparse.Namespace) -> Path:
    from gemstead.cli.options import read_spec
    from gemstead.wiring.files import state_dir

    return state_dir(read_spec(args), os.environ).path


def _host(cpu: bool) -> Any:
    """What this machine has: a driver's own files say which cards, without starting anything."""
    import platform

    from gemstead.engines.recipe import Host
    from gemstead.operate.engines_host import vendor

    return Host("cpu" if cpu else vendor(), platform.machine(), sys.platform)


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _file(named: str | None) -> str:
    if not named:
        return ""
    found = Path(named).expanduser().absolute()
    if not found.is_file():
        raise Trouble(f"{named}: there is no such file (--constraint)", code=USAGE)
    return str(found)


def _done(made: Manifest, args: argparse.Namespace) -> int:
    from dataclasses import asdict

    if args.json:
        print(json.dumps(asdict(made), indent=2))
        return 0
    size = f", {made.bytes / 1e9:.1f} GB" if made.bytes else ""
    took = f" in {made.seconds:.0f} s" if made.seconds else ""
    print(f"{made.engine} {made.version} is installed{took}{size}: {' '.join(made.argv_prefix)}")
    for note in made.notes:
        print(f"note: {note}")
    return 0


def _dry(chosen: Any, state: Path, args: argparse.Namespace) -> int:
    from gemstead.engines.recipe import notes_on

    packages = [package for step in chosen.steps for package in step.packages]
    notes = [*chosen.notes, *notes_on(chosen.engine, chosen.version)]
    if args.json:
        said = {"name": chosen.name, "variant": chosen.variant, "packages": packages, "notes": notes}
        print(
            json.dumps(
                {**said, "disk_bytes": chosen.disk_bytes, "folder": str(state / "engines" / chosen.name)}
            )
        )
        return 0
    print(f"would install {chosen.name} ({chosen.variant}) into {state / 'engines' / chosen.name}")
    print(f"  packages: {', '.join(packages)}")
    print(f"  room asked for: {chosen.disk_bytes / 1e9:.0f} GB")
    for note in notes:
        print(f"  note: {note}")
    return 0


def _row(place: Place) -> list[object]:
    made = place.manifest
    if made is None:
        engine, _, version = place.name.rpartition("-")
        return [engine, version, "-", "-", None, "-", place.why]
    size = round(made.bytes / 1e9, 1) if made.bytes else None
    return [made.engine, made.version, made.runner, made.variant, size, made.at[:10], _remarks(made)]


def _remarks(made: Manifest) -> str:
    from gemstead.catalog.engine_versions import engine_facts
    from gemstead.engines.recipe import known_good, serious

    found = [engine_facts(made.engine).fault_of(made.version)]
    found += [f"known: {entry.symptom}" for entry in serious(made.engine, made.version)]
    good = known_good(made.engine, made.variant)
    from gemstead.catalog.versions import parsed

    if good and (parsed(good) or ()) > (parsed(made.version) or ()):
        found.append(f"{good} is the newest known good")
    return "; ".join(filter(None, found)) or "ok"


def _place_as_dict(place: Place) -> dict[str, object]:
    from dataclasses import asdict

    made = place.manifest
    return {
        "name": place.name,
        "path": str(place.path),
        "complete": made is not None,
        "why": place.why,
        **({} if made is None else {**asdict(made), "remarks": _remarks(made)}),
    }


def _upgrade_text(one: Upgrade) -> str:
    if not one.needed:
        return "\n".join(
            [f"{one.title} {one.installed}: nothing to do", *(f"  {note}" for note in one.notes)]
        )
    lines = [f"{one.title} {one.installed} -> {one.target}"]
    for title, names in (("flags and variables gone", one.gone), ("new", one.new)):
        lines.append(f"  {title}: {len(names) or 'none'}" + (f" ({_some(names)})" if names else ""))
    for title, entries in (("mended", one.mended), ("brought", one.brought)):
        lines += [f"  {title}: {entry}" for entry in entries] or [f"  {title}: nothing that is known"]
    lines += [f"  note: {note}" for note in one.notes]
    return "\n".join(
        [*lines, "  steps:", *(f"    {number}. {step}" for number, step in enumerate(one.steps, 1))]
    )


def _some(names: tuple[str, ...], most: int = 8) -> str:
    rest = f", and {len(names) - most} more (--json has all)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


class _Progress:
    """Stages on lines of their own; on a terminal, what the installer does meanwhile on one that changes."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._status: Any = None
        self._stage = ""

    def __enter__(self) -> _Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def stage(self, sentence: str) -> None:
        self._stage = sentence
        if not self._quiet:
            print(sentence, file=sys.stderr, flush=True)

    def line(self, line: str) -> None:
        from gemstead.operate.engines_pip import shown

        if self._status is not None and (said := shown(line)):
            self._status.update(said.replace("[", r"\["))
