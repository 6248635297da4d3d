"""Where the store is and how it behaves: the `store` section and the hub's own variables, put together once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gemstead.operate.hub import Hub
from gemstead.operate.probe import disk_free
from gemstead.spec.model import Spec

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """The store of this machine, and how models get into it."""

    path: Path
    hub: Hub
    offline: bool = False
    concurrency: int = 8
    min_free_bytes: int = 1 << 30
    mirrors: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(
        default_factory=dict
    )  # pattern of repositories -> where to take them from
    verify: str = "fast"
    free: Callable[[Path], int] = disk_free
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    @staticmethod
    def of(spec: Spec, environ: Mapping[str, str]) -> Place:
        """As the Spec and the variables say."""
        hub, store = Hub.of(environ), spec.store
        hub = replace(hub, offline=hub.offline or not spec.hub)
        return Place(
            path=Path(store.path).expanduser().absolute() if store.path else hub.cache.absolute(),
            hub=hub,
            offline=store.offline,
            concurrency=store.concurrency,
            min_free_bytes=int(store.min_free_gb * GB),
            mirrors=store.mirrors,
            rules={rule.match: rule.source for rule in store.sources},
            verify=store.verify,
            environ=environ,
        )
