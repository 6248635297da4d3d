"""`logs`: what engines, gateway workers and the service itself have printed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gemstead.cli.trouble import Trouble


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    parser = subparsers.add_parser(
        "logs",
        description="Show what engines print; `service` is Gemstead's own log, `gateway-0` a gateway worker.",
    )
    parser.add_argument(
        "name", nargs="?", help="one engine or worker, as in `gemstead ps`; default: all engines"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    parser.add_argument(
        "-n", "--lines", type=int, default=100, metavar="N", help="begin with the last N lines"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    add_file(parser)
    parser.set_defaults(run=show)


def show(args: argparse.Namespace) -> int:
    import os

    from gemstead.cli.options import read_places
    from gemstead.supervise.logs import last_lines
    from gemstead.wiring.files import state_dir

    folder = state_dir(read_places(args), os.environ).logs
    paths = _chosen(folder, args.name)
    many = len(paths) > 1
    for path in paths:
        for line in last_lines(path, max(args.lines, 0)):
            _print(path.stem, line, many, args.json)
    if args.follow:
        _follow(paths, many, args.json)
    return 0


def _chosen(folder: Path, name: str | None) -> list[Path]:
    every = sorted(folder.glob("*.log"))
    engines = [path for path in every if path.stem != "service" and not path.stem.startswith("gateway-")]
    chosen = engines if name is None else [path for path in every if path.stem == name]
    if chosen:
        return chosen
    if name is None:
        raise Trouble(f"there are no engine logs in {folder}; `gemstead serve` starts one")
    known = ", ".join(path.stem for path in every) or "none yet"
    raise Trouble(f"there is no log called {name!r}; there is: {known}")


def _follow(paths: list[Path], many: bool, as_json: bool) -> None:
    """New lines of all of them, until Ctrl-C."""
    import queue
    import threading

    from gemstead.supervise.logs import follow

    lines: queue.Queue[tuple[str, str]] = queue.Queue()

    def read(path: Path) -> None:
        for line in follow(path, wait=_pause):
            lines.put((path.stem, line))

    for path in paths:
        threading.Thread(target=read, args=(path,), daemon=True).start()
    while True:
        name, line = lines.get()
        _print(name, line, many, as_json)


def _pause() -> bool:
    import time

    time.sleep(0.1)
    return True


def _print(name: str, line: str, many: bool, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps({"log": name, "line": line}), flush=True)
    else:
        print(f"{name} | {line}" if many else line, flush=True)
