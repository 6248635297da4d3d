"""`serve`: start everything, and show how it goes.

On a terminal, long work has a progress bar and the last line shows what an engine is doing; elsewhere (a
pipe, a journal) each change is a line. What the service is made of is decided in `wiring/`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemstead.wiring.serve import Opening, Order

QUESTION = "What is the capital of Peru?"
CLEAR = "\r\033[K"  # back to the line's begin, and wipe it
STEP_S = 5.0  # between two lines of a download's progress where there is no terminal


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    parser = subparsers.add_parser(
        "serve",
        description="Start the model and its gateway and keep them running until Ctrl-C or `gemstead stop`.",
    )
    parser.add_argument(
        "model", nargs="?", help="serve this model instead of the file's, such as gemma4:e4b or ./mine.gguf"
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="a demonstration model of a few MB; needs no network and no memory",
    )
    add_file(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from gemstead.supervise.bounds import ours
    from gemstead.wiring.serve import serve

    for sentence in ours():  # workers and all others have them of us
        print(f"warning: {sentence}", file=sys.stderr)
    return serve(order_of(args), Terminal(keys_flags=_same_service(args)))


def order_of(args: argparse.Namespace) -> Order:
    """What the options ask for. A file that is written after the start (`gemstead init`) is found at a reload."""
    from gemstead.cli.options import file_of, read
    from gemstead.wiring.serve import Order

    file = file_of(args)
    overrides = [*args.overrides, *([f"models[0].name={args.model}"] if args.model else [])]
    environ = {**os.environ, "GEMSTEAD_CONFIG": str(file)} if file else dict(os.environ)
    return Order(read=lambda: read(file or file_of(args), overrides), environ=environ, demo=args.demo)


def _same_service(args: argparse.Namespace) -> str:
    """The options that other commands need to find this service, as they are typed."""
    words = [*(["-c", args.config] if args.config else [])]
    for override in args.overrides:
        if override.partition("=")[0].strip() in ("state_dir", "ledger.path"):
            words += ["--set", override]
    return " ".join(["", *map(shlex.quote, words)])


class Terminal:
    """What `serve` prints. A closed terminal never stops the service."""

    def __init__(self, keys_flags: str = "") -> None:
        self.flags = keys_flags
        self.me = program(sys.argv[0])
        self.live = sys.stdout.isatty()
        self.bar: Any = None
        self.task: Any = None
        self.shown: dict[str, str] = {}
        self.said_at = 0.0
        self.fetched = ("", 0)  # what was said of it last
        self.was_ready = False
        self.transient = False  # the last line is to be written over

    def listening(self, gateway: str, admin: str, warnings: tuple[str, ...]) -> None:
        from gemstead import __version__

        for sentence in warnings:
            self.say(f"warning: {sentence}")
        self.say(f"Gemstead {__version__}: gateway on {gateway}, admin on {admin}")

    def fetching(self, name: str, done: int, total: int) -> None:
        if self.live:
            self._bar(name, done, total)
        elif (name, done) != self.fetched and (time.monotonic() - self.said_at >= STEP_S or done >= total):
            self.said_at, self.fetched = time.monotonic(), (name, done)
            share = f" ({100 * done // total} %)" if total else ""
            doing = "" if name.startswith(("checking ", "writing ", "reading ")) else "fetching "
            self.say(f"{doing}{name}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB{share}")

    def opened(self, opening: Opening) -> None:
        self._end_bar()
        lines = [f"  {note}" for note in opening.notes]
        lines += [f"  state and logs in {opening.state}", ""]
        if opening.first_key:
            lines += [f"  Your first API key, shown only now:   {opening.first_key}", ""]
        elif opening.keys:
            lines += [f"  Calls need a key: `{self.me} keys create{self.flags}` makes one.", ""]
        lines += [*_examples(opening), "", f"  {self.me} run{self.flags}", ""]
        lines += [f"  Stop with Ctrl-C or `{self.me} stop{self.flags}`.", ""]
        self.say("\n".join(lines))

    def changed(self, status: dict[str, Any]) -> None:
        for one in status["endpoints"]:
            self._endpoint(one, status["stopping"])
        if not self.was_ready and status["models"] and all(status["models"].values()):
            self.was_ready = True
            self.say(f"Ready after {status['uptime_s']:.1f} s: {', '.join(status['models'])}")

    def _endpoint(self, one: dict[str, Any], stopping: bool) -> None:
        """One engine's news. Steps of loading overwrite each other on a terminal."""
        name, step = one["name"], one.get("stage") or ""
        state = step or one["phase"].replace("_", " ")
        if one["phase"] in ("failed", "backing_off") and one.get("why"):
            state = f"{state}: {one['why']} (`{self.me} logs{self.flags} {name}`)"
        if stopping or self.shown.get(name) == state:
            return
        before, self.shown[name] = self.shown.get(name, ""), state
        if step and self.live:
            self._overwrite(f"{name}: {state}")
        elif _without_figures(state) != _without_figures(before):
            self.say(f"{name}: {state}")

    def draining(self, calls: int, within_s: float) -> None:
        if calls:
            self.say(
                f"\nFinishing {calls} running calls, at most {within_s:.0f} s. Ctrl-C again stops at once."
            )
        else:
            self.say("\nStopping.")

    def stopped(self) -> None:
        self.say("Stopped.")

    def say(self, sentence: str) -> None:
        self._end_bar()
        with suppress(OSError, ValueError):
            print(f"{CLEAR if self.transient else ''}{sentence}", flush=True)
        self.transient = False

    def _overwrite(self, sentence: str) -> None:
        self._end_bar()
        with suppress(OSError, ValueError):
            print(f"{CLEAR}{sentence}", end="", flush=True)
        self.transient = True

    def _bar(self, name: str, done: int, total: int) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        if self.bar is None:
            columns = "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn()
            self.bar = Progress(*columns, TimeRemainingColumn(), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(name, total=total)
        self.bar.update(self.task, description=name, completed=done, total=total or None)

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _without_figures(state: str) -> str:
    """Where there is no terminal, "loading, 41 %" after "loading, 40 %" is no news."""
    return "".join(letter for letter in state if not letter.isdigit())


def program(typed: str) -> str:
    """How a shell calls this program: `gemstead` where it is found by that name, else as it was typed."""
    found = shutil.which("gemstead")
    if Path(typed).name != "gemstead" or (found and Path(typed).exists() and Path(found).samefile(typed)):
        return "gemstead"
    return shlex.quote(typed)


def _examples(opening: Opening) -> list[str]:
    """A call with curl and one with nothing but Python, which work when pasted; then what every client needs."""
    model = opening.models[0] if opening.models else "gemma-4-e2b"
    base = f"{opening.gateway}/v1"
    key = opening.first_key or ("$GEMSTEAD_API_KEY" if opening.keys else "")
    auth = f' -H "Authorization: Bearer {key}"' if key else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    headers = (
        "{'Content-Type': 'application/json'" + (f", 'Authorization': 'Bearer {key}'" if key else "") + "}"
    )
    data = f"json.dumps({body.replace(chr(34), chr(39))}).encode()"
    request = f"u.Request('{base}/chat/completions', {data}, {headers})"
    answer = f"json.load(u.urlopen({request}))['choices'][0]['message']['content']"
    return [
        f"  curl {base}/chat/completions{auth} -H 'Content-Type: application/json' -d '{body}'",
        "",
        f'  python3 -c "import json, urllib.request as u; print({answer})"',
        "",
        f'  OpenAI clients: export OPENAI_BASE_URL={base} OPENAI_API_KEY="{key or "none"}"',
    ]
