"""One word for "no".

A call that is turned away raises `Refused` with a `Reason`. What HTTP status a reason becomes, and how the
refusal is written for OpenAI or Anthropic clients, is decided in one table (`openai/errors.py`). A broken
promise between our own parts is a plain exception and never a `Refused`.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a call was turned away. The value is what audit records and metrics show."""

    BAD_REQUEST = "bad_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    IDENTITY_PENDING = "identity_pending"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_ROUTE = "unknown_route"
    WRONG_METHOD = "wrong_method"
    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    CONTEXT_EXCEEDED = "context_exceeded"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_AT_ONCE = "too_many_at_once"
    BUDGET_SPENT = "budget_spent"
    LIMITS_UNAVAILABLE = "limits_unavailable"
    REGION = "region"
    SHED = "shed"
    OVERLOADED = "overloaded"
    NO_ENDPOINT = "no_endpoint"
    DRAINING = "draining"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_REFUSED = "upstream_refused"
    DEADLINE = "deadline"
    SLOW_CLIENT = "slow_client"
    CLIENT_LEFT = "client_left"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    UNSUPPORTED = "unsupported"
    INTERNAL = "internal"


class Refused(Exception):
    """A call is turned away.

    Args:
        reason: the closed set above.
        message: one sentence for the caller, which says what to do.
        param: the request field at fault, as a path such as `messages[0].content`.
        code: a machine-readable code where clients know one (`context_length_exceeded`); else the reason.
        retry_after_s: seconds after which trying again makes sense.
        detail: for the operator's record, never shown to the caller.
        kind: the error's type for OpenAI clients, where it is not the status's usual one.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        detail: str = "",
        kind: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        self.code = code or reason.value
        self.retry_after_s = retry_after_s
        self.detail = detail
        self.kind = kind
