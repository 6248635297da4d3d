from __future__ import annotations

from gemstead.cli.routes import changes
from gemstead.ledger.audit import AuditRecord
from gemstead.traffic.routes import Routes
from gemstead.traffic.rules import Rule, Target

KNOWN = Routes([("large", ["big"]), ("small", [])])


def record(number=0, **fields) -> AuditRecord:
    told = {"model": "large", "pool": "large", "prompt_tokens": 100, "output_tokens": 10} | fields
    return AuditRecord(call_id=f"req_{number}", began=0.0, **told)


def counts(found):
    return {key: (one.calls, one.might) for key, one in found.items()}


def test_calls_are_counted_by_where_they_would_go():
    rule = Rule(name="short", models=("large",), prompt_below=200, targets=(Target("small"),))
    records = [record(), record(model="big"), record(prompt_tokens=500), record(model="small", pool="small")]
    found = changes(records, (rule,), KNOWN)
    assert counts(found) == {
        ("short", "large", "small"): (2.0, 0.0),
        ("-", "large", "large"): (1.0, 0.0),
        ("-", "small", "small"): (1.0, 0.0),
    }
    assert found["short", "large", "small"].prompt_tokens == 200


def test_what_the_log_does_not_hold_is_said():
    rule = Rule(name="plain", tools=False, targets=(Target("small"),))
    assert counts(changes([record()], (rule,), KNOWN)) == {
        ("plain", "large", "small"): (0.0, 1.0),
        ("-", "large", "large"): (0.0, 1.0),
    }


def test_weights_divide_and_copies_refused_and_unknown_calls_do_not_count():
    rule = Rule(name="canary", targets=(Target("large", 9.0), Target("small", 1.0)))
    records = [*[record()] * 10, record(reason="mirror of req_1"), record(pool=""), record(model="gone")]
    found = counts(changes(records, (rule,), KNOWN))
    assert round(found["canary", "large", "large"][0], 6) == 9.0
    assert round(found["canary", "large", "small"][0], 6) == 1.0
