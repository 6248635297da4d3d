"""How far our estimate was off from what an engine's start-up log says, and what to learn from it.

What a log says is read in `startlog.py`. What "GPU KV cache size" means depends on vLLM's version (`kv_vllm.py`); the
pool in GiB has always meant the same, so that is what is learnt from.

*Correction.* Our overhead is a formula with a base set on other people's cards. The difference between our pool and
the log's, with the log's own weights, is what this machine teaches. Added to the next budget it makes the same start
come out exactly. Where it is kept: `operate/calibration.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from gemstead.catalog import names
from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.checkpoints import Checkpoint, checkpoint, checkpoints
from gemstead.catalog.models import ModelFacts
from gemstead.plan.memory import budget
from gemstead.plan.overhead import drafter_bytes
from gemstead.plan.setup import GIB, Setup
from gemstead.plan.startlog import LogFacts, read
from gemstead.refused import Refused

__all__ = ["Comparison", "Correction", "LogFacts", "Row", "compare", "corrected", "read", "setup_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours beside the log's. `error` is the share by which ours is more."""

    name: str
    ours: float
    log: float
    unit: str

    @property
    def error(self) -> float:
        """Ours over the log's, less one; 0 where the log says nought."""
        return self.ours / self.log - 1 if self.log else 0.0


@dataclass(frozen=True, slots=True)
class Correction:
    """What one start taught: bytes of one card that this engine takes here beyond our formula (less: negative)."""

    engine: str
    accelerator: str  # its id in the catalogue
    overhead_bytes: int
    checkpoint: str = ""
    weights_bytes: int | None = None  # of all ranks together, without the drafter


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our estimate beside a log."""

    rows: tuple[Row, ...]
    correction: Correction | None  # None: the log does not say how large the pool was
    notes: tuple[str, ...]  # sentences


def setup_of(facts: LogFacts, card: Accelerator, model: str = "", form: str = "") -> Setup:
    """The setup that a log tells of, on a card; `model` and `form` for what it does not name.

    Raises:
        Refused: UNKNOWN_MODEL or BAD_REQUEST, when the model or its checkpoint is not known.
    """
    known = names.find(model or facts.model)
    engine = facts.engine
    chosen = _checkpoint(facts, known, form or facts.model)
    return Setup(
        known,
        chosen,
        card,
        tp=facts.tp or 1,
        engine=engine,
        version=facts.version,
        context=min(facts.context or known.context_tokens, known.context_tokens),
        kv_dtype=facts.kv_dtype or "auto",
        batched_tokens=facts.batched_tokens,
        utilisation=facts.utilisation,
        async_scheduling=facts.async_scheduling,
        requests=facts.requests,
        drafter=bool(facts.drafter),
        drafter_kind="eagle3" if "eagle" in facts.drafter.lower() else "assistant",
        graphs=not facts.eager,
        swa_ratio=facts.swa_ratio,
        vision=not facts.text_only,
    )


def compare(facts: LogFacts, setup: Setup) -> Comparison:
    """Our estimate of a setup beside what the log of its start says, and the correction it teaches."""
    ours = budget(setup)
    per_card = 1 if facts.engine == "llamacpp" else setup.tp
    weights = None if facts.weights_bytes is None else _without_drafter(facts, setup) * per_card
    rows: list[Row] = []
    if weights is not None:
        rows.append(Row("weights", setup.tp * ours.weights_bytes / GIB, weights / GIB, "GiB"))
    if facts.engine == "llamacpp":
        return Comparison(
            (*rows, *_llamacpp_rows(facts, setup)), _llamacpp_correction(facts, setup), _notes(facts)
        )
    if facts.kv_pool_bytes is not None:
        rows.append(
            Row("cache pool on each card", ours.kv_pool_bytes / GIB, facts.kv_pool_bytes / GIB, "GiB")
        )
        known = budget(setup.with_(kv_pool_bytes=facts.kv_pool_bytes))
        if facts.kv_tokens:
            rows.append(Row("tokens of that pool", known.kv_tokens_reported, facts.kv_tokens, "tokens"))
    if facts.kv_tokens:
        rows.append(Row("tokens, all estimated", ours.kv_tokens_reported, facts.kv_tokens, "tokens"))
    if facts.needed_bytes:
        rows.append(
            Row("needed by the longest request", ours.needed_bytes / GIB, facts.needed_bytes / GIB, "GiB")
        )
    return Comparison(tuple(rows), _correction(facts, setup, weights), _notes(facts))


def corrected(setup: Setup, corrections: Iterable[Correction]) -> Setup:
    """The setup with what earlier starts taught: the middle of the corrections for its engine and card."""
    same = [
        one for one in corrections if (one.engine, one.accelerator) == (setup.engine, setup.accelerator.id)
    ]
    if not same:
        return setup
    weights = [
        one.weights_bytes for one in same if one.weights_bytes and one.checkpoint == setup.checkpoint.repo
    ]
    learnt = {"overhead_correction_bytes": int(median(one.overhead_bytes for one in same))}
    if weights and setup.weights_bytes is None and setup.vision:
        return setup.with_(weights_bytes=int(median(weights)), **learnt)
    return setup.with_(**learnt)


def _checkpoint(facts: LogFacts, model: ModelFacts, form: str) -> Checkpoint:
    """The checkpoint that is named; else the one whose weights are nearest to the log's."""
    try:
        return checkpoint(form, model.size, facts.engine)
    except Refused:
        able = [one for one in checkpoints(model.size) if facts.engine in one.engines]
        if facts.weights_bytes is None or not able:
            raise
        whole = facts.weights_bytes * (facts.tp or 1)
        return min(able, key=lambda one: abs(one.weights_bytes - whole))


def _without_drafter(facts: LogFacts, setup: Setup) -> int:
    """Weights of one card; vLLM loads the drafter with them and tells one figure."""
    assert facts.weights_bytes is not None
    joint = facts.engine == "vllm" and setup.drafter and setup.drafter_kind == "assistant"
    return facts.weights_bytes - (drafter_bytes(setup) if joint else 0)


def _correction(facts: LogFacts, setup: Setup, weights: int | None) -> Correction | None:
    if facts.kv_pool_bytes is None or not _share_known(facts):
        return None
    plain = setup.with_(overhead_correction_bytes=0, weights_bytes=weights)
    more = budget(plain).kv_pool_bytes - facts.kv_pool_bytes
    whole = weights if setup.vision else None
    return Correction(setup.engine, setup.accelerator.id, more, setup.checkpoint.repo, whole)


def _share_known(facts: LogFacts) -> bool:
    """Whether it is certain which share of the card was given. If it is not, the pool teaches nothing."""
    return facts.utilisation is not None or bool(facts.arguments)


def _llamacpp_correction(facts: LogFacts, setup: Setup) -> Correction | None:
    if not facts.graph_bytes or setup.tp > 1:
        return None
    ours = sum(line.bytes for line in budget(setup).lines if line.name in ("activations", "base"))
    more = facts.graph_bytes - ours
    return Correction(setup.engine, setup.accelerator.id, more, setup.checkpoint.repo, facts.weights_bytes)


def _llamacpp_rows(facts: LogFacts, setup: Setup) -> list[Row]:
    ours = budget(setup)
    rows = []
    if facts.kv_pool_bytes:
        rows.append(Row("cache", ours.needed_bytes * setup.tp / GIB, facts.kv_pool_bytes / GIB, "GiB"))
    if facts.graph_bytes:
        work = sum(line.bytes for line in ours.lines if line.name in ("activations", "base"))
        rows.append(Row("work buffers", work / GIB, facts.graph_bytes / GIB, "GiB"))
    return rows


def _notes(facts: LogFacts) -> tuple[str, ...]:
    notes = []
    if facts.engine == "vllm" and not facts.version:
        notes.append("The log does not name vLLM's version, so its tokens are read as the newest version's.")
    if facts.engine != "llamacpp" and not _share_known(facts):
        notes.append(
            "The log does not say which share of the memory was given: the engine's default is taken, and nothing is "
            "learnt from it. Give the log from its first line on."
        )
    if facts.failure:
        notes.append(f"The engine did not start: {facts.failure[:300]}")
    if facts.longest:
        notes.append(f"By its own account {facts.longest} tokens would have fitted.")
    return tuple(notes)
