"""The `traffic` section: which replica takes a call, and who waits while all are busy. What is decided, and from what,
is told in docs/traffic.md."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gemstead.spec.part import Name, Part, Seconds


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


class TrafficSpec(Part):
    """Which replica takes a call, and who waits while all are busy."""

    queue: QueueSpec = Field(QueueSpec(), description="Calls that wait for their turn")
    first_token_s: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None,
        description="A call that has waited so long is of no use to anybody, and is given up; default: `queue.wait_s`",
    )
    tenants: dict[Name, TenantTrafficSpec] = Field(
        {}, description="What single tenants are given while calls wait"
    )
