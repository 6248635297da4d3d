"""`ps`, `stop`, `reload`: what is asked of the service that runs in a state folder."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import Trouble

if TYPE_CHECKING:
    from gemstead.wiring.files import Card, StateDir


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    ps = subparsers.add_parser("ps", help="show what runs", description="Show what runs.")
    ps.add_argument("--json", action="store_true", help="as JSON")
    stop = subparsers.add_parser(
        "stop", description="Finish running calls, then stop the service. Waits for it."
    )
    stop.add_argument("--now", action="store_true", help="cut running calls off")
    reload = subparsers.add_parser(
        "reload", description="Apply a changed gemstead.yaml without dropping a call."
    )
    reload.add_argument("--json", action="store_true", help="as JSON")
    for parser, run in ((ps, show), (stop, stop_service), (reload, reload_service)):
        add_file(parser)
        parser.set_defaults(run=run)


def show(args: argparse.Namespace) -> int:
    """`gemstead ps`: 0 when a model answers, 1 when nothing does."""
    folder, card = find(args)
    if card is None:
        if args.json:
            print(json.dumps({"running": False, "state_dir": str(folder.path)}))
            return 1
        raise Trouble(nothing_runs(folder))
    status = ask(card, "GET", "/admin/status")
    if args.json:
        print(json.dumps({"running": True, **status}, indent=2))
    else:
        _table(status)
    return 0 if any(status["models"].values()) else 1


def stop_service(args: argparse.Namespace) -> int:
    """`gemstead stop`: returns when nothing of the service is left."""
    import time

    from gemstead.wiring.files import is_held

    folder, card = find(args)
    if card is None:
        if is_held(folder):
            raise Trouble("a service is just starting or ending here; try again in a moment")
        print("nothing runs")
        return 0
    ask(card, "POST", "/admin/stop?now=1" if args.now else "/admin/stop")
    print(f"stopping (pid {card.pid}): running calls are finished first" if not args.now else "stopping now")
    while is_held(folder):
        time.sleep(0.05)
    print("stopped")
    return 0


def reload_service(args: argparse.Namespace) -> int:
    """`gemstead reload`: 2 when the file is refused, 1 when an earlier reload's rollout has not ended."""
    folder, card = find(args)
    if card is None:
        raise Trouble(nothing_runs(folder))
    done = ask(card, "POST", "/admin/reload", patience_s=3600.0)
    if args.json:
        print(json.dumps(done, indent=2))
        return 2 if "refused" in done else 0
    if done.get("busy"):
        raise Trouble(f"the file was not read: {'; '.join(done['refused'])}; then type it again")
    if "refused" in done:
        raise Trouble(
            "\n".join(["the file is refused, the old one stays in force:", *done["refused"]]), code=2
        )
    for name in ("added", "replacing", "removed"):
        if done[name]:
            print(f"{name}: {', '.join(done[name])}")
    for sentence in done.get("held", ()):
        print(f"waits: {sentence}")
    if done["replacing"]:
        print("`gemstead rollout` shows how far that is")
    if not any(done.get(name) for name in ("added", "replacing", "removed", "held")):
        print("settings applied" if done["settings_changed"] else "nothing has changed")
    _tell_if_another(args, done.get("file", ""))
    for sentence in done["needs_restart"]:
        print(f"note: {sentence}")
    return 0


def _tell_if_another(args: argparse.Namespace, read: str) -> None:
    """The service goes by the file of its start, which need not be the one that was just edited."""
    from pathlib import Path

    from gemstead.cli.options import file_of

    here = file_of(args)
    if here is not None and (not read or Path(read).resolve() != here.resolve()):
        goes_by = f"goes by {read}" if read else "was started without a file"
        print(f"note: the service {goes_by}; {here} was not read (`gemstead serve -c FILE` goes by another)")


def find(args: argparse.Namespace) -> tuple[StateDir, Card | None]:
    """The state folder that the options mean, and the service that runs there."""
    import os

    from gemstead.cli.options import read_places
    from gemstead.wiring.files import running, state_dir

    folder = state_dir(read_places(args), os.environ)
    return folder, running(folder)


def nothing_runs(folder: StateDir) -> str:
    return f"nothing runs (state folder {folder.path}); `gemstead serve` starts it"


def ask(card: Card, method: str, path: str, *, patience_s: float = 10.0) -> dict[str, Any]:
    """What the service answers on its admin port.

    Raises:
        Trouble: it does not answer.
    """
    import http.client
    from urllib.parse import urlsplit

    address = urlsplit(card.admin)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=patience_s)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {card.token}"})
        response = connection.getresponse()
        body = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Trouble(
            f"the service (pid {card.pid}) does not answer on {card.admin}: {error}; see `gemstead logs service`"
        ) from error
    finally:
        connection.close()
    if response.status >= 400 and "refused" not in body:
        raise Trouble(f"the service answered {response.status}: {body.get('error', body)}")
    return dict(body)


def _table(status: dict[str, Any]) -> None:
    print(f"gemstead {status['version']}, pid {status['pid']}, up {_span(status['uptime_s'])}")
    print(f"gateway {status['gateway']} (keys {status['keys']}), admin {status['admin']}\n")
    rows = [
        ("ENDPOINT", "MODEL", "RELEASE", "STATE", "FOR", "RESTARTS", "RUNNING", "WAITING", "ADDRESS", "PID")
    ]
    for one in status["endpoints"]:
        rows.append(
            (
                one["name"],
                one["model"],
                _release(one),
                _state(one),
                _span(one["for_s"]),
                *(_cell(one.get(name)) for name in ("restarts", "running", "waiting", "address", "pid")),
            )
        )
    rows += [("",) * 10, ("WORKER", "", "", "STATE", "", "RESTARTS", "RUNNING", "", "", "PID")]
    for one in status["workers"]:
        state = "listening" if one["listening"] else "starting"
        rows.append(
            (
                one["name"],
                "",
                "",
                state,
                "",
                *(_cell(one[n]) for n in ("restarts", "in_flight")),
                "",
                "",
                _cell(one["pid"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for one in status["endpoints"]:
        if one.get("why") or one.get("stage"):
            print(f"\n{one['name']}: {one.get('stage') or one['why']}")
        if one.get("remedy"):
            print(f"  to do: {one['remedy']}")
        if one.get("drafting") in ("lower", "off", "wrong_pair"):
            print(
                f"\n{one['name']}: drafting: {one['drafting'].replace('_', ' ')} ({one.get('drafting_why')})"
            )
    for release in status.get("releases", ()):
        if rollout := release["rollout"]:
            print(
                f"\n{release['model']}: release {rollout['from']} -> {rollout['to']} ({rollout['strategy']}): "
                f"{rollout['stage']}{': ' + rollout['why'] if rollout['why'] else ''}"
            )
        if release["held"]:
            print(f"\n{release['model']}: release {release['held']} waits: {release['held_why']}")
    if (store := status.get("store")) is not None:
        print(f"\nstore: {_store(store)}")
    for sentence in status["troubles"][-5:]:
        print(f"! {sentence}")


def _store(said: dict[str, Any]) -> str:
    """How the store that several gateways share stands."""
    from gemstead.cli.spans import shown

    if "up" not in said:
        return f"starting; this gateway is {said['node']} there"
    waiting = f"{said['waiting']} records wait" if said["waiting"] else "no record waits"
    if said["up"]:
        return f"in step since {shown(said['since'])} UTC as {said['node']}; {waiting}"
    return f"away since {shown(said['since'])} UTC; keys as of {shown(said['keys_at'])} UTC, {waiting}"


def _release(one: dict[str, Any]) -> str:
    """Its release, and while a rollout divides the calls, its weight."""
    weight = one.get("weight")
    shown = "" if weight in (None, 1.0) else f" ({weight:.0%})"
    return f"{one.get('release', '-')}{shown}"


def _state(one: dict[str, Any]) -> str:
    """Its phase, and how far loading is."""
    phase = str(one["phase"]).replace("_", " ")
    done, cause = one.get("progress"), one.get("cause")
    if done is not None and phase in ("starting", "warming"):
        return f"{phase} {done:.0%}"
    return f"{phase}: {cause.replace('_', ' ')}" if cause else phase


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
