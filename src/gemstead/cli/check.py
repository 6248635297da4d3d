"""`gemstead check`: a dozen real requests against a running service, and what is wrong in plain words.

Without `--url` it finds the service that runs in the state folder and gives itself a key for the time of the
check (tenant `gemstead-check`, revoked at the end, dead after an hour whatever happens).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import Trouble

if TYPE_CHECKING:
    from gemstead.operate.check import Finding, Target, Visit
    from gemstead.wiring.files import Card, StateDir

KEY_NAME = "GEMSTEAD_API_KEY"
KEY_LIFE_S = 3600.0


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_file

    parser = subparsers.add_parser(
        "check",
        description="Ask a running service a dozen real things, and say in plain words what is wrong with the answers.",
    )
    parser.add_argument(
        "--url", help="service to check, such as http://10.0.0.5:4367 (default: the one running here)"
    )
    parser.add_argument(
        "--key", help=f"API key; better through {KEY_NAME} or --key-file, which `ps` does not show"
    )
    parser.add_argument(
        "--key-file", metavar="FILE", help="file that holds the API key; `-` reads standard input"
    )
    parser.add_argument(
        "--model", default="", help="model to check (default: the first that the service lists)"
    )
    parser.add_argument("--long", action="store_true", help="also what takes minutes on a slow machine")
    parser.add_argument(
        "--patience", type=float, default=300.0, metavar="S", help="seconds to wait for one answer"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_file(parser)
    parser.set_defaults(run=check)


def check(args: argparse.Namespace) -> int:
    """Exit code 0 when nothing failed, 1 when something did."""
    from gemstead.operate.check import Client, UnreachableError, begin, run

    began = time.monotonic()
    with _target(args) as target:
        client = Client(target, patience_s=args.patience)
        try:
            visit = begin(client, args.model, long=args.long)
            if not args.json:
                print(f"Checking {target.url}, model {visit.model or 'unknown'}\n")
            findings = []
            for finding in run(visit):
                findings.append(finding)
                if not args.json:
                    print(row(finding), flush=True)
        except UnreachableError as error:
            raise Trouble(str(error)) from error
        finally:
            client.close()
    seconds = time.monotonic() - began
    print(
        json.dumps(report(visit, findings, seconds), indent=2)
        if args.json
        else "\n" + total(findings, seconds)
    )
    return 1 if any(finding.verdict.outcome == "fail" for finding in findings) else 0


def row(finding: Finding) -> str:
    """One line for a person; what to do on a second."""
    verdict = finding.verdict
    word = {"pass": "pass", "fail": "FAIL", "skipped": "skipped"}[verdict.outcome]
    line = f"  {word:<8} {finding.name:<16} {finding.seconds:6.1f} s  {verdict.sentence}"
    return line + (f"\n{' ' * 37}{verdict.remedy}" if verdict.remedy else "")


def total(findings: list[Finding], seconds: float) -> str:
    counts = _counts(findings)
    return f"{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped in {seconds:.1f} s"


def report(visit: Visit, findings: list[Finding], seconds: float) -> dict[str, Any]:
    """The findings as JSON shows them. Times in seconds."""
    counts = _counts(findings)
    return {
        "url": visit.client.target.url,
        "model": visit.model,
        "passed": counts["pass"],
        "failed": counts["fail"],
        "skipped": counts["skipped"],
        "seconds": round(seconds, 3),
        "checks": [
            {
                "name": finding.name,
                "outcome": finding.verdict.outcome,
                "sentence": finding.verdict.sentence,
                "remedy": finding.verdict.remedy,
                "seconds": round(finding.seconds, 3),
            }
            for finding in findings
        ],
    }


def _counts(findings: list[Finding]) -> dict[str, int]:
    outcomes = [finding.verdict.outcome for finding in findings]
    return {outcome: outcomes.count(outcome) for outcome in ("pass", "fail", "skipped")}


@contextlib.contextmanager
def _target(args: argparse.Namespace) -> Iterator[Target]:
    """What is checked, and the key to do it with."""
    from gemstead.cli.trust import own, usual
    from gemstead.operate.check import Target

    key = _given_key(args)
    if not (key.isascii() and key.isprintable()):
        raise Trouble("the API key holds letters that no key has; was it copied whole?", code=2)
    if url := args.url or os.environ.get("GEMSTEAD_URL"):
        yield Target(_address(url), key, trusts=usual())
        return
    from gemstead.cli.running import find, nothing_runs

    folder, card = find(args)
    if card is None:
        raise Trouble(nothing_runs(folder) + "; or name a service with --url")
    with _own_key(folder, card, key) as key:
        endpoints = _endpoints(card)
        trusts = own(args, card.gateway)
        yield Target(card.gateway, key, contexts(endpoints), metrics_urls(endpoints), trusts)


def _address(url: str) -> str:
    """The base address that the user means, without `/v1`."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Trouble(f"{url}: not an address; write it as http://127.0.0.1:4367", code=2)
    return url.rstrip("/").removesuffix("/v1")


def _given_key(args: argparse.Namespace) -> str:
    """The key that the user gave; empty when none."""
    if args.key:
        return str(args.key)
    if args.key_file == "-":
        return sys.stdin.readline().strip()
    if args.key_file:
        try:
            return Path(args.key_file).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Trouble(f"--key-file {args.key_file}: cannot be read ({error})", code=2) from error
    return os.environ.get(KEY_NAME, "").strip()


@contextlib.contextmanager
def _own_key(folder: StateDir, card: Card, given: str) -> Iterator[str]:
    """The given key, else one of our own that ends with the check."""
    if given or not card.keys:
        yield given
        return
    from gemstead.ledger.keys import Grant
    from gemstead.traffic.caller import RateLimit
    from gemstead.wiring.ledger import key_store

    store = key_store(folder)
    now = time.time()
    grant = Grant(
        tenant="gemstead-check",
        app="check",
        note="made by `gemstead check`",
        limit=RateLimit(),  # none: the gateway's default must not be taken for a fault
        expires=now + KEY_LIFE_S,
    )
    minted = store.create(grant, now=now)
    try:
        yield minted.secret
    finally:
        store.revoke(minted.key.key_id, now=time.time())


def _endpoints(card: Card) -> list[dict[str, Any]]:
    """What the service knows about its engines: where each listens, and the context of its model."""
    from gemstead.cli.running import ask

    return list(ask(card, "GET", "/admin/status").get("endpoints", []))


def contexts(endpoints: list[dict[str, Any]]) -> dict[str, int]:
    """The context of each model in tokens, the smallest where its engines differ; unknown ones are left out."""
    known: dict[str, int] = {}
    for one in endpoints:
        if tokens := one.get("context_tokens"):
            known[one["model"]] = min(tokens, known.get(one["model"], tokens))
    return known


def metrics_urls(endpoints: list[dict[str, Any]]) -> tuple[str, ...]:
    """Where the engines' own metrics are; they tell what a draft model is worth."""
    addresses = [str(one["address"]) for one in endpoints if one.get("address")]
    return tuple(f"{'' if '://' in address else 'http://'}{address}/metrics" for address in addresses)
