"""What the head adds to the workers' metrics: its engines, its replicas, its workers, its version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gemstead import __version__
from gemstead.engines.lifecycle import Phase
from gemstead.observe import names
from gemstead.observe.metrics import Registry, Snapshot, exposition, merge
from gemstead.supervise.replica import Watched


def counted(snapshot: Snapshot) -> Snapshot:
    """The part of a dead worker's figures that still counts: what it counted, not what it held."""
    kinds = {name: family.kind for name, family in names.FAMILIES.items()}
    return {name: children for name, children in snapshot.items() if kinds.get(name) != "gauge"}


def exposed(
    workers: Snapshot,
    watched: Iterable[Watched],
    running: dict[str, bool],
    worker_restarts: int,
    desired: Mapping[str, int],
    store: Mapping[str, object] | None = None,
) -> str:
    """The Prometheus text of the whole service. `running`: gateway workers by name; `desired`: replicas by model;
    `store`: how the store stands that several gateways share."""
    registry = Registry()
    registry.values(names.BUILD_INFO).labels(__version__).set(1)
    up = registry.values(names.WORKER_UP)
    for name, running_now in running.items():
        up.labels(name).set(running_now)
    registry.values(names.WORKER_RESTARTS).labels().add(worker_restarts)
    for model, count in desired.items():
        registry.values(names.DESIRED_REPLICAS).labels(model).set(count)
    if store is not None and "up" in store:
        registry.values(names.STORE_UP).labels().set(bool(store["up"]))
        registry.values(names.STORE_WAITING).labels().set(float(str(store["waiting"])))
    for one in watched:
        _engine(registry, one)
    return exposition(merge([workers, registry.snapshot()], names.FAMILIES), names.FAMILIES)


def _engine(registry: Registry, watched: Watched) -> None:
    facts, load = watched.facts, watched.sight.load
    state = registry.values(names.REPLICA_STATE)
    for phase in Phase:
        state.labels(facts.name, phase.value).set(phase is watched.phase)
    restarts = watched.describe().get("restarts")
    if isinstance(restarts, int):
        registry.values(names.REPLICA_RESTARTS).labels(facts.name).add(restarts)
    kept = watched.describe().get("draft_kept")
    if isinstance(kept, float):
        registry.values(names.ENGINE_DRAFT_KEPT).labels(facts.name, facts.engine).set(kept)
    if load is None:  # absent, never a silent zero
        return
    for family, value in (
        (names.ENGINE_RUNNING, load.running),
        (names.ENGINE_WAITING, load.waiting),
        (names.ENGINE_KV_USED, load.kv_used),
    ):
        if value is not None:
            registry.values(family).labels(facts.name, facts.engine).set(value)
