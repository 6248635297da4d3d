"""What a machine will run for a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.models import models
from gemstead.plan.deploy import SHARE, SYSTEM_BYTES, needed_bytes, plan, slot_bytes
from gemstead.plan.values import Machine, ModelFile
from gemstead.refused import Reason, Refused
from gemstead.spec.model import ExternalEndpoint, ModelSpec, Spec

GIB = 1 << 30
DEMO = ModelFile("/demo.gguf", demonstration=True, bytes=2_000_000)
BY_NAME = {facts.name: facts for facts in models()}


def machine(memory_gib: float = 24, cpus: int = 8) -> Machine:
    size = int(memory_gib * GIB)
    return Machine(cpus=cpus, memory_bytes=size, memory_free_bytes=size, disk_free_bytes=size)


def file_of(name: str) -> ModelFile:
    return ModelFile(f"/{name}.gguf", bytes=BY_NAME[name].gguf.bytes)


def spec(**model: object) -> Spec:
    return Spec(models=(ModelSpec(**model),))  # type: ignore[arg-type]


def test_an_empty_file_runs_the_default_model():
    made = plan(Spec(), machine(), {"gemma-4-e2b": file_of("gemma-4-e2b")})
    (replica,) = made.replicas
    assert (replica.name, replica.pool, replica.engine) == ("gemma-4-e2b-0", "gemma-4-e2b", "embedded")
    assert (replica.slots, replica.context_tokens, replica.threads) == (4, 32_768, 7)
    assert any("gemma-4-e2b" in note for note in made.notes)


def test_however_it_is_written_it_is_one_pool():
    for name in ("gemma4:e2b", "google/gemma-4-E2B-it"):
        assert plan(spec(name=name), machine(), {name: DEMO}).replicas[0].pool == "gemma-4-e2b"


def test_the_demonstration_model_takes_one_thread_and_says_what_it_is():
    made = plan(spec(context=30_000), machine(), {"gemma-4-e2b": DEMO})
    assert (made.replicas[0].threads, made.replicas[0].context_tokens) == (1, 8192)
    assert "demonstration model" in made.notes[0] and "not 30000" in made.notes[1]


@pytest.mark.parametrize(
    ("cpus", "replicas", "threads"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (8, 1, 7), (8, 2, 3), (4, 8, 1)]
)
def test_one_cpu_stays_the_gateways_when_there_are_more_than_two(cpus, replicas, threads):
    files = {"gemma-4-e2b": file_of("gemma-4-e2b")}
    made = plan(spec(replicas=replicas), machine(128, cpus), files)
    assert [replica.threads for replica in made.replicas] == [threads] * replicas
    assert len({replica.name for replica in made.replicas}) == replicas


def test_what_the_file_says_is_done():
    asked = spec(context=5000, slots=3, threads=2, thinking=True)
    (replica,) = plan(asked, machine(), {"gemma-4-e2b": file_of("gemma-4-e2b")}).replicas
    assert (replica.context_tokens, replica.slots, replica.threads, replica.thinking) == (5120, 3, 2, True)


def test_engines_elsewhere_are_not_planned_here():
    outside = ModelSpec(name="big", endpoints=(ExternalEndpoint(url="http://10.0.0.5:8000"),))
    assert plan(Spec(models=(outside,)), machine(), {}).replicas == ()


def test_the_cache_of_one_slot_is_what_llama_cpp_reports():
    """E2B at 4096 tokens: 3 full layers keep 4096 cells, 12 sliding layers keep 512 + 512 = 1024,
    and each of two checkpoints 512 more."""
    facts = BY_NAME["gemma-4-e2b"]
    assert slot_bytes(facts, 4096) == 4096 * 6144 + (1024 + 2 * 512) * 12_288


def test_too_much_is_refused_with_what_fits():
    with pytest.raises(Refused) as caught:
        plan(spec(name="gemma-4-31b"), machine(16), {"gemma-4-31b": file_of("gemma-4-31b")})
    assert caught.value.reason is Reason.UNSUPPORTED
    assert "the nearest that fits is gemma-4-12b" in caught.value.message
    with pytest.raises(Refused) as caught:
        asked = spec(name="gemma-4-12b", context=262_144, slots=4)
        plan(asked, machine(16), {"gemma-4-12b": file_of("gemma-4-12b")})
    assert "it fits with `context: " in caught.value.message and "`slots: 4`" in caught.value.message
    with pytest.raises(Refused, match="--demo"):
        plan(Spec(), machine(2), {"gemma-4-e2b": file_of("gemma-4-e2b")})


@given(
    name=st.sampled_from(sorted(BY_NAME)),
    memory_gib=st.floats(1, 512),
    cpus=st.integers(1, 128),
    replicas=st.integers(1, 4),
    context=st.none() | st.integers(256, 131_072),
    slots=st.none() | st.integers(1, 16),
)
def test_what_is_planned_fits_and_never_gives_less_than_was_asked(
    name, memory_gib, cpus, replicas, context, slots
):
    asked = spec(name=name, replicas=replicas, context=context, slots=slots)
    host = machine(memory_gib, cpus)
    try:
        made = plan(asked, host, {name: file_of(name)})
    except Refused as refused:
        assert "fits" in refused.message
        return
    facts = BY_NAME[name]
    used = sum(needed_bytes(facts, r.model, r.context_tokens, r.slots) for r in made.replicas)
    assert used <= host.memory_bytes * SHARE - SYSTEM_BYTES
    assert all(r.context_tokens >= (context or 2048) and r.slots == (slots or r.slots) for r in made.replicas)
    assert all(1 <= r.threads <= cpus for r in made.replicas)


def test_two_models_share_the_memory():
    both = Spec(models=(ModelSpec(name="gemma-4-e4b"), ModelSpec(name="gemma-4-e2b")))
    files = {name: file_of(name) for name in ("gemma-4-e4b", "gemma-4-e2b")}
    made = plan(both, machine(16), files)
    used = sum(needed_bytes(BY_NAME[r.pool], r.model, r.context_tokens, r.slots) for r in made.replicas)
    assert len(made.replicas) == 2 and used <= 16 * GIB * SHARE - SYSTEM_BYTES
