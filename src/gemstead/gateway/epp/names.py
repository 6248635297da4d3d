"""The words of the endpoint-picker protocol: header and metadata keys, today's and yesterday's.

The protocol is the Gateway API Inference Extension's (docs/proposals/004-endpoint-picker-protocol, v1.0.0). The header
names of its picker moved to `x-llm-d-…` when the picker moved to llm-d-router (0.10, 2026-08); both are accepted, and
the new one counts where both are there. Which reason becomes which word for callers is here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gemstead.refused import Reason, Refused

DESTINATION = "x-gateway-destination-endpoint"  # header, and key under LB in the dynamic metadata
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
LB = "envoy.lb"
SUBSET_HINT = "envoy.lb.subset_hint"
DROPPED = "x-llm-d-request-dropped-reason"
MODEL = "x-gateway-model-name"  # what body-based routing sets
ENGINE_SESSION = "x-session-id"  # vLLM (0.32) says with each block that it stores which session stored it

FAIRNESS = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
OBJECTIVE = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
REWRITE = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
TTFT_MS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
QUEUE_TTL = ("x-llm-d-inference-ttl",)  # a Go duration
QUEUED_MS = "x-llm-d-flow-queue-duration-ms"  # of answers whose calls have waited
SESSION = ("x-session-token", "x-session-id")
REQUEST_ID = ("x-request-id",)
NO_TENANT = "default-flow"  # llm-d's name for calls that carry no fairness id

# Everything that a request's head is looked through for; the rest of it is not even decoded.
WANTED = frozenset(
    {":path", ":method", "content-encoding", MODEL, *FAIRNESS, *OBJECTIVE, *REWRITE, *TTFT_MS, *SESSION}
    | {*REQUEST_ID, *QUEUE_TTL}
)

# By these a picker tells a pod's own proxy (llm-d's sidecar) where else to connect to. Nobody outside may say that, and
# this picker does not: they are taken out of every request.
INNER = (
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
)

# Of the calls that may be tried again elsewhere or later, why they were dropped; others have no such header.
DROPPED_AS = {
    Reason.OVERLOADED: "rejected-saturated",
    Reason.SHED: "rejected-saturated",
    Reason.NO_ENDPOINT: "rejected-no-endpoints",
    Reason.DRAINING: "rejected-shutting-down",
    Reason.CLIENT_LEFT: "rejected-context-cancelled",
}

DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
DURATION = re.compile(rf"(?:{DURATION_PART.pattern}){{1,8}}")
UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def first(headers: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The value under the first of these names that the head has; "" if it has none."""
    for name in names:
        if value := headers.get(name):
            return value
    return ""


def duration_s(text: str) -> float | None:
    """Seconds of a Go duration such as `1500ms` or `1m30s`; None if it is none, or not above zero."""
    if not DURATION.fullmatch(text):
        return None
    seconds = sum(float(number) * UNIT_S[unit] for number, unit in DURATION_PART.findall(text))
    return seconds if seconds > 0.0 else None


def dropped_as(refusal: Refused) -> str:
    """llm-d's word for why a call was dropped; "" for a fault of the call itself."""
    if refusal.detail.startswith("rejected-"):
        return refusal.detail
    return DROPPED_AS.get(refusal.reason, "")
