"""The `autoscale` field of a model: how many replicas its load may ask for. How many it does ask for is decided in
traffic/autoscale.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gemstead.spec.part import Part, Seconds

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WORKDAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri")
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$")]


class AutoscaleHoursSpec(Part):
    """Hours at which so many replicas are there, such as business hours."""

    days: tuple[Day, ...] = Field(
        WORKDAYS, min_length=1, description="Days of the week; default: Monday to Friday"
    )
    start: Clock = Field("08:00", description="From this time of the day on; replicas are started before")
    end: Clock = Field("18:00", description="Until this time, on the next day where it is not after `start`")
    least: int = Field(ge=1, le=64, description="Replicas at these hours at least")


class AutoscaleSpec(Part):
    """Replicas of a model on this machine follow its load, between these bounds."""

    least: int = Field(
        1,
        ge=0,
        le=64,
        description="Replicas that stay; 0: the model sleeps after `idle_s` without a call, and the next call wakes it",
    )
    most: int = Field(
        ge=1, le=64, description="Replicas at most; fewer where memory or cards do not allow more"
    )
    up_after_s: float = Field(
        10.0, ge=0, le=3600, description="More are started when they were wanted for so long without a break"
    )
    down_after_s: Seconds = Field(
        300.0, description="One goes when fewer would have been enough for so long, and then the next"
    )
    idle_s: Seconds = Field(900.0, description="Without a call, until a model whose `least` is 0 sleeps")
    first_token_s: Seconds | None = Field(
        None, description="Aim for the first token; more replicas while the 90th percentile is later"
    )
    token_s: Annotated[float, Field(gt=0, le=60)] | None = Field(
        None,
        description="Aim for each further token, in seconds; more replicas while the 90th percentile is longer",
    )
    forecast: bool = Field(
        True,
        description="Learn the hours of the week, and start replicas ahead by the time that starting takes",
    )
    hours: tuple[AutoscaleHoursSpec, ...] = Field(
        (), description="Replicas that are wanted at certain hours whatever the load"
    )
    timezone: str = Field(
        "",
        max_length=64,
        description="Of `hours` and of what is learned, as `Europe/Berlin`; default: this machine's",
    )

    @model_validator(mode="after")
    def _least_is_below_most(self) -> AutoscaleSpec:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self
