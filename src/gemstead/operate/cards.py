"""The cards of this machine as engines are given them: number, UUID, memory, and the processors beside each.

A card that is cut into MIG slices stands for its slices, since no engine can have the whole. Cards that the head itself
may not see (CUDA_VISIBLE_DEVICES and its likes) are left out, so that a service can be kept to some of them. What
cannot be read is left out, and nothing here fails.

Formats: `nvidia-smi --query-gpu` (CSV) and `nvidia-smi -L`, drivers 535 to 580; `rocm-smi --json`; sysfs-bus-pci's
`local_cpulist`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gemstead.operate.doctor import read
from gemstead.plan.values import Card

FIELDS = ("index", "uuid", "name", "memory.total", "memory.used", "pci.bus_id", "mig.mode.current")
QUERY = ("nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
LIST = ("nvidia-smi", "-L")
VISIBLE = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
}
_GPU = re.compile(r"GPU (\d+): (.+?) \(UUID: (GPU-[^)]+)\)")
_SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")

Output = Callable[[Sequence[str]], str]  # what a command prints; nothing when it fails


def cards(output: Output, environ: Mapping[str, str], root: Path = Path("/")) -> tuple[Card, ...]:
    """Every card that an engine of ours may have."""
    found = [*_nvidia(output, root), *_amd(output, root)]
    return tuple(card for card in found if _visible(card, environ))


def _nvidia(output: Output, root: Path) -> Iterator[Card]:
    rows = [[word.strip() for word in line.split(",")] for line in output(QUERY).splitlines()]
    whole = [row for row in rows if len(row) == len(FIELDS) and row[0].isdigit()]
    cut = {int(row[0]) for row in whole if row[6] == "Enabled"}
    slices = _slices(output(LIST)) if cut else {}
    for index, uuid, name, total, used, bus, _ in whole:
        number, near = int(index), _near(root, bus.lower()[-12:])
        if number in cut:
            for profile, slice_uuid in slices.get(number, ()):
                yield Card(f"{name} MIG {profile}", "nvidia", number, slice_uuid, cpus=near)
        else:
            yield Card(name, "nvidia", number, uuid, _whole(total), _whole(used), near)


def _slices(text: str) -> dict[int, list[tuple[str, str]]]:
    """Profile and UUID of every slice, by the number of its card."""
    found: dict[int, list[tuple[str, str]]] = {}
    number = -1
    for line in text.splitlines():
        if card := _GPU.match(line):
            number = int(card[1])
        elif (piece := _SLICE.match(line)) and number >= 0:
            found.setdefault(number, []).append((piece[1], piece[2]))
    return found


def _amd(output: Output, root: Path) -> Iterator[Card]:
    found = read.amd(output(read.AMD))
    for card in found.cards if found else ():
        near = _near(root, card.bus)
        yield Card(card.name, "amd", card.index, "", card.memory_mib or 0, card.used_mib or 0, near)


def _near(root: Path, bus: str) -> tuple[int, ...]:
    """The processors beside a card; none when the machine has but one side."""
    if len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) < 2:
        return ()
    try:
        text = (root / "sys/bus/pci/devices" / bus / "local_cpulist").read_text("ascii").strip()
    except (OSError, ValueError):
        return ()
    return cpu_list(text)


def cpu_list(text: str) -> tuple[int, ...]:
    """The kernel's way of writing processors: `0-3,8` is 0, 1, 2, 3 and 8."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _visible(card: Card, environ: Mapping[str, str]) -> bool:
    for name in VISIBLE.get(card.vendor, ()):
        said = environ.get(name)
        if said is None:
            continue
        named = [word.strip() for word in said.split(",") if word.strip()]
        return any(
            word == str(card.index) or (not word.isdigit() and card.uuid.startswith(word)) for word in named
        )
    return True


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0
