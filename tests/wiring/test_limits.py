"""Rules of the file as workers get them, and budgets that are found again in the audit log."""

from __future__ import annotations

import time

import pytest

from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.writer import Writer
from gemstead.spec.load import load
from gemstead.traffic.hold import Crossed
from gemstead.wiring.counters import LimitStore
from gemstead.wiring.limits import rulebook, store_url
from gemstead.wiring.secrets import CannotRun

POOLS = (Pool(name="gemma-4-e2b", aliases=("gemma4:e2b",)),)
BUDGET = """limits:
  rules: [{name: acme, tenant: acme, user: "*", model: "gemma4:e2b", tokens_per_day: 1000, money_per_month: 2.5}]
  prices: [{model: "*", input: 0.2, cached: 0.02, output: 0.6}]
"""


def book(text: str):
    return rulebook(load(text, "gemstead.yaml").spec, POOLS)


def test_a_rule_names_the_model_as_it_is_served_and_money_in_billionths():
    made = book(BUDGET)
    [rule] = made.rules
    assert rule.select.model == ("gemma-4-e2b",)
    assert (rule.tokens_per_day, rule.money_per_month) == (1000, 2_500_000_000)
    price = made.prices["*"]
    assert (price.input, price.cached, price.output) == (200, 20, 600)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("[{name: a, model: gemma-9, concurrent: 1}]", "no model 'gemma-9' is served"),
        (
            "[{name: a, money_per_day: 1.0}]}\nmodels: [{name: mine, file: mine.gguf}",
            "nobody knows what mine costs",
        ),
    ],
)
def test_what_cannot_be_held_is_said(rules, said):
    with pytest.raises(CannotRun, match=said):
        book(f"limits: {{rules: {rules}}}" if "models" not in rules else f"limits: {{rules: {rules}]")


def test_a_store_is_a_url():
    assert store_url("redis://h/0") == "redis://h/0"
    with pytest.raises(CannotRun, match=r"limits\.store"):
        store_url("h:6379")


async def test_budgets_begin_with_what_the_audit_log_says(tmp_path):
    writer, now = Writer(tmp_path / "audit.db"), time.time()
    for number in range(10):
        writer.put(
            AuditRecord(
                call_id=f"c{number}",
                began=now - (40 * 86_400 if number == 9 else 0),
                tenant="acme",
                user="ann",
                key_id="k",
                pool="gemma-4-e2b",
                attempts=1,
                prompt_tokens=60,
                cached_tokens=10,
                output_tokens=30,
            )
        )
    writer.close()
    settings = GatewaySettings(ledger_path=str(tmp_path / "audit.db"), rulebook=book(BUDGET))
    store = LimitStore(settings, pytest.fail)
    shown = {row["limit"]: row for row in (await store.show())["limits"]}
    assert shown["tokens_per_day"]["used"] == 9 * 90
    assert shown["money_per_month"]["used"] == pytest.approx(9 * (50 * 0.2 + 10 * 0.02 + 30 * 0.6) / 1e6)
    store.configure(settings)
    assert (await store.show())["limits"][0]["used"] == 9 * 90, "a reload charges nothing twice"
    assert await store.reset("acme", "tenant=other") == []
    assert len(await store.reset("acme", "")) == 2


def test_a_warning_is_said_once(tmp_path):
    store, said = LimitStore(GatewaySettings(), pytest.fail), []
    store.on_crossed = said.append
    [cap] = [c for c in _caps() if c.name == "tokens_per_day"]
    for _ in range(3):
        store.crossed(Crossed(cap=cap, level=0.8, used=800, start=0.0))
    store.crossed(Crossed(cap=cap, level=1.0, used=1000, start=0.0))
    assert [one.level for one in said] == [0.8, 1.0]


def _caps():
    from gemstead.traffic.budget import terms
    from gemstead.traffic.caller import Caller, RateLimit

    caller = Caller(key_id="k", tenant="acme", user="ann")
    return terms(book(BUDGET), RateLimit(), caller, "gemma-4-e2b").caps
