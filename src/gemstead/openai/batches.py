"""Batches in OpenAI's form: what an order may say, and the life of a batch as a step function.

    validating ── Checked ──> in_progress ── Settled ──> finalizing ── Written ──> completed
        │                        │   └─ Tick past expires_at ─> finalizing ─ Settled, Written ─> expired
        └─ Rejected ─> failed    └─ CancelAsked ─> cancelling ─ Settled, Written ─> cancelled

`step(batch, event, now) -> (batch, commands)` moves it; who reads lines, calls the model and writes files (`batch/`)
carries the commands out and says what happened by the next event. An event that comes twice, or too late, changes
nothing, so that everything may be said again after a crash; `resume` says what to do with a batch that was found.

`ending` is decided once, when a batch leaves in_progress: what is written for lines without an answer follows from it.
How one line is read is in `batchline.py`. Shapes: https://platform.openai.com/docs/api-reference/batch (as the
official Python client 3.52 types them); `gemstead` beside them says what OpenAI has no field for.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from gemstead.openai.files import bounded_expiry
from gemstead.refused import Reason, Refused

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
LIST_MOST = 100
METADATA_MOST, KEY_MOST, VALUE_MOST = 16, 64, 512  # pairs and characters, from OpenAI's reference
WINDOW = re.compile(r"([1-9][0-9]{0,3})([mhd])").fullmatch
UNIT_S = {"m": 60, "h": 3600, "d": 86_400}

Command = Literal["check", "run", "stop", "write", "clean"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with an input file, and on which line of it (from 1)."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a batch: all, answered with 2xx, answered otherwise."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, by the engines' own usage."""

    prompt: int = 0
    cached: int = 0
    output: int = 0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants done."""

    input_file_id: str
    endpoint: str
    completion_window: str
    window_s: int
    metadata: dict[str, str] | None = None
    output_expires_s: int | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch. Times in Unix seconds; 0 for what has not happened."""

    batch_id: str
    tenant: str
    order: Order
    created_at: int
    expires_at: int
    status: str = "validating"
    ending: str = ""  # "completed", "expired" or "cancelled", once it is sure
    model: str = ""
    counts: Counts = Counts()
    usage: Usage = Usage()
    faults: tuple[Fault, ...] = ()
    output_file_id: str = ""
    error_file_id: str = ""
    in_progress_at: int = 0
    finalizing_at: int = 0
    completed_at: int = 0
    failed_at: int = 0
    expired_at: int = 0
    cancelling_at: int = 0
    cancelled_at: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def ended_at(self) -> int:
        """When it ended; 0 while it goes on."""
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at


class Checked(msgspec.Struct, frozen=True):
    """Every line of the input can be run."""

    total: int
    model: str


class Rejected(msgspec.Struct, frozen=True):
    """The input cannot be run."""

    faults: tuple[Fault, ...]


class CancelAsked(msgspec.Struct, frozen=True):
    """The caller wants no more of it."""


class Tick(msgspec.Struct, frozen=True):
    """Time has gone on."""


class Settled(msgspec.Struct, frozen=True):
    """No line runs, and so many are answered."""

    answered: int


class Written(msgspec.Struct, frozen=True):
    """The files of the answers are on disk, under these ids ("": there was nothing to write)."""

    output_file_id: str
    error_file_id: str
    counts: Counts
    usage: Usage


Event = Checked | Rejected | CancelAsked | Tick | Settled | Written
Step = tuple[Batch, tuple[Command, ...]]


def step(batch: Batch, event: Event, now: int) -> Step:
    """The batch after `event`, and what to do now. `now` in Unix seconds."""
    if batch.ended:
        return batch, ()
    match event:
        case Checked(total=total, model=model) if batch.status == "validating":
            counts = Counts(total=total)
            running = replace(batch, status="in_progress", in_progress_at=now, counts=counts, model=model)
            return running, ("run",)
        case Rejected(faults=faults) if batch.status == "validating":
            return replace(batch, status="failed", failed_at=now, faults=faults), ("clean",)
        case CancelAsked() if batch.status in ("validating", "in_progress"):
            return replace(batch, status="cancelling", cancelling_at=now, ending="cancelled"), ("stop",)
        case Tick() if batch.status == "in_progress" and now >= batch.expires_at:
            return replace(batch, status="finalizing", finalizing_at=now, ending="expired"), ("stop",)
        case Settled(answered=answered) if batch.status == "in_progress" and answered == batch.counts.total:
            return replace(batch, status="finalizing", finalizing_at=now, ending="completed"), ("write",)
        case Settled() if batch.ending:
            return batch, ("write",)
        case Written() if batch.ending:
            return _ended(batch, event, now), ("clean",)
    return batch, ()


def _ended(batch: Batch, written: Written, now: int) -> Batch:
    return replace(
        batch,
        status=batch.ending,
        output_file_id=written.output_file_id,
        error_file_id=written.error_file_id,
        counts=written.counts,
        usage=written.usage,
        completed_at=now if batch.ending == "completed" else 0,
        expired_at=now if batch.ending == "expired" else 0,
        cancelled_at=now if batch.ending == "cancelled" else 0,
    )


def resume(batch: Batch) -> tuple[Command, ...]:
    """What to do with a batch that a process finds when it starts."""
    if batch.ended:
        return ("clean",)
    if batch.ending:
        return ("write",)
    return ("check",) if batch.status == "validating" else ("run",)


def form(batch: Batch, paused: str = "") -> dict[str, Any]:
    """The batch object. `paused` is a sentence that says why it does not go on at the moment."""
    order, usage = batch.order, batch.usage
    faults = [msgspec.to_builtins(fault) for fault in batch.faults]
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": order.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": order.input_file_id,
        "completion_window": order.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id or None,
        "error_file_id": batch.error_file_id or None,
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at or None,
        "expires_at": batch.expires_at,
        "finalizing_at": batch.finalizing_at or None,
        "completed_at": batch.completed_at or None,
        "failed_at": batch.failed_at or None,
        "expired_at": batch.expired_at or None,
        "cancelling_at": batch.cancelling_at or None,
        "cancelled_at": batch.cancelled_at or None,
        "request_counts": msgspec.to_builtins(batch.counts),
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.output,
        },
        "metadata": order.metadata,
        "gemstead": {"paused": paused or None},
    }


class _Expires(msgspec.Struct):
    anchor: Literal["created_at"]
    seconds: int


class _Order(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_expires_after: _Expires | None = None


_decode = msgspec.json.Decoder(_Order).decode


def read_order(body: bytes, longest_s: int) -> Order:
    """The order in `body`. `longest_s` is the longest window that is taken.

    Raises:
        Refused: BAD_REQUEST, naming the field.
    """
    try:
        said = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(Reason.BAD_REQUEST, f"This is not an order for a batch: {error}.") from None
    if said.endpoint not in ENDPOINTS:
        raise Refused(
            Reason.BAD_REQUEST,
            f"`endpoint` must be one of {', '.join(ENDPOINTS)}.",
            param="endpoint",
        )
    _check_metadata(said.metadata or {})
    expires = said.output_expires_after
    return Order(
        input_file_id=said.input_file_id[:128],
        endpoint=said.endpoint,
        completion_window=said.completion_window,
        window_s=_window_s(said.completion_window, longest_s),
        metadata=said.metadata,
        output_expires_s=bounded_expiry(expires.seconds) if expires is not None else None,
    )


def _window_s(said: str, longest_s: int) -> int:
    found = WINDOW(said)
    seconds = int(found[1]) * UNIT_S[found[2]] if found else 0
    if not 0 < seconds <= longest_s:
        raise Refused(
            Reason.BAD_REQUEST,
            f"`completion_window` must be a time such as `24h`, `90m` or `3d`, at most {longest_s // 3600}h here.",
            param="completion_window",
        )
    return seconds


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > METADATA_MOST or any(
        len(key) > KEY_MOST or len(value) > VALUE_MOST for key, value in metadata.items()
    ):
        raise Refused(
            Reason.BAD_REQUEST,
            f"`metadata` may have {METADATA_MOST} pairs, keys of {KEY_MOST} and values of {VALUE_MOST} characters.",
            param="metadata",
        )
