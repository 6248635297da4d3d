"""The `rollout` section: how a changed engine takes the place of the one that runs. How it is decided, and what the
figures mean, is told in engines/rollout.py and engines/canary.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from gemstead.spec.part import Part, Seconds

Percent = Annotated[float, Field(gt=0, lt=100)]


class RolloutSpec(Part):
    """How a changed engine takes the place of the one that runs, and when it goes back by itself."""

    strategy: Literal["rolling", "canary", "blue_green", "manual"] = Field(
        "rolling",
        description="`rolling`: one replica after another; `canary`: one replica with a share of the calls first; "
        "`blue_green`: all anew beside the old, then switch; `manual`: not until `gemstead rollout start`",
    )
    extra: bool = Field(
        True,
        description="Where memory allows, start the new replica before the old one goes; `false`: never more at once",
    )
    shares: tuple[Percent, ...] = Field(
        (5.0, 25.0, 50.0),
        min_length=1,
        max_length=20,
        description="`canary`: percent of the calls that the new release gets, step by step",
    )
    watch_s: Seconds = Field(60.0, description="`canary`: least time at each share")
    watch_most_s: Seconds = Field(
        600.0, description="`canary`: longest time at a share where fewer than `least_calls` come"
    )
    least_calls: int = Field(
        20, ge=1, le=1_000_000, description="Calls that the new release needs before a share counts as passed"
    )
    sticky: bool = Field(
        False, description="While calls are divided, the same key or address stays with one release"
    )
    settle_s: float = Field(
        10.0,
        ge=0,
        le=86_400,
        description="`rolling`: a new replica serves beside the old ones for so long before the next goes",
    )
    keep_s: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="`blue_green`: the old release is kept warm for so long, to be switched back to",
    )
    errors: float = Field(
        2.0,
        ge=0,
        le=50,
        description="Percent of failing calls, beyond the old release's, that the new one may have",
    )
    slower: float = Field(
        1.5,
        ge=1.05,
        le=100,
        description="Times by which its first token and its tokens may be slower than the old release's",
    )
    tries: int = Field(3, ge=1, le=20, description="Failed starts of a new replica after which it goes back")
    check_every_s: Seconds = Field(
        15.0, description="While it is watched, a new replica is asked known questions this often"
    )

    @field_validator("shares")
    @classmethod
    def _rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(set(shares)):
            raise ValueError("the shares must rise, such as [5, 25, 50]")
        return shares


class ModelRolloutSpec(RolloutSpec):
    """How one model's engines are changed, in the place of all that the file's `rollout` says."""
