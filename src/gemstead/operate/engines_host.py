"""Whose cards are in this machine, told by what their drivers leave in the file system, without starting anything."""

from __future__ import annotations

from pathlib import Path


def vendor(root: Path = Path("/")) -> str:
    """nvidia, amd or cpu, for the cards whose driver is loaded; NVIDIA first where there are both."""
    if (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidiactl").exists():
        return "nvidia"
    if (root / "dev/kfd").exists() and _has("0x1002", root):
        return "amd"
    return "cpu"


def _has(wanted: str, root: Path) -> bool:
    for path in (root / "sys/class/drm").glob("renderD*/device/vendor"):
        try:
            if path.read_text("ascii").strip() == wanted:
                return True
        except OSError:
            continue
    return False
