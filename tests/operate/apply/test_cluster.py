"""`gemstead apply` to a cluster, over real HTTP to an API that keeps objects and managers of fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.operate.apply.carry import Run, earlier
from gemstead.operate.apply.piece import Piece, PlaceError, Seen
from gemstead.operate.kube.client import Cluster
from gemstead.operate.kube.place import KubePlace
from gemstead.operate.kube.ready import seen, trouble
from gemstead.render.bundle import Bundle
from gemstead.render.yamltext import document, stream
from gemstead.testing.cluster import ClusterApi

LABELS = {"app.kubernetes.io/part-of": "acme", "app.kubernetes.io/managed-by": "gemstead"}


def thing(api: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": dict(LABELS)}
    if kind != "Namespace":
        metadata["namespace"] = "llm"
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}


def bundle(*deployments: str, replicas: int = 1, image: str = "a") -> Bundle:
    objects = [
        *(
            thing("apps/v1", "Deployment", name, spec={"replicas": replicas, "template": {"image": image}})
            for name in deployments
        ),
        thing("v1", "ConfigMap", "settings", data={"replicas": str(replicas), "image": image}),
        thing("v1", "PersistentVolumeClaim", "models", spec={"resources": {}}),
        thing("v1", "Namespace", "llm"),
    ]
    return Bundle(
        "kubernetes",
        {
            "base/all.yaml": stream(objects),
            "base/kustomization.yaml": document({"resources": ["all.yaml"]}),
            "kustomization.yaml": document({"resources": ["base"]}),
        },
    )


@pytest.fixture
def api() -> Iterator[ClusterApi]:
    with ClusterApi() as found:
        yield found


def place(api: ClusterApi, **more: Any) -> KubePlace:
    return KubePlace(Cluster(httpx2.Client(base_url=api.url), "test"), "acme", "llm", **more)


def carried(api: ClusterApi, what: Bundle, check: str = "", **more: Any) -> Run:
    there = place(api, **more)
    now = [0.0]
    run = Run(
        there, there.pieces(what), lambda: check, 30, lambda: now[0], lambda s: now.__setitem__(0, now[0] + s)
    )
    for _ in run:
        pass
    return run


def spoken(api: ClusterApi) -> dict[str, Any]:
    """What is in the cluster, but for records and what the server adds."""
    return {
        f"{one['kind']} {at[3]}": {"spec": one.get("spec"), "data": one.get("data")}
        for at, one in api.objects.items()
        if one["kind"] != "Secret"
    }


def test_a_bundle_is_applied_waited_for_and_pruned(api: ClusterApi) -> None:
    assert not carried(api, bundle("engine", "gateway")).failure
    assert set(api.there("Deployment")) == {"engine", "gateway"}
    second = carried(api, bundle("gateway", image="b"))
    assert not second.failure
    assert set(api.there("Deployment")) == {"gateway"}
    assert second.state is not None
    assert second.state.removed == ("Deployment.apps engine",)
    assert [one.status for one in place(api).history()] == ["applied", "applied"]


def test_nothing_is_removed_when_the_check_fails_and_one_can_go_back(api: ClusterApi) -> None:
    carried(api, bundle("engine"))
    assert carried(api, bundle("other"), check="answers make no sense").failure == "answers make no sense"
    assert set(api.there("Deployment")) == {"engine", "other"}
    there = place(api)
    back = earlier(there.history())
    assert back is not None
    run = Run(there, back.pieces, lambda: "", 30, lambda: 0.0, lambda s: None)
    assert [told.key for told in run if told.what == "removed"] == ["Deployment.apps other"]
    assert set(api.there("Deployment")) == {"engine"}
    assert earlier(place(api).history()) is None, "the same bundle is nothing to go back to"


def test_fields_of_others_are_kept_and_conflicts_are_said(api: ClusterApi) -> None:
    carried(api, bundle("engine"))
    other = thing("apps/v1", "Deployment", "engine", spec={"paused": True, "replicas": 7})
    url = f"{api.url}/apis/apps/v1/namespaces/llm/deployments/engine"
    assert httpx2.patch(url, params={"fieldManager": "hpa", "force": "true"}, json=other).status_code == 200
    failed = carried(api, bundle("engine", replicas=2)).failure
    assert "hpa" in failed
    assert "--force" in failed
    assert not carried(api, bundle("engine", replicas=2), force=True).failure
    assert api.there("Deployment")["engine"]["spec"]["paused"] is True


def test_what_is_not_ready_is_said(api: ClusterApi) -> None:
    api.stuck.add("engine")
    run = carried(api, bundle("engine"))
    assert "Deployment.apps engine" in run.failure
    assert "not ready after 30 s" in run.failure


def test_a_kind_that_the_cluster_lacks_is_refused_before_anything_is_done(api: ClusterApi) -> None:
    objects = [thing("v1", "ConfigMap", "a"), thing("keda.sh/v1alpha1", "ScaledObject", "b")]
    unknown = Bundle(
        "kubernetes", {"a.yaml": stream(objects), "kustomization.yaml": document({"resources": ["a.yaml"]})}
    )
    with pytest.raises(PlaceError, match="no kind ScaledObject"):
        place(api).pieces(unknown)
    assert api.changes == 0


def test_the_difference_is_asked_for_without_changing_anything(api: ClusterApi) -> None:
    carried(api, bundle("engine", "old"))
    changes = api.changes
    there = place(api)
    found = {
        one.key if hasattr(one, "key") else one.path: one
        for one in there.differences(there.pieces(bundle("engine", image="b")))
    }
    assert {name: one.kind for name, one in found.items()} == {
        "ConfigMap settings": "changed",
        "Deployment.apps engine": "changed",
        "Deployment.apps old": "removed",
    }
    assert "+    image: b" in found["Deployment.apps engine"].text
    assert not there.differences(there.pieces(bundle("engine", "old")))
    assert api.changes == changes


def test_a_cluster_that_is_not_there_is_said() -> None:
    away = KubePlace(Cluster(httpx2.Client(base_url="http://127.0.0.1:9"), "cluster dev"), "acme", "llm")
    with pytest.raises(PlaceError, match="cluster dev does not answer"):
        away.pieces(bundle("engine"))


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 12), st.sampled_from(["before", "after"]), st.booleans())
def test_a_second_run_finishes_what_a_first_one_began(at: int, how: str, first_time: bool) -> None:
    old, new = bundle("engine", "old"), bundle("engine", "gateway", replicas=2, image="b")
    with ClusterApi() as clean:
        if not first_time:
            carried(clean, old)
        carried(clean, new)
        wanted = spoken(clean)
    with ClusterApi() as broken:
        if not first_time:
            carried(broken, old)
        broken.fail_at, broken.fail_how = broken.changes + at, how
        first = carried(broken, new)
        if first.failure:
            assert first.state is not None
            said = {*first.state.done, *first.state.left}
            assert said == {piece.key for piece in first.pieces}, "each piece was done or was not"
            for key in first.state.done:
                assert key.partition(" ")[2] in {name[3] for name in broken.objects}
            assert not carried(broken, new).failure
        assert spoken(broken) == wanted
        assert place(broken).history()[-1].status == "applied"


STATES = [
    ("Deployment", {"observedGeneration": 1}, False, False),
    (
        "Deployment",
        {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
        True,
        False,
    ),
    (
        "Deployment",
        {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2},
        False,
        False,
    ),
    (
        "Deployment",
        {
            "observedGeneration": 2,
            "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}],
        },
        False,
        True,
    ),
    ("StatefulSet", {"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 1}, False, False),
    ("LeaderWorkerSet", {"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2}, True, False),
    ("Job", {"conditions": [{"type": "Failed", "status": "True", "message": "no disk"}]}, False, True),
    ("Job", {"conditions": [{"type": "Complete", "status": "True"}]}, True, False),
    ("ConfigMap", {}, True, False),
    ("Namespace", {"phase": "Terminating"}, False, True),
]


@pytest.mark.parametrize(("kind", "status", "ready", "hopeless"), STATES)
def test_what_is_ready(kind: str, status: dict[str, Any], ready: bool, hopeless: bool) -> None:
    one = {
        "kind": kind,
        "metadata": {"name": "a", "generation": 2},
        "spec": {"replicas": 2},
        "status": status,
    }
    found = seen(one)
    assert (found.ready, found.hopeless) == (ready, hopeless)
    assert found.ready or found.why


def test_what_is_wrong_with_a_pod_is_said() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}}
    pod = {"metadata": {"name": "engine-0"}, "status": {"containerStatuses": [waiting]}}
    assert trouble([pod]) == "pod engine-0: ImagePullBackOff no such tag"
    unplaced = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/3 nodes: Insufficient nvidia.com/gpu",
    }
    assert "Insufficient nvidia.com/gpu" in trouble(
        [{"metadata": {"name": "b"}, "status": {"conditions": [unplaced]}}]
    )


def test_looking_again_is_not_a_failure(api: ClusterApi) -> None:
    there = place(api)
    assert there.look(Piece("ConfigMap x", thing("v1", "ConfigMap", "x"))) == Seen(
        False, "it has gone: someone removed it", hopeless=True
    )
