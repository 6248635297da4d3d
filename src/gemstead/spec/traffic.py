"""The `traffic` section: which replica takes a call, and who waits while all are busy. What is decided, and from what,
is told in docs/traffic.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gemstead.spec.part import Name, Part, Seconds
from gemstead.spec.sharing import SharingSpec


class QueueSpec(Part):
    """Calls that wait for their turn, of one model."""

    requests: int = Field(
        5000,
        ge=0,
        le=1_000_000,
        description="As many calls wait; then the newest of whoever has most is told 429. 0: none waits",
    )
    mib: int = Field(1024, ge=1, le=65_536, description="So much memory their texts may take")
    wait_s: Seconds = Field(60.0, description="After so long a call is told 429, with the time to come back")


class TenantTrafficSpec(Part):
    """What one tenant is given while calls wait."""

    weight: float = Field(
        1.0, gt=0, le=1000, description="Its part of what is served, in tokens, beside the others'"
    )
    first_token_s: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None, description="A call that has waited so long is of no use to it, and is given up"
    )
    region: str = Field(
        "",
        max_length=64,
        description="Its calls are answered by engines of this region or refused; empty: anywhere",
        examples=["eu-de"],
    )


class TrafficSpec(Part):
    """Which replica takes a call, and who waits while all are busy."""

    policy: Literal[
        "",
        "random",
        "round-robin",
        "least-outstanding",
        "power-of-two",
        "consistent-hash",
        "score-blend",
        "cache-aware",
        "sticky",
    ] = Field(
        "",
        description="How a replica is chosen; empty: by what a call costs there in seconds. The others are for "
        "comparison. Counts from the next start of the service",
    )
    hedge: bool = Field(
        False,
        description="Send a second copy of a stream that is later than nearly all to an idle replica, for at most 2 % "
        "of the calls; the slower copy is aborted",
    )
    region: str = Field("", max_length=64, description="Where the engines are that say nothing else")
    queue: QueueSpec = Field(QueueSpec(), description="Calls that wait for their turn")
    first_token_s: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None,
        description="A call that has waited so long is of no use to anybody, and is given up; default: `queue.wait_s`",
    )
    tenants: dict[Name, TenantTrafficSpec] = Field({}, description="What single tenants are given")
    kv_events: bool = Field(
        False,
        description="Engines of ours that can (vLLM, not in a container) say what their prefix caches hold, so that it "
        "need not be guessed; needs `gemstead[kv-events]`. For others see `models[].endpoints[].kv_events_port`",
    )
    sharing: SharingSpec | None = Field(
        None, description="Several gateways tell each other what they have in flight; default: they do not"
    )


class ConditionSpec(Part):
    """For which calls a route is. All that is said must hold."""

    models: tuple[Name, ...] = Field((), description="The call names one of these; default: any")
    tenants: tuple[Name, ...] = Field((), description="It is one of these tenants'; default: any")
    headers: dict[str, str] = Field(
        {},
        description="It has these headers, with these values; `*`: whatever the value",
        examples=[{"x-tier": "free"}],
    )
    prompt_tokens_from: int = Field(0, ge=0, description="Its prompt has about so many tokens or more")
    prompt_tokens_below: int = Field(0, ge=0, description="Its prompt has fewer; 0: no bound")
    answer_tokens_from: int = Field(
        0, ge=0, description="It allows an answer of so many tokens, or sets no bound"
    )
    answer_tokens_below: int = Field(
        0, ge=0, description="It bounds its answer (`max_tokens`) below this; 0: no bound"
    )
    turns_from: int = Field(0, ge=0, description="It has so many messages or more")
    turns_below: int = Field(0, ge=0, description="It has fewer messages; 0: no bound")
    tools: bool | None = Field(None, description="It brings tools, or brings none; default: either")
    images: bool | None = Field(None, description="It brings images, or brings none; default: either")


class TargetSpec(Part):
    """A model, and its part of the calls."""

    model: Name = Field(description="A name of one of the file's models")
    weight: float = Field(1.0, gt=0, le=1_000_000, description="Its part beside the others'")


class MirrorSpec(Part):
    """A model that gets copies of calls. Their answers are thrown away, and what they cost is recorded."""

    model: Name = Field(description="A name of one of the file's models")
    percent: float = Field(100.0, gt=0, le=100, description="Of the calls")


class RouteSpec(Part):
    """Where calls go, beyond the model that they name. The first route that is for a call counts."""

    name: Name = Field(description="For records and reports", examples=["short-and-simple"])
    when: ConditionSpec = Field(ConditionSpec(), description="For which calls it is")
    to: tuple[TargetSpec, ...] = Field(
        (),
        max_length=32,
        description="Which model answers, or which by weight; default: the one that the call names",
    )
    sticky: bool = Field(False, description="The same key or address stays with the same of several models")
    fallback: tuple[Name, ...] = Field(
        (),
        max_length=8,
        description="Models that answer when those before cannot; the caller is told in a header",
    )
    mirror: MirrorSpec | None = Field(None, description="A model that gets copies of these calls")
