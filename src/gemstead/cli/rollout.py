"""`rollout`, `restart`, `scale`, `sleep`, `wake`: how a model's engines change while callers notice nothing."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from gemstead.cli.trouble import Trouble

if TYPE_CHECKING:
    from gemstead.wiring.files import Card

LOOK_S = 0.5
ACTIONS = ("status", "start", "promote", "undo")


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    rollout = subparsers.add_parser(
        "rollout",
        description="Show what takes whose place; begin one that waits, take the new release at once, or go back.",
    )
    rollout.add_argument("action", nargs="?", default="status", choices=ACTIONS)
    rollout.add_argument("model", nargs="?", default="", help="may be left out when there is one")
    rollout.add_argument("--json", action="store_true", help="as JSON")
    restart = subparsers.add_parser(
        "restart", description="Replace a model's engines by fresh ones, one after another."
    )
    scale = subparsers.add_parser(
        "scale", description="Run so many engines of a model, until the file changes."
    )
    sleep = subparsers.add_parser("sleep", description="Finish a model's calls, then give its memory back.")
    wake = subparsers.add_parser("wake", description="Have a model that sleeps answer again.")
    scale.add_argument("model")
    scale.add_argument("replicas", type=int)
    for parser in (restart, sleep, wake):
        parser.add_argument("model", nargs="?", default="", help="may be left out when there is one")
    for parser in (rollout, restart):
        parser.add_argument(
            "--gap", action="store_true", help="without room for both, end the old engine first; calls wait"
        )
        parser.add_argument(
            "--wait", action="store_true", help="return when it has ended: 0 done, 1 gone back"
        )
    for parser, run in (
        (rollout, show_or_change),
        (restart, change),
        (scale, change),
        (sleep, change),
        (wake, change),
    ):
        add_file(parser)
        parser.set_defaults(run=run)


def show_or_change(args: argparse.Namespace) -> int:
    """`gemstead rollout`."""
    if args.action != "status":
        return change(args)
    card = _card(args)
    if args.wait:
        return _wait(card, _model(card, args.model))
    found = [one for one in _releases(card) if args.model in ("", one["model"])]
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for one in found:
        print("\n".join(_lines(one)))
    return 0


def change(args: argparse.Namespace) -> int:
    """Ask the running service, and say what it does: 0, or 1 when it cannot."""
    card = _card(args)
    verb = getattr(args, "action", args.verb)
    model = _model(card, args.model)
    how = {"gap": "1"} if getattr(args, "gap", False) else {}
    how |= {"replicas": str(args.replicas)} if verb == "scale" else {}
    from gemstead.cli.running import ask

    path = f"/admin/models/{quote(model, safe='')}/{verb}?{urlencode(how)}"
    done = ask(card, "POST", path, patience_s=3600.0)
    if "refused" in done:
        raise Trouble("\n".join(done["refused"]))
    print(done["done"])
    return _wait(card, model) if getattr(args, "wait", False) else 0


def _wait(card: Card, model: str) -> int:
    """Until nothing changes the model any more; each stage is said once."""
    said = ""
    while (now := _release(card, model))["rollout"] is not None:
        stage = _stage(now["rollout"])
        if stage != said:
            print(stage, flush=True)
            said = stage
        time.sleep(LOOK_S)
    history = now["history"]
    if not history:
        return 0
    print(_ended(history[-1]))
    return 0 if history[-1]["stage"] == "done" else 1


def _lines(one: dict[str, Any]) -> list[str]:
    held = f"release {one['held']} waits: {one['held_why']}" if one["held"] else ""
    previous = f" (before it: {one['previous']})" if one["previous"] else ""
    asleep = ", asleep" if one["asleep"] else ""
    lines = [f"{one['model']}: release {one['release']}{previous}, {one['replicas']} replicas{asleep}"]
    if one["rollout"]:
        lines.append(f"  {_stage(one['rollout'])}")
    lines += [f"  {held}"] if held else []
    return lines + [f"  {_ended(entry)}" for entry in one["history"][-5:]]


def _stage(rollout: dict[str, Any]) -> str:
    words = f"release {rollout['from']} -> {rollout['to']}, {rollout['strategy']}: {rollout['stage']}"
    ready = f", {rollout['ready']} of {rollout['count']} ready"
    share = f", {rollout['share']:.0%} of the calls" if rollout["stage"] == "watching" else ""
    why = f": {rollout['why']}" if rollout["why"] else ""
    return f"{words}{ready}{share}{why}"


def _ended(entry: dict[str, Any]) -> str:
    took = entry["ended"] - entry["began"]
    how = "done" if entry["stage"] == "done" else f"sent back: {entry['why']}"
    return f"release {entry['from']} -> {entry['to']} ({entry['reason']}), {how}, in {took:.0f} s"


def _card(args: argparse.Namespace) -> Card:
    from gemstead.cli.running import find, nothing_runs

    folder, card = find(args)
    if card is None:
        raise Trouble(nothing_runs(folder))
    return card


def _releases(card: Card) -> list[dict[str, Any]]:
    from gemstead.cli.running import ask

    releases: list[dict[str, Any]] = ask(card, "GET", "/admin/status")["releases"]
    return releases


def _release(card: Card, model: str) -> dict[str, Any]:
    found = [one for one in _releases(card) if one["model"].casefold() == model.casefold()]
    if not found:
        raise Trouble(f"call it by the name that `gemstead ps` shows: {model} is another name of it, or none")
    return found[0]


def _model(card: Card, said: str) -> str:
    """The model that is meant: the one that was named, else the only one.

    Raises:
        Trouble: none was named, and there are several.
    """
    if said:
        return said
    names = [str(one["model"]) for one in _releases(card)]
    if len(names) == 1:
        return names[0]
    raise Trouble(f"say which model: {', '.join(names)}")
