"""The `speed` field of an endpoint that someone else runs: what its makers or a measurement say of it.

Without it the gateway learns how fast an engine is from its calls, beginning with a guess. Where engines of unlike
speed serve one model, saying so spares the first calls a bad choice; what is learned corrects it.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from gemstead.spec.part import Part


class EngineSpeed(Part):
    """How fast one engine is and how much it holds. `gemstead plan` and `gemstead bench` say so of theirs."""

    slots: int | None = Field(
        None, ge=1, le=65_536, description="Requests at once; default: the model's `slots`"
    )
    kv_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens that its cache holds; default: what it says itself (vLLM, SGLang, llama.cpp)",
    )
    prompt_tokens_s: float | None = Field(None, gt=0, description="Prompt tokens it reads in a second")
    tokens_s: float | None = Field(
        None, gt=0, description="Tokens it writes in a second for one request alone"
    )
    full_tokens_s: float | None = Field(
        None, gt=0, description="The same for all together when all `slots` are taken"
    )

    @model_validator(mode="after")
    def _full_is_more(self) -> EngineSpeed:
        if self.full_tokens_s is None:
            return self
        if self.tokens_s is None or self.slots is None:
            raise ValueError("full_tokens_s needs tokens_s and slots beside it")
        if self.full_tokens_s > self.tokens_s * self.slots:
            most = self.tokens_s * self.slots
            raise ValueError(
                f"full_tokens_s is above what {self.slots} requests alone would write ({most:g})"
            )
        return self

    @property
    def step_s(self) -> float:
        """Seconds from one token to the next of a request alone; 0: not said."""
        return 1.0 / self.tokens_s if self.tokens_s else 0.0

    @property
    def step_slot_s(self) -> float:
        """What each further request adds; 0: not said."""
        if self.full_tokens_s is None or self.slots is None or self.slots < 2:
            return 0.0
        return max(self.slots / self.full_tokens_s - self.step_s, 0.0) / (self.slots - 1)
