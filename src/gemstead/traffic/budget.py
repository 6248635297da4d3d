"""Rules of use: whose calls each counts, what it allows, and what a call costs.

A rule names tenants, apps, users, keys and models. A name, or several, is counted together; `*` is each on its own;
what is not named does not matter. So `tenant: acme` is one counter for all of acme, `tenant: acme, user: *` one for
each of its users, and no name at all one for everybody. Every rule that fits a call holds; none replaces
another. `terms` works out once for each (caller, model) what holds for its calls, and the request path only looks
that up.

A budget must not be overrun by a single token, so what it holds for a call is a bound and no estimate: for the prompt
its bytes (a token of Gemma's tokenizer is at least one byte, and the JSON around each message is longer than the
template's tokens), for the answer what the request allows, which is put into the request where it says nothing.
Rates hold the usual estimate (`estimate.py`): to be wrong there for a minute harms nobody.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gemstead.traffic.caller import Caller, RateLimit
from gemstead.traffic.estimate import BYTES_PER_TOKEN
from gemstead.traffic.window import Cap

NANO: Final = 1_000_000_000  # money is counted in billionths, as whole numbers
ASSUMED_OUTPUT: Final = 8192  # tokens, where a budget holds and nobody has said how long an answer may get
TEMPLATE_TOKENS: Final = 64  # what a chat template adds besides the messages: markers, a thinking switch
IMAGE_TOKENS: Final = (
    1120  # the most that Gemma 4 makes of one image (its processor's largest soft-token budget)
)
USUAL_IMAGE_TOKENS: Final = 280  # what it makes of one by default
RATES: Final = (
    ("requests_per_second", "requests", 1.0),
    ("requests_per_minute", "requests", 60.0),
    ("requests_per_hour", "requests", 3600.0),
    ("tokens_per_minute", "tokens", 60.0),
)
BUDGETS: Final = (
    ("requests_per_day", "requests", "day"),
    ("tokens_per_day", "tokens", "day"),
    ("tokens_per_month", "tokens", "month"),
    ("money_per_day", "money", "day"),
    ("money_per_month", "money", "month"),
)


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """Whose calls. Empty: any, together. `("*",)`: each on its own. Names: those, together."""

    tenant: tuple[str, ...] = ()
    app: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    model: tuple[str, ...] = ()


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of callers may take. None: no limit. Money is in billionths."""

    name: str
    select: Selector = Selector()
    requests_per_second: int | None = None
    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    money_per_day: int | None = None
    money_per_month: int | None = None
    concurrent: int | None = None
    input_tokens: int | None = None  # of one call, estimated
    output_tokens: int | None = None  # of one answer
    on_output: str = "clamp"  # or "refuse": a call that asks for more
    context_tokens: int | None = None  # prompt and answer of one call
    total_s: float | None = None
    first_token_s: float | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a million tokens of a model cost, in billionths of the file's currency per token."""

    input: int = 0
    cached: int = 0
    output: int = 0


class RuleBook(msgspec.Struct, frozen=True, kw_only=True):
    """All rules, and what they need to know."""

    rules: tuple[Rule, ...] = ()
    prices: dict[str, Price] = {}  # by pool; "*": any other
    assumed_output: int = ASSUMED_OUTPUT


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What holds for one caller's calls of one model."""

    caps: tuple[Cap, ...]
    price: Price
    budgets: bool  # whether an answer needs a bound
    bounded: bool  # whether any of the following is set
    input_tokens: int | None = None
    output_tokens: int | None = None
    clamps: bool = True
    context_tokens: int | None = None
    total_s: float | None = None
    first_token_s: float | None = None


FREE: Final = Terms((), Price(), False, False)


def terms(book: RuleBook, default: RateLimit, caller: Caller, pool: str) -> Terms:
    """What holds for this caller's calls of this model, out of its key's own limits and every rule that fits."""
    fitting = [(rule, who) for rule in book.rules if (who := _who(rule.select, caller, pool)) is not None]
    caps = _key_caps(caller.limit or default, caller.key_id)
    for rule, who in fitting:
        caps += _rule_caps(rule, who)
    if not caps and not fitting:
        return FREE
    rules = [rule for rule, _ in fitting]
    outputs = [(rule.output_tokens, rule.on_output) for rule in rules if rule.output_tokens is not None]
    output = min(outputs, default=None)
    figures = {
        name: min((v for rule in rules if (v := getattr(rule, name)) is not None), default=None)
        for name in ("input_tokens", "context_tokens", "total_s", "first_token_s")
    }
    return Terms(
        tuple(caps),
        book.prices.get(pool) or book.prices.get("*") or Price(),
        any(cap.kind == "budget" and cap.unit != "requests" for cap in caps),
        output is not None or any(value is not None for value in figures.values()),
        figures["input_tokens"],
        output[0] if output is not None else None,
        output is None or output[1] == "clamp",
        figures["context_tokens"],
        figures["total_s"],
        figures["first_token_s"],
    )


def _who(select: Selector, caller: Caller, pool: str) -> str | None:
    """Which of the rule's counters is this call's; None: the rule is for others."""
    parts = []
    for name, value in (
        ("tenant", caller.tenant),
        ("app", caller.app),
        ("user", caller.user),
        ("key", caller.key_id),
        ("model", pool),
    ):
        wanted: tuple[str, ...] = getattr(select, name)
        if not wanted:
            continue
        if wanted == ("*",):
            if not value:
                return None
            parts.append(f"{name}={value}")
        elif value not in wanted:
            return None
        else:
            parts.append(f"{name}={'+'.join(wanted)}")
    return ",".join(parts)


def _key_caps(limit: RateLimit, key_id: str) -> list[Cap]:
    own = Rule(
        name="keys",
        requests_per_minute=limit.requests_per_minute,
        tokens_per_minute=limit.tokens_per_minute,
        concurrent=limit.concurrent,
    )
    return _rule_caps(own, f"key={key_id}")


def _rule_caps(rule: Rule, who: str) -> list[Cap]:
    caps = []
    if rule.concurrent is not None:
        caps.append(_cap(rule, who, "concurrent", "slots", "calls", rule.concurrent))
    for name, unit, window_s in RATES:
        if (limit := getattr(rule, name)) is not None:
            caps.append(_cap(rule, who, name, "rate", unit, limit, window_s))
    for name, unit, period in BUDGETS:
        if (limit := getattr(rule, name)) is not None:
            caps.append(_cap(rule, who, name, "budget", unit, limit, period=period))
    return caps


def _cap(
    rule: Rule,
    who: str,
    name: str,
    kind: str,
    unit: str,
    limit: int,
    window_s: float = 60.0,
    period: str = "",
) -> Cap:
    return Cap(
        id=f"{rule.name}|{who}|{name}",
        kind=kind,
        unit=unit,
        limit=limit,
        name=name,
        rule=rule.name,
        who=who,
        window_s=window_s,
        period=period,
    )


# An image inside the request: its letters are not text. In text of a message the quotes would be escaped.
_INLINE: Final = re.compile(
    rb'(?<!\\)"(?:url|image_url|data)"\s*:\s*"(?:data:[^",]{0,128},)?[A-Za-z0-9+/=]{64,}"'
)


def _parts(prompt: bytes) -> tuple[int, int]:
    """Bytes of text, and images."""
    images = prompt.count(b'"image_url"') + prompt.count(b'"image"') + prompt.count(b'"input_image"')
    inline = sum(map(len, _INLINE.findall(prompt))) if images else 0
    return len(prompt) - inline, images


def prompt_bound(prompt: bytes) -> int:
    """The most tokens that a prompt, as JSON, can have."""
    text, images = _parts(prompt)
    return text + TEMPLATE_TOKENS + images * IMAGE_TOKENS


def prompt_guess(prompt: bytes) -> int:
    """About how many tokens it has, images counted as such."""
    text, images = _parts(prompt)
    return -(-text // BYTES_PER_TOKEN) + images * USUAL_IMAGE_TOKENS


def cost(price: Price, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """What a call costs, in billionths."""
    fresh = max(prompt_tokens - cached_tokens, 0)
    return fresh * price.input + cached_tokens * price.cached + output_tokens * price.output
