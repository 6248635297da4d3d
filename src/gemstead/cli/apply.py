"""`gemstead apply`: show what would change at the place, ask, carry it out, wait, check, and be able to go back.

What is rendered is what is applied: the bundle is made from the file as `gemstead render` makes it, and nothing is read
from a folder. Exit codes: 0 done (or nothing to do), 1 it failed half-way or the user said no, 2 the command is wrong.
A run that failed says what was done and what was not; running the same command again finishes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from gemstead.operate.apply.carry import Run
    from gemstead.operate.apply.piece import Piece, Place
    from gemstead.render.bundle import Bundle, Change
    from gemstead.render.deployment import Deployment

SHOWN = 400  # lines of a difference


def add(subparsers: Any) -> None:
    """Register `apply`."""
    parser = subparsers.add_parser(
        "apply", description="Carry the plan out: show what changes, ask, apply, wait, check; or go back."
    )
    parser.add_argument("target", metavar="TARGET", help="kubernetes and its kinds, cloudrun, vertex")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would change; exit code 1: something would"
    )
    parser.add_argument(
        "--rollback", action="store_true", help="go back to the bundle that was carried out before"
    )
    parser.add_argument(
        "--patience", type=float, metavar="S", help="seconds to wait for each stage (default: the plan's)"
    )
    parser.add_argument(
        "--no-check", action="store_true", help="do not run `gemstead check` against the result"
    )
    parser.add_argument("--url", metavar="URL", help="where the service answers, for the check")
    add_place(parser)
    from gemstead.cli.render import _add_choices

    _add_choices(parser)
    parser.set_defaults(run=apply)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Options that say which place is meant."""
    parser.add_argument("--context", default="", metavar="NAME", help="context of KUBECONFIG")
    parser.add_argument("--overlay", default="", metavar="NAME", help="a region's overlay")
    parser.add_argument("--force", action="store_true", help="take fields over that someone else has set")


def apply(args: argparse.Namespace) -> int:
    """Exit code 0 when the place is as the plan says."""
    from gemstead.operate.apply.carry import Run, earlier
    from gemstead.operate.apply.piece import PlaceError

    try:
        place, bundle, deployment = opened(args)
        if args.rollback:
            back = earlier(place.history())
            if back is None:
                raise Trouble(f"{place.name}: no earlier bundle is known there to go back to")
            pieces: Sequence[Piece] = place.going_back(back.pieces)
        else:
            pieces = place.pieces(bundle)
        changes = place.differences(pieces)
        if not args.json:
            print(shown(changes, place.name))
        if args.dry_run:
            if args.json:
                print(
                    json.dumps(
                        [{"path": one.path, "kind": one.kind, "diff": one.text} for one in changes], indent=2
                    )
                )
            return 1 if changes else 0
        if changes and not _agreed(args):
            print("nothing was done", file=sys.stderr)
            return 1
        patience_s = args.patience or _patience_s(deployment, bundle.target)
        run = Run(place, pieces, lambda: _check(args, place), patience_s, time.monotonic, time.sleep)
        return _told(args, run)
    except PlaceError as error:
        raise Trouble(str(error)) from error


def live(args: argparse.Namespace) -> int:
    """What `gemstead diff TARGET --live` does."""
    args.dry_run, args.rollback = True, False
    for name, value in (("context", ""), ("overlay", ""), ("force", False)):
        setattr(args, name, getattr(args, name, value))
    return apply(args)


def opened(args: argparse.Namespace) -> tuple[Place, Bundle, Deployment]:
    """The place that the options mean, what is rendered for it, and the deployment.

    Raises:
        Trouble: this target cannot be applied.
        Refused, PlaceError: the plan fits nowhere; the place is not there.
    """
    from gemstead.cli.render import planned

    found, deployment = planned(args)
    bundle = found.render(deployment)
    if "kustomization.yaml" in bundle.files:
        from gemstead.operate.kube.client import connect
        from gemstead.operate.kube.place import KubePlace

        cluster, _ = connect(args.context)
        host = deployment.deploy.host
        place: Place = KubePlace(
            cluster,
            deployment.name,
            deployment.deploy.namespace,
            overlay=args.overlay,
            force=args.force,
            url=f"https://{host}" if host else "",
        )
        return place, bundle, deployment
    if bundle.target in ("cloudrun", "vertex"):
        return _on_google(bundle.target, deployment), bundle, deployment
    raise Trouble(
        f"{bundle.target} is files only: `gemstead render {bundle.target}`, and its README says how to go on",
        code=USAGE,
    )


def _on_google(target: str, deployment: Deployment) -> Place:
    name, cloud = deployment.name, deployment.deploy.cloud
    if target == "vertex":
        from gemstead.operate.cloud.vertex import vertex

        return vertex(os.environ, name, cloud.project, cloud.region)
    from gemstead.operate.cloud.google import google
    from gemstead.operate.cloud.run import RunPlace

    return RunPlace(google(os.environ), name, cloud.project, cloud.region)


def shown(changes: Sequence[Change], name: str) -> str:
    """The differences for a person."""
    if not changes:
        return f"{name} is as the plan says"
    counts = {kind: sum(one.kind == kind for one in changes) for kind in ("added", "changed", "removed")}
    lines = "".join(one.text for one in changes).splitlines()
    more = [f"... {len(lines) - SHOWN} lines more"] if len(lines) > SHOWN else []
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return "\n".join([*lines[:SHOWN], *more, "", f"{name}: {said}"])


def _agreed(args: argparse.Namespace) -> bool:
    if args.yes:
        return True
    if args.json or not sys.stdin.isatty():
        raise Trouble(
            "nobody is here to ask: `--yes` applies without asking, `--dry-run` only shows", code=USAGE
        )
    print("Apply? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _told(args: argparse.Namespace, run: Run) -> int:
    """Carry it out and say how it goes; the report at the end names what was not done."""
    for told in run:
        if not args.json and told.what not in ("failed", "done"):
            print(f"  {told.what:<8} {told.key}" + (f": {told.why}" if told.why else ""), flush=True)
    state = run.state
    assert state is not None
    done, left = list(state.done), list(state.left)
    if args.json:
        report = {
            "place": run.place.name,
            "number": run.number,
            "failure": run.failure,
            "applied": done,
            "not_applied": left,
            "not_ready": list(state.unready) if run.failure else [],
            "removed": list(state.removed),
            "not_removed": list(state.unwanted[len(state.removed) :]),
        }
        print(json.dumps(report, indent=2))
    elif run.failure:
        print(f"\nfailed: {run.failure}", file=sys.stderr)
        print(
            f"applied {len(done)} of {len(done) + len(left)}; not applied: {', '.join(left) or 'nothing'}",
            file=sys.stderr,
        )
        print(
            f"The same command again goes on; `gemstead apply {args.target} --rollback` goes back to what was there.",
            file=sys.stderr,
        )
    else:
        print(f"{run.place.name}: {len(done)} applied and ready, {len(state.removed)} removed")
    return 1 if run.failure else 0


def _patience_s(deployment: Deployment, target: str) -> float:
    """As long as the slowest engine may take to start, and ten minutes for images and machines; thirty on Vertex AI."""
    machines_s = 1800.0 if target == "vertex" else 600.0
    return max((pool.startup.allowance_s for pool in deployment.pools), default=300) + machines_s


def _check(args: argparse.Namespace, place: Place) -> str:
    """What `gemstead check` finds wrong with the result; empty when nothing, or when it cannot be asked from here."""
    url = args.url or place.url()
    if args.no_check:
        return ""
    if not url:
        if not args.json:
            print(
                "  not checked: no address is known; `gemstead check --url` checks it from where it can be reached"
            )
        return ""
    from gemstead.operate.check import Client, Target, UnreachableError, begin, run

    client = Client(Target(url.rstrip("/"), os.environ.get("GEMSTEAD_API_KEY", "").strip()), patience_s=300.0)
    try:
        failed = [one for one in run(begin(client, "", long=False)) if one.verdict.outcome == "fail"]
    except UnreachableError as error:
        return f"check: {error}"
    finally:
        client.close()
    return "; ".join(f"check {one.name}: {one.verdict.sentence}" for one in failed)
