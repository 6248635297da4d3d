"""A pool's calls divided between releases: the shares, the same caller, and a way out when a release fails."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.refused import Refused
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.split import Split, split


def endpoint(name, release, weight, *, ready=True):
    facts = EndpointFacts(name=name, pool="m", host="h", port=1, release=release, weight=weight, ready=ready)
    return Endpoint(facts)


def call(*tried):
    made = Call(model="m", tenant="t", priority=0, prompt_tokens=1, most_tokens=2, prefix=())
    made.tried = tried
    return made


def picker(seed=1):
    return Picker(PrefixIndex(1 << 20), Random(seed).randrange)


def shares(endpoints, count=4000, *, sticky=False, callers=("a",)):
    chance = Random(7)
    made = split(endpoints, chance.randrange, sticky)
    assert made is not None
    picked = [made.pick(picker(), call(), callers[n % len(callers)], 1.0).name for n in range(count)]
    return {e.name: picked.count(e.name) / count for e in endpoints}


def test_like_weights_need_no_split():
    assert split([endpoint("a", "1", 1.0), endpoint("b", "2", 1.0)], Random().randrange) is None


def test_a_release_gets_its_share():
    found = shares([endpoint("a", "1", 0.45), endpoint("b", "1", 0.45), endpoint("new", "2", 0.1)])
    assert found["new"] == pytest.approx(0.1, abs=0.02)
    assert found["a"] + found["b"] == pytest.approx(0.9, abs=0.02)


def test_weight_nought_is_only_the_last_resort():
    kept, new = endpoint("old", "1", 0.0), endpoint("new", "2", 1.0)
    assert shares([kept, new]) == {"old": 0.0, "new": 1.0}
    made = split([kept, new], Random().randrange)
    assert made.pick(picker(), call("new"), "", 1.0).name == "old"


def test_a_release_that_is_not_ready_gives_its_share_away():
    found = shares([endpoint("old", "1", 0.5), endpoint("new", "2", 0.9, ready=False)])
    assert found == {"old": 1.0, "new": 0.0}


def test_the_same_caller_has_the_same_release():
    endpoints = [endpoint("old", "1", 0.5), endpoint("new", "2", 0.4)]
    callers = [f"caller-{n}" for n in range(200)]
    made = split(endpoints, Random(3).randrange, True)
    one = {who: made.pick(picker(), call(), who, 1.0).name for who in callers}
    again = {who: made.pick(picker(), call(), who, 9.0).name for who in callers}
    assert one == again
    assert 60 < sum(name == "new" for name in one.values()) < 120


@given(
    st.lists(
        st.tuples(st.sampled_from("12"), st.sampled_from([0.0, 0.1, 1.0]), st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 99),
)
def test_a_call_goes_somewhere_whenever_anything_is_left(made, seed):
    endpoints = [endpoint(f"e{n}", r, w, ready=ready) for n, (r, w, ready, _) in enumerate(made)]
    tried = tuple(f"e{n}" for n, (_, _, _, was) in enumerate(made) if was)
    left = {e.name for e in endpoints if e.facts.ready and e.name not in tried}
    divided = Split(endpoints, Random(seed).randrange, False)
    if left:
        assert divided.pick(picker(), call(*tried), "x", 1.0).name in left
    else:
        with pytest.raises(Refused):
            divided.pick(picker(), call(*tried), "x", 1.0)
