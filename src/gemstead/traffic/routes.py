"""From the model that a caller names to the pool of endpoints that serves it.

A pool has a name and aliases. A name is looked up exactly, then without regard to case. What nobody serves is
refused with the nearest name, because most unknown models are misspelt ones. Splits, canaries and fallbacks
are not here yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller
from gemstead.traffic.endpoint import Endpoint

MOST_NAMED: Final = 10  # models listed in a refusal


class Routes:
    """Pools by any of their names, and endpoints by pool. Built anew when the file or the fleet changes."""

    def __init__(
        self,
        pools: Iterable[tuple[str, Iterable[str]]],
        endpoints: Mapping[str, Sequence[Endpoint]] = MappingProxyType({}),
    ) -> None:
        named = [(name, tuple(aliases)) for name, aliases in pools]
        self.names = tuple(name for name, _ in named)  # of pools, in the order of the file
        self._exact = {alias: name for name, aliases in named for alias in aliases}
        self._exact.update((name, name) for name in self.names)  # a pool's own name beats another's alias
        self._folded = {written.casefold(): name for written, name in reversed(self._exact.items())}
        self._endpoints = endpoints

    def pool(self, model: str, caller: Caller | None = None) -> str:
        """The name of the pool that serves `model`; with a caller, only of one that this caller may use.

        Raises:
            Refused: UNKNOWN_MODEL when nobody serves it, FORBIDDEN when the caller's key does not allow it.
        """
        pool = self._exact.get(model) or self._folded.get(model.casefold())
        if pool is None:
            raise self._unknown(model, caller)
        if caller is not None and caller.models is not None and pool not in caller.models:
            self.allow(caller, pool)
        return pool

    def endpoints(self, pool: str) -> Sequence[Endpoint]:
        """The pool's endpoints, ready or not."""
        return self._endpoints.get(pool, ())

    def allow(self, caller: Caller, pool: str) -> None:
        """Check the key's list of models; an alias on the list stands for its pool.

        Raises:
            Refused: FORBIDDEN, naming the models that the key may use.
        """
        if not self._may(caller, pool):
            allowed = _listed([name for name in self.names if self._may(caller, name)])
            raise Refused(
                Reason.FORBIDDEN,
                f"This API key may not use the model `{pool}`. It may use: {allowed}.",
                param="model",
                code="model_not_allowed",
            )

    def visible(self, caller: Caller) -> list[str]:
        """The pools that this caller may use, in the order of the file, as `/v1/models` lists them."""
        return [name for name in self.names if self._may(caller, name)]

    def _may(self, caller: Caller, pool: str) -> bool:
        models = caller.models
        return models is None or pool in models or any(self._exact.get(name) == pool for name in models)

    def _unknown(self, model: str, caller: Caller | None) -> Refused:
        visible = self.visible(caller) if caller is not None else list(self.names)
        spelt = {written.casefold(): written for written, pool in self._exact.items() if pool in visible}
        shown = model[:128]
        near = get_close_matches(shown.casefold(), spelt, n=1)
        hint = f" Did you mean `{spelt[near[0]]}`?" if near else ""
        return Refused(
            Reason.UNKNOWN_MODEL,
            f"The model `{shown}` does not exist here.{hint} Served here: {_listed(visible)}.",
            param="model",
            code="model_not_found",
        )


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:MOST_NAMED]) + more
