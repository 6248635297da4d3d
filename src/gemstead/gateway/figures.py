"""What one gateway worker counts: every finished call, from its record, and a few live gauges.

`record` reads the same `AuditRecord` that the audit log keeps, so the two can never disagree. What a set of labels
leads to is remembered, so a call costs one dictionary look-up and some additions.
"""

from __future__ import annotations

from typing import Final

from gemstead.ledger.audit import AuditRecord
from gemstead.observe import names
from gemstead.observe.metrics import Histogram, Registry, Value

_REMEMBERED: Final = 4096  # sets of labels whose children are kept at hand


class _Children:
    """The metrics of one (tenant, model, route, outcome)."""

    __slots__ = ("cached", "first", "output", "per_token", "prompt", "requests", "seconds")

    def __init__(self, figures: Figures, tenant: str, model: str, route: str, outcome: str) -> None:
        self.requests: Value = figures.requests.labels(tenant, model, route, outcome)
        self.seconds: Histogram = figures.seconds.labels(tenant, model)
        self.first: Histogram = figures.first.labels(tenant, model)
        self.per_token: Histogram = figures.per_token.labels(tenant, model)
        self.prompt: Value = figures.tokens.labels(tenant, model, "prompt")
        self.cached: Value = figures.tokens.labels(tenant, model, "cached")
        self.output: Value = figures.tokens.labels(tenant, model, "output")


class Figures:
    """The metrics of one worker, on its registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.requests = registry.values(names.REQUESTS)
        self.tokens = registry.values(names.TOKENS)
        self.first = registry.histograms(names.FIRST_TOKEN)
        self.per_token = registry.histograms(names.PER_OUTPUT_TOKEN)
        self.seconds = registry.histograms(names.REQUEST_SECONDS)
        self.in_flight = registry.values(names.IN_FLIGHT).labels()
        self.queue_waiting = registry.values(names.QUEUE_WAITING).labels()
        self.hedges = registry.values(names.HEDGES).labels()
        self.queue_seconds = registry.histograms(names.QUEUE_SECONDS).labels()
        self.retries = registry.values(names.RETRIES).labels()
        self.breaker_open = registry.values(names.BREAKER_OPEN)  # .labels(endpoint).set(0 or 1)
        self.loop_lag = registry.histograms(names.LOOP_LAG).labels()  # .observe(seconds)
        self.endpoint_calls = registry.values(names.ENDPOINT_CALLS)
        self.endpoint_first = registry.histograms(names.ENDPOINT_FIRST_TOKEN)
        self.endpoint_per_token = registry.histograms(names.ENDPOINT_PER_OUTPUT_TOKEN)
        self._by_endpoint: dict[str, tuple[Histogram, Histogram]] = {}
        self._held = registry.values(names.LEDGER_HELD)
        self._healthy = registry.values(names.LEDGER_HEALTHY)
        self.budget_warnings = registry.values(names.BUDGET_WARNINGS)  # .labels(rule, limit, level).add(1)
        self.limit_store = registry.values(names.LIMIT_STORE_HEALTHY).labels()
        self.limit_store.set(1.0)
        self.gap = (
            registry.histograms(names.INTER_TOKEN).labels().observe
        )  # called for every read of every stream
        self._children: dict[tuple[str, str, str, str], _Children] = {}

    def record(self, record: AuditRecord) -> None:
        """Count one call that has ended, however it ended."""
        key = (record.tenant, record.pool, record.route, record.outcome)
        children = self._children.get(key)
        if children is None:
            children = self._remember(key)
        children.requests.numbers[0] += 1.0
        children.seconds.observe(record.seconds)
        if record.prompt_tokens:
            children.prompt.numbers[0] += record.prompt_tokens
            if record.cached_tokens:
                children.cached.numbers[0] += record.cached_tokens
        if output := record.output_tokens:
            children.output.numbers[0] += output
        first = record.first_token_s
        if record.stream and first is not None:
            children.first.observe(first)
            if output > 1:
                children.per_token.observe((record.seconds - first) / (output - 1))
        if record.attempts == 1 and record.outcome == "served":
            self._compare(record, first, output)

    def _compare(self, record: AuditRecord, first: float | None, output: int) -> None:
        """Count a call for the endpoint that answered it, so that releases can be compared (engines/canary.py).

        Only calls that got it first: one that failed elsewhere before would bear the other's delay.
        """
        pair = self._by_endpoint.get(record.endpoint)
        if pair is None:
            if len(self._by_endpoint) >= _REMEMBERED:
                self._by_endpoint.clear()
            name = record.endpoint
            pair = self.endpoint_first.labels(name), self.endpoint_per_token.labels(name)
            self._by_endpoint[name] = pair
        if first is None:
            if output:
                pair[1].observe(record.seconds / output)
            return
        pair[0].observe(first)
        if output > 1:
            pair[1].observe((record.seconds - first) / (output - 1))

    def endpoint(self, name: str, served: int, failed: int) -> None:
        """Show how many calls an endpoint served and failed, as the picker's books have it."""
        self.endpoint_calls.labels(name, "served").set(served)
        self.endpoint_calls.labels(name, "failed").set(failed)

    def others(self, name: str, calls: int) -> None:
        """Show how many calls other workers have at an endpoint."""
        self.registry.values(names.ENDPOINT_OTHERS).labels(name).set(calls)

    def kv_events(self, name: str, live: bool, prompts: int, counts: dict[str, int]) -> None:
        """Show how an engine's own word on its cache is heard."""
        self.registry.values(names.KV_EVENTS_LIVE).labels(name).set(float(live))
        self.registry.values(names.KV_PROMPTS).labels(name).set(prompts)
        for what, count in counts.items():
            self.registry.values(names.KV_EVENTS).labels(name, what).set(count)

    def sharing(self, healthy: bool, others: int, taken: int, left_out: int) -> None:
        """Show how this worker hears of other gateways; said by those only that listen to any."""
        values = self.registry.values
        values(names.SHARING_HEALTHY).labels().set(float(healthy))
        values(names.SHARING_OTHERS).labels().set(others)
        values(names.SHARING_HEADS).labels("taken").set(taken)
        values(names.SHARING_HEADS).labels("left_out").set(left_out)

    def media(self, outcome: str, size: int) -> None:
        """Count a call that named media by address, and the bytes that were fetched for it."""
        self.registry.values(names.MEDIA_CALLS).labels(outcome).add(1)
        if size:
            self.registry.values(names.MEDIA_BYTES).labels().add(size)

    def ledger(self, held: int, healthy: bool) -> None:
        """Show how many audit records are not on disk yet, and whether they can be written."""
        self._held.labels().set(held)
        self._healthy.labels().set(float(healthy))

    def _remember(self, key: tuple[str, str, str, str]) -> _Children:
        if len(self._children) >= _REMEMBERED:
            self._children.clear()  # they are found again through the families
        children = self._children[key] = _Children(self, *key)
        return children
