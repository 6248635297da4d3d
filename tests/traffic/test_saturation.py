from __future__ import annotations

import pytest

from gemstead.traffic.endpoint import STALE_S, Endpoint, EndpointFacts, Load
from gemstead.traffic.saturation import saturation


def endpoint(in_flight=0, *, slots=0, ready=True, **load) -> Endpoint:
    facts = EndpointFacts(name="e", pool="m", host="h", port=1, slots=slots, ready=ready)
    made = Endpoint(facts, Load(at=0.0, **load) if load else None)
    made.in_flight = in_flight
    return made


@pytest.mark.parametrize(
    ("endpoints", "level"),
    [
        ([], 1.0),
        ([endpoint(ready=False)], 1.0),
        ([endpoint()], 0.0),
        ([endpoint(50)], 0.5),
        ([endpoint(150)], 1.5),
        ([endpoint(4, slots=4)], 0.5),
        ([endpoint(8, slots=4)], 1.0),
        ([endpoint(waiting=5)], 1.0),
        ([endpoint(kv_used=0.4)], 0.5),
        ([endpoint(90, waiting=0, kv_used=0.0)], 0.9),
        ([endpoint(400), endpoint(0)], 0.5),
        ([endpoint(400), endpoint(200)], 3.0),
        ([endpoint(100), endpoint(ready=False)], 1.0),
    ],
)
def test_a_pool_is_as_full_as_its_endpoints_are(endpoints, level):
    assert saturation(endpoints, 1.0) == pytest.approx(level)


def test_an_engine_that_has_gone_silent_is_full_as_soon_as_a_call_is_there():
    assert saturation([endpoint(1, waiting=0)], STALE_S) == 1.0
    assert saturation([endpoint(0, waiting=0)], STALE_S) == 0.0
    assert saturation([endpoint(300, waiting=0)], STALE_S) == 3.0
