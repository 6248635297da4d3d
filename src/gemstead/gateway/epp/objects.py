"""What a cluster's objects say about a pool: its endpoints, and the rules for its calls. Values in, values out.

Both families of API groups are read: `inference.networking.k8s.io/v1` (and the older `…x-k8s.io/v1alpha2`) for pools,
`llm-d.ai/v1alpha2` and `inference.networking.x-k8s.io/v1alpha2` for objectives and rewrites. An object that does not
make sense is passed over; the others count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gemstead.gateway.epp.rules import Rewrite, Rules
from gemstead.gateway.kvevents import zmq_address
from gemstead.traffic.endpoint import EndpointFacts

POOL_GROUPS = ("inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2")
RULE_GROUPS = ("llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2")
ENGINE_LABELS = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
ROLE_LABEL = "llm-d.ai/role"
# Annotations of a pod: which of the pool's ports it has open, such as "8000,8001"; without it all of them.
PORT_ANNOTATIONS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")
# Engine names on pods, and what they are called here.
ENGINES = {
    "vllm": "vllm",
    "vllm-omni": "vllm",
    "sglang": "sglang",
    "tgi": "tgi",
    "trtllm": "tensorrt_llm",
    "trtllm-serve": "tensorrt_llm",
    "tensorrt-llm": "tensorrt_llm",
    "llamacpp": "llamacpp",
    "llama-cpp": "llamacpp",
    "ollama": "ollama",
}
MOST_PORTS = 8
Object = Mapping[str, Any]


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """An InferencePool, as far as picking needs it."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()  # that its pods have
    ports: tuple[int, ...] = ()  # each is an endpoint of its own: a rank of a data-parallel engine

    @property
    def selector(self) -> str:
        """For `labelSelector`."""
        return ",".join(f"{name}={value}" for name, value in self.labels)


def pool_of(item: Object) -> Pool | None:
    """The pool in an InferencePool object of either version; None when it selects nothing."""
    spec = _section(item, "spec")
    selector = _section(spec, "selector")
    labels = _section(selector, "matchLabels") or {k: v for k, v in selector.items() if isinstance(v, str)}
    ports = [port.get("number") for port in spec.get("targetPorts") or [] if isinstance(port, dict)]
    ports = ports or [spec.get("targetPortNumber")]
    known = tuple(dict.fromkeys(port for port in ports if isinstance(port, int) and 0 < port < 65_536))
    if not labels or not known:
        return None
    pairs = tuple(sorted((str(name), str(value)) for name, value in labels.items()))
    return Pool(name=_name(item), labels=pairs, ports=known[:MOST_PORTS])


def endpoints_of(
    pool: Pool,
    pods: Iterable[Object],
    like: EndpointFacts,
    kv_events_port: int | None = None,
    kv_replay_port: int | None = None,
) -> list[EndpointFacts]:
    """One endpoint for each pod and port. `like` has what pods do not say: engine, slots, context.

    Args:
        kv_events_port: where the first rank of a pod says what its prefix cache holds; vLLM's further ranks have the
            ports after it (`offset_endpoint_port`).
        kv_replay_port: the same for what was missed.
    """
    found = []
    for pod in pods:
        status, labels = _section(pod, "status"), _section(_section(pod, "metadata"), "labels")
        if not (address := status.get("podIP")) or status.get("phase") in ("Succeeded", "Failed"):
            continue
        if not decodes(str(labels.get(ROLE_LABEL) or "")):
            continue
        named = next((str(labels[label]) for label in ENGINE_LABELS if labels.get(label)), "")
        leaving = bool(_section(pod, "metadata").get("deletionTimestamp"))
        active = active_ports(pod, pool.ports)
        for rank, port in enumerate(pool.ports):
            if port not in active:
                continue
            found.append(
                msgspec.structs.replace(
                    like,
                    name=f"{_name(pod)}:{port}" if len(pool.ports) > 1 else _name(pod),
                    pool=pool.name,
                    host=str(address),
                    port=port,
                    engine=ENGINES.get(named.casefold(), like.engine),
                    ready=_is_ready(status),
                    draining=leaving,
                    kv_events=zmq_address(str(address), _of_rank(kv_events_port, rank)),
                    kv_replay=zmq_address(str(address), _of_rank(kv_replay_port, rank)),
                )
            )
    return sorted(found, key=lambda one: one.name)


def _of_rank(port: int | None, rank: int) -> int | None:
    return None if port is None else port + rank


def active_ports(pod: Object, ports: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the pool's ports at which a pod takes calls."""
    annotations = _section(_section(pod, "metadata"), "annotations")
    said = next((annotations[name] for name in PORT_ANNOTATIONS if name in annotations), None)
    if said is None:
        return ports
    named = {word.strip() for word in str(said).split(",")}
    return tuple(port for port in ports if str(port) in named)


def decodes(role: str) -> bool:
    """Whether a pod of this role answers calls; one that only reads prompts or pictures for others does not."""
    return role in ("", "both") or "decode" in role.split("-")


def rules_of(pool: str, objectives: Iterable[Object], rewrites: Iterable[Object]) -> Rules:
    """The rules that concern this pool. Of two objectives with one name the earlier in the sequence counts."""
    priorities: dict[str, int] = {}
    for item in objectives:
        spec = _section(item, "spec")
        priority = spec.get("priority", 0)
        if _is_for(spec, pool) and isinstance(priority, int) and not isinstance(priority, bool):
            priorities.setdefault(_name(item), priority)
    found: list[Rewrite] = []
    for item in sorted(rewrites, key=_age):
        spec = _section(item, "spec")
        if _is_for(spec, pool):
            for rule in spec.get("rules") or []:
                found += _rewrites(rule)
    return Rules(objectives=priorities, rewrites=tuple(found))


def _rewrites(rule: Object) -> list[Rewrite]:
    targets = []
    for target in rule.get("targets") or []:
        name, weight = target.get("modelRewrite"), target.get("weight", 1)
        if isinstance(name, str) and name and isinstance(weight, int) and weight > 0:
            targets.append((name, weight))
    if not targets:
        return []
    models = [_section(match, "model").get("value") for match in rule.get("matches") or []]
    if not models:
        return [Rewrite(targets=tuple(targets))]
    return [Rewrite(model=name, targets=tuple(targets)) for name in models if isinstance(name, str) and name]


def _is_ready(status: Object) -> bool:
    conditions = status.get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _is_for(spec: Object, pool: str) -> bool:
    """Whether an object names this pool; one that names none is for every pool of its namespace."""
    named = _section(spec, "poolRef").get("name")
    return not named or named == pool


def _section(item: Object, name: str) -> Object:
    found = item.get(name)
    return found if isinstance(found, dict) else {}


def _name(item: Object) -> str:
    return str(_section(item, "metadata").get("name") or "")


def _age(item: Object) -> tuple[str, str]:
    return str(_section(item, "metadata").get("creationTimestamp") or "~"), _name(item)
