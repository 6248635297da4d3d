"""The judgement of cards: driver, errors, heat, power, the bus between them, what the catalogue knows of them.

Xid codes and what they ask for: NVIDIA, "Xid Errors" (docs.nvidia.com/deploy/xid-errors), as generally known; those
that a program causes by itself (13, 31, 43, 45) say nothing against the card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.catalogue import Catalogue
from gemstead.operate.doctor.finding import Finding
from gemstead.operate.doctor.seen import Gpu, Gpus, Seen
from gemstead.refused import Refused

HOT_C = 87.0  # most data-centre cards slow down a few degrees above
BUSY_MIB = 1024  # of a card's memory, taken before an engine starts
CUDA_12_DRIVER, CUDA_13_DRIVER = (
    525,
    580,
)  # NVIDIA, CUDA compatibility: the oldest driver of each major release

_OWN_FAULT = "a program's own fault, not the card's"
XIDS = {  # code: (what happened, whether the card is to blame, what to do)
    13: ("a program touched memory that is not its own", False, f"{_OWN_FAULT}: look at the engine's log"),
    31: ("a program touched memory that is not mapped", False, f"{_OWN_FAULT}: look at the engine's log"),
    43: ("a program's work was stopped", False, f"{_OWN_FAULT}: look at the engine's log"),
    45: ("a program ended while its work ran", False, "harmless after a kill"),
    48: (
        "a memory error that could not be corrected",
        True,
        "drain and reset the card; replace it if it comes back",
    ),
    61: ("the card's own controller failed", True, "update driver and firmware, then reset the card"),
    62: ("the card's own controller halted", True, "update driver and firmware, then reset the card"),
    63: ("memory rows were remapped", True, "reset the card at the next pause"),
    64: ("memory rows could not be remapped", True, "replace the card"),
    74: ("NVLink failed", True, "reseat the card or its bridge; until then plan without it"),
    79: (
        "the card fell off the bus",
        True,
        "power, heat or seating: power the machine off and on, then check the slot and cables",
    ),
    92: ("many corrected memory errors", True, "watch it; replace it if the count grows"),
    94: ("a memory error that was contained", True, "restart the engine; reset the card at the next pause"),
    95: (
        "a memory error that was not contained",
        True,
        "drain and reset the card; replace it if it comes back",
    ),
    119: (
        "the card's system processor did not answer",
        True,
        "power the machine off and on; update the driver",
    ),
    120: ("the card's system processor failed", True, "power the machine off and on; update the driver"),
}


def cards(seen: Seen, catalogue: Catalogue) -> Iterator[Finding]:
    """Findings on cards; on a machine without any, one that says so."""
    if seen.gpu_trouble:
        yield Finding(
            "gpu",
            "problem",
            "a card is there, and its driver does not answer",
            seen.gpu_trouble,
            "install or reload the driver (`nvidia-smi` or `rocm-smi` must answer); in a container start with "
            "`--gpus all`; after an update restart, so that driver and kernel module match",
        )
    if not seen.cards:
        if not seen.gpu_trouble:
            yield Finding(
                "gpu",
                "note",
                "no GPU: models run on the CPU with the embedded engine",
                f"{seen.cpus} CPUs, no NVIDIA or AMD card",
                "enough for small models and few callers; `gemstead plan --gpu NAME` plans for a card that you may get",
            )
        return
    for gpus in seen.gpus:
        yield _inventory(gpus)
        yield from _driver(gpus)
    for card in seen.cards:
        yield from _card(card, catalogue)
    yield from _topology(seen)
    yield from _xids(seen)


def _inventory(gpus: Gpus) -> Finding:
    counts = Counter((card.name, card.memory_mib) for card in gpus.cards)
    said = ", ".join(f"{count} x {name} ({memory or '?'} MiB)" for (name, memory), count in counts.items())
    runtime = f", CUDA up to {gpus.runtime}" if gpus.runtime else ""
    return Finding("gpu", "ok", said, f"driver {gpus.driver or 'unknown'}{runtime}")


def _driver(gpus: Gpus) -> Iterator[Finding]:
    major = gpus.driver.partition(".")[0]
    if gpus.vendor != "nvidia" or not major.isdigit():
        return
    if int(major) < CUDA_12_DRIVER:
        yield Finding(
            "driver",
            "problem",
            "the driver is too old for any engine that knows Gemma 4",
            f"driver {gpus.driver}; CUDA 12 needs {CUDA_12_DRIVER}",
            f"install driver {CUDA_13_DRIVER} or newer",
        )
    elif int(major) < CUDA_13_DRIVER:
        yield Finding(
            "driver",
            "warning",
            "the driver does not run engines built for CUDA 13",
            f"driver {gpus.driver}; CUDA 13 needs {CUDA_13_DRIVER}",
            f"install driver {CUDA_13_DRIVER} or newer, or choose engine builds for CUDA 12 (`+cu12x`)",
        )


def _card(card: Gpu, catalogue: Catalogue) -> Iterator[Finding]:
    name = f"card {card.index} ({card.name})"
    yield from _known(card, name, catalogue)
    yield from _heat_and_power(card, name)
    yield from _bus(card, name)
    yield from _errors(card, name)
    if card.used_mib and card.used_mib > BUSY_MIB:
        who = "; ".join(card.processes) or "no process that we may see"
        yield Finding(
            "gpu memory",
            "warning",
            f"{name} is in use already",
            f"{card.used_mib} of {card.memory_mib} MiB: {who}",
            "stop what uses it, or plan without this card",
        )
    if card.mig:
        yield Finding(
            "mig",
            "note",
            f"{name} is cut into slices",
            "MIG is enabled",
            "plan with a slice (`gemstead plan --gpu CARD/PROFILE`), or switch MIG off: `nvidia-smi -mig 0`",
        )
    if card.persistence is False:
        yield Finding(
            "driver",
            "note",
            f"{name}: persistence mode is off, so the first start is slower",
            "nvidia-smi says so",
            "`nvidia-smi -pm 1`, or run nvidia-persistenced",
        )


def _known(card: Gpu, name: str, catalogue: Catalogue) -> Iterator[Finding]:
    try:
        facts: Accelerator = catalogue.accelerator(card.name)
    except Refused:
        yield Finding(
            "gpu",
            "note",
            f"{name} is not in the catalogue",
            "its bandwidth and compute are unknown",
            "plans for it need `--gpu` with the nearest card that is known",
        )
        return
    for limit in facts.limits:
        yield Finding(
            "gpu",
            "warning",
            f"{name}: {limit}",
            f"known of {facts.name}",
            "choose a checkpoint and an engine that `gemstead plan` offers for it",
        )
    if card.memory_mib and card.memory_mib < 0.97 * facts.memory_mib and not card.mig:
        yield Finding(
            "gpu memory",
            "note",
            f"{name} has less memory than its kind",
            f"{card.memory_mib} MiB; the catalogue knows {facts.memory_mib}",
            "ECC on some cards and vGPU profiles take part of it; plans use what is really there",
        )


def _heat_and_power(card: Gpu, name: str) -> Iterator[Finding]:
    degrees = "" if card.temperature_c is None else f"{card.temperature_c:.0f} °C"
    if {"hw thermal", "sw thermal"} & set(card.throttled):
        yield Finding(
            "heat",
            "problem",
            f"{name} runs slower because it is hot",
            f"thermal slowdown is active, {degrees}",
            "check fans, airflow and room; lower the power limit: `nvidia-smi -pl WATTS`",
        )
    elif card.temperature_c is not None and card.temperature_c >= HOT_C:
        yield Finding(
            "heat", "warning", f"{name} is hot", degrees, "check fans, airflow and room before it slows down"
        )
    if {"power brake", "hw slowdown"} & set(card.throttled):
        yield Finding(
            "power",
            "problem",
            f"{name} is held down from outside",
            f"{' and '.join(card.throttled)} active",
            "check power supply, cables and the server's power cap",
        )
    low, usual = card.power_limit_w, card.power_default_w
    if low and usual and low < 0.95 * usual:
        yield Finding(
            "power",
            "note",
            f"{name} has a lowered power limit",
            f"{low:.0f} W of {usual:.0f} W",
            "prefill is slower, decoding hardly; `nvidia-smi -pl` sets it",
        )


def _bus(card: Gpu, name: str) -> Iterator[Finding]:
    """Width counts at any time; the generation goes down on an idle card by itself, so it is no sign."""
    if card.pcie_width and card.pcie_width_most and card.pcie_width < card.pcie_width_most:
        yield Finding(
            "pcie",
            "warning",
            f"{name} uses part of its bus",
            f"x{card.pcie_width} of x{card.pcie_width_most}",
            "reseat it, use a slot with all lanes, look at bifurcation in the firmware; until then tensor "
            "parallelism over it is slower",
        )


def _errors(card: Gpu, name: str) -> Iterator[Finding]:
    if card.remap_failed:
        yield Finding(
            "ecc",
            "problem",
            f"{name} can repair its memory no more",
            "row remapping failed",
            "replace the card",
        )
    elif card.ecc_uncorrected:
        yield Finding(
            "ecc",
            "problem",
            f"{name} had memory errors that could not be corrected",
            f"{card.ecc_uncorrected} since the driver was loaded",
            "drain it and reset it (`nvidia-smi -r`); replace it if they come back",
        )
    elif card.remap_pending:
        yield Finding(
            "ecc",
            "warning",
            f"{name} waits for a reset to repair its memory",
            "row remapping or page retirement is pending",
            "drain it and reset it at the next pause: `nvidia-smi -r`",
        )
    elif card.ecc is False:
        yield Finding(
            "ecc",
            "note",
            f"{name}: ECC is off",
            "memory errors would go unseen",
            "`nvidia-smi -e 1` and restart, where wrong answers matter",
        )


def _topology(seen: Seen) -> Iterator[Finding]:
    count = len(seen.topology)
    if count < 2:
        return
    links = Counter(seen.topology[one][other] for one in range(count) for other in range(one))
    said = ", ".join(f"{number} pairs {kind}" for kind, number in links.most_common())
    far = [
        (one, other) for other in range(count) for one in range(other) if seen.topology[one][other] == "SYS"
    ]
    if any(kind.startswith("NV") for kind in links):
        yield Finding("topology", "ok", "cards are joined by NVLink", said)
    elif far and len(far) == links.total():
        yield Finding(
            "topology",
            "warning",
            "every pair of cards reaches each other across processors",
            said,
            "tensor parallelism is slow here: prefer one card for each replica, or move cards under one processor",
        )
    elif far:
        near = [f"{a},{b}" for b in range(count) for a in range(b) if seen.topology[a][b] != "SYS"]
        yield Finding(
            "topology",
            "note",
            "some pairs of cards reach each other across processors",
            said,
            f"put replicas of two cards on these pairs: {'  '.join(near[:8])}",
        )
    else:
        yield Finding("topology", "ok", "all cards are under one processor", said)


def _xids(seen: Seen) -> Iterator[Finding]:
    if not any(gpus.vendor == "nvidia" for gpus in seen.gpus):
        return
    if seen.xids is None:
        yield Finding(
            "xid",
            "unknown",
            "errors of the cards could not be read",
            "journalctl and dmesg may not be read by this user",
            "run `sudo gemstead doctor`, or add the user to the group `systemd-journal`",
        )
        return
    for (bus, code), count in Counter((xid.bus, xid.code) for xid in seen.xids).items():
        what, card_fault, remedy = XIDS.get(
            code, ("an error of the driver", True, "look the code up in NVIDIA's list of Xid errors")
        )
        last = next(xid.line for xid in reversed(seen.xids) if (xid.bus, xid.code) == (bus, code))
        times = f"{count} times since the machine started; " if count > 1 else ""
        yield Finding(
            "xid",
            "problem" if card_fault else "note",
            f"Xid {code} on {bus or 'a card'}: {what}",
            f"{times}last: {last[:160]}",
            remedy,
        )
    if not seen.xids:
        yield Finding(
            "xid", "ok", "no errors of the cards", "none in the kernel's log since the machine started"
        )
