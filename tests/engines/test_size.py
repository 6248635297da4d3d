from __future__ import annotations

import pytest

from gemstead.engines.size import kv_tokens, said

VLLM = """# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="27000"} 1.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="1000"} 1.0
"""


def test_what_metrics_say():
    assert kv_tokens(VLLM) == 16 * 28000
    assert kv_tokens('sglang:cache_config_info{page_size="64",num_pages="100"} 1.0') == 6400
    assert kv_tokens('sglang:max_total_num_tokens{model_name="m"} 124000.0') == 124000
    assert kv_tokens("llamacpp:requests_processing 1") == 0


def test_what_llama_cpp_says():
    props = {"default_generation_settings": {"n_ctx": 8192, "params": {}}, "total_slots": 4}
    assert said("llamacpp", props) == (32768, 4)


def test_what_sglang_says():
    assert said("sglang", {"max_total_num_tokens": 90000, "max_running_requests": 64}) == (90000, 64)
    assert said(
        "sglang", {"internal_states": [{"max_total_num_tokens": 5}, {"max_total_num_tokens": 7}]}
    ) == (12, 0)


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"total_slots": "many"}, {"default_generation_settings": None}]
)
def test_what_says_nothing(answer):
    assert said("llamacpp", answer) == (0, 0)
    assert said("sglang", answer) == (0, 0)
