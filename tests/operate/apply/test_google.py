"""`gemstead apply` to Cloud Run and Vertex AI: every body is what Google's discovery documents allow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gemstead.catalog.catalogue import built_in
from gemstead.operate.apply.carry import Run, earlier
from gemstead.operate.apply.piece import PlaceError
from gemstead.operate.cloud.google import google
from gemstead.operate.cloud.run import RunPlace
from gemstead.operate.cloud.vertex import VertexPlace, shared
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.spec.model import Spec
from gemstead.testing.googleapi import GoogleApi
from gemstead.wiring.deployment import deployment

SCHEMAS = Path(__file__).parents[2] / "data" / "schemas" / "google"
SECRETS = ("gemstead-applied", "gemstead-gemma-4-e4b-settings", "gemstead-gemma-4-e2b-settings")
# (method, path) -> Google's type of the body.
TYPES = [
    (r"(POST|PUT) /apis/serving.*", "run.v1.Service"),
    (r"POST .*/endpoints", "aiplatform.v1.Endpoint"),
    (r"PATCH .*/endpoints/\d+", "aiplatform.v1.Endpoint"),
    (r"POST .*/models:upload", "aiplatform.v1.UploadModelRequest"),
    (r"POST .*:deployModel", "aiplatform.v1.DeployModelRequest"),
]


def bundle(name: str, model: str = "gemma-4-e4b", longest_s: int = 600) -> Bundle:
    file = {
        "models": [{"name": model, "engine": "vllm"}],
        "deploy": {
            "cloud": {"project": "acme", "region": "europe-west4"},
            "cache": {"kind": "bucket-stream", "bucket": "acme-models"},
            "hardware": {"gpu": "L4", "count": 1},
            "load": {"longest_answer_s": longest_s},
        },
    }
    return target(name).render(deployment(Spec.model_validate(file, strict=False), built_in()))


def place(api: GoogleApi, name: str) -> RunPlace | VertexPlace:
    environ = {
        f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{one}": api.url for one in ("RUN", "SECRETMANAGER", "AIPLATFORM")
    }
    kind = RunPlace if name == "cloudrun" else VertexPlace
    return kind(google({**environ, "CLOUDSDK_AUTH_ACCESS_TOKEN": "t"}), "gemstead", "acme", "europe-west4")


def carried(api: GoogleApi, what: Bundle, check: str = "") -> Run:
    there = place(api, what.target)
    run = Run(there, there.pieces(what), lambda: check, 30, lambda: 0.0, lambda s: None)
    for _ in run:
        pass
    return run


def faults(api: GoogleApi) -> list[str]:
    found = []
    for method, path, body in api.asked:
        for pattern, name in TYPES:
            if re.fullmatch(pattern, f"{method} {path}"):
                schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
                found += [f"{path}: {one.message}" for one in Draft202012Validator(schema).iter_errors(body)]
    return found


def state(api: GoogleApi) -> dict[str, Any]:
    """What callers would notice: services as they were said, who gets which share, settings."""
    return {
        "services": {name: one["spec"] for name, one in api.services.items()},
        "shares": {
            one["displayName"]: {
                deployed["displayName"]: one["trafficSplit"].get(deployed["id"], 0)
                for deployed in one["deployedModels"]
            }
            for one in api.endpoints.values()
        },
        "versions": sorted(len(one) for one in api.models.values()),
        "settings": {name: one[-1] for name, one in api.secrets.items() if one and "applied" not in name},
    }


@pytest.mark.parametrize("name", ["cloudrun", "vertex"])
def test_a_plan_is_applied_changed_and_taken_back(name: str) -> None:
    with GoogleApi(SECRETS) as api:
        assert not carried(api, bundle(name)).failure
        first = state(api)
        assert first["services"] or first["shares"]
        there = place(api, name)
        assert not there.differences(there.pieces(bundle(name)))
        assert there.differences(there.pieces(bundle(name, longest_s=1200)))
        assert not carried(api, bundle(name, longest_s=1200)).failure
        assert state(api) != first
        back = earlier(there.history())
        assert back is not None
        run = Run(place(api, name), back.pieces, lambda: "", 30, lambda: 0.0, lambda s: None)
        assert [told.why for told in run if told.what == "failed"] == []
        again = state(api)
        assert {**again, "versions": 0} == {**first, "versions": 0}
        assert not faults(api)


def test_a_new_version_gets_its_calls_step_by_step_and_the_old_one_goes_last() -> None:
    with GoogleApi(SECRETS) as api:
        carried(api, bundle("vertex"))
        before = len(api.asked)
        carried(api, bundle("vertex", longest_s=1200))
        splits = [
            sorted(body["trafficSplit"].values())
            for method, _, body in api.asked[before:]
            if method == "PATCH" and "trafficSplit" in body
        ]
        assert splits == [[10, 90], [50, 50], [100]]
        deploys = [body for _, path, body in api.asked[before:] if path.endswith(":deployModel")]
        assert [body["trafficSplit"]["0"] for body in deploys] == [0]
        order = [
            path.rpartition(":")[2]
            for _, path, _ in api.asked[before:]
            if "undeploy" in path or "deploy" in path
        ]
        assert order == ["deployModel", "undeployModel"]


def test_a_check_that_fails_leaves_the_old_version_deployed() -> None:
    with GoogleApi(SECRETS) as api:
        carried(api, bundle("vertex"))
        assert carried(api, bundle("vertex", longest_s=1200), check="no sense").failure == "no sense"
        [endpoint] = api.endpoints.values()
        assert len(endpoint["deployedModels"]) == 2


def test_a_service_that_is_not_wanted_any_more_goes() -> None:
    with GoogleApi(SECRETS) as api:
        carried(api, bundle("cloudrun", "gemma-4-e2b"))
        run = carried(api, bundle("cloudrun", "gemma-4-e4b"))
        assert not run.failure
        assert set(api.services) == {"gemstead-gemma-4-e4b"}


def test_what_setup_makes_is_missed_with_a_sentence() -> None:
    with GoogleApi() as api:
        assert "run the bundle's setup.sh first" in carried(api, bundle("cloudrun")).failure


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(["cloudrun", "vertex"]),
    st.integers(1, 10),
    st.sampled_from(["before", "after"]),
    st.booleans(),
)
def test_a_second_run_finishes_what_a_first_one_began(name: str, at: int, how: str, first_time: bool) -> None:
    with GoogleApi(SECRETS) as clean, GoogleApi(SECRETS) as broken:
        for api in (clean, broken):
            if not first_time:
                carried(api, bundle(name))
        carried(clean, bundle(name, longest_s=1200))
        broken.fail_at, broken.fail_how = broken.changes + at, how
        if carried(broken, bundle(name, longest_s=1200)).failure:
            assert not carried(broken, bundle(name, longest_s=1200)).failure
        assert state(broken) == state(clean)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 100), min_size=1, max_size=3),
    st.integers(1, 100),
)
def test_shares_are_whole_and_sum_to_a_hundred(weights: dict[str, int], share: int) -> None:
    total = sum(weights.values())
    split = {name: weight * 100 // total for name, weight in weights.items()}
    split[next(iter(split))] += 100 - sum(split.values())
    new = shared(split, "mine", share)
    assert sum(new.values()) == 100
    assert new["mine"] == share
    assert all(percent >= 0 for percent in new.values())


def test_google_that_does_not_answer_is_said() -> None:
    environ = {"CLOUDSDK_AUTH_ACCESS_TOKEN": "t", "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN": "http://127.0.0.1:9"}
    with pytest.raises(PlaceError, match="run API does not answer"):
        RunPlace(google(environ), "a", "p", "r").unwanted((), ())
