"""Whose cards are in a machine, and which groups own their devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemstead.operate.engines_host import device_groups, vendor


def machine(root: Path, maker: str, device: str = "0x0000", kfd: bool = False) -> Path:
    """A file system with one render node."""
    card = root / "sys/class/drm/renderD128/device"
    card.mkdir(parents=True)
    (card / "vendor").write_text(maker + "\n")
    (card / "device").write_text(device + "\n")
    node = root / "dev/dri/renderD128"
    node.parent.mkdir(parents=True)
    node.touch()
    if kfd:
        (root / "dev/kfd").touch()
    return root


@pytest.mark.parametrize(
    ("maker", "device", "kfd", "who"),
    [
        ("0x1002", "0x74a1", True, "amd"),
        ("0x1002", "0x74a1", False, "cpu"),  # no compute driver
        ("0x8086", "0xe223", False, "intel"),
        ("0x8086", "0xe211", False, "intel"),
        ("0x8086", "0x7d55", False, "cpu"),  # graphics in a processor
    ],
)
def test_a_card_is_known_by_its_driver_and_its_number(
    tmp_path: Path, maker: str, device: str, kfd: bool, who: str
) -> None:
    assert vendor(machine(tmp_path, maker, device, kfd)) == who


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other groups")
def test_groups_are_those_that_own_the_devices(tmp_path: Path) -> None:
    root = machine(tmp_path, "0x1002", kfd=True)
    os.chown(root / "dev/kfd", 0, 992)
    os.chown(root / "dev/dri/renderD128", 0, 44)
    assert device_groups("amd", root) == ("44", "992")
    assert device_groups("nvidia", root) == () == device_groups("cpu", root)
    os.chown(root / "dev/kfd", 0, 0)
    os.chown(root / "dev/dri/renderD128", 0, 0)
    assert device_groups("intel", root) == (), "root's own group is no right to give away"
