from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.adapters import Shelf, best

PATHS = {name: f"/l/{name}" for name in "abcde"}


def shelf(most, *loaded):
    made = Shelf(PATHS, most)
    for at, name in enumerate(loaded):
        made.put(name, float(at))
    return made


def test_the_longest_unused_goes_when_one_more_comes():
    two = shelf(2, "a", "b")
    assert two.surplus() == ["a"]
    two.used("a", 9.0)
    assert two.surplus() == ["b"]
    two.used("c", 10.0)  # it is not there
    assert sorted(two.loaded) == ["a", "b"]
    assert shelf(3, "a", "b").surplus() == []
    assert shelf(0, "a", "b", "c", "d").surplus() == []


def test_it_is_loaded_where_there_is_room_then_where_least_runs_then_where_least_is_lost():
    full, roomy = shelf(1, "a"), shelf(1)
    assert best("b", {"x": full, "y": roomy}, {"x": 0, "y": 5}) == "y"
    assert best("b", {"x": shelf(1), "y": shelf(1)}, {"x": 3, "y": 1}) == "y"
    later = shelf(1)
    later.put("c", 5.0)
    assert best("b", {"x": later, "y": full}, {}) == "y"
    assert best("a", {"x": full}, {}) is None
    assert best("z", {"x": full}, {}) is None


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=40), st.integers(1, 4))
def test_never_more_are_loaded_than_may_be(steps, most):
    one, now = Shelf(PATHS, most), 0.0
    for name, use in steps:
        now += 1.0
        if use:
            one.used(name, now)
        elif name not in one.loaded:
            for old in one.surplus():
                one.take(old)
            one.put(name, now)
        assert len(one.loaded) <= most
