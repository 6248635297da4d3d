"""Tools' output as values: `nvidia-smi -q -x`, `nvidia-smi topo -m`, `rocm-smi --json`, the kernel's log.

Drivers rename and drop fields from one release to the next, so every field may be missing ("N/A", "[N/A]", absent)
and is None then. Text that is no such output at all gives nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

from gemstead.operate.doctor.seen import Gpu, Gpus, Xid

NVIDIA = ("nvidia-smi", "-q", "-x")
TOPOLOGY = ("nvidia-smi", "topo", "-m")
AMD = (
    "rocm-smi",
    "--showproductname",
    "--showmeminfo",
    "vram",
    "--showtemp",
    "--showpower",
    "--showdriverversion",
    "--showbus",
    "--showuniqueid",
    "--json",
)

# Why clocks are held down: (our word, the tag's end). Older drivers say throttle, newer say event.
_REASONS = (
    ("hw thermal", "hw_thermal_slowdown"),
    ("sw thermal", "sw_thermal_slowdown"),
    ("power brake", "hw_power_brake_slowdown"),
    ("hw slowdown", "hw_slowdown"),
    ("power cap", "sw_power_cap"),
)


def nvidia(text: str) -> Gpus | None:
    """What `nvidia-smi -q -x` says; None when it is no such thing."""
    start = text.find("<nvidia_smi_log")
    if start < 0 or "<!ENTITY" in text:  # the driver's own tool writes no entities; nothing else is read
        return None
    try:
        log = ElementTree.fromstring(text[start:])  # noqa: S314
    except ElementTree.ParseError:
        return None
    cards = tuple(_card(number, entry) for number, entry in enumerate(log.findall("gpu")))
    return Gpus("nvidia", _text(log, "driver_version"), _text(log, "cuda_version"), cards)


def _card(number: int, gpu: ElementTree.Element) -> Gpu:
    link = "pci/pci_gpu_link_info"
    power = "gpu_power_readings" if gpu.find("gpu_power_readings") is not None else "power_readings"
    draws = (f"{power}/{name}" for name in ("power_draw", "instant_power_draw", "average_power_draw"))
    limits = (f"{power}/{name}" for name in ("current_power_limit", "power_limit"))
    volatile = gpu.find("ecc_errors/volatile")
    return Gpu(
        index=number,
        name=_text(gpu, "product_name"),
        vendor="nvidia",
        uuid=_text(gpu, "uuid"),
        bus=_bus(_text(gpu, "pci/pci_bus_id") or gpu.get("id", "")),
        memory_mib=_whole(gpu, "fb_memory_usage/total"),
        used_mib=_whole(gpu, "fb_memory_usage/used"),
        temperature_c=_number(gpu, "temperature/gpu_temp"),
        power_w=next((value for path in draws if (value := _number(gpu, path)) is not None), None),
        power_limit_w=next((value for path in limits if (value := _number(gpu, path)) is not None), None),
        power_default_w=_number(gpu, f"{power}/default_power_limit"),
        pcie_gen=_whole(gpu, f"{link}/pcie_gen/current_link_gen"),
        pcie_gen_most=_whole(gpu, f"{link}/pcie_gen/max_link_gen"),
        pcie_width=_whole(gpu, f"{link}/link_widths/current_link_width"),
        pcie_width_most=_whole(gpu, f"{link}/link_widths/max_link_width"),
        throttled=_throttled(gpu),
        ecc=_yes(_text(gpu, "ecc_mode/current_ecc")),
        ecc_uncorrected=_errors(volatile, "uncorrectable"),
        ecc_corrected=_errors(volatile, "_correctable"),
        remap_pending=_text(gpu, "remapped_rows/remapped_row_pending") == "Yes"
        or _text(gpu, "retired_pages/pending_retirement") == "Yes",
        remap_failed=_text(gpu, "remapped_rows/remapped_row_failure") == "Yes",
        mig=_text(gpu, "mig_mode/current_mig") == "Enabled",
        persistence=_yes(_text(gpu, "persistence_mode")),
        processes=tuple(
            f"{_text(process, 'pid')} {_text(process, 'process_name')} {_text(process, 'used_memory')}".strip()
            for process in gpu.findall("processes/process_info")
        ),
    )


def _throttled(gpu: ElementTree.Element) -> tuple[str, ...]:
    found = []
    for word, end in _REASONS:
        paths = (f"clocks_{kind}_reasons/clocks_{kind}_reason_{end}" for kind in ("event", "throttle"))
        older = (f"clocks_throttle_reasons/clocks_throttle_reasons_{end}",)
        if any(_text(gpu, path) == "Active" for path in (*paths, *older)):
            found.append(word)
    if {"hw thermal", "power brake"} & set(found) and "hw slowdown" in found:
        found.remove("hw slowdown")  # which of the two is said already
    return tuple(found)


def _errors(volatile: ElementTree.Element | None, kind: str) -> int | None:
    """Errors since the driver was loaded, over all kinds of memory; None when ECC does not count."""
    if volatile is None:
        return None
    counts = [
        int(child.text)
        for child in volatile.iter()
        if child.text and child.text.strip().isdigit() and kind in f"_{child.tag}"
        if kind == "uncorrectable" or "uncorrectable" not in child.tag
    ]
    return sum(counts) if counts else None


def topology(text: str) -> tuple[tuple[str, ...], ...]:
    """Links between cards: row i, column j is how card i reaches card j (`X`, `NV18`, `PIX`, `NODE`, `SYS`)."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in text.splitlines()]
    cards = [row for row in rows if row and re.fullmatch(r"GPU\d+", row[0]) and "X" in row]
    return tuple(tuple(row[1 : len(cards) + 1]) for row in cards)


def amd(text: str) -> Gpus | None:
    """What `rocm-smi ... --json` says; None when it is no such thing."""
    start = text.find("{")
    try:
        log = json.loads(text[start:]) if start >= 0 else None
    except ValueError:
        return None
    if not isinstance(log, dict):
        return None
    system = log.get("system")
    driver = str(system.get("Driver version", "")) if isinstance(system, dict) else ""
    cards = [
        (int(name[4:]), said)
        for name, said in log.items()
        if re.fullmatch(r"card\d+", name) and isinstance(said, dict)
    ]
    return Gpus("amd", driver, "", tuple(_amd_card(number, said) for number, said in sorted(cards)))


def _amd_card(number: int, said: dict[str, Any]) -> Gpu:
    def first(*patterns: str) -> str:
        for pattern in patterns:
            for key, value in said.items():
                if re.fullmatch(pattern, key, re.I) and str(value) not in ("N/A", ""):
                    return str(value)
        return ""

    total, used = first(r"VRAM Total Memory \(B\)"), first(r"VRAM Total Used Memory \(B\)")
    return Gpu(
        index=number,
        name=first("Card series", "Card model", "Device Name"),
        vendor="amd",
        uuid=first("Unique ID"),
        bus=_bus(first("PCI Bus")),
        memory_mib=int(total) >> 20 if total.isdigit() else None,
        used_mib=int(used) >> 20 if used.isdigit() else None,
        temperature_c=_float(
            first(r"Temperature \(Sensor (junction|hotspot)\) \(C\)", r"Temperature.*\(C\)")
        ),
        power_w=_float(first(r"(Current|Average).*Power.*\(W\)")),
    )


_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\)?[^:]*: (\d+)")


def xids(text: str) -> tuple[Xid, ...]:
    """NVIDIA's errors in the kernel's log, oldest first."""
    found = ((_XID.search(line), line) for line in text.splitlines())
    return tuple(Xid(int(one[2]), _bus(one[1]), line.strip()) for one, line in found if one)


def _bus(text: str) -> str:
    """A PCI address as the kernel's folders are named: `00000000:65:00.0` is `0000:65:00.0`."""
    found = re.search(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.(\d))?", text)
    return f"{found[1][-4:]}:{found[2]}:{found[3]}.{found[4] or 0}".lower() if found else ""


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    return (
        ""
        if text.strip("[]") in ("N/A", "Not Supported", "Requested functionality has been deprecated")
        else text
    )


def _number(element: ElementTree.Element, path: str) -> float | None:
    return _float(_text(element, path))


def _whole(element: ElementTree.Element, path: str) -> int | None:
    value = _number(element, path)
    return None if value is None else int(value)


def _float(text: str) -> float | None:
    found = re.match(r"-?\d+(?:\.\d+)?", text)
    return float(found[0]) if found else None


def _yes(text: str) -> bool | None:
    return None if not text else text in ("Enabled", "Yes")
