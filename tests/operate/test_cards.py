"""The cards of a machine, from what its tools print."""

from __future__ import annotations

import pytest

from gemstead.operate.cards import LIST, QUERY, cards, cpu_list

# Form: nvidia-smi of driver 580, `--query-gpu=... --format=csv,noheader,nounits` and `-L`.
QUERIED = """0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 512, 00000000:18:00.0, Disabled
1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559, 4, 00000000:AB:00.0, Enabled
"""
LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
  MIG 2g.20gb     Device  0: (UUID: MIG-377e0049)
  MIG 1g.10gb     Device  1: (UUID: MIG-f39aa248)
"""


def output(command):
    return {QUERY: QUERIED, LIST: LISTED}.get(tuple(command), "")


def test_a_cut_card_stands_for_its_slices(tmp_path):
    found = cards(output, {}, tmp_path)
    assert [(one.name, one.uuid, one.index) for one in found] == [
        ("NVIDIA H100 80GB HBM3", "GPU-aaaa", 0),
        ("NVIDIA H100 80GB HBM3 MIG 2g.20gb", "MIG-377e0049", 1),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "MIG-f39aa248", 1),
    ]
    assert (found[0].memory_mib, found[0].used_mib, found[0].cpus) == (81559, 512, ())


def test_the_processors_beside_a_card_on_a_machine_with_two_sides(tmp_path):
    for node in (0, 1):
        (tmp_path / f"sys/devices/system/node/node{node}").mkdir(parents=True)
    place = tmp_path / "sys/bus/pci/devices/0000:18:00.0"
    place.mkdir(parents=True)
    (place / "local_cpulist").write_text("0-2,8\n")
    assert cards(output, {}, tmp_path)[0].cpus == (0, 1, 2, 8)


@pytest.mark.parametrize(
    ("visible", "left"), [("0", 1), ("1", 2), ("", 0), ("GPU-aaaa", 1), ("MIG-3", 1), ("0,MIG-f39aa248", 2)]
)
def test_a_service_can_be_kept_to_some_of_them(tmp_path, visible, left):
    assert len(cards(output, {"CUDA_VISIBLE_DEVICES": visible}, tmp_path)) == left


@pytest.mark.parametrize("text", ["", "NVIDIA-SMI has failed", "0, GPU", "x, y, z, a, b, c, d"])
def test_what_is_no_list_of_cards_is_none(tmp_path, text):
    assert cards(lambda _: text, {}, tmp_path) == ()


def test_the_kernels_way_of_writing_processors():
    assert cpu_list("0-3,8,10-11") == (0, 1, 2, 3, 8, 10, 11) and cpu_list("") == cpu_list("a-b") == ()
