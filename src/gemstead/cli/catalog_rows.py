"""The catalogue as lists: a row for each entry of a kind, and what stands above the columns."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from gemstead.catalog import known_bad, machines, models, prices
from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.catalogue import Catalogue

Row = dict[str, Any]


# For each kind: heading and the field of the row that stands under it.
HEADINGS: dict[str, dict[str, str]] = {
    "models": {
        "model": "name",
        "inputs": "inputs",
        "context": "context",
        "billions": "parameters_b",
        "active": "active_b",
        "bf16 GiB": "bf16_gib",
        "KV bytes/token": "kv_bytes_per_token",
        "licence": "licence",
        "released": "released",
    },
    "checkpoints": {
        "model": "model",
        "bits": "bits",
        "format": "format",
        "GiB": "weights_gib",
        "known by": "weights_from",
        "engines": "engines",
        "repository": "repo",
    },
    "gpus": {
        "id": "id",
        "memory MiB": "memory_mib",
        "GB/s": "bandwidth_gbs",
        "bf16": "bf16",
        "fp8": "fp8",
        "fp4": "fp4",
        "watt": "tdp_w",
        "link": "interconnect",
        "USD/h from": "usd_hour_from",
        "name": "name",
    },
    "machines": {"cloud": "cloud", "machine": "name", "accelerator": "accelerator", "count": "count"},
    "prices": {
        "accelerator": "accelerator",
        "USD/h": "usd_hour",
        "kind": "kind",
        "who": "who",
        "read": "day",
        "source": "source",
    },
    "api": {
        "model": "model",
        "in": "input_usd",
        "out": "output_usd",
        "cached": "cached_usd",
        "3:1": "blended_usd",
        "provider": "provider",
        "read": "day",
        "source": "source",
    },
    "engines": {
        "engine": "engine",
        "status": "status",
        "from": "least",
        "newest seen": "latest_seen",
        "runs on": "vendors",
    },
    "known-bad": {
        "severity": "severity",
        "sure": "certain",
        "engine": "engine",
        "versions": "versions",
        "id": "id",
        "symptom": "symptom",
    },
}


def rows_of(kind: str, catalogue: Catalogue) -> list[Row]:
    """The entries of a kind, as they are listed."""
    return _ROWS[kind](catalogue)


def _model_rows(catalogue: Catalogue) -> list[Row]:
    return [
        {
            "name": one.name,
            "size": one.size,
            "inputs": ", ".join(one.modalities),
            "context": one.context_tokens,
            "parameters_b": one.shape.all_b,
            "active_b": one.shape.active_with_lm_head_b,
            "bf16_gib": one.weights_bf16.vllm_log_gib,
            "kv_bytes_per_token": one.cache_bytes_per_token,
            "licence": one.licence,
            "released": one.released.isoformat(),
        }
        for one in models.models()
    ]


def _checkpoint_rows(catalogue: Catalogue) -> list[Row]:
    return [{**asdict(one), "engines": ", ".join(one.engines)} for one in catalogue.checkpoints]


def _gpu_rows(catalogue: Catalogue) -> list[Row]:
    def row(one: Accelerator) -> Row:
        orderable = [
            price.usd_hour
            for price in catalogue.rents_of(one.id)
            if price.kind not in ("part", "spot-part", "list")
        ]
        return {
            **plain(one),
            "bf16": one.tflops.bf16,
            "fp8": one.tflops.fp8,
            "fp4": one.tflops.fp4,
            "usd_hour_from": min(orderable, default=None),
        }

    return [row(one) for one in catalogue.accelerators]


def _machine_rows(catalogue: Catalogue) -> list[Row]:
    return [asdict(one) for one in machines.machines()]


def _price_rows(catalogue: Catalogue) -> list[Row]:
    return [{**asdict(one), "day": one.day} for one in catalogue.rents]


def _api_rows(catalogue: Catalogue) -> list[Row]:
    order = sorted(catalogue.api, key=lambda one: (one.model, one.blended_usd()))
    return [{**asdict(one), "day": one.day, "blended_usd": round(one.blended_usd(), 4)} for one in order]


def _engine_rows(catalogue: Catalogue) -> list[Row]:
    return [
        {
            **asdict(one),
            "least": ", ".join(f"{feature} {version}" for feature, version in one.least.items()),
            "vendors": ", ".join(one.vendors),
        }
        for one in catalogue.engines
    ]


def _bad_rows(catalogue: Catalogue) -> list[Row]:
    worst = known_bad.SEVERITIES.index
    order = sorted(catalogue.known_bad, key=lambda one: (one.engine, worst(one.severity)))
    return [{**asdict(one), "certain": "yes" if one.certain else "perhaps"} for one in order]


_ROWS: dict[str, Callable[[Catalogue], list[Row]]] = {
    "models": _model_rows,
    "checkpoints": _checkpoint_rows,
    "gpus": _gpu_rows,
    "machines": _machine_rows,
    "prices": _price_rows,
    "api": _api_rows,
    "engines": _engine_rows,
    "known-bad": _bad_rows,
}
assert set(_ROWS) == set(HEADINGS), "every kind has rows and headings"


def staleness_of(kind: str, catalogue: Catalogue, today: datetime.date) -> str:
    """A warning when prices of this kind are too old to decide by."""
    if kind == "api":
        return prices.staleness(catalogue.api, today)
    return prices.staleness(catalogue.rents, today) if kind in ("prices", "gpus") else ""


def plain(one: Any) -> Row:
    """A value's fields for JSON, days as text."""
    return {
        name: value.isoformat() if isinstance(value, datetime.date) else value
        for name, value in asdict(one).items()
    }
