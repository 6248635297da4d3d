"""One line of a batch: what it may say, and how its answer is written down.

Only what makes a line impossible to run is a fault of the file (and then nothing of it is run): broken JSON, a missing
or repeated `custom_id`, another method or route than the batch's, no body, a stream. What the model's route would
refuse (a bad `temperature`) is that line's answer, as with OpenAI.

An answer is one line of JSON: with `response` when the gateway answered, whatever its status, else with `error`.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from gemstead.openai.batches import Fault

CUSTOM_ID_MOST = 512  # characters
FAULTS_MOST = 100  # told of one file

# What is written for a line that was never answered, by how its batch ended. Codes from OpenAI's reference.
UNANSWERED = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was executed."),
}


class Line(msgspec.Struct, gc=False):
    """A line that can be run."""

    custom_id: str
    model: str
    body: bytes  # JSON, as the caller wrote it


class _Said(msgspec.Struct, gc=False):
    custom_id: str
    body: Raw
    method: str = "POST"
    url: str = ""


class _Body(msgspec.Struct, gc=False):
    model: str = ""
    stream: bool | None = None


_said = msgspec.json.Decoder(_Said).decode
_body = msgspec.json.Decoder(_Body).decode


def read(raw: bytes, number: int, endpoint: str) -> Line | Fault:
    """The request in line `number` (from 1) of a batch for `endpoint`, or what is wrong with it."""
    try:
        said = _said(raw)
        body = _body(said.body)
    except msgspec.ValidationError as error:
        return Fault(code="invalid_request", message=f"{error}.", line=number, param=_param(str(error)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Fault(code="invalid_json_line", message=f"This line is not JSON: {error}.", line=number)
    if not 0 < len(said.custom_id) <= CUSTOM_ID_MOST:
        what = f"`custom_id` must have 1 to {CUSTOM_ID_MOST} characters."
        return Fault(code="invalid_custom_id", message=what, line=number, param="custom_id")
    if said.method != "POST":
        return Fault(code="invalid_method", message="`method` must be POST.", line=number, param="method")
    if said.url != endpoint:
        what = f"`url` must be {endpoint}, which is the batch's endpoint."
        return Fault(code="mismatched_url", message=what, line=number, param="url")
    if not body.model:
        return Fault(
            code="missing_model", message="`body.model` is missing.", line=number, param="body.model"
        )
    if body.stream:
        what = "An answer in a batch is never streamed: leave `stream` out."
        return Fault(code="invalid_request", message=what, line=number, param="body.stream")
    return Line(said.custom_id, body.model, bytes(said.body))


def _param(message: str) -> str | None:
    """The field that msgspec names: missing, or at a path such as `$.custom_id`."""
    quoted = message.split("`")
    if "missing required field" in message and len(quoted) > 1:
        return quoted[1]
    return next((part[2:] for part in quoted if part.startswith("$.")), None)


def repeated(custom_id: str, number: int) -> Fault:
    """The fault of a line whose `custom_id` an earlier one has."""
    what = f"`custom_id` {custom_id[:64]!r} was used by an earlier line."
    return Fault(code="duplicate_custom_id", message=what, line=number, param="custom_id")


class _Response(msgspec.Struct, gc=False):
    status_code: int
    request_id: str
    body: Raw


class _Error(msgspec.Struct, gc=False):
    code: str
    message: str


class _Answer(msgspec.Struct, gc=False):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


def line_id(batch_id: str, number: int) -> str:
    """The id of line `number`'s answer; the same whenever it is asked."""
    return f"batch_req_{batch_id.removeprefix('batch_')}{number:07d}"


def answered(line: str, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """What is written for a line that the gateway answered, without a line end.

    Raises:
        ValueError: `body` is not JSON.
    """
    value = msgspec.json.decode(body)  # msgspec.DecodeError is a ValueError
    whole = Raw(body) if b"\n" not in body and b"\r" not in body else Raw(msgspec.json.encode(value))
    response = _Response(status, request_id, whole)
    return msgspec.json.encode(_Answer(line, custom_id, response, None))


def unanswered(line: str, custom_id: str, code: str, message: str) -> bytes:
    """What is written for a line that has no answer, without a line end."""
    return msgspec.json.encode(_Answer(line, custom_id, None, _Error(code, message)))
