"""Where an operator wants calls to go, beyond the model that they name: rules of the file's `routes`, the first that
holds for a call wins.

A rule says for which calls it is (model, tenant, headers, size and complexity), and what becomes of them: another
model, or several by weight; to which models they fall back when theirs cannot take them; which model gets a copy whose
answer nobody reads.

What is asked of a call is known to the gateway, and only in part to whoever reads the audit log afterwards. So a
condition has three answers: it holds, it does not, and (None) it cannot be said. The gateway always knows.

Which of several targets a call gets is chance (handed in), or, where callers shall stay with one, a hash of the caller:
the same caller then has the same target for as long as the weights stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import msgspec

FINE = 1 << 20  # chance is drawn in parts of a millionth


class Target(msgspec.Struct, frozen=True):
    """A model, and its part of the calls beside the others'."""

    pool: str
    weight: float = 1.0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """For which calls, and what becomes of them. An empty or absent condition holds for all."""

    name: str  # in records and reports
    models: tuple[str, ...] = ()  # pools that callers name
    tenants: tuple[str, ...] = ()
    headers: dict[str, str] = {}  # names in lower case; "*" is any value
    prompt_from: int = 0  # tokens, estimated
    prompt_below: int = 0  # 0: no bound
    answer_below: int = 0  # the caller's own bound (max_tokens); a call without one is never below
    answer_from: int = 0
    turns_from: int = 0  # messages
    turns_below: int = 0
    tools: bool | None = None
    images: bool | None = None
    targets: tuple[Target, ...] = ()  # none: as the caller named it
    sticky: bool = False
    fallbacks: tuple[str, ...] = ()
    mirror: str = ""
    mirror_share: float = 0.0  # of the calls, 0 to 1


class Asked(msgspec.Struct, kw_only=True):
    """What rules may ask of a call. None: not known."""

    pool: str
    tenant: str = ""
    headers: Mapping[bytes, bytes] | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None  # below zero: the caller set no bound
    turns: int | None = None
    tools: bool | None = None
    images: bool | None = None


def looks_inside(rules: Sequence[Rule]) -> bool:
    """Whether any rule asks for what only the request's body tells."""
    return any(
        rule.turns_from or rule.turns_below or rule.tools is not None or rule.images is not None
        for rule in rules
    )


def first_match(rules: Sequence[Rule], asked: Asked) -> tuple[Rule | None, bool]:
    """The rule that counts for a call, and whether that is certain: no rule before it could hold."""
    certain = True
    for rule in rules:
        holds = matches(rule, asked)
        if holds:
            return rule, certain
        if holds is None:
            certain = False
    return None, certain


def matches(rule: Rule, asked: Asked) -> bool | None:
    """Whether a rule is for this call; None where that cannot be said."""
    if rule.models and asked.pool not in rule.models:
        return False
    if rule.tenants and asked.tenant not in rule.tenants:
        return False
    unknown = False
    for holds in (
        _headers(rule, asked.headers),
        _between(asked.prompt_tokens, rule.prompt_from, rule.prompt_below),
        _between(asked.answer_tokens, rule.answer_from, rule.answer_below, unbounded=True),
        _between(asked.turns, rule.turns_from, rule.turns_below),
        _same(asked.tools, rule.tools),
        _same(asked.images, rule.images),
    ):
        if holds is None:
            unknown = True
        elif not holds:
            return False
    return None if unknown else True


def target(rule: Rule, pool: str, caller: str, choose: Callable[[int], int]) -> str:
    """The pool that a call goes to which this rule is for."""
    targets = rule.targets
    if not targets:
        return pool
    if len(targets) == 1:
        return targets[0].pool
    drawn = crc32(f"{rule.name}\n{caller}".encode()) % FINE if rule.sticky else choose(FINE)
    share = drawn / FINE * sum(one.weight for one in targets)
    for one in targets:
        share -= one.weight
        if share < 0.0:
            return one.pool
    return targets[-1].pool


def _between(value: int | None, least: int, below: int, unbounded: bool = False) -> bool | None:
    if not least and not below:
        return True
    if value is None:
        return None
    if unbounded and value < 0:
        return not below
    return value >= least and (not below or value < below)


def _same(value: bool | None, wanted: bool | None) -> bool | None:
    if wanted is None:
        return True
    return None if value is None else value == wanted


def _headers(rule: Rule, headers: Mapping[bytes, bytes] | None) -> bool | None:
    if not rule.headers:
        return True
    if headers is None:
        return None
    for name, wanted in rule.headers.items():
        value = headers.get(name.encode("latin-1", "replace"))
        if value is None or (wanted != "*" and value.decode("latin-1") != wanted):
            return False
    return True
