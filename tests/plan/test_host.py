"""From a model's name to engines on this machine's cards, over machines that are only described."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.plan.host import engine_of, on_cards
from gemstead.plan.values import Card, Machine, Plan
from gemstead.refused import Refused
from gemstead.spec.model import ModelSpec

H100, PRO, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA RTX PRO 6000 Blackwell Server Edition", "NVIDIA L4"
MIB = {H100: 81559, PRO: 97887, L4: 23034}
VLLM = {"vllm": "0.32.0"}


def cards(name: str, count: int, sides: int = 1) -> list[Card]:
    def near(i: int) -> tuple[int, ...]:
        side = i * sides // count
        return tuple(range(32 * side, 32 * side + 32)) if sides > 1 else ()

    return [Card(name, "nvidia", i, f"GPU-{i:04d}", MIB[name], 0, near(i)) for i in range(count)]


def machine(found: list[Card]) -> Machine:
    return Machine(64, 512 << 30, 500 << 30, 1 << 40, cards=tuple(found))


def hosted(found: list[Card], *models: ModelSpec, versions=VLLM) -> Plan:
    here = machine(found)
    return on_cards([(one, engine_of(one, here, versions)) for one in models], here, {}, versions)


def given_to(plan: Plan) -> dict[str, list[int]]:
    return {one.name: [card.index for card in one.cards] for one in plan.replicas}


def test_a_name_alone_fills_eight_cards_with_four_pairs_each_on_its_side():
    plan = hosted(cards(H100, 8, sides=2), ModelSpec(name="gemma-4-31b"))
    assert given_to(plan) == {f"gemma-4-31b-{i}": [2 * i, 2 * i + 1] for i in range(4)}
    assert [one.cpus[0] for one in plan.replicas] == [0, 0, 32, 32]
    setup = plan.replicas[0].placement.setup
    assert (setup.engine, setup.tp, setup.checkpoint.bits, setup.length) == ("vllm", 2, "bf16", 32768)
    assert plan.replicas[0].kv_tokens > 32768 and setup.draft_tokens


def test_what_the_file_says_is_taken_at_its_word():
    asked = ModelSpec(
        name="31b", tensor_parallel=4, replicas=1, context=65536, draft="off", slots=7, thinking=True
    )
    (one,) = hosted(cards(H100, 8), asked).replicas
    setup = one.placement.setup
    assert (setup.tp, len(one.cards), setup.length, setup.requests, setup.drafter) == (4, 4, 65536, 7, False)
    assert one.thinking and one.placement.thinking


def test_several_models_share_a_host_by_card():
    plan = hosted(
        cards(H100, 8, sides=2),
        ModelSpec(name="gemma-4-e4b", replicas=1),
        ModelSpec(name="gemma-4-31b"),
        ModelSpec(name="gemma-4-26b"),
    )
    used = [card for taken in given_to(plan).values() for card in taken]
    assert sorted(used) == list(range(8))
    counts = {
        pool: sum(one.pool == pool for one in plan.replicas) for pool in {o.pool for o in plan.replicas}
    }
    assert counts["gemma-4-e4b"] == 1 and counts["gemma-4-31b"] >= 2 and counts["gemma-4-26b-a4b"] >= 2
    assert all(len({card.cpus for card in one.cards}) == 1 for one in plan.replicas), "nobody spans the sides"


def test_small_and_large_each_have_a_card():
    plan = hosted(cards(PRO, 2), ModelSpec(name="gemma-4-31b"), ModelSpec(name="gemma-4-e4b"))
    assert given_to(plan) == {"gemma-4-31b-0": [0], "gemma-4-e4b-0": [1]}


def test_two_models_share_one_card_by_shares_of_it():
    plan = hosted(cards(PRO, 1), ModelSpec(name="gemma-4-31b"), ModelSpec(name="gemma-4-e4b"))
    shares = [one.placement.setup.share for one in plan.replicas]
    assert sum(shares) <= 0.90 and shares[0] > shares[1]
    assert all(one.flags[0].startswith("--kv-cache-memory-bytes ") for one in plan.replicas)
    assert any("shares its card" in note for note in plan.notes)


def test_a_small_card_gets_smaller_weights_and_a_large_model_is_refused_with_what_fits():
    (one,) = hosted(cards(L4, 1), ModelSpec(name="gemma-4-e4b")).replicas
    assert one.placement.setup.checkpoint.bits == "fp8"
    with pytest.raises(Refused, match="does not fit"):
        hosted(cards(L4, 1), ModelSpec(name="gemma-4-31b"))
    with pytest.raises(Refused, match="free are 1 of 1"):
        hosted(cards(L4, 1), ModelSpec(name="gemma-4-e4b", replicas=3))


def test_slices_take_a_replica_each():
    pieces = [Card(f"{H100} MIG 1g.20gb", "nvidia", 0, f"MIG-{i}") for i in range(4)]
    plan = hosted(pieces, ModelSpec(name="gemma-4-e2b"))
    assert [one.cards[0].uuid for one in plan.replicas] == [f"MIG-{i}" for i in range(4)]
    assert all(one.placement.setup.tp == 1 for one in plan.replicas)


def test_eight_of_amds_cards():
    found = [Card("AMD Instinct MI300X OAM", "amd", i, "", 196592) for i in range(8)]
    plan = hosted(found, ModelSpec(name="gemma-4-31b"))
    assert len(plan.replicas) == 8 and plan.replicas[0].placement.setup.accelerator.vendor == "amd"


@pytest.mark.parametrize(
    ("found", "model", "versions", "engine"),
    [
        ([], {}, VLLM, "embedded"),
        (cards(L4, 1), {}, VLLM, "vllm"),
        (cards(L4, 1), {}, {"ollama": "", "sglang": "0.5.23"}, "sglang"),
        (cards(L4, 1), {}, {}, ""),  # a card, and nothing for it
        (cards(L4, 1), {"file": "/m.gguf"}, VLLM, "embedded"),
        (cards(L4, 1), {"engine": "llamacpp"}, VLLM, "llamacpp"),
        ([Card("NVIDIA GeForce GT 710", "nvidia", 0, "", 2048)], {}, VLLM, "embedded"),
    ],
)
def test_which_engine(found, model, versions, engine):
    assert engine_of(ModelSpec(name="gemma-4-e2b", **model), machine(found), versions) == engine


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([H100, PRO, L4]),
    st.integers(1, 8),
    st.integers(1, 2),
    st.lists(st.sampled_from(["e2b", "e4b", "12b", "26b", "31b"]), min_size=1, max_size=4, unique=True),
)
def test_no_card_is_given_twice_unless_shared_and_no_share_exceeds_it(name, count, sides, sizes):
    try:
        plan = hosted(cards(name, count, sides), *(ModelSpec(name=f"gemma-4-{size}") for size in sizes))
    except Refused:
        return
    taken: dict[str, float] = {}
    for one in plan.replicas:
        assert len(one.cards) == one.placement.setup.tp
        for card in one.cards:
            taken[card.uuid] = taken.get(card.uuid, 0.0) + one.placement.setup.share
    assert all(share <= 0.93 for share in taken.values())
    assert {one.pool for one in plan.replicas} and len({one.name for one in plan.replicas}) == len(
        plan.replicas
    )


def test_what_the_plan_foresees_of_an_engine_is_told_to_the_gateway():
    (large,) = hosted(cards(H100, 1), ModelSpec(name="gemma-4-31b")).replicas
    (small,) = hosted(cards(H100, 1), ModelSpec(name="gemma-4-e4b")).replicas
    (slow,) = hosted(cards(L4, 1), ModelSpec(name="gemma-4-e4b")).replicas
    for one in (large, small, slow):
        told = one.foreseen
        assert 0 < told.cache_tokens <= told.kv_tokens
        assert 0.001 < told.step_s < 0.1 and 0.0 < told.step_slot_s < told.step_s
    assert large.foreseen.prefill_tokens_s < small.foreseen.prefill_tokens_s
    assert slow.foreseen.prefill_tokens_s < small.foreseen.prefill_tokens_s / 3
    assert replace(large, foreseen=small.foreseen) == large, "another estimate is no other engine"
