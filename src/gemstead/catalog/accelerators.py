"""Accelerators: what is known of each card, chip and slice, found by any name that people or drivers give it.

Two numbers decide most of what a planner says. Memory is what the driver reports and not what the box says (a
B200 is sold as 192 GB and has 179 GiB). Bandwidth bounds how fast tokens come, because every weight is read for
each step. Compute is dense: figures "with sparsity" are twice what a language model gets.

A slice of a card that NVIDIA's MIG has cut (`h100-sxm/1g.20gb`) is an accelerator like any other. Its memory is
worked out here: its eighths (quarters on cards that are cut in four) of the card, less what the driver keeps. The
numbers in a profile's name are rounded and are not used. Slices do not talk to each other: one slice, one engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from gemstead.catalog import data
from gemstead.catalog.prices import Purchase, day_of
from gemstead.refused import Reason, Refused
from gemstead.spec.fault import nearest

# What the driver keeps of each slice, or a little more: `nvidia-smi mig -lgip` of an H100 shows 0.2 to 0.4 GiB less
# than the share (9.75, 19.62, 39.50, 79.25; jbarrow.ai/field_notes/nvidia-mig, read 2026-11-21).
SLICE_KEEPS_MIB = 512
# The share of compute by slices of compute and eighths of memory: multiprocessors of 132 in the same listing.
_COMPUTE = {(1, 1): 16, (1, 2): 26, (2, 2): 32, (3, 4): 60, (4, 4): 64, (7, 8): 132}


@dataclass(frozen=True, slots=True)
class Tflops:
    """Dense peak by number format, in 1e12 operations a second; None: the hardware does not do it."""

    bf16: float | None = None
    fp8: float | None = None
    int8: float | None = None
    fp4: float | None = None
    fp16: float | None = None


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One card, chip, slice or processor. Bandwidth in GB/s (1e9 bytes), memory in MiB."""

    id: str
    name: str
    vendor: str  # nvidia, amd, google, intel, cpu
    arch: str
    sm: int | None  # CUDA compute capability without its dot: 90 is 9.0; None: not NVIDIA
    memory_mib: int  # as the driver reports it
    bandwidth_gbs: float
    tflops: Tflops
    tdp_w: float | None
    interconnect: str  # to its neighbours: nvlink, pcie, xgmi, ici, network, none
    interconnect_gbs: float | None  # per accelerator, both directions together
    interconnect_note: str = ""
    memory_derived: bool = False  # worked out from the box's name, because no driver's figure was at hand
    unified: bool = False  # its memory is the processor's
    bandwidth_seen_gbs: float | None = None  # as somebody measured it
    tflops_measured: Tflops | None = None
    mig: dict[str, int] = field(default_factory=dict)  # profile: how many of it fit on one card
    limits: tuple[str, ...] = ()  # what does not work with Gemma 4
    aliases: tuple[str, ...] = ()
    purchase: Purchase | None = None
    parent: str = ""  # of a slice: the card
    source: str = ""

    @property
    def memory_bytes(self) -> int:
        """As the driver reports it."""
        return self.memory_mib << 20

    @property
    def purchase_usd(self) -> float | None:
        """What one costs to buy: the middle of what is known; None: not known."""
        return self.purchase.middle_usd if self.purchase else None

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice, which cannot be joined with others."""
        return bool(self.parent)

    def slice_count(self, profile: str) -> int:
        """How many slices of this profile one card is cut into; 0: none."""
        return self.mig.get(profile, 0)


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """Every whole accelerator, in the order of the file. Slices come from `slices`."""
    file = data.read("accelerators")
    return tuple(_accelerator(entry, file["sources"]) for entry in file["accelerators"])


def accelerator(name: str, among: Sequence[Accelerator] | None = None) -> Accelerator:
    """The accelerator that a name means: ours, the driver's, a cloud's, or what people say (`H100`, `rtx pro 6000`).

    A slice is named with its card: `h100-sxm/1g.20gb`, `NVIDIA H100 80GB HBM3 MIG 1g.10gb`.

    Args:
        name: in any spelling.
        among: what there is to choose from; the built-in catalogue when None.

    Raises:
        Refused: BAD_REQUEST, with the nearest there is.
    """
    known = accelerators() if among is None else among
    card, profile = _split(name)
    for form in (str.casefold, _key):  # as it is written first: `nvidia-tesla-a100` is the one with 40 GB
        for one in known:
            if card and form(card) in (form(spelling) for spelling in (one.id, one.name, *one.aliases)):
                return slice_of(one, profile) if profile else one
    raise _unknown(name, card, known)


def slice_of(card: Accelerator, profile: str) -> Accelerator:
    """One MIG slice of a card as an accelerator.

    Raises:
        Refused: BAD_REQUEST: the card cannot be cut, or not so.
    """
    profile = profile.lower()
    if not card.mig:
        raise _refused(f"{card.name} cannot be cut into MIG slices: write `{card.id}`.")
    if profile not in card.mig:
        near = nearest(profile, card.mig) or next(iter(card.mig))
        raise _refused(
            f"{card.name} has no MIG profile `{profile}`: did you mean `{card.id}/{near}`? "
            f"It has {', '.join(card.mig)}."
        )
    compute, memory = _shares(card, profile)
    return replace(
        card,
        id=f"{card.id}/{profile}",
        name=f"{card.name} MIG {profile}",
        memory_mib=int(card.memory_mib * memory) - SLICE_KEEPS_MIB,
        memory_derived=True,
        bandwidth_gbs=card.bandwidth_gbs * memory,
        bandwidth_seen_gbs=card.bandwidth_seen_gbs * memory if card.bandwidth_seen_gbs else None,
        tflops=_scaled(card.tflops, compute),
        tflops_measured=_scaled(card.tflops_measured, compute) if card.tflops_measured else None,
        tdp_w=card.tdp_w / card.mig[profile] if card.tdp_w else None,
        interconnect="none",
        interconnect_gbs=None,
        interconnect_note="slices do not reach each other: tensor parallelism stays 1",
        mig={},
        aliases=(),
        purchase=None,
        parent=card.id,
    )


def slices(card: Accelerator) -> tuple[Accelerator, ...]:
    """Every kind of slice that a card can be cut into, smallest first."""
    return tuple(slice_of(card, profile) for profile in card.mig)


def with_memory(one: Accelerator, memory_mib: int) -> Accelerator:
    """The accelerator with the memory that this machine's driver reports, in MiB."""
    return replace(one, memory_mib=memory_mib, memory_derived=False)


_PROFILE = re.compile(
    r"(?:^|[\s/:._-])(?:mig[\s-]*)?([1-7]g\.[0-9]+gb)(?:\+[a-z.]+)?(?:[\s-]*device)?\s*$", re.I
)
_NOISE = re.compile(
    r"\b(?:nvidia|amd|google|intel|geforce|instinct|radeon|tesla|quadro|cloud|gpu|generation|corporation|blackwell)\b"
    r"|\((?:r|tm|per gpu|per chip)\)"
)


def _split(name: str) -> tuple[str, str]:
    """The card and the MIG profile that a name holds; no profile: the name and nothing."""
    if found := _PROFILE.search(name):
        return name[: found.start()].strip() or "", found[1].lower()
    return name, ""


def _key(name: str) -> str:
    """A name without vendor, family and punctuation: `NVIDIA GeForce RTX 5090` is `rtx5090`."""
    return re.sub(r"[^a-z0-9]", "", _NOISE.sub(" ", name.lower()))


def _shares(card: Accelerator, profile: str) -> tuple[float, float]:
    """The share of a card's compute and of its memory that a profile gets.

    Cards are cut into eight parts of memory and seven of compute, small ones into four and four. Which it is shows
    in how many of the smallest profile fit.
    """
    parts = 4 if max(card.mig.values()) <= 4 else 8
    smallest = min(_gb(name) for name in card.mig)
    # GB300's largest profile is not in NVIDIA's list; the smallest one says then how large the card is.
    whole = max(*(_gb(name) for name in card.mig), smallest * parts * 0.9)
    memory = min(parts, max(1, round(parts * _gb(profile) / whole)))
    compute = int(profile[0])
    share = 1.0 if memory == parts else compute / parts
    if parts == 8:
        share = _COMPUTE.get((compute, memory), share * 132) / 132
    return share, memory / parts


def _gb(profile: str) -> int:
    return int(profile.partition(".")[2].removesuffix("gb"))


def _scaled(peak: Tflops, share: float) -> Tflops:
    def part(value: float | None) -> float | None:
        return None if value is None else value * share

    return Tflops(part(peak.bf16), part(peak.fp8), part(peak.int8), part(peak.fp4), part(peak.fp16))


def _unknown(name: str, card: str, known: Sequence[Accelerator]) -> Refused:
    if not card:
        return _refused(
            "No accelerator is named: see `gemstead catalog list gpus`."
            if not name.strip()
            else f"`{name}` names a MIG profile without its card: write the card first, as in `h100-sxm/1g.20gb`."
        )
    spellings = {spelling: one for one in known for spelling in (one.id, one.name, *one.aliases)}
    close = nearest(card[:128], spellings)
    meant = f"Did you mean `{spellings[close].id}`? " if close else ""
    shown = name if len(name) <= 80 else name[:77] + "..."
    if re.search(r"\b(?:gaudi|intel|arc [ab]\d|hpu|xpu)", name[:128], re.IGNORECASE):
        return _refused(
            f"`{shown}`: of Intel's accelerators the catalogue knows `arc-pro-b70` and `arc-pro-b60`, on which Gemma 4 "
            "was run. Of other Arc and Max cards it has no figures: write them into a catalogue file of yours "
            "(docs/catalogue.md) with `vendor: intel`. For Gaudi, vLLM's plugin does not list Gemma 4 as validated."
        )
    return _refused(
        f"There is no accelerator `{shown}` in the catalogue. {meant}See `gemstead catalog list gpus`."
    )


def _refused(message: str) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, param="gpu", code="unknown_accelerator")


def _accelerator(entry: dict[str, Any], sources: dict[str, str]) -> Accelerator:
    said = dict(entry)
    bought = said.pop("purchase", None)
    measured = said.pop("tflops_measured", None)
    return Accelerator(
        **{
            **said,
            "tflops": Tflops(**said["tflops"]),
            "tflops_measured": Tflops(**measured) if measured else None,
            "mig": said.get("mig") or {},
            "limits": tuple(said.get("limits", ())),
            "aliases": tuple(said.get("aliases", ())),
            "purchase": _purchase(bought) if bought else None,
            "source": "; ".join(sources.get(key, key) for key in said.get("source", ())),
        }
    )


def _purchase(said: dict[str, Any]) -> Purchase:
    prices = (said.get("low"), said.get("high"), said.get("list"))
    return Purchase(*prices, day_of(said["read"]), said["source"], read_text=said["read"])
