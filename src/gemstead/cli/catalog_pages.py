"""The catalogue's pages: one thing in words, with its sources and dates, for a person and for a program."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from gemstead.catalog import machines, models, names, prices
from gemstead.catalog.accelerators import Accelerator, Tflops, slices
from gemstead.catalog.catalogue import Catalogue
from gemstead.catalog.checkpoints import Checkpoint
from gemstead.catalog.engine_versions import EngineFacts
from gemstead.catalog.known_bad import KnownBad
from gemstead.catalog.machines import CloudMachine
from gemstead.catalog.models import ModelFacts
from gemstead.cli.catalog_rows import Row, plain, rows_of
from gemstead.cli.trouble import USAGE, Trouble
from gemstead.refused import Refused
from gemstead.spec.fault import nearest


@dataclass(frozen=True, slots=True)
class Table:
    """A part of a page."""

    title: str
    headings: list[str]
    rows: list[list[object]]


@dataclass(frozen=True, slots=True)
class Page:
    """One thing, for a person and for a program."""

    kind: str
    title: str
    lines: list[tuple[str, object]]
    tables: list[Table]
    notes: list[str]
    facts: Row

    def as_json(self) -> Row:
        """The facts as they are kept, not as they are shown."""
        return {"kind": self.kind, **self.facts, "notes": self.notes}


def page_of(name: str, catalogue: Catalogue, today: datetime.date) -> Page:
    """The page of whatever a name means: a checkpoint, model, engine, ledger entry, machine, card or slice.

    Raises:
        Trouble: there is no such thing, with the nearest there is.
    """
    said = name.strip().casefold()
    own = {facts.repo for facts in models.models()}  # the model's page says more than its 16-bit checkpoint's
    for one in catalogue.checkpoints:
        if said in (one.repo.casefold(), one.repo.casefold().rpartition("/")[2]) and one.repo not in own:
            return _checkpoint_page(one)
    if facts := _model(said):
        return _model_page(facts, catalogue, today)
    for engine in catalogue.engines:
        if said in (engine.engine, engine.title.casefold()):
            return _engine_page(engine, catalogue)
    for entry in catalogue.known_bad:
        if said == entry.id.casefold():
            return _bad_page(entry)
    if machine := machines.machine(said):
        return _machine_page(machine, catalogue, today)
    try:
        return _gpu_page(catalogue.accelerator(name), catalogue, today)
    except Refused as refused:
        raise Trouble(_unknown(name, refused.message, catalogue), code=USAGE) from refused


def _model(said: str) -> ModelFacts | None:
    if "gemma" in said:
        return names.find(said)  # its refusal is the best answer
    try:
        return names.find(f"gemma-4-{said}")
    except Refused:
        return None


def _unknown(name: str, refusal: str, catalogue: Catalogue) -> str:
    if "MIG" in refusal or "id you mean" in refusal:
        return refusal
    known = [one.repo for one in catalogue.checkpoints] + [one.engine for one in catalogue.engines]
    known += [one.id for one in catalogue.known_bad] + [one.name for one in machines.machines()]
    close = nearest(name[:128], known)
    hint = f"did you mean `{close}`?" if close else "`gemstead catalog list` shows what there is"
    return f"there is nothing called `{name[:80]}` in the catalogue; {hint}"


def _model_page(one: ModelFacts, catalogue: Catalogue, today: datetime.date) -> Page:
    shape, drafter = one.shape, one.assistant
    api = catalogue.api_of(one.size)
    depth = "-".join(map(str, dict.fromkeys(drafter.draft_tokens)))
    lines: list[tuple[str, object]] = [
        ("name", one.name),
        ("repository", one.repo),
        ("released", one.released),
        ("licence", one.licence),
        ("inputs", ", ".join(one.modalities)),
        ("context", f"{one.context_tokens:,} tokens"),
        ("parameters", f"{shape.all_b} billion, {shape.active_with_lm_head_b} read for each token"),
        ("layers", f"{shape.layers_sliding} sliding (window {shape.window}), {shape.layers_full} full"),
        ("layers with a cache", f"{shape.kv_layers_sliding} sliding, {shape.kv_layers_full} full"),
        ("heads", f"{shape.heads}; KV {shape.kv_heads_sliding} sliding, {shape.kv_heads_full} full"),
        ("head size", f"{shape.head_dim_sliding} sliding, {shape.head_dim_full} full"),
        ("width", f"{shape.hidden}, MLP {shape.intermediate}"),
        (
            "cache, 16 bits",
            f"{one.cache_bytes_per_token:,} bytes a token, and {one.windowed_cache_bytes_per_token:,} a token of "
            f"the last {one.window_tokens}",
        ),
        (
            "weights, 16 bits",
            f"{one.weights_bf16.vllm_log_gib} GiB as vLLM logs it, {one.weights_bf16.computed_gib} by its tensors",
        ),
        ("drafter", f"{drafter.repo} ({drafter.mib_bf16} MiB; {depth} tokens)"),
    ]
    if shape.moe:
        experts = (
            f"{shape.moe.experts}, of which {shape.moe.top_k} run for a token ({shape.moe.experts_b} billion)"
        )
        lines.insert(12, ("experts", experts))
    checkpoints = [check for check in catalogue.checkpoints if check.model == one.size]
    return Page(
        "model",
        one.title,
        lines,
        [
            Table(
                "Checkpoints",
                ["bits", "format", "GiB", "known by", "engines", "repository"],
                [
                    [c.bits, c.format, c.weights_gib, c.weights_from, ", ".join(c.engines), c.repo]
                    for c in checkpoints
                ],
            ),
            Table(
                "USD for a million tokens",
                ["in", "out", "cached", "provider", "read"],
                [[p.input_usd, p.output_usd, p.cached_usd, p.provider, p.day] for p in api],
            ),
        ],
        [
            *_warned(prices.staleness(api, today)),
            "Sources: the heads of models.yaml, checkpoints.yaml, prices.yaml.",
        ],
        {**plain(one), "checkpoints": [asdict(c) for c in checkpoints], "api": [asdict(p) for p in api]},
    )


def _checkpoint_page(one: Checkpoint) -> Page:
    lines = [
        ("model", f"Gemma 4 {one.model}"),
        ("format", f"{one.format} ({one.bits})"),
        ("in memory", f"{one.weights_gib} GiB, known by {one.weights_from}"),
        ("to download", f"{one.disk_gb} GB" if one.disk_gb else None),
        ("file", one.file),
        ("projector", f"{one.projector_gib} GiB" if one.projector_gib else None),
        ("engines", ", ".join(one.engines)),
        ("--quantization", one.quantization),
        ("cards", ", ".join([*one.vendors, *filter(None, [one.gpu_constraints])])),
        ("computes in it from", f"sm_{one.native_sm}" if one.native_sm else None),
        ("cache asked for", one.kv_dtype),
        ("drafter", one.drafter),
        ("source", one.source),
    ]
    said: list[tuple[str, object]] = [(name, value) for name, value in lines if value]
    return Page("checkpoint", one.repo, said, [], list(one.notes), asdict(one))


def _gpu_page(one: Accelerator, catalogue: Catalogue, today: datetime.date) -> Page:
    card = one.parent or one.id
    rents = catalogue.rents_of(card)
    how = "worked out; ask the device" if one.memory_derived else "as the driver reports it"
    seen = f"; {one.bandwidth_seen_gbs:g} seen" if one.bandwidth_seen_gbs else ""
    bought = one.purchase
    lines: list[tuple[str, object]] = [
        ("id", one.id),
        ("memory", f"{one.memory_mib:,} MiB ({one.memory_mib / 1024:.1f} GiB), {how}"),
        ("bandwidth", f"{one.bandwidth_gbs:g} GB/s{seen}"),
        ("dense TFLOPS", _peak(one.tflops)),
        ("measured TFLOPS", _peak(one.tflops_measured) if one.tflops_measured else None),
        ("capability", f"{one.arch}, sm_{one.sm}" if one.sm else one.arch),
        ("power", f"{one.tdp_w:g} W" if one.tdp_w else None),
        ("link", f"{one.interconnect}: {one.interconnect_note}"),
        (
            "to buy",
            f"about {bought.middle_usd:,.0f} USD, read {bought.day} ({bought.source})" if bought else None,
        ),
        *[("limit", limit) for limit in one.limits],
        ("source", one.source),
    ]
    tables = [
        Table(
            f"USD an hour{' for the whole card' if one.is_slice else ''}",
            ["USD/h", "kind", "who", "read", "source"],
            [[p.usd_hour, p.kind, p.who, p.day, p.source] for p in rents],
        ),
        Table(
            "Machines",
            ["cloud", "machine", "count", "note"],
            [[m.cloud, m.name, m.count, m.note] for m in machines.carrying(card)],
        ),
    ]
    if one.mig:
        tables.insert(
            0,
            Table(
                "Slices (MIG)",
                ["id", "per card", "memory MiB", "GB/s", "bf16 TFLOPS"],
                [
                    [
                        part.id,
                        one.mig[part.id.partition("/")[2]],
                        part.memory_mib,
                        round(part.bandwidth_gbs),
                        round(part.tflops.bf16 or 0),
                    ]
                    for part in slices(one)
                ],
            ),
        )
    facts = {
        **plain(one),
        "slices": [plain(part) for part in slices(one)],
        "rents": [asdict(price) for price in rents],
        "machines": [asdict(machine) for machine in machines.carrying(card)],
    }
    said = [(name, value) for name, value in lines if value]
    dated: list[prices.Price | prices.Purchase] = [*rents, *([bought] if bought else [])]
    return Page("accelerator", one.name, said, tables, _warned(prices.staleness(dated, today)), facts)


def _machine_page(one: CloudMachine, catalogue: Catalogue, today: datetime.date) -> Page:
    card = catalogue.accelerator(one.accelerator)
    rents = [price for price in catalogue.rents_of(card.id) if one.name.casefold() in price.who.casefold()]
    lines: list[tuple[str, object]] = [
        ("cloud", one.cloud),
        ("accelerators", f"{one.count} x {card.name} ({card.id})"),
        ("memory", f"{one.count * card.memory_mib / 1024:.0f} GiB on all cards"),
        *([("note", one.note)] if one.note else []),
    ]
    table = Table(
        "USD an hour and accelerator",
        ["USD/h", "machine", "kind", "who", "read"],
        [[p.usd_hour, p.machine_usd_hour, p.kind, p.who, p.day] for p in rents],
    )
    facts = {**asdict(one), "rents": [asdict(price) for price in rents]}
    return Page("machine", one.name, lines, [table], _warned(prices.staleness(rents, today)), facts)


def _engine_page(one: EngineFacts, catalogue: Catalogue) -> Page:
    lines: list[tuple[str, object]] = [
        ("key", one.engine),
        ("status", one.status),
        *[(f"from, {feature}", version) for feature, version in one.least.items()],
        *([("from", one.bounds_note)] if one.bounds_note else []),
        ("newest seen", one.latest_seen or "none"),
        ("runs on", ", ".join(one.vendors)),
        ("source", one.source or "none"),
    ]
    entries = [row for row in rows_of("known-bad", catalogue) if row["engine"] == one.engine]
    table = Table(
        "Known to go wrong",
        ["severity", "sure", "versions", "id", "symptom"],
        [[row["severity"], row["certain"], row["versions"], row["id"], row["symptom"]] for row in entries],
    )
    return Page("engine", one.title, lines, [table], list(one.notes), {**asdict(one), "known_bad": entries})


def _bad_page(one: KnownBad) -> Page:
    def listed() -> Iterator[tuple[str, object]]:
        yield "engine", one.engine
        yield "severity", one.severity + ("" if one.certain else ", perhaps")
        yield "versions", one.versions or "any"
        for name in ("models", "checkpoints", "cards", "flags", "any_flags", "without", "env", "without_env"):
            if values := getattr(one, name):
                yield name.replace("_", " "), "  ".join(values)
        for package, bounds in one.beside.items():
            yield "beside", f"{package} {bounds}"
        yield "symptom", one.symptom
        yield "remedy", one.remedy
        yield "told in", one.issue

    return Page("known-bad", one.id, list(listed()), [], [], asdict(one))


def _warned(warning: str) -> list[str]:
    return [f"note: {warning}"] if warning else []


def _peak(peak: Tflops) -> str:
    said = {"fp16": peak.fp16, "bf16": peak.bf16, "fp8": peak.fp8, "int8": peak.int8, "fp4": peak.fp4}
    return ", ".join(f"{name} {value:g}" for name, value in said.items() if value)
