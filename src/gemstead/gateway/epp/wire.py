"""The protocol's messages: from bytes to the few facts that count, and from a decision to bytes.

The only file that knows the protobuf stubs (`xds-protos`). Everything goes in and out as bytes, so that what is
said again and again is built once: an answer's head differs by its addresses alone, an empty one not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.message import DecodeError

from gemstead.gateway.epp.names import (
    DESTINATION,
    ENGINE_SESSION,
    INNER,
    LB,
    MODEL,
    QUEUED_MS,
    SERVED,
    SUBSET,
    SUBSET_HINT,
    WANTED,
)

PIECE_BYTES = 62_000  # of a body that is sent back; llm-d-router's figure, below Envoy's frame of 64 KiB
NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX = range(5)  # ProcessingMode.BodySendMode
MOST_KEPT = 4096  # heads that are remembered
UPSTREAM_ADDRESS = "upstream.address"  # an attribute that a gateway may be told to send

_read = ext_proc.ProcessingRequest.FromString
_kept: dict[str, bytes] = {}


class BadMessage(ValueError):
    """What came is no message of the protocol."""


def read(raw: bytes) -> Any:
    """The `ProcessingRequest` in `raw`.

    Raises:
        BadMessage: it is none.
    """
    try:
        return _read(raw)
    except DecodeError as error:
        raise BadMessage(str(error)) from None


def modes(message: Any) -> tuple[int, int]:
    """How request and response bodies come. A gateway that does not say speaks the protocol's way: full duplex."""
    if not message.HasField("protocol_config"):
        return FULL_DUPLEX, FULL_DUPLEX
    config = message.protocol_config
    return config.request_body_mode, config.response_body_mode


def head(headers: Any) -> dict[str, str]:
    """The request headers that mean something here, by lower-case name."""
    found: dict[str, str] = {}
    for header in headers.headers.headers:
        name = header.key
        if name in WANTED or (name := name.lower()) in WANTED:
            found[name] = header.raw_value.decode("utf-8", "replace") or header.value
    return found


def answer_head(headers: Any) -> tuple[int, str, str]:
    """An answer's status (0: none said), content type and content encoding."""
    status, kind, encoding = 0, "", ""
    for header in headers.headers.headers:
        name = header.key
        if name == ":status":
            written = header.raw_value or header.value.encode()
            status = int(written) if written.isdigit() else 0
        elif name == "content-type":
            kind = header.raw_value.decode("latin-1") or header.value
        elif name == "content-encoding":
            encoding = header.raw_value.decode("latin-1") or header.value
    return status, kind, encoding


def subset(message: Any) -> list[str] | None:
    """The addresses that may be picked, if the gateway named some; None: the whole pool."""
    metadata = message.metadata_context.filter_metadata
    if SUBSET_HINT not in metadata:
        return None
    fields = metadata[SUBSET_HINT].fields
    return _addresses(fields[SUBSET]) if SUBSET in fields else None


def served(message: Any) -> str:
    """The address that the gateway says has answered; "" if it does not say."""
    metadata = message.metadata_context.filter_metadata
    if LB in metadata and SERVED in (fields := metadata[LB].fields):
        return next(iter(_addresses(fields[SERVED])), "")
    for given in message.attributes.values():
        if UPSTREAM_ADDRESS in given.fields:
            return str(given.fields[UPSTREAM_ADDRESS].string_value)
    return ""


def _addresses(value: Any) -> list[str]:
    """A list of strings, or one string with commas."""
    if value.WhichOneof("kind") == "list_value":
        texts: Iterable[str] = (item.string_value for item in value.list_value.values)
    else:
        texts = (value.string_value,)
    return [address for text in texts for part in text.split(",") if (address := part.strip())]


# -- what is answered ---------------------------------------------------------------------------------------------


def picked(addresses: Sequence[str], model: str = "", session: str = "") -> bytes:
    """The answer to a request's head: where it goes, the first address first.

    Args:
        model: what it was rewritten to.
        session: what the engine is to call it.
    """
    value = ",".join(addresses)
    if session:
        response = ext_proc.ProcessingResponse()
        _choose(response, response.request_headers.response, value, model, session)
        return bytes(response.SerializeToString())
    key = f"{value} {model}"
    known = _kept.get(key)
    if known is None:
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        response = ext_proc.ProcessingResponse()
        common = response.request_headers.response
        _choose(response, common, value, model)
        known = _kept[key] = response.SerializeToString()
    return known


def picked_with_body(
    addresses: Sequence[str], body: bytes | None, model: str = "", session: str = ""
) -> bytes:
    """The same as the answer to a body that was buffered; `body` in its place, if it was changed."""
    response = ext_proc.ProcessingResponse()
    common = response.request_body.response
    _choose(response, common, ",".join(addresses), model, session)
    if body is not None:
        common.body_mutation.body = body
        _set(common, "content-length", str(len(body)))
    return bytes(response.SerializeToString())


def _choose(response: Any, common: Any, value: str, model: str, session: str = "") -> None:
    _set(common, DESTINATION, value)
    if model:
        _set(common, MODEL, model)
    if session:
        _set(common, ENGINE_SESSION, session)
    common.header_mutation.remove_headers.extend(INNER)
    common.clear_route_cache = True
    response.dynamic_metadata.get_or_create_struct(LB)[DESTINATION] = value


def _set(common: Any, name: str, value: str) -> None:
    option = common.header_mutation.set_headers.add()
    option.header.key = name
    option.header.raw_value = value.encode()
    option.append_action = 2  # OVERWRITE_IF_EXISTS_OR_ADD: a client cannot choose for itself


def queued(seconds: float) -> bytes:
    """ "Go on" in answer to the head of an answer whose call has waited so long."""
    response = ext_proc.ProcessingResponse()
    _set(response.response_headers.response, QUEUED_MS, str(round(seconds * 1000.0)))
    return bytes(response.SerializeToString())


def pieces(body: bytes, ended: bool, request: bool) -> list[bytes]:
    """A body, or a part of one, sent back in pieces; the last one ends it if `ended`."""
    size = len(body)
    if size <= PIECE_BYTES:
        return [_piece(body, ended, request)] if size or ended else []
    return [
        _piece(body[start : start + PIECE_BYTES], ended and start + PIECE_BYTES >= size, request)
        for start in range(0, size, PIECE_BYTES)
    ]


def _piece(body: bytes, ended: bool, request: bool) -> bytes:
    response = ext_proc.ProcessingResponse()
    which = response.request_body if request else response.response_body
    streamed = which.response.body_mutation.streamed_response
    streamed.body = body
    streamed.end_of_stream = ended
    return bytes(response.SerializeToString())


def refused(status: int, body: bytes, headers: Mapping[str, str], why: str) -> bytes:
    """An answer instead of the engine's."""
    response = ext_proc.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = status
    for name, value in headers.items():
        option = immediate.headers.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
        option.append_action = 2
    immediate.body = body
    immediate.details = why
    return bytes(response.SerializeToString())


def _nothing(which: str) -> bytes:
    response = ext_proc.ProcessingResponse()
    getattr(response, which).SetInParent()
    return bytes(response.SerializeToString())


# "Go on", in answer to each kind of message.
GO_ON = {
    which: _nothing(which)
    for which in (
        "request_headers",
        "request_body",
        "request_trailers",
        "response_headers",
        "response_body",
        "response_trailers",
    )
}
