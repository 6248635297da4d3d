"""The `limits` section: how much callers may take, and what happens when the counters cannot be had. What the figures
mean is told in traffic/window.py and traffic/budget.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gemstead.spec.part import Name, Part, Seconds, SecretRef

Who = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[int, Field(ge=1, le=2**53 - 1)]
Money = Annotated[float, Field(gt=0, le=9_000_000)]
PerMillion = Annotated[float, Field(ge=0, le=1_000_000)]
RULE_NAMES = r"^[a-z0-9][a-z0-9_.-]*$"
MONEY = ("money_per_day", "money_per_month")


class PriceSpec(Part):
    """What the tokens of a model cost, for limits of money."""

    model: Name = Field(description="The model, or `*` for every other", examples=["gemma-4-31b", "*"])
    input: PerMillion = Field(description="For a million prompt tokens", examples=[0.14])
    cached: PerMillion | None = Field(
        None,
        description="For a million prompt tokens that the engine had computed already; default: as `input`",
    )
    output: PerMillion = Field(description="For a million tokens of answers", examples=[0.4])


class LimitRule(Part):
    """What some callers may take. `*` counts each tenant, app, user, key or model on its own; a name counts that one;
    what is left out does not matter, and is counted together. Every rule that fits a call holds."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=RULE_NAMES)] = Field(
        description="What it is called in answers, `gemstead limits` and the audit log", examples=["acme"]
    )
    tenant: Who | None = Field(None, description="Whose calls", examples=["acme", "*"])
    app: Who | None = Field(None, description="Calls of which app", examples=["*"])
    user: Who | None = Field(None, description="Calls of which user", examples=["*"])
    key: Who | None = Field(None, description="Calls with which key, by its id", examples=["*"])
    model: Who | None = Field(None, description="Calls of which model", examples=["gemma-4-31b"])
    requests_per_second: Count | None = Field(
        None, description="Calls in any second, all of which may come at once"
    )
    requests_per_minute: Count | None = Field(
        None, description="Calls in any minute, all of which may come at once"
    )
    requests_per_hour: Count | None = Field(
        None, description="Calls in any hour, all of which may come at once"
    )
    requests_per_day: Count | None = Field(None, description="Calls from midnight to midnight, UTC")
    tokens_per_minute: Count | None = Field(None, description="Prompt and answer tokens in any minute")
    tokens_per_day: Count | None = Field(
        None, description="Prompt and answer tokens from midnight to midnight, UTC"
    )
    tokens_per_month: Count | None = Field(
        None, description="Prompt and answer tokens of a calendar month, UTC"
    )
    money_per_day: Money | None = Field(
        None, description="Cost from midnight to midnight, UTC, by `limits.prices`"
    )
    money_per_month: Money | None = Field(
        None, description="Cost of a calendar month, UTC, by `limits.prices`"
    )
    concurrent: Count | None = Field(None, description="Calls at the same time")
    input_tokens: Count | None = Field(
        None, description="Longest prompt of a call, as estimated from its text"
    )
    output_tokens: Count | None = Field(None, description="Longest answer of a call")
    on_output: Literal["clamp", "refuse"] = Field(
        "clamp",
        description="A call that asks for a longer answer: it is given the shorter bound, or refused. One that "
        "names no bound is given it either way",
    )
    context_tokens: Count | None = Field(None, description="Prompt and answer of a call together")
    total_s: Seconds | None = Field(
        None, description="Longest time for a whole call, where it is less than the gateway's"
    )
    first_token_s: Seconds | None = Field(
        None, description="Longest time to an answer's first byte, where it is less than the gateway's"
    )


class LimitSpec(Part):
    """Default limits of every key (a key may have its own: `gemstead keys create`), and rules for all who call."""

    requests_per_minute: int | None = Field(
        None, ge=1, description="Calls of one key per minute; default: no limit"
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Prompt and answer tokens of one key per minute; default: no limit"
    )
    concurrent: int | None = Field(
        None, ge=1, description="Calls of one key at the same time; default: no limit"
    )
    rules: tuple[LimitRule, ...] = Field(
        (), max_length=1000, description="Limits and budgets of groups of callers"
    )
    prices: tuple[PriceSpec, ...] = Field(
        (), description="What tokens cost; default: what the catalogue knows others to ask for the same model"
    )
    assumed_output_tokens: int = Field(
        8192,
        ge=1,
        le=1_048_576,
        description="Longest answer of a call that names no bound, where a budget must know one; it is put into the "
        "request",
    )
    store: SecretRef | None = Field(
        None,
        description="Where the counters of several gateways are kept, as a reference to a URL: `redis://`, "
        "`rediss://`, `valkey://` or `postgresql://`; default: this service's own memory",
        examples=["env:GEMSTEAD_LIMITS_URL"],
    )
    on_store_error: Literal["refuse", "allow", "local"] = Field(
        "refuse",
        description="Calls that the store would have to decide while it does not answer: refused, let through, or "
        "held to this gateway's own count",
    )

    @field_validator("rules")
    @classmethod
    def _names_differ(cls, rules: tuple[LimitRule, ...]) -> tuple[LimitRule, ...]:
        names = [rule.name for rule in rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rules are called {twice[0]!r}: names must differ")
        if "keys" in names:
            raise ValueError("`keys` is what the limits of single keys are called: choose another name")
        return rules

    @model_validator(mode="after")
    def _rules_limit_something(self) -> LimitSpec:
        for rule in self.rules:
            if not any(True for _ in limited(rule)):
                raise ValueError(f"rule {rule.name!r} limits nothing: say what, such as tokens_per_day")
        return self


def limited(rule: LimitRule) -> Iterator[str]:
    """The names of what a rule limits."""
    selectors = {"name", "tenant", "app", "user", "key", "model", "on_output"}
    return (
        name for name in LimitRule.model_fields if name not in selectors and getattr(rule, name) is not None
    )
