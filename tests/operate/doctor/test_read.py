"""What the drivers' tools print, as values."""

from __future__ import annotations

from pathlib import Path

from gemstead.operate.doctor import read

MACHINES = Path(__file__).parents[2] / "data" / "machines"


def text(name: str) -> str:
    return (MACHINES / name).read_text("utf-8")


def test_two_well_cards():
    gpus = read.nvidia(text("nvidia-smi-two-rtx-pro-6000.xml"))
    assert gpus is not None
    assert (gpus.driver, gpus.runtime, len(gpus.cards)) == ("580.95.05", "13.0", 2)
    card = gpus.cards[1]
    assert card.name == "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    assert (card.memory_mib, card.used_mib, card.bus) == (97887, 4, "0000:65:00.0")
    assert (card.pcie_width, card.pcie_width_most, card.pcie_gen, card.pcie_gen_most) == (16, 16, 1, 5)
    assert (card.power_w, card.power_limit_w, card.power_default_w) == (88.21, 600.0, 600.0)
    assert (card.ecc, card.ecc_uncorrected, card.ecc_corrected, card.throttled) == (True, 0, 3, ())
    assert not (card.remap_pending or card.remap_failed or card.mig)


def test_ill_cards():
    gpus = read.nvidia(text("nvidia-smi-ill.xml"))
    assert gpus is not None
    hot, narrow, busy, old = gpus.cards
    assert hot.throttled == ("hw thermal",) and hot.temperature_c == 91
    assert (narrow.pcie_width, narrow.ecc_uncorrected) == (8, 2)
    assert busy.processes == ("4242 VLLM::EngineCore 71234 MiB",) and busy.remap_pending
    assert old.ecc is None and old.remap_failed and old.mig


def test_older_drivers_say_throttle_and_power_readings():
    newer = text("nvidia-smi-ill.xml")
    older = newer.replace("clocks_event_reason", "clocks_throttle_reason").replace(
        "gpu_power_readings", "power_readings"
    )
    assert read.nvidia(older) == read.nvidia(newer)


def test_what_is_no_such_output_is_nothing():
    for said in (
        "",
        "NVIDIA-SMI has failed because it couldn't communicate with the driver",
        "<nvidia_smi_log><gpu>",
    ):
        assert read.nvidia(said) is None
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><nvidia_smi_log>&a;</nvidia_smi_log>'
    assert read.nvidia(bomb) is None
    for said in ("", "not json", "[]", "WARNING: no AMD GPUs"):
        assert read.amd(said) is None


def test_an_output_with_nothing_but_a_name_is_a_card_of_which_little_is_known():
    gpus = read.nvidia("<nvidia_smi_log><gpu><product_name>X</product_name></gpu></nvidia_smi_log>")
    assert gpus is not None and gpus.cards[0].name == "X" and gpus.cards[0].memory_mib is None


def test_links_between_eight_cards():
    links = read.topology(text("nvidia-topo-8-pcie.txt"))
    assert len(links) == 8 and {len(row) for row in links} == {8}
    assert links[0][3] == "NODE" and links[0][4] == "SYS" and links[7][7] == "X"
    assert read.topology("nvidia-smi: command not found") == ()


def test_amd_cards_also_with_warnings_before_them():
    gpus = read.amd(
        "WARNING: AMD GPU device(s) is/are in a low-power state.\n" + text("rocm-smi-two-mi300x.json")
    )
    assert gpus is not None and gpus.driver == "6.12.12" and len(gpus.cards) == 2
    card = gpus.cards[1]
    assert (card.name, card.memory_mib, card.used_mib) == ("AMD Instinct MI300X OAM", 196592, 283)
    assert (card.temperature_c, card.power_w, card.bus) == (44.0, 137.0, "0000:22:00.0")


def test_xids_in_the_kernels_log():
    found = read.xids(text("kernel-xid.txt"))
    assert [(xid.code, xid.bus) for xid in found] == [
        (31, "0000:3b:00.0"),
        (79, "0000:19:00.0"),
        (79, "0000:19:00.0"),
    ]
