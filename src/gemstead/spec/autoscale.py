"""The `autoscale` field of a model: how many replicas its load may ask for. How many it does ask for is decided in
traffic/autoscale.py."""

from __future__ import annotations

from pydantic import Field, model_validator

from gemstead.spec.part import Part, Seconds


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

    @model_validator(mode="after")
    def _least_is_below_most(self) -> AutoscaleSpec:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self
