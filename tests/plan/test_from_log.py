"""Start-up logs of three engines, read, compared and learnt from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.accelerators import accelerator, with_memory
from gemstead.plan import kv_llamacpp
from gemstead.plan.from_log import Correction, compare, corrected, read, setup_of
from gemstead.plan.memory import budget
from gemstead.plan.setup import GIB
from gemstead.refused import Refused

LOGS = Path(__file__).parents[1] / "data" / "plan" / "logs"


def log(name: str) -> str:
    return (LOGS / name).read_text(encoding="utf-8")


def rows(name: str, card: str, **chosen: str) -> dict[str, float]:
    facts = read(log(name))
    return {row.name: row.error for row in compare(facts, setup_of(facts, accelerator(card), **chosen)).rows}


def test_vllm_says_everything_that_the_setup_needs():
    facts = read(log("vllm-0.20.2-26b-l40s.log"))
    assert (facts.engine, facts.version[:6], facts.context, facts.utilisation) == (
        "vllm",
        "0.20.2",
        32_768,
        0.92,
    )
    assert (facts.batched_tokens, facts.requests, facts.kv_dtype) == (16_384, 32, "fp8")
    assert (facts.async_scheduling, facts.text_only, facts.kv_tokens) == (False, True, 193_624)
    assert facts.kv_pool_bytes == int(11.67 * GIB)
    assert (facts.concurrency, facts.graph_bytes) == (5.91, int(0.27 * GIB))
    setup = setup_of(facts, accelerator("L40S"))
    assert setup.checkpoint.repo == "RedHatAI/gemma-4-26B-A4B-it-FP8-dynamic"
    assert setup.drafter and not setup.vision


def test_vllms_tokens_come_out_right_for_its_pool():
    errors = rows("vllm-0.20.2-26b-l40s.log", "L40S")
    assert abs(errors["tokens of that pool"]) < 0.001
    assert abs(errors["cache pool on each card"]) < 0.06


def test_a_refused_start_is_read_and_agreed_with():
    facts = read(log("vllm-refused-26b-3090.log"))
    assert (facts.version, facts.longest, facts.needed_bytes) == ("0.24.0", 44_224, int(5.98 * GIB))
    assert facts.drafter == "google/gemma-4-26B-A4B-it-assistant"
    setup = setup_of(facts, accelerator("RTX 3090"))
    found = compare(facts, setup)
    needed = next(row for row in found.rows if row.name == "needed by the longest request")
    assert abs(needed.error) < 0.001
    weights = next(row for row in found.rows if row.name == "weights")
    assert abs(weights.error) < 0.01
    assert any("did not start" in note for note in found.notes)
    assert not budget(setup).fits
    assert found.correction is None  # it does not say which share of the card it was given
    assert any("nothing is learnt" in note for note in found.notes)


def test_sglangs_pools_come_out_right():
    facts = read(log("sglang-0.5.12-31b.log"))
    assert (facts.engine, facts.kv_tokens, facts.utilisation, facts.swa_ratio) == (
        "sglang",
        69_700,
        0.85,
        0.8,
    )
    assert facts.kv_pool_bytes == pytest.approx(47.86 * GIB, rel=0.001)
    assert facts.drafter == ""
    errors = rows("sglang-0.5.12-31b.log", "RTX PRO 6000")
    assert abs(errors["tokens of that pool"]) < 0.001
    assert abs(errors["tokens, all estimated"]) < 0.05


def test_llamacpps_buffers_are_added_up():
    facts = read(log("llamacpp-11549.log"))
    assert (facts.engine, facts.context, facts.requests, facts.kv_tokens) == ("llamacpp", 2_048, 2, 2_048)
    assert facts.kv_pool_bytes == int(1.00 * 2**20) + int(0.56 * 2**20)
    assert facts.weights_bytes == int(1.89 * 2**20)
    assert facts.kv_dtype == "f16"
    # The demonstration model's window is 64 tokens: with a batch of 512, in whole cells, this is what it says it made.
    assert f"SWA KV cache, size = {kv_llamacpp.cells(64 + 512)} cells" in log("llamacpp-11549.log")


LLAMACPP_ON_A_CARD = """\
llama_model_loader: - kv   5: general.name str = Gemma 4 31B It
load_tensors:   CPU_Mapped model buffer size =  1120.00 MiB
load_tensors:        CUDA0 model buffer size = 16834.00 MiB
llama_context: n_seq_max = 1
llama_context: n_ctx_seq = 32768
llama_context: n_ubatch = 512
llama_kv_cache:      CUDA0 KV buffer size =  2560.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =  1200.00 MiB
sched_reserve:      CUDA0 compute buffer size =   740.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    90.00 MiB
"""


def test_llamacpp_on_a_card_counts_the_cards_buffers_and_teaches():
    """Written in the words of build 11549; the cache's sizes are what its formula gives for 31B."""
    facts = read(LLAMACPP_ON_A_CARD)
    assert (facts.weights_bytes, facts.kv_pool_bytes) == (16_834 << 20, 3_760 << 20)
    assert facts.graph_bytes == 740 << 20
    setup = setup_of(facts, accelerator("RTX 3090"))
    found = compare(facts, setup)
    cache = next(row for row in found.rows if row.name == "cache")
    assert abs(cache.error) < 0.001
    assert found.correction is not None
    again = budget(corrected(setup, [found.correction]))
    work = sum(line.bytes for line in again.lines if line.name in ("activations", "base", "correction"))
    assert work == facts.graph_bytes


@pytest.mark.parametrize(
    ("version", "line", "tokens"),
    [
        ("0.20.0", "INFO GPU KV cache size: 55,000 tokens", 55_000),
        ("0.32.0", "GPU KV cache size: 1,563,739 tokens, Maximum concurrency for 262,144 tokens: 5.97x", 1_563_739),
    ],
)  # fmt: skip
def test_each_versions_words_are_read(version, line, tokens):
    facts = read(f"vLLM API server version {version}\n{line}\n")
    assert (facts.version, facts.kv_tokens) == (version, tokens)


def test_a_log_that_a_forum_has_curled_is_read():
    """discuss.vllm.ai, topic 2674: 31B NVFP4 on two cards of 16 GB, which ran out of memory."""
    arguments = (
        "{'model_tag': 'nvidia/Gemma-4-31B-IT-NVFP4', 'max_model_len': 1024, 'tensor_parallel_size': 2, "
        "'gpu_memory_utilization': 0.9, 'kv_cache_dtype': 'fp8', 'language_model_only': True, "
        "'max_num_batched_tokens': 1024, 'max_num_seqs': 1}"
    ).replace("'", "\u2019")
    text = (
        "(APIServer pid=17897) INFO 05-30 01:45:33 [utils.py:306]  version 0.21.0\n"
        f"(APIServer pid=17897) INFO 05-30 01:45:33 [utils.py:240] non-default args: {arguments}\n"
        "torch.OutOfMemoryError: CUDA out of memory.\n"
    )
    facts = read(text)
    assert (facts.tp, facts.context, facts.kv_dtype, facts.text_only) == (2, 1_024, "fp8", True)
    card = with_memory(accelerator("RTX 5090"), 16_303)  # an RTX 5070 Ti as far as memory goes
    assert not budget(setup_of(facts, card)).fits


def test_the_smallest_pool_of_all_ranks_counts():
    text = "".join(
        f"(Worker_TP{n}) Available KV cache memory: {gib} GiB\n" for n, gib in enumerate((14.9, 14.84, 15.1))
    )
    assert read(text).kv_pool_bytes == int(14.84 * GIB)


@pytest.mark.parametrize("text", ["", "hello", "vllm is nice", "\x00\xff" * 100, "INFO sglang starts"])
def test_what_says_nothing_is_refused(text):
    with pytest.raises(Refused):
        read(text)


def test_an_unknown_engine_is_refused():
    with pytest.raises(Refused, match="are not read"):
        read("x", engine="tgi")


@given(st.text(max_size=400))
def test_no_text_breaks_the_reader(text):
    try:
        facts = read("Available KV cache memory: 11.67 GiB\n" + text)
    except Refused:
        return
    assert facts.lines


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("vllm-0.20.2-26b-l40s.log", "L40S"),
        ("sglang-0.5.12-31b.log", "RTX PRO 6000"),
    ],
)
def test_with_what_a_log_taught_the_same_start_comes_out_exactly(name, card):
    facts = read(log(name))
    setup = setup_of(facts, accelerator(card))
    taught = compare(facts, setup).correction
    assert taught is not None
    again = budget(corrected(setup.with_(weights_bytes=taught.weights_bytes), [taught]))
    assert again.kv_pool_bytes == pytest.approx(facts.kv_pool_bytes, abs=16)


def test_the_middle_of_what_was_taught_counts_and_only_for_its_card():
    setup = setup_of(read(log("vllm-refused-26b-3090.log")), accelerator("RTX 3090"))
    taught = [Correction("vllm", "rtx-3090", size) for size in (100, 300, 9_000)]
    taught += [Correction("vllm", "h100-sxm", 1), Correction("sglang", "rtx-3090", 2)]
    assert corrected(setup, taught).overhead_correction_bytes == 300
    assert corrected(setup, []) == setup
