"""Whose cards are in this machine, told by what their drivers leave in the file system, without starting anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# PCI numbers of Intel's cards that Gemma 4 was run on: Arc Pro B60 and B70 (ggml-org/llama.cpp #28515; idfs.ai, "Six
# days with the Intel Arc Pro B70"). Most of Intel's graphics sit in processors, where they are no reason for anything.
INTEL_CARDS = ("0xe211", "0xe223")


def vendor(root: Path = Path("/")) -> str:
    """nvidia, amd, intel or cpu, for the cards whose driver is loaded; NVIDIA first where there are several."""
    if (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidiactl").exists():
        return "nvidia"
    if (root / "dev/kfd").exists() and "0x1002" in _drm("vendor", root):
        return "amd"
    return "intel" if any(one in INTEL_CARDS for one in _drm("device", root)) else "cpu"


def device_groups(vendor: str, root: Path = Path("/")) -> tuple[str, ...]:
    """Numbers of the groups that own a vendor's devices here, for a container that is to open them; none for NVIDIA's,
    which its own tool gives."""
    if vendor not in ("amd", "intel"):
        return ()
    found = set()
    for path in (root / "dev/kfd", *(root / "dev/dri").glob("renderD*")):
        try:
            found.add(path.stat().st_gid)
        except OSError:
            continue
    return tuple(str(gid) for gid in sorted(found) if gid)


def _drm(name: str, root: Path) -> Iterator[str]:
    """What each render node says of itself under this name."""
    for path in sorted((root / "sys/class/drm").glob(f"renderD*/device/{name}")):
        try:
            yield path.read_text("ascii").strip()
        except OSError:
            continue
