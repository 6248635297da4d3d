"""What changes between two versions."""

from __future__ import annotations

from gemstead.engines.recipe import known_good
from gemstead.engines.upgrade import upgrade


def test_an_old_version_goes_to_the_newest_known_good_with_what_changes():
    plan = upgrade("vllm", "0.20.0")
    assert (plan.target, plan.needed) == (known_good("vllm"), True)
    assert "--max-num-queued-reqs" in plan.new
    assert plan.gone and not set(plan.gone) & set(plan.new)
    assert "vllm-wait-forever" in {entry.id for entry in plan.mended}
    assert not {entry.id for entry in plan.mended} & {entry.id for entry in plan.brought}
    assert plan.steps[0].startswith("gemstead engines install vllm==")
    assert plan.steps[-1].startswith("gemstead engines rm vllm==0.20.0")


def test_there_and_back_are_mirror_images():
    up, down = upgrade("vllm", "0.24.0", target="0.32.0"), upgrade("vllm", "0.32.0", target="0.24.0")
    assert (up.gone, up.new) == (down.new, down.gone)
    assert (up.mended, up.brought) == (down.brought, down.mended)


def test_the_newest_has_nothing_to_do():
    plan = upgrade("vllm", "0.32.0", variant="cpu")
    assert (plan.needed, plan.steps, plan.target) == (False, (), "0.32.0")


def test_one_that_is_newer_than_what_is_known_is_left_alone():
    plan = upgrade("sglang", "9.0.0")
    assert not plan.needed
    assert "newer than" in plan.notes[0]


def test_an_engine_without_two_flag_lists_says_so():
    plan = upgrade("transformers", "5.22.2")
    assert any("only one version's flags" in note for note in plan.notes)
