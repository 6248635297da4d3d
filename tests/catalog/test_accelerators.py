"""Cards are found by any name, their facts are whole, and their slices add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.accelerators import (
    Accelerator,
    accelerator,
    accelerators,
    slice_of,
    slices,
    with_memory,
)
from gemstead.catalog.machines import carrying, machine, machines
from gemstead.refused import Refused

each = pytest.mark.parametrize("card", accelerators(), ids=lambda card: card.id)
cut = pytest.mark.parametrize("card", [card for card in accelerators() if card.mig], ids=lambda card: card.id)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("H100", "h100-sxm"),
        ("h100-80gb", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),  # nvidia-smi
        ("nvidia-h100-80gb", "h100-sxm"),  # GKE
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA B200", "b200"),
        ("A100", "a100-80-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80-sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("nvidia-tesla-a100", "a100-40"),  # GKE's oldest name is the smaller card
        ("nvidia-a100-80gb", "a100-80-sxm"),
        ("L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("RTX PRO 6000", "rtx-pro-6000-server"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000-workstation"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("DGX Spark", "gb10"),
        ("AMD Instinct MI300X", "mi300x"),
        ("mi300", "mi300x"),
        ("TPU v6e", "tpu-v6e"),
        ("Trillium", "tpu-v6e"),
        ("cpu", "cpu"),
    ],
)
def test_a_card_is_found_by_what_people_and_drivers_call_it(said: str, meant: str) -> None:
    assert accelerator(said).id == meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("H1000", "h100"),
        ("RTX PRO 600", "rtx-pro-6000-server"),
        ("l4/1g.10gb", "cannot be cut"),
        ("h100/1g.99gb", "1g.10gb"),
        ("1g.10gb", "write the card first"),
        ("", "No accelerator is named"),
        ("a card of ours", "gemstead catalog list gpus"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(said: str, meant: str) -> None:
    with pytest.raises(Refused) as refused:
        accelerator(said)
    assert meant in refused.value.message


def test_no_two_cards_answer_to_one_name() -> None:
    owners: dict[str, str] = {}
    for card in accelerators():
        for name in {text.casefold() for text in (card.id, card.name, *card.aliases)}:
            assert owners.setdefault(name, card.id) == card.id


@each
def test_every_name_of_a_card_finds_it(card: Accelerator) -> None:
    for name in (card.id, card.name, *card.aliases):
        assert accelerator(name).id == card.id
        assert accelerator(name.upper()).id == card.id


@each
def test_the_facts_of_a_card_are_whole(card: Accelerator) -> None:
    assert card.source
    assert card.memory_mib >= 15_000
    assert card.bandwidth_gbs >= 70
    assert card.interconnect in ("nvlink", "pcie", "xgmi", "ici", "network", "none")
    assert card.tflops.bf16 or card.tflops.fp16
    assert (card.sm is not None) == (card.vendor == "nvidia")
    if card.tflops_measured and card.tflops.bf16 and card.tflops_measured.bf16:
        assert 0.8 < card.tflops_measured.bf16 / card.tflops.bf16 < 1.25
    if card.tflops.fp8 and card.tflops.bf16:
        assert 1.8 < card.tflops.fp8 / card.tflops.bf16 < 2.2  # dense, so twice and not four times


def test_memory_is_the_drivers_and_not_the_boxs() -> None:
    assert accelerator("B200").memory_mib == 183_359  # sold as 192 GB
    assert accelerator("L40S").memory_mib == 46_068  # sold as 48 GB
    assert accelerator("RTX PRO 6000").bandwidth_gbs == 1597  # the workstation card has 1792
    own = with_memory(accelerator("L4"), 22_478)
    assert (own.memory_bytes, own.memory_derived) == (22_478 << 20, False)


@pytest.mark.parametrize(
    ("profile", "gib", "multiprocessors"),
    [
        ("1g.10gb", 9.75, 16),
        ("1g.20gb", 19.62, 26),
        ("2g.20gb", 19.62, 32),
        ("3g.40gb", 39.5, 60),
        ("7g.80gb", 79.25, 132),
    ],
)
def test_a_slice_of_an_h100_is_close_to_what_nvidia_smi_shows_and_never_more(
    profile: str, gib: float, multiprocessors: int
) -> None:
    part = accelerator(f"h100/{profile}")  # figures of `nvidia-smi mig -lgip`
    assert 0.96 * gib < part.memory_mib / 1024 <= gib
    assert part.tflops.bf16 == pytest.approx(989 * multiprocessors / 132)


@cut
def test_the_slices_of_a_card_are_no_more_than_the_card(card: Accelerator) -> None:
    for part in slices(card):
        count = card.slice_count(part.id.partition("/")[2])
        assert count * part.memory_mib <= card.memory_mib
        assert count * part.bandwidth_gbs <= card.bandwidth_gbs * 1.001
        assert count * (part.tflops.bf16 or 0) <= (card.tflops.bf16 or 0) * 1.001
        assert part.is_slice
        assert part.interconnect == "none"
        named = int(part.id.rpartition(".")[2].removesuffix("gb"))
        assert 0.85 < part.memory_mib / 1024 / named < 1.1


def test_slices_of_smaller_profiles_are_smaller() -> None:
    memory = [part.memory_mib for part in slices(accelerator("B300"))]
    assert memory == sorted(memory)


@given(st.sampled_from([card for card in accelerators() if card.mig]), st.data())
def test_a_slice_has_one_meaning_however_it_is_written(card: Accelerator, data: st.DataObject) -> None:
    profile = data.draw(st.sampled_from(list(card.mig)))
    name = data.draw(st.sampled_from([card.id, card.name, *card.aliases]))
    form = data.draw(st.sampled_from(["{}/{}", "{} MIG {}", "{}:{}", "{} mig-{}"]))
    assert accelerator(form.format(name, profile)) == slice_of(card, profile)


def test_machines_carry_cards_that_are_known() -> None:
    known = {card.id for card in accelerators()}
    assert {one.accelerator for one in machines()} <= known
    names = [(one.cloud, one.name, one.accelerator) for one in machines()]
    assert len(names) == len(set(names))
    assert all(1 <= one.count <= 16 for one in machines())


def test_a_machine_is_found_by_its_clouds_name() -> None:
    found = machine("nd96isr_h100_v5")
    assert found is not None
    assert (found.accelerator, found.count) == ("h100-sxm", 8)
    assert machine("m7i.large") is None
    assert [one.count for one in carrying("rtx-pro-6000-server") if one.cloud == "gcp"] == [1, 2, 4, 8]
