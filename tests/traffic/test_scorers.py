from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts, Load
from gemstead.traffic.scorers import SCORERS, kv_free, least_in_flight, prefix_hit, short_queue

CALL = Call(model="m", prefix=(1, 2, 3, 4), hits={"e0": 4, "e1": 1})


def endpoint(name: str = "e", *, waiting=None, kv_used=None, in_flight=0, metrics=True) -> Endpoint:
    load = Load(at=0.0, waiting=waiting, kv_used=kv_used) if metrics else None
    made = Endpoint(EndpointFacts(name=name, pool="m", host="h", port=1), load)
    made.in_flight = in_flight
    return made


@pytest.mark.parametrize(
    ("waiting", "scores"),
    [((10, 5, 0), [0.0, 0.5, 1.0]), ((3, 3), [1.0, 1.0]), ((0,), [1.0]), ((4, None, 0), [0.0, 0.0, 1.0])],
)
def test_the_shortest_queue_scores_highest(waiting, scores):
    assert short_queue(CALL, [endpoint(waiting=n) for n in waiting]) == scores


@pytest.mark.parametrize(("in_flight", "scores"), [((10, 5, 0), [0.0, 0.5, 1.0]), ((3, 3), [1.0, 1.0])])
def test_the_fewest_in_flight_score_highest(in_flight, scores):
    assert least_in_flight(CALL, [endpoint(in_flight=n) for n in in_flight]) == scores


def test_a_prefix_scores_its_share_of_the_prompt():
    assert prefix_hit(CALL, [endpoint(f"e{n}") for n in range(3)]) == [1.0, 0.25, 0.0]
    assert prefix_hit(Call(model="m"), [endpoint()]) == [0.0]


@pytest.mark.parametrize(
    ("used", "scores"), [((0.25, 1.0), [0.75, 0.0]), ((0.5, None), [0.5, 0.5]), ((None,), [1.0])]
)
def test_the_emptiest_cache_scores_highest_and_the_unknown_as_the_fullest(used, scores):
    assert kv_free(CALL, [endpoint(kv_used=share) for share in used]) == scores


MAYBE = st.one_of(st.none(), st.integers(0, 10**6))
ENDPOINTS = st.lists(
    st.builds(
        endpoint,
        st.sampled_from(["e0", "e1", "e2"]),
        waiting=MAYBE,
        kv_used=st.one_of(st.none(), st.floats(-1, 3)),
        in_flight=st.integers(0, 10**6),
        metrics=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", SCORERS)
@given(endpoints=ENDPOINTS)
def test_every_score_is_between_0_and_1_one_for_each_candidate(name, endpoints):
    scores = SCORERS[name](CALL, endpoints)
    assert len(scores) == len(endpoints)
    assert all(0.0 <= score <= 1.0 for score in scores)
