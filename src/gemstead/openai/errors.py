"""How "no" looks on the wire: the one table from Reason to status, and the error shapes of each dialect.

Three dialects: "openai" (`{"error": {...}}`), "responses" (the same as a whole answer; its own event in a stream)
and "anthropic" (`{"type": "error", ...}`). The request id stands beside the error, where both families of clients
keep what they do not know, and in the `x-request-id` header, which the gateway sets.

Inside a stream that has begun, the status is gone and an event must say it. The official clients raise their
APIError on: openai, a `data:` event with an `error` key (chat, completions and responses alike); anthropic, an
`event: error`. After an OpenAI error comes `[DONE]`, as vLLM and SGLang send it, for clients that wait for it.
"""

from __future__ import annotations

import msgspec

from gemstead.refused import Reason, Refused

STATUS: dict[Reason, int] = {
    Reason.BAD_REQUEST: 400,
    Reason.UNAUTHENTICATED: 401,
    Reason.FORBIDDEN: 403,
    Reason.IDENTITY_PENDING: 503,
    Reason.UNKNOWN_MODEL: 404,
    Reason.UNKNOWN_ROUTE: 404,
    Reason.WRONG_METHOD: 405,
    Reason.BODY_TOO_LARGE: 413,
    Reason.HEADERS_TOO_LARGE: 431,
    Reason.CONTEXT_EXCEEDED: 400,
    Reason.RATE_LIMITED: 429,
    Reason.TOO_MANY_AT_ONCE: 429,
    Reason.BUDGET_SPENT: 429,
    Reason.LIMITS_UNAVAILABLE: 503,
    Reason.REGION: 403,
    Reason.SHED: 503,
    Reason.OVERLOADED: 429,
    Reason.NO_ENDPOINT: 503,
    Reason.DRAINING: 503,
    Reason.UPSTREAM_FAILED: 502,
    Reason.UPSTREAM_REFUSED: 400,  # the gateway passes the engine's own status on where there is one
    Reason.DEADLINE: 504,
    Reason.SLOW_CLIENT: 408,
    Reason.CLIENT_LEFT: 499,  # nginx's word for it; nobody is there to read it
    Reason.LEDGER_UNAVAILABLE: 503,
    Reason.UNSUPPORTED: 400,
    Reason.INTERNAL: 500,
}
assert set(STATUS) == set(Reason), "every reason has a status"

# Codes that clients know; every other refusal carries its reason as code.
_CODES = {
    Reason.UNAUTHENTICATED: "invalid_api_key",
    Reason.UNKNOWN_MODEL: "model_not_found",
    Reason.CONTEXT_EXCEEDED: "context_length_exceeded",
    Reason.RATE_LIMITED: "rate_limit_exceeded",
    Reason.TOO_MANY_AT_ONCE: "rate_limit_exceeded",
    Reason.BUDGET_SPENT: "insufficient_quota",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {  # https://docs.anthropic.com/en/api/errors
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

DONE = b"data: [DONE]\n\n"
_PHRASES = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content",
    301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 410: "Gone",
    411: "Length Required", 413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type",
    417: "Expectation Failed", 421: "Misdirected Request", 422: "Unprocessable Content", 425: "Too Early",
    426: "Upgrade Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    499: "Client Closed Request", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


class _StatusLines(dict[int, bytes]):
    """The first line of an answer, by status; a status that has no name gets an empty one (RFC 9112, 4)."""

    def __missing__(self, status: int) -> bytes:
        return b"HTTP/1.1 %d \r\n" % status


STATUS_LINES: dict[int, bytes] = _StatusLines(
    {status: f"HTTP/1.1 {status} {phrase}\r\n".encode() for status, phrase in _PHRASES.items()}
)


def body(refused: Refused, dialect: str, request_id: str) -> bytes:
    """The whole answer's body for a refusal, in the client's shape."""
    return _shape(_told(refused), dialect, request_id)


def event(refused: Refused, dialect: str, request_id: str) -> bytes:
    """Server-sent bytes that end a stream which had begun, so that official clients raise an exception."""
    return _as_event(_told(refused), dialect, request_id)


def event_from_engine(status: int, raw: bytes, dialect: str, request_id: str) -> bytes:
    """An engine's error answer as the event that ends a stream which had begun (a keep-alive promised it)."""
    return _as_event(_read(status, raw), dialect, request_id)


def from_engine(status: int, raw: bytes, dialect: str, request_id: str) -> bytes | None:
    """An engine's error body in the client's shape; None if it has that shape already."""
    if _fits(raw, dialect):
        return None
    return _shape(_read(status, raw), dialect, request_id)


def blames_request(raw: bytes) -> bool:
    """Whether an engine's answer with status 500 is about the request: no other engine would take it, and this one is
    well."""
    loaded = _load(raw)
    error = loaded.get("error", loaded) if isinstance(loaded, dict) else None
    message = _message(error) if isinstance(error, dict) else ""
    return message.startswith(_REQUEST_WORDS)


class _Told(msgspec.Struct, gc=False):
    """An error before it has a dialect's shape."""

    message: str
    status: int
    param: str | None
    code: str | None
    kind: str = ""


def _told(refused: Refused) -> _Told:
    reason, code = refused.reason, refused.code
    if code == reason.value:
        code = _CODES.get(reason, code)
    return _Told(refused.message, STATUS[reason], refused.param, code, refused.kind)


def _openai(told: _Told) -> dict[str, str | None]:
    kind = (
        told.kind
        or _OPENAI_TYPES.get(told.status)
        or ("server_error" if told.status >= 500 else "invalid_request_error")
    )
    return {"message": told.message, "type": kind, "param": told.param, "code": told.code}


def _anthropic(told: _Told) -> dict[str, str]:
    kind = _ANTHROPIC_TYPES.get(told.status) or (
        "api_error" if told.status >= 500 else "invalid_request_error"
    )
    # These clients show nothing but the message, so the field is named in it.
    message = (
        told.message if told.param is None or told.param in told.message else f"{told.param}: {told.message}"
    )
    return {"type": kind, "message": message}


def _shape(told: _Told, dialect: str, request_id: str) -> bytes:
    if dialect == "anthropic":
        return _json({"type": "error", "error": _anthropic(told), "request_id": request_id})
    return _json({"error": _openai(told), "request_id": request_id})


def _as_event(told: _Told, dialect: str, request_id: str) -> bytes:
    if dialect == "anthropic":
        return b"event: error\ndata: %s\n\n" % _shape(told, dialect, request_id)
    if dialect == "responses":
        # `error` beside the documented fields is what makes the official clients raise.
        known = {"type": "error", "code": told.code, "message": told.message, "param": told.param}
        known |= {"sequence_number": 0, "error": _openai(told), "request_id": request_id}  # type: ignore[dict-item]
        return b"event: error\ndata: %s\n\n" % _json(known)
    return b"data: %s\n\n%s" % (_shape(told, dialect, request_id), DONE)


_json = msgspec.json.encode
_TEMPLATE = "The model's chat template cannot write these messages:"
_CONTEXT_CODE = "context_length_exceeded"
_CONTEXT_WORDS = (
    "maximum context length",  # vLLM, SGLang
    "exceeds the available context size",  # llama.cpp
    "exceed_context_size",  # llama.cpp's type
    "context length is only",  # vLLM, older
    "maximum model length",  # vLLM offline checks
    "context window",
    "longer than the model's context length",  # SGLang
)

# How llama.cpp begins a 500 for what is a 400 elsewhere; build 11549, each seen on 2026-11-21.
_REQUEST_WORDS = (
    _TEMPLATE,
    "Failed to parse messages",
    "Failed to parse tools",
    "Failed to parse tool call arguments",
    "JSON schema error",
    "Invalid base64 value",
    "Unknown reasoning format",
    "[json.exception.",
)
_TEMPLATE_WORDS = "\nWhile executing "  # its chat template cannot write these messages


def _load(raw: bytes) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _fits(raw: bytes, dialect: str) -> bool:
    """Whether a client of this dialect reads `raw` as it is, with the code that it would look for."""
    loaded = _load(raw)
    error = loaded.get("error") if isinstance(loaded, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return False
    if not isinstance(error.get("type"), str):
        return False
    if dialect == "anthropic":
        return isinstance(loaded, dict) and loaded.get("type") == "error"
    code = error.get("code")
    if not (code is None or isinstance(code, str)) or "param" not in error:
        return False
    return code == _CONTEXT_CODE or not _is_overflow(f"{error['message']} {error['type']}")


def _read(status: int, raw: bytes) -> _Told:
    """What an engine said, whatever shape it said it in."""
    loaded = _load(raw)
    error = loaded.get("error", loaded) if isinstance(loaded, dict) else loaded
    param = code = None
    words = ""
    if isinstance(error, dict):
        message = _message(error)
        words = f"{message} {error.get('type', '')}"
        param = error["param"] if isinstance(error.get("param"), str) else None
        code = error["code"] if isinstance(error.get("code"), str) else None
    else:
        message = error if isinstance(error, str) else _text(raw)
        words = message
    if status < 500 and _is_overflow(words):
        code, param = _CONTEXT_CODE, param or "messages"
    return _Told(message or f"The model's engine answered with status {status}.", status, param, code)


def _message(error: dict[str, object]) -> str:
    """The sentence in an error object: `message` (most), `detail` (FastAPI), which may be a list of complaints."""
    message = error.get("message") or error.get("detail")
    if isinstance(message, str):
        if _TEMPLATE_WORDS in message:  # behind an excerpt of the template comes what was wrong
            return f"{_TEMPLATE} {message.rpartition('Error:')[2].strip()}."
        return message
    if isinstance(message, list):  # FastAPI: [{"loc": [...], "msg": "..."}]
        return "; ".join(_complaint(entry) for entry in message[:5])
    return ""


def _complaint(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    place = ".".join(str(step) for step in entry.get("loc", ()) if step != "body")
    return f"{place}: {entry.get('msg', '')}".removeprefix(": ")


def _text(raw: bytes) -> str:
    """Plain text of moderate length; nothing of a page of HTML."""
    text = raw[:500].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") or "\0" in text or raw[:1] in b"{[" else text


def _is_overflow(words: str) -> bool:
    words = words.lower()
    return any(known in words for known in _CONTEXT_WORDS)
