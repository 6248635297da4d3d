"""`gemstead apply` to Cloud Run and Vertex AI: every body is what Google's discovery documents allow."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from discovery import faults, method_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.catalog.catalogue import built_in
from gemstead.operate.apply.carry import Run, earlier
from gemstead.operate.apply.piece import Place, PlaceError
from gemstead.operate.cloud.google import google
from gemstead.operate.cloud.run import RunPlace
from gemstead.operate.cloud.vertex import Waiting, vertex
from gemstead.operate.cloud.vertex_pieces import shared, without
from gemstead.render import target
from gemstead.render.bundle import Bundle
from gemstead.spec.model import Spec
from gemstead.testing.google_replay import GoogleReplay, recorded
from gemstead.testing.googleapi import Exchange, GoogleApi
from gemstead.wiring.deployment import deployment

RECORDINGS = Path(__file__).parents[2] / "data" / "google" / "recorded"
SECRETS = ("gemstead-applied", "gemstead-gemma-4-e4b-settings", "gemstead-gemma-4-e2b-settings")


class Clock:
    """Time that passes when someone waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def bundle(name: str, model: str = "gemma-4-e4b", longest_s: int = 600, **options: Any) -> Bundle:
    file = {
        "models": [{"name": model, "engine": "vllm"}],
        "deploy": {
            "cloud": {"project": "acme", "region": "europe-west4"},
            "cache": {"kind": "bucket-stream", "bucket": "acme-models"},
            "hardware": {"gpu": "L4", "count": 1},
            "load": {"longest_answer_s": longest_s},
            "options": {"rollout_hold_s": 4, **options},
        },
    }
    return target(name).render(deployment(Spec.model_validate(file, strict=False), built_in()))


def steady(what: Bundle, content: str) -> Bundle:
    """With images of this content: recordings are of requests, not of Dockerfiles."""
    tag = re.compile(r"(:[0-9]+\.[0-9]+\.[0-9]+)-[0-9a-f]{8}\b")
    files = {path: tag.sub(rf"\1-{content}", text) for path, text in what.files.items()}
    return Bundle(what.target, files, what.notes)


def environ(api: GoogleApi) -> dict[str, str]:
    names = ("RUN", "SECRETMANAGER", "AIPLATFORM")
    return {
        **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{one}": api.url for one in names},
        "CLOUDSDK_AUTH_ACCESS_TOKEN": "t",
    }


def place(api: GoogleApi, name: str, clock: Clock | None = None) -> Place:
    if name == "cloudrun":
        return RunPlace(google(environ(api)), "gemstead", "acme", "europe-west4")
    clock = clock or Clock()
    return vertex(environ(api), "gemstead", "acme", "europe-west4", Waiting(clock, clock.sleep))


def carried(api: GoogleApi, what: Bundle, check: str = "", clock: Clock | None = None) -> Run:
    clock = clock or Clock()
    there = place(api, what.target, clock)
    run = Run(there, there.pieces(what), lambda: check, 3000, clock, clock.sleep)
    for _ in run:
        pass
    return run


def gone_back(api: GoogleApi, name: str) -> Run:
    clock = Clock()
    there = place(api, name, clock)
    back = earlier(there.history())
    assert back is not None
    run = Run(there, there.going_back(back.pieces), lambda: "", 3000, clock, clock.sleep)
    for _ in run:
        pass
    return run


def state(api: GoogleApi) -> dict[str, Any]:
    """What callers would notice: services as they were said, who gets which share, settings."""
    return {
        "services": {name: one["spec"] for name, one in api.services.items()},
        "shares": {
            one["displayName"]: {
                deployed["displayName"]: one.get("trafficSplit", {}).get(deployed["id"], 0)
                for deployed in one.get("deployedModels", [])
            }
            for one in api.vertex.endpoints.values()
        },
        "versions": sorted(len(one) for one in api.vertex.models.values()),
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
        assert not gone_back(api, name).failure
        again = state(api)
        assert {**again, "versions": 0} == {**first, "versions": 0}
        assert [one for exchange in api.exchanges for one in faults(exchange)] == []


def splits(api: GoogleApi, since: int) -> list[list[int]]:
    return [
        sorted(one.body["trafficSplit"].values())
        for one in api.exchanges[since:]
        if one.method == "PATCH" and "trafficSplit" in one.body
    ]


def moves(api: GoogleApi, since: int) -> list[str]:
    """Deploying and undeploying, in order."""
    return [one.path.rpartition(":")[2] for one in api.exchanges[since:] if one.path.endswith("deployModel")]


def test_a_new_version_gets_its_calls_step_by_step_and_the_old_one_goes_last() -> None:
    clock = Clock()
    with GoogleApi(SECRETS) as api:
        carried(api, bundle("vertex"), clock=clock)
        before, since = len(api.exchanges), clock.now
        carried(api, bundle("vertex", longest_s=1200, rollout_hold_s=30), clock=clock)
        assert splits(api, before) == [[10, 90], [50, 50], [100]]
        assert clock.now - since >= 3 * 30
        deploys = [one.body for one in api.exchanges[before:] if one.path.endswith(":deployModel")]
        assert [body["trafficSplit"]["0"] for body in deploys] == [0]
        assert moves(api, before) == ["deployModel", "undeployModel"]


def test_a_check_that_fails_leaves_the_old_version_and_going_back_is_one_change_of_shares() -> None:
    with GoogleApi(SECRETS) as api:
        carried(api, bundle("vertex"))
        first = state(api)["shares"]
        assert carried(api, bundle("vertex", longest_s=1200), check="no sense").failure == "no sense"
        [endpoint] = api.vertex.endpoints.values()
        assert len(endpoint["deployedModels"]) == 2
        before = len(api.exchanges)
        assert not gone_back(api, "vertex").failure
        assert splits(api, before) == [[100]]
        assert moves(api, before) == ["undeployModel"]
        assert state(api)["shares"] == first


def test_after_a_rollout_going_back_deploys_again_unless_the_version_before_is_kept() -> None:
    for keep, wanted in ((False, ["deployModel", "undeployModel"]), (True, [])):
        with GoogleApi(SECRETS) as api:
            carried(api, bundle("vertex", keep_previous=keep))
            carried(api, bundle("vertex", longest_s=1200, keep_previous=keep))
            [endpoint] = api.vertex.endpoints.values()
            assert len(endpoint["deployedModels"]) == 1 + keep
            before = len(api.exchanges)
            assert not gone_back(api, "vertex").failure
            assert moves(api, before) == wanted
            assert splits(api, before) == [[100]]


def test_a_version_that_is_kept_goes_with_the_next_one_but_one() -> None:
    with GoogleApi(SECRETS) as api:
        for longest_s in (600, 1200, 1800):
            assert not carried(api, bundle("vertex", longest_s=longest_s, keep_previous=True)).failure
        [endpoint] = api.vertex.endpoints.values()
        assert sorted(state(api)["shares"][endpoint["displayName"]].values()) == [0, 100]
        there = place(api, "vertex")
        assert not there.differences(there.pieces(bundle("vertex", longest_s=1800, keep_previous=True)))


def test_a_share_is_not_raised_while_a_replica_is_down() -> None:
    clock = Clock()
    with GoogleApi(SECRETS) as api:
        carried(api, bundle("vertex"), clock=clock)
        there = place(api, "vertex", clock)
        run = Run(there, there.pieces(bundle("vertex", longest_s=1200)), lambda: "", 60, clock, clock.sleep)
        for told in run:
            if told.key.endswith(" 10"):
                [endpoint] = api.vertex.endpoints.values()
                endpoint["deployedModels"][-1]["status"]["availableReplicaCount"] = 0
        assert "0 of 1 replicas answer" in run.failure
        assert sorted(endpoint["trafficSplit"].values()) == [10, 90]


def test_an_endpoint_that_is_not_wanted_any_more_goes_with_what_it_serves() -> None:
    with GoogleApi(SECRETS) as api:
        carried(api, bundle("vertex", "gemma-4-e2b"))
        assert not carried(api, bundle("vertex", "gemma-4-e4b")).failure
        assert [one["displayName"] for one in api.vertex.endpoints.values()] == ["gemstead-gemma-4-e4b"]
        assert [one for exchange in api.exchanges for one in faults(exchange)] == []


def test_a_field_that_google_does_not_know_is_refused_before_anything_is_sent() -> None:
    with GoogleApi(SECRETS) as api:
        there = place(api, "vertex")
        files = dict(bundle("vertex").files)
        [path] = [one for one in files if one.endswith("endpoint.yaml")]
        files[path] = yaml.safe_dump({**yaml.safe_load(files[path]), "dedicated": True})
        with pytest.raises(PlaceError, match="dedicated"):
            there.differences(there.pieces(Bundle("vertex", files)))
        assert not api.asked


# What each recording is of: first rollout, one more on top of it, and back again.
@pytest.mark.parametrize("name", ["cloudrun", "vertex"])
def test_what_is_asked_is_what_was_recorded(name: str) -> None:
    """Order and bodies of every request, against fixtures that Google's documents allow (WRITE_GOLDEN=write)."""
    path = RECORDINGS / f"{name}.json"
    if os.environ.get("WRITE_GOLDEN"):
        with GoogleApi(SECRETS) as api:
            _first_then_another_then_back(api, name)
            path.parent.mkdir(exist_ok=True)
            lines = ",\n".join(json.dumps(one) for one in recorded(api.exchanges))
            path.write_text(f"[\n{lines}\n]\n", "utf-8")
    recording = json.loads(path.read_text("utf-8"))
    with GoogleReplay(recording, SECRETS) as replay:
        _first_then_another_then_back(replay, name)
        assert replay.strange == []
        assert replay.left == []
    assert [
        one for said in recording if "/secrets/" not in said["path"] for one in faults(Exchange(**said))
    ] == []


def _first_then_another_then_back(api: GoogleApi, name: str) -> None:
    assert not carried(api, steady(bundle(name), "first")).failure
    assert not carried(api, steady(bundle(name, longest_s=1200), "other")).failure
    assert not gone_back(api, name).failure


def test_a_replay_refuses_another_request() -> None:
    recording = json.loads((RECORDINGS / "vertex.json").read_text("utf-8"))
    with GoogleReplay(recording, SECRETS) as replay:
        assert carried(replay, bundle("vertex", longest_s=700)).failure
        assert "but the recording goes on with" in replay.strange[0]


def test_the_recordings_hold_every_method_that_apply_uses() -> None:
    used = {
        method_of(Exchange(**one))
        for name in ("cloudrun", "vertex")
        for one in json.loads((RECORDINGS / f"{name}.json").read_text("utf-8"))
    }
    assert {one.rpartition(".")[2] for one in used} >= {
        "upload", "create", "patch", "deployModel", "undeployModel", "listVersions", "replaceService", "addVersion"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": "/v1/projects/p/locations/r/endpoints/e:deploy"}, "no such method"),
        ({"query": {"split": "1"}}, "no parameter split"),
        ({"body": {"displayName": "e", "etags": "1"}}, "etags"),
        ({"body": {"displayName": "e", "deployedModels": [{"id": "1"}]}}, "deployedModels"),
        ({"answer": {"name": 7}}, "answer: name"),
    ],
)
def test_what_google_does_not_allow_is_found(change: dict[str, Any], says: str) -> None:
    good = {"method": "POST", "path": "/v1/projects/p/locations/r/endpoints", "query": {"endpointId": "e"},
            "body": {"displayName": "e"}, "status": 200, "answer": {"name": "o"}}  # fmt: skip
    assert faults(Exchange(**good)) == []
    assert says in " ".join(faults(Exchange(**{**good, **change})))


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
    nobody = {"CLOUDSDK_AUTH_ACCESS_TOKEN": "t"} | {
        f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{one}": "http://127.0.0.1:9" for one in ("RUN", "AIPLATFORM")
    }
    with pytest.raises(PlaceError, match="run API does not answer"):
        RunPlace(google(nobody), "a", "p", "r").unwanted((), ())
    with pytest.raises(PlaceError, match="aiplatform API does not answer"):
        vertex(nobody, "a", "p", "r").unwanted((), ())


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 100), max_size=3))
def test_what_is_left_of_a_split_sums_to_a_hundred(split: dict[str, int]) -> None:
    new = without(split, "a", sorted(split.keys() - {"a"}))
    assert "a" not in new
    assert sum(new.values()) == (100 if split.keys() - {"a"} else 0)
