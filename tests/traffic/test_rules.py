from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.rules import Asked, Rule, Target, first_match, looks_inside, matches, target

FACTS = {
    "prompt_tokens": st.integers(0, 5000),
    "answer_tokens": st.integers(-1, 5000),
    "turns": st.integers(1, 50),
    "tools": st.booleans(),
    "images": st.booleans(),
}
RULES = st.builds(
    Rule,
    name=st.just("r"),
    prompt_from=st.integers(0, 3000),
    prompt_below=st.integers(0, 3000),
    answer_from=st.integers(0, 3000),
    answer_below=st.integers(0, 3000),
    turns_from=st.integers(0, 20),
    turns_below=st.integers(0, 20),
    tools=st.none() | st.booleans(),
    images=st.none() | st.booleans(),
)


def test_bounds_include_their_lower_end_only():
    rule = Rule(name="r", prompt_from=10, prompt_below=20)
    held = [tokens for tokens in range(30) if matches(rule, Asked(pool="m", prompt_tokens=tokens))]
    assert held == list(range(10, 20))


def test_a_call_without_a_bound_on_its_answer_is_never_below_one():
    assert matches(Rule(name="r", answer_below=100), Asked(pool="m", answer_tokens=-1)) is False
    assert matches(Rule(name="r", answer_from=100), Asked(pool="m", answer_tokens=-1)) is True


@given(RULES, st.fixed_dictionaries(FACTS), st.sets(st.sampled_from(sorted(FACTS))))
def test_what_can_be_said_of_part_of_the_facts_holds_for_all_of_them(rule, facts, hidden):
    whole = matches(rule, Asked(pool="m", **facts))
    assert whole is not None
    part = matches(rule, Asked(pool="m", **{name: None if name in hidden else facts[name] for name in facts}))
    assert part is None or part == whole


def test_the_first_that_holds_counts_and_it_is_said_when_one_before_might_have():
    tools, all_ = Rule(name="tools", tools=True), Rule(name="all")
    assert first_match((tools, all_), Asked(pool="m", tools=False)) == (all_, True)
    assert first_match((tools, all_), Asked(pool="m")) == (all_, False)
    assert first_match((all_, tools), Asked(pool="m")) == (all_, True)
    assert first_match((tools,), Asked(pool="m", tools=False)) == (None, True)
    assert looks_inside((all_, tools))
    assert not looks_inside((all_,))


def test_headers_have_to_be_there_with_their_value():
    rule = Rule(name="r", headers={"x-tier": "free", "x-any": "*"})
    assert matches(rule, Asked(pool="m", headers={b"x-tier": b"free", b"x-any": b"1"})) is True
    assert matches(rule, Asked(pool="m", headers={b"x-tier": b"paid", b"x-any": b"1"})) is False
    assert matches(rule, Asked(pool="m", headers={b"x-tier": b"free"})) is False
    assert matches(rule, Asked(pool="m")) is None


def test_calls_are_divided_by_weight_and_a_caller_stays_where_that_is_asked():
    chance = Random(1).randrange
    rule = Rule(name="r", targets=(Target("a", 9.0), Target("b", 1.0)))
    found = Counter(target(rule, "m", "", chance) for _ in range(5000))
    assert abs(found["b"] / 5000 - 0.1) < 0.02
    sticky = Rule(name="r", targets=rule.targets, sticky=True)
    where = {caller: target(sticky, "m", str(caller), chance) for caller in range(2000)}
    assert all(target(sticky, "m", str(caller), chance) == pool for caller, pool in where.items())
    assert abs(Counter(where.values())["b"] / 2000 - 0.1) < 0.03
