"""Checkpoints: the forms in which each model's weights are published, and how large each is once loaded.

The bytes of a checkpoint are a fact about its files and are never worked out from its format's name: NVIDIA's NVFP4
of 31B keeps its attention at 16 bits and loads 31.2 GiB, not the 19 that four bits promise. `weights_from` says how
each figure is known: from an engine's start-up log, from the size of the files, or summed up from the tensors that
its quantisation config leaves at which width.

A short name (`INT4`, `FP8`, `BF16`, `NVFP4`, `GGUF`) means the first published checkpoint of that width that the
engine loads on the card. What a card cannot do is refused with what it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gemstead.catalog import data
from gemstead.catalog.accelerators import Accelerator
from gemstead.refused import Reason, Refused
from gemstead.spec.fault import nearest

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published form of a model's weights. Sizes are for all ranks together."""

    repo: str  # on the hub, or a tag of Ollama
    model: str  # the size: "31B"
    format: str  # such as bf16, w4a16, fp8-block, nvfp4-mlp, awq, gguf-q4_0
    bits: str  # the short name that it answers to: bf16, int8, fp8, int4, nvfp4
    weights_gib: float  # in memory once loaded, vision and audio towers included
    weights_from: str  # log | files | computed
    engines: tuple[str, ...]
    disk_gb: float | None = None  # 1e9 bytes; what is downloaded
    file: str = ""  # of a GGUF repository
    projector_gib: float = (
        0.0  # a GGUF's images and audio live in a file of their own, not counted in `weights_gib`
    )
    quantization: str = (
        ""  # the engine quantises while it loads: the value of --quantization; empty: as the file says
    )
    least_sm: int | None = None  # NVIDIA compute capability from which an engine loads it
    not_sm: tuple[int, ...] = ()  # capabilities on which it fails
    vendors: tuple[str, ...] = ("nvidia",)
    native_sm: int | None = (
        None  # capability from which the hardware computes in this format; below, only memory is saved
    )
    kv_dtype: str = ""  # the cache format that its config asks for
    drafter: str = ""  # the assistant to pair with it; empty: the model's own
    notes: tuple[str, ...] = ()
    source: str = ""

    @property
    def weights_bytes(self) -> int:
        """In memory once loaded, on all ranks together."""
        return round(self.weights_gib * GIB)

    @property
    def gpu_constraints(self) -> str:
        """On which cards it loads, in a few words; empty: on any."""
        said = [f"sm_{self.least_sm} or newer"] if self.least_sm else []
        said += [f"not sm_{sm}" for sm in self.not_sm]
        return ", ".join(said)

    def fault_on(self, card: Accelerator) -> str:
        """Why it does not load on a card, as a clause; empty: it does."""
        if card.vendor not in self.vendors:
            return f"does not load on {card.name}: it needs {' or '.join(_VENDORS[name] for name in self.vendors)}"
        if card.sm is None:
            return ""
        if self.least_sm and card.sm < self.least_sm:
            return f"needs compute capability {_capability(self.least_sm)}; {card.name} has {_capability(card.sm)}"
        if card.sm in self.not_sm:
            return f"does not load on compute capability {_capability(card.sm)} ({card.name})"
        return ""


@cache
def every() -> tuple[Checkpoint, ...]:
    """All checkpoints, by model from small to large, the preferred one of each width first."""
    file = data.read("checkpoints")
    return tuple(_checkpoint(entry, file["sources"]) for entry in file["checkpoints"])


def checkpoints(model: str, among: Sequence[Checkpoint] | None = None) -> tuple[Checkpoint, ...]:
    """The checkpoints of a model, named by its size ("31B") or by ours ("gemma-4-31b")."""
    known = every() if among is None else among
    size = model.casefold().removeprefix("gemma-4-")
    return tuple(one for one in known if one.model.casefold() == size)


def checkpoint(
    name: str,
    model: str,
    engine: str = "vllm",
    card: Accelerator | None = None,
    among: Sequence[Checkpoint] | None = None,
) -> Checkpoint:
    """The checkpoint that a name means: a repository, a format, or a width such as `INT4`.

    A width is answered for the engine and the card; a repository or format is taken at its word, as long as the
    engine and the card can load it.

    Args:
        name: as above, in any case.
        model: the size, "31B".
        engine: a key of the engines, "vllm".
        card: where it must load; None: anywhere.
        among: what there is to choose from; the built-in catalogue when None.

    Raises:
        Refused: BAD_REQUEST, with what there is.
    """
    of_model = checkpoints(model, among)
    said = name.strip().casefold()
    named = [one for one in of_model if said in (one.repo.casefold(), one.repo.casefold().rpartition("/")[2])]
    named = named or [one for one in of_model if one.bits == said]
    named = named or [one for one in of_model if said in (one.format, one.format.partition("-")[0])]
    if not named:
        raise _unknown(name, model, of_model)
    able = [one for one in named if engine in one.engines]
    if not able:
        raise _refused(_not_by_engine(name, model, engine, named, of_model))
    fit = [one for one in able if card is None or not one.fault_on(card)]
    if not fit:
        assert card is not None
        others = _listed(one for one in of_model if engine in one.engines and not one.fault_on(card))
        instead = (
            f"What loads there: {others}."
            if others
            else f"Nothing of Gemma 4 {model} loads there in {engine}."
        )
        raise _refused(f"{able[0].repo} {able[0].fault_on(card)}. {instead}")
    return fit[0]


_VENDORS = {"nvidia": "NVIDIA", "amd": "AMD", "google": "a TPU", "intel": "Intel", "cpu": "a processor"}


def _capability(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"


def _listed(found: Any) -> str:
    return ", ".join(f"{one.repo} ({one.format})" for one in found)


def _not_by_engine(
    name: str, model: str, engine: str, named: Sequence[Checkpoint], of_model: Sequence[Checkpoint]
) -> str:
    by = sorted({engine for one in named for engine in one.engines})
    with_ = f"it runs in {', '.join(by)}" if by else "no engine here is known to load it"
    others = _listed(one for one in of_model if engine in one.engines)
    return f"{engine} does not load `{name}` of Gemma 4 {model}: {with_}. {engine} loads: {others or 'none of it'}."


def _unknown(name: str, model: str, of_model: Sequence[Checkpoint]) -> Refused:
    if not of_model:
        return _refused(
            f"No checkpoint of `{model}` is in the catalogue: see `gemstead catalog list models`."
        )
    spellings = [spelling for one in of_model for spelling in (one.repo, one.format, one.bits)]
    close = nearest(name[:128], spellings)
    hint = f"did you mean `{close}`? " if close else ""
    widths = ", ".join(dict.fromkeys(one.bits for one in of_model))
    return _refused(
        f"There is no checkpoint `{name[:80]}` of Gemma 4 {model}. {hint}Widths: {widths}; "
        f"see `gemstead catalog show {model}`."
    )


def _refused(message: str) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, param="checkpoint", code="unknown_checkpoint")


def _checkpoint(entry: dict[str, Any], sources: dict[str, str]) -> Checkpoint:
    lists: dict[str, Any] = {
        name: tuple(entry[name]) for name in ("engines", "not_sm", "vendors", "notes") if name in entry
    }
    source = "; ".join(sources.get(key, key) for key in entry.get("source", ()))
    return Checkpoint(**{**entry, **lists, "source": source})
