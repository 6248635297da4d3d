"""A cluster's objects, as values."""

from __future__ import annotations

import pytest

from gemstead.gateway.epp.objects import Pool, decodes, endpoints_of, pool_of, rules_of
from gemstead.gateway.epp.rules import Rewrite, Rules
from gemstead.traffic.endpoint import EndpointFacts

LIKE = EndpointFacts(name="", pool="", host="", port=0, engine="vllm", slots=8)
POOL = Pool(name="gemma", labels=(("app", "gemma"),), ports=(8000,))


def named(name, spec, **meta):
    return {"metadata": {"name": name, **meta}, "spec": spec}


def pod(name="a", ip="10.0.0.1", ready="True", labels=None, phase="Running", **meta):
    return {
        "metadata": {"name": name, "labels": labels or {}, **meta},
        "status": {"podIP": ip, "phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    }


def test_a_pool_of_either_version():
    new = {
        "selector": {"matchLabels": {"app": "x", "tier": "y"}},
        "targetPorts": [{"number": 8000}, {"number": 8001}],
    }
    assert pool_of(named("p", new)) == Pool(
        name="p", labels=(("app", "x"), ("tier", "y")), ports=(8000, 8001)
    )
    assert pool_of(named("p", new)).selector == "app=x,tier=y"
    old = {"selector": {"app": "x"}, "targetPortNumber": 8000}
    assert pool_of(named("p", old)) == Pool(name="p", labels=(("app", "x"),), ports=(8000,))


@pytest.mark.parametrize(
    "spec", [{}, {"selector": {}}, {"selector": {"app": "x"}}, {"targetPortNumber": 8000}]
)
def test_a_pool_that_selects_nothing_is_none(spec):
    assert pool_of(named("p", spec)) is None


def test_a_pod_is_ready_when_it_says_so_and_drains_when_it_is_deleted():
    pods = [
        pod("a"),
        pod("b", ready="False"),
        pod("c", deletionTimestamp="2026-11-21T00:00:00Z"),
        pod("d", phase="Failed"),
        pod("e", ip=""),
    ]
    found = {one.name: (one.ready, one.draining) for one in endpoints_of(POOL, pods, LIKE)}
    assert found == {"a": (True, False), "b": (False, False), "c": (True, True)}


def test_each_port_is_an_endpoint_and_labels_say_which_engine_it_is():
    pool = Pool(name="gemma", labels=(("app", "gemma"),), ports=(8000, 8001))
    both = endpoints_of(pool, [pod("a", labels={"llm-d.ai/engine-type": "sglang"})], LIKE)
    assert [(one.name, one.port, one.engine, one.slots, one.pool) for one in both] == [
        ("a:8000", 8000, "sglang", 8, "gemma"),
        ("a:8001", 8001, "sglang", 8, "gemma"),
    ]
    told = endpoints_of(pool, [pod("a", ip="fd00::1")], LIKE, 5557, 6557)
    assert [(one.kv_events, one.kv_replay) for one in told] == [
        ("tcp://[fd00::1]:5557", "tcp://[fd00::1]:6557"),
        ("tcp://[fd00::1]:5558", "tcp://[fd00::1]:6558"),
    ]
    (old,) = endpoints_of(POOL, [pod("a", labels={"inference.networking.k8s.io/engine-type": "tgi"})], LIKE)
    assert old.engine == "tgi"


@pytest.mark.parametrize("name", ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"])
@pytest.mark.parametrize(
    ("said", "ports"), [("8001", [8001]), (" 8001 ,8000", [8000, 8001]), ("9,x", []), ("", [])]
)
def test_a_pod_may_have_only_some_of_the_ports_open_and_ranks_keep_their_number(name, said, ports):
    pool = Pool(name="gemma", labels=(("app", "gemma"),), ports=(8000, 8001))
    found = endpoints_of(pool, [pod("a", annotations={name: said})], LIKE, 5557)
    assert [one.port for one in found] == ports
    assert [one.kv_events[-4:] for one in found] == [str(5557 + port - 8000) for port in ports]


@pytest.mark.parametrize(
    ("role", "answers"),
    [
        ("", True),
        ("decode", True),
        ("prefill-decode", True),
        ("both", True),
        ("prefill", False),
        ("encode", False),
    ],
)
def test_only_pods_that_answer_calls_are_picked_from(role, answers):
    assert decodes(role) is answers
    assert bool(endpoints_of(POOL, [pod("a", labels={"llm-d.ai/role": role})], LIKE)) is answers


def test_objectives_of_this_pool_count_and_the_newer_group_beats_the_older():
    mine, other = {"name": "gemma"}, {"name": "llama"}
    objectives = [  # the newer group is handed in first
        named("chat", {"priority": 10, "poolRef": mine}),
        named("chat", {"priority": 5, "poolRef": mine}),
        named("batch", {"priority": -1, "poolRef": mine}),
        named("unset", {"poolRef": mine}),
        named("theirs", {"priority": 99, "poolRef": other}),
        named("broken", {"priority": "high", "poolRef": mine}),
    ]
    rules = rules_of("gemma", objectives, [])
    assert rules.objectives == {"chat": 10, "batch": -1, "unset": 0}
    assert [rules.priority(word) for word in ("chat", "batch", "theirs", "critical", "-7", "")] == [
        10,
        -1,
        0,
        1,
        -7,
        0,
    ]


def test_an_exact_rewrite_beats_a_general_one_and_the_oldest_wins():
    def rule(target, model=None):
        matches = [{"model": {"type": "Exact", "value": model}}] if model else []
        return {"matches": matches, "targets": [{"modelRewrite": target, "weight": 1}]}

    rewrites = [
        named("new", {"rules": [rule("new", "chat")]}, creationTimestamp="2026-02-01T00:00:00Z"),
        named("old", {"rules": [rule("old", "chat")]}, creationTimestamp="2026-01-01T00:00:00Z"),
        named("any", {"rules": [rule("rest")]}, creationTimestamp="2025-01-01T00:00:00Z"),
        named("bad", {"rules": [{"targets": [{"weight": 3}]}]}, creationTimestamp="2024-01-01T00:00:00Z"),
    ]
    rules = rules_of("gemma", [], rewrites)
    assert [rules.rewritten(model, lambda n: 0) for model in ("chat", "x")] == ["old", "rest"]


def test_targets_get_calls_by_their_weights():
    rules = Rules(rewrites=(Rewrite(model="m", targets=(("a", 1), ("b", 3))),))
    assert [rules.rewritten("m", lambda n, d=drawn: d) for drawn in range(4)] == ["a", "b", "b", "b"]
    assert rules.rewritten("other", lambda n: 0) == ""
