from __future__ import annotations

import pytest

from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import ANYONE, Caller
from gemstead.traffic.endpoint import Endpoint, EndpointFacts
from gemstead.traffic.routes import Routes

ROUTES = Routes([("gemma-4-e2b", ("small", "Gemma")), ("gemma-4-31b", ("large", "gemma-4-e2b"))])


@pytest.mark.parametrize(
    ("model", "pool"),
    [
        ("gemma-4-e2b", "gemma-4-e2b"),
        ("small", "gemma-4-e2b"),
        ("SMALL", "gemma-4-e2b"),
        ("gemma", "gemma-4-e2b"),
        ("Gemma-4-31B", "gemma-4-31b"),
    ],
)
def test_a_name_is_found_exactly_and_then_without_case(model, pool):
    assert ROUTES.pool(model) == pool


def test_an_exact_name_beats_one_that_differs_in_case():
    routes = Routes([("a", ("Fast",)), ("b", ("fast",))])
    assert (routes.pool("Fast"), routes.pool("fast")) == ("a", "b")


def test_a_misspelt_model_is_refused_with_the_nearest_and_what_is_served():
    with pytest.raises(Refused) as refused:
        ROUTES.pool("gemma-4-e2")
    no = refused.value
    assert (no.reason, no.code, no.param) == (Reason.UNKNOWN_MODEL, "model_not_found", "model")
    assert "Did you mean `gemma-4-e2b`?" in no.message
    assert "Served here: `gemma-4-e2b`, `gemma-4-31b`." in no.message


def test_a_long_name_and_a_long_list_do_not_make_a_long_refusal():
    routes = Routes([(f"model-{n}", ()) for n in range(1000)])
    with pytest.raises(Refused) as refused:
        routes.pool("x" * 100_000)
    assert len(refused.value.message) < 600
    assert "and 990 more" in refused.value.message


def test_a_key_for_some_models_is_refused_the_others_and_not_told_of_them():
    caller = Caller(key_id="k", models=frozenset({"gemma-4-e2b"}))
    assert ROUTES.pool("small", caller) == "gemma-4-e2b"
    with pytest.raises(Refused) as refused:
        ROUTES.pool("large", caller)
    assert (refused.value.reason, refused.value.code) == (Reason.FORBIDDEN, "model_not_allowed")
    assert "It may use: `gemma-4-e2b`." in refused.value.message
    with pytest.raises(Refused) as refused:
        ROUTES.pool("gemma-4-31", caller)
    assert "31b" not in refused.value.message


def test_an_alias_on_a_keys_list_stands_for_its_pool():
    caller = Caller(key_id="k", models=frozenset({"large"}))
    assert ROUTES.pool("gemma-4-31b", caller) == "gemma-4-31b"
    assert ROUTES.visible(caller) == ["gemma-4-31b"]
    assert ROUTES.visible(ANYONE) == ["gemma-4-e2b", "gemma-4-31b"]


def test_endpoints_are_found_by_pool():
    endpoint = Endpoint(EndpointFacts(name="e", pool="a", host="h", port=1))
    routes = Routes([("a", ()), ("b", ())], {"a": [endpoint]})
    assert (list(routes.endpoints("a")), list(routes.endpoints("b"))) == ([endpoint], [])
