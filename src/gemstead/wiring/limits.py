"""The file's `limits` as the rules that gateway workers are given."""

from __future__ import annotations

from typing import TypeVar

from gemstead.catalog.check import facts_of
from gemstead.catalog.prices import api
from gemstead.gateway.settings import Pool
from gemstead.plan.deploy import pool_name
from gemstead.spec.limits import MONEY, LimitRule, LimitSpec, PriceSpec
from gemstead.spec.model import Spec
from gemstead.traffic.budget import NANO, Price, Rule, RuleBook, Selector
from gemstead.traffic.caller import RateLimit
from gemstead.wiring.extras import need
from gemstead.wiring.secrets import CannotRun

MILLION = 1_000_000
Value = TypeVar("Value")
SELECTORS = ("tenant", "app", "user", "key", "model")
STORES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://", "postgres://", "postgresql://")


def key_limit(limits: LimitSpec) -> RateLimit:
    """What a key may take that has no limits of its own."""
    return RateLimit(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent=limits.concurrent,
    )


def rulebook(spec: Spec, pools: tuple[Pool, ...]) -> RuleBook:
    """All rules of the file, with the prices that its limits of money need.

    Raises:
        CannotRun: a rule is of a model that is not served, or a limit of money needs a price that is not known.
    """
    limits = spec.limits
    if not limits.rules:
        return RuleBook()
    names = {name.casefold(): pool.name for pool in pools for name in (pool.name, *pool.aliases)}
    rules = tuple(_rule(i, rule, names) for i, rule in enumerate(limits.rules))
    return RuleBook(rules=rules, prices=_prices(spec, names), assumed_output=limits.assumed_output_tokens)


def store_url(url: str) -> str:
    """The URL of the shared store, as far as it can be judged without asking it.

    Raises:
        CannotRun: it is none, or the package that speaks to such a store is not installed.
    """
    if url and not url.startswith(STORES):
        raise CannotRun(
            "limits.store: what it refers to is no URL of a store: write redis://, rediss://, valkey:// or postgresql://"
        )
    if url:
        need(("asyncpg",) if url.startswith("postgres") else ("redis",), "shared", "limits.store")
    return url


def _rule(i: int, rule: LimitRule, names: dict[str, str]) -> Rule:
    said = {name: value for name, value in rule.model_dump().items() if value is not None}
    select = {name: (said.pop(name),) for name in SELECTORS if name in said}
    if (model := select.get("model")) is not None and model != ("*",):
        select["model"] = (_served(names, model[0], f"limits.rules[{i}].model"),)
    for name in MONEY:
        if name in said:
            said[name] = round(said[name] * NANO)
    return Rule(select=Selector(**select), **said)


def _served(names: dict[str, Value], model: str, where: str) -> Value:
    found = names.get(model.casefold())
    if found is None:
        raise CannotRun(f"{where}: no model {model!r} is served here; there are: {', '.join(sorted(names))}")
    return found


def _prices(spec: Spec, names: dict[str, str]) -> dict[str, Price]:
    said = {
        "*" if one.model == "*" else _served(names, one.model, f"limits.prices[{i}].model"): _price(one)
        for i, one in enumerate(spec.limits.prices)
    }
    costly = [rule for rule in spec.limits.rules if any(getattr(rule, name) is not None for name in MONEY)]
    if costly and "*" not in said:
        for model in spec.models:
            pool = pool_name(model)
            if pool not in said and (known := _known(model)) is not None:
                said[pool] = known
            if pool not in said and any(rule.model in (None, "*", pool) for rule in costly):
                raise CannotRun(
                    f"limits.rules: {costly[0].name!r} limits money, and nobody knows what {pool} costs: "
                    "say it in limits.prices"
                )
    return said


def _price(one: PriceSpec) -> Price:
    cached = one.input if one.cached is None else one.cached
    return Price(
        input=_nano(one.input),
        cached=_nano(cached),
        output=_nano(one.output),
    )


def _known(model: object) -> Price | None:
    """The cheapest paid price that the catalogue knows for this model."""
    facts = facts_of(model)  # type: ignore[arg-type]
    offers = api(facts.size) if facts is not None else ()
    if not offers:
        return None
    best = offers[0]
    cached = best.input_usd if best.cached_usd is None else best.cached_usd
    return Price(input=_nano(best.input_usd), cached=_nano(cached), output=_nano(best.output_usd))


def _nano(per_million: float) -> int:
    """Billionths for one token."""
    return round(per_million * NANO / MILLION)
