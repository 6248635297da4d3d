"""`batch FILE`: have a file of requests answered when the model has room; and `batch list|show|follow|cancel`.

The file is uploaded and ordered at the running service, which does the work: this command only looks on. Ctrl-C here
ends nothing but the looking on. The key is `GEMSTEAD_API_KEY`, or one that is made for this order on this machine; that
one lives as long as the batch may, because lines run with the rights of who ordered them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble
from gemstead.cli.trust import explained, own, usual

if TYPE_CHECKING:
    import ssl

LOOK_S = 0.5
PATIENCE_S = 60.0  # for a service that is being restarted
SPARE_S = 86_400.0  # beyond the window, for answers to be fetched
ENDED = ("completed", "failed", "expired", "cancelled")
FORM = "is no line of a batch: a JSON object with `custom_id`, `method`, `url` and `body`"
WORDS = ("list", "show", "follow", "cancel")


def add(subparsers: Any) -> None:
    from gemstead.cli.options import add_common

    parser = subparsers.add_parser(
        "batch",
        description="Have a file of requests (JSON lines in OpenAI's batch form) answered when the model has room. "
        "`list`, `show ID`, `follow ID` and `cancel ID` are for batches that were ordered earlier.",
        usage="gemstead batch FILE [-o OUT] [--model MODEL] [--detach]\n"
        "       gemstead batch list | show ID | follow ID [-o OUT] | cancel ID",
    )
    parser.add_argument("what", metavar="FILE", help="the requests; `-` reads standard input")
    parser.add_argument("batch_id", nargs="?", metavar="ID")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="where answers go (default: FILE.answers.jsonl)",
    )
    parser.add_argument("-m", "--model", help="ask this model in every line")
    parser.add_argument(
        "--window",
        default="24h",
        help="time until unanswered lines expire (default: 24h)",
    )
    parser.add_argument("--detach", action="store_true", help="order it and do not wait")
    parser.add_argument("--follow", action="store_true", help="wait for the end (default)")
    parser.add_argument(
        "--usd-hour",
        type=float,
        metavar="USD",
        help="what the hardware costs an hour, for the report",
    )
    parser.add_argument(
        "--url",
        help="another service, such as http://host:4367 (key in GEMSTEAD_API_KEY)",
    )
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.what in WORDS:
        if args.what != "list" and not args.batch_id:
            raise Trouble(
                f"say which: gemstead batch {args.what} ID (`gemstead batch list` shows them)",
                code=USAGE,
            )
        with _service(args, life_s=3600.0) as service:
            return {"list": _list, "show": _show, "follow": _follow, "cancel": _cancel}[args.what](
                service, args
            )
    if args.batch_id:
        raise Trouble(f"one file at a time: what is {args.batch_id!r}?", code=USAGE)
    requests = _requests(args)
    if not args.detach and not (folder := Path(_named(args, "")).absolute().parent).is_dir():
        raise Trouble(f"-o {args.output}: there is no folder {folder}", code=USAGE)
    with _service(args, life_s=_seconds(args.window) + SPARE_S) as service:
        batch = service.order(requests, Path(args.what).name, args.window)
        if args.detach:
            _print(batch, args, f"ordered: {batch['id']}\n{_ways(batch['id'])}")
            return 0
        return _watch(service, batch["id"], args)


def _seconds(window: str) -> float:
    unit = {"m": 60.0, "h": 3600.0, "d": 86_400.0}.get(window[-1:], 0.0)
    if not unit or not window[:-1].isdigit():
        raise Trouble(f"--window {window}: write a time such as 24h, 90m or 3d", code=USAGE)
    return int(window[:-1]) * unit


def _requests(args: argparse.Namespace) -> bytes:
    """The file's bytes, with `--model` put into every line.

    Raises:
        Trouble: it cannot be read, or a line is no JSON object.
    """
    try:
        content = sys.stdin.buffer.read() if args.what == "-" else Path(args.what).read_bytes()
    except OSError as error:
        raise Trouble(f"{args.what}: {error.strerror or error}", code=USAGE) from None
    return content if args.model is None else with_model(content, args.model, args.what)


def with_model(content: bytes, model: str, name: str) -> bytes:
    """Every line's `body.model` replaced.

    Raises:
        Trouble: a line is no JSON object with a body.
    """
    lines = []
    for number, raw in enumerate(content.splitlines(), 1):
        if raw.strip():
            try:
                line = json.loads(raw)
                line["body"]["model"] = model
            except (ValueError, TypeError, KeyError):
                raise Trouble(
                    f"{name}:{number}: {FORM}",
                    code=USAGE,
                ) from None
            raw = json.dumps(line).encode()
        lines.append(raw)
    return b"\n".join(lines) + b"\n"


class Service:
    """The running service, as this command asks it."""

    def __init__(self, url: str, key: str, trusts: ssl.SSLContext) -> None:
        import httpx2

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url
        self.needed = False  # the key, by a batch that goes on
        self._http = httpx2.Client(
            base_url=url,
            headers=headers,
            trust_env=False,
            verify=trusts,
            timeout=httpx2.Timeout(600.0, connect=10.0),
        )

    def order(self, requests: bytes, name: str, window: str) -> dict[str, Any]:
        """Upload and order."""
        first = next((line for line in requests.splitlines() if line.strip()), b"")
        try:
            endpoint = str(json.loads(first)["url"])
        except (ValueError, KeyError, TypeError):
            raise Trouble(
                f"{name}: its first line {FORM}",
                code=USAGE,
            ) from None
        file = self.ask(
            "POST",
            "/v1/files",
            files={"file": (name, requests)},
            data={"purpose": "batch"},
        )
        wanted = {
            "input_file_id": file["id"],
            "endpoint": endpoint,
            "completion_window": window,
        }
        self.needed = True  # also when the answer gets lost
        try:
            return self.ask("POST", "/v1/batches", json=wanted)
        except Trouble as trouble:
            self.needed = isinstance(trouble, Away)
            raise

    def ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """The JSON that the service answers.

        Raises:
            Trouble: it refuses, or cannot be reached.
        """
        return dict(json.loads(self._send(method, path, **more)))

    def bytes_of(self, file_id: str, path: Path) -> None:
        """Write a file of the service to `path`, whole or not at all."""
        import httpx2

        draft = path.with_name(path.name + ".part")
        try:
            with (
                self._http.stream("GET", f"/v1/files/{file_id}/content") as answer,
                draft.open("wb") as out,
            ):
                if answer.status_code != 200:
                    raise Trouble(_refusal(answer.status_code, answer.read()))
                for piece in answer.iter_bytes():
                    out.write(piece)
            draft.replace(path)
        except httpx2.HTTPError as error:
            raise Trouble(f"the answers could not be fetched: {error}") from None
        finally:
            draft.unlink(missing_ok=True)

    def batch(self, batch_id: str) -> dict[str, Any]:
        """The batch; waits a while for a service that is being restarted."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.ask("GET", f"/v1/batches/{batch_id}")
            except Away:
                if time.monotonic() > until:
                    raise
                time.sleep(LOOK_S)

    def _send(self, method: str, path: str, **more: Any) -> bytes:
        import httpx2

        try:
            answer = self._http.request(method, path, **more)
        except httpx2.HTTPError as error:
            raise Away(explained(self.url, error)) from None
        if answer.status_code in (502, 503):
            raise Away(_refusal(answer.status_code, answer.content))
        if answer.status_code >= 400:
            raise Trouble(_refusal(answer.status_code, answer.content))
        return bytes(answer.content)


class Away(Trouble):
    """The service does not answer now."""


def _refusal(status: int, body: bytes) -> str:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace") or "no reason was given"
    return f"{message} (HTTP {status})"


@contextmanager
def _service(args: argparse.Namespace, *, life_s: float) -> Iterator[Service]:
    """The service that the options mean. A key that is made here is revoked at the end, unless a batch needs it."""
    import os

    key = os.environ.get("GEMSTEAD_API_KEY", "")
    if url := args.url or os.environ.get("GEMSTEAD_URL"):
        yield Service(url.rstrip("/").removesuffix("/v1"), key, usual())
        return
    from gemstead.cli.running import find, nothing_runs

    folder, card = find(args)
    if card is None:
        raise Trouble(nothing_runs(folder))
    if key or not card.keys:
        yield Service(card.gateway, key, own(args, card.gateway))
        return
    from gemstead.ledger.keys import Grant
    from gemstead.wiring.ledger import key_store

    store = key_store(folder)
    now = time.time()
    grant = Grant(
        app="gemstead batch",
        user=os.environ.get("USER", ""),
        note="gemstead batch",
        expires=now + life_s,
    )
    minted = store.create(grant, now=now)
    service = Service(card.gateway, minted.secret, own(args, card.gateway))
    try:
        yield service
    finally:
        if not service.needed:
            store.revoke(minted.key.key_id, now=time.time())


# Looking on.


def _watch(service: Service, batch_id: str, args: argparse.Namespace) -> int:
    """Show how a batch goes on until it has ended; its answers and what they cost."""
    try:
        batch = _progress(service, batch_id)
    except KeyboardInterrupt:
        print(f"\n{batch_id} goes on without you.\n{_ways(batch_id)}", file=sys.stderr)
        return 130
    except Away as away:
        raise Trouble(f"{away}\n{batch_id} goes on when the service does.\n{_ways(batch_id)}") from None
    try:
        files = _fetch(service, batch, args)
    except OSError as error:
        raise Trouble(
            f"the answers could not be written ({error.filename}: {error.strerror}) and are kept by the service\n"
            f"  gemstead batch follow {batch_id} -o FILE   fetch them"
        ) from None
    report = cost(batch, args.usd_hour)
    _print({**batch, "files": files, "cost": report}, args, said(batch, report, files))
    return 0 if batch["status"] == "completed" and not batch["request_counts"]["failed"] else 1


def _progress(service: Service, batch_id: str) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(batch_id, total=None, note="")
        while True:
            batch = service.batch(batch_id)
            counts = batch["request_counts"]
            done = counts["completed"] + counts["failed"]
            note = (batch.get("gemstead") or {}).get("paused") or batch["status"].replace("_", " ")
            bar.update(task, total=counts["total"] or None, completed=done, note=note)
            if batch["status"] in ENDED:
                service.needed = False
                return batch
            time.sleep(LOOK_S)


def _ways(batch_id: str) -> str:
    return (
        f"  gemstead batch follow {batch_id}   look on again, and fetch the answers\n"
        f"  gemstead batch cancel {batch_id}   end it, and keep what is answered"
    )


def _named(args: argparse.Namespace, batch_id: str) -> str:
    """The file that answers go to."""
    return str(args.output or f"{batch_id if args.what in (*WORDS, '-') else args.what}.answers.jsonl")


def _fetch(service: Service, batch: dict[str, Any], args: argparse.Namespace) -> dict[str, str]:
    """Where answers and errors were written."""
    named, files = _named(args, batch["id"]), {}
    if batch["output_file_id"]:
        service.bytes_of(batch["output_file_id"], Path(named))
        files["answers"] = named
    if batch["error_file_id"]:
        beside = f"{named.removesuffix('.jsonl')}.errors.jsonl"
        service.bytes_of(batch["error_file_id"], Path(beside))
        files["errors"] = beside
    return files


def cost(batch: dict[str, Any], usd_hour: float | None) -> dict[str, Any]:
    """Tokens, and dollars where what the hardware costs an hour is known: all of that for the time that the batch ran,
    which is the most it can have cost, since others may have used the model beside it."""
    usage = batch.get("usage") or {}
    began = batch.get("in_progress_at") or 0
    ended = next((batch[f"{status}_at"] for status in ENDED if batch.get(f"{status}_at")), began)
    seconds = max(0, (batch.get("finalizing_at") or ended) - began) if began else 0
    report: dict[str, Any] = {
        "input_tokens": usage.get("input_tokens", 0),
        "cached_tokens": (usage.get("input_tokens_details") or {}).get("cached_tokens", 0),
        "output_tokens": usage.get("output_tokens", 0),
        "seconds": seconds,
    }
    if usd_hour is not None:
        report["usd_at_most"] = round(usd_hour * max(seconds, 1) / 3600, 6)
        if report["output_tokens"]:
            report["usd_per_million_output"] = round(report["usd_at_most"] / report["output_tokens"] * 1e6, 4)
    return report


def said(batch: dict[str, Any], report: dict[str, Any], files: dict[str, str]) -> str:
    """The end of a batch, for a person."""
    counts = batch["request_counts"]
    left = counts["total"] - counts["completed"] - counts["failed"]
    lines = [
        f"{batch['id']} {batch['status']}: {counts['completed']:,} of {counts['total']:,} lines answered"
        + (f", {counts['failed']:,} failed" if counts["failed"] else "")
        + (f", {left:,} not begun" if left else "")
    ]
    for fault in ((batch.get("errors") or {}).get("data") or [])[:10]:
        where = f"line {fault['line']}: " if fault.get("line") else ""
        lines.append(f"  {where}{fault['message']}")
    if report["input_tokens"] or report["output_tokens"]:
        lines.append(
            f"tokens: {report['input_tokens']:,} in ({report['cached_tokens']:,} from the cache), "
            f"{report['output_tokens']:,} out, in {report['seconds']:,} s"
        )
    if "usd_at_most" in report:
        each = report.get("usd_per_million_output")
        more = f", {each:,.2f} USD per million tokens out" if each is not None else ""
        lines.append(f"cost: at most {report['usd_at_most']:,.4f} USD of hardware{more}")
    lines += [f"{what}: {path}" for what, path in files.items()]
    return "\n".join(lines)


# Batches that were ordered earlier.


def _follow(service: Service, args: argparse.Namespace) -> int:
    return _watch(service, args.batch_id, args)


def _show(service: Service, args: argparse.Namespace) -> int:
    batch = service.ask("GET", f"/v1/batches/{args.batch_id}")
    report = cost(batch, args.usd_hour)
    text = said(batch, report, {})
    if paused := (batch.get("gemstead") or {}).get("paused"):
        text += f"\nstands still: {paused}"
    _print({**batch, "cost": report}, args, text)
    return 0


def _cancel(service: Service, args: argparse.Namespace) -> int:
    batch = service.ask("POST", f"/v1/batches/{args.batch_id}/cancel")
    _print(batch, args, f"{batch['id']}: {batch['status']}; what is answered is kept")
    return 0


def _list(service: Service, args: argparse.Namespace) -> int:
    page = service.ask("GET", "/v1/batches?limit=100")
    if args.json:
        print(json.dumps(page, indent=2))
        return 0
    if not page["data"]:
        print("no batches yet; `gemstead batch FILE` orders one")
        return 0
    rows = [("BATCH", "STATUS", "DONE", "FAILED", "TOTAL", "MODEL", "ORDERED")]
    for batch in page["data"]:
        counts = batch["request_counts"]
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch["created_at"]))
        figures = (str(counts[name]) for name in ("completed", "failed", "total"))
        rows.append((batch["id"], batch["status"], *figures, batch["model"] or "-", when))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _print(value: dict[str, Any], args: argparse.Namespace, text: str) -> None:
    print(json.dumps(value, indent=2) if args.json else text)
