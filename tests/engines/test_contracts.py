"""Engines that are not run here, held to samples of what they say: metrics pages and log lines, each with its source."""

# ruff: noqa: E501  # lines of logs are as they are

from __future__ import annotations

import pytest

from gemstead.engines import ENGINES, sglang, vllm

# Form: sglang, docs "Production Metrics", and pages of running servers in public issues (0.5.x, read 2026-11-21).
SGLANG = """# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 4.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 4.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 3.0
sglang:token_usage{engine_type="unified",model_name="m",tp_rank="0"} 0.28
sglang:prompt_tokens_total{model_name="m"} 8.128902e+06
sglang:cached_tokens_total{model_name="m"} 120.0
sglang:generation_tokens_total{model_name="m"} 7.557572e+06
sglang:num_running_reqs_total 100
"""
# A priority scheduler writes a series for each priority beside their sum (0.5.12 and later).
SGLANG_PRIORITIES = """sglang:num_running_reqs{pp_rank="0",priority="",tp_rank="0"} 14.0
sglang:num_running_reqs{pp_rank="0",priority="-1",tp_rank="0"} 5.0
sglang:num_running_reqs{pp_rank="0",priority="0",tp_rank="0"} 9.0
"""
SGLANG_DATA_PARALLEL = """sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 2
sglang:num_running_reqs{dp_rank="1",tp_rank="1"} 3
sglang:token_usage{dp_rank="0",tp_rank="0"} 0.2
sglang:token_usage{dp_rank="1",tp_rank="1"} 0.6
"""
# Form: vLLM 0.32.0 with --data-parallel-size 2: one series for each core.
VLLM_TWO_CORES = """vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 5.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
"""
# Form: text-generation-inference docs/source/reference/metrics.md, commit 032fc4c4.
TGI = """# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{le="1"} 0
tgi_request_generated_tokens_sum 8123
tgi_request_generated_tokens_count 44
tgi_request_input_length_sum 977
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 4
# TYPE tgi_queue_size gauge
tgi_queue_size 7
"""
# Form: the model server protocol of the Gateway API inference extension, column trtllm-serve.
TENSORRT = """trtllm_num_requests_running{model_name="m",engine_type="trtllm"} 6
trtllm_num_requests_waiting{model_name="m",engine_type="trtllm"} 1
trtllm_kv_cache_utilization{model_name="m",engine_type="trtllm"} 0.62
"""


@pytest.mark.parametrize(
    ("engine", "page", "load"),
    [
        ("sglang", SGLANG, (4, 3, 0.28)),
        ("sglang", SGLANG.replace("sglang:", "sglang_"), (4, 3, 0.28)),  # as later versions write it
        ("sglang", SGLANG_PRIORITIES, (14, None, None)),
        ("sglang", SGLANG_DATA_PARALLEL, (5, None, pytest.approx(0.4))),
        ("vllm", VLLM_TWO_CORES, (8, 2, 0.5)),
        ("tgi", TGI, (4, 7, None)),
        ("tensorrt_llm", TENSORRT, (6, 1, 0.62)),
        ("ollama", "404 page not found", (None, None, None)),
        ("transformers", "{}", (None, None, None)),
    ],
)
def test_a_page_of_metrics(engine, page, load):
    said = ENGINES[engine].read_load(page, 1.0)
    assert (said.running, said.waiting, said.kv_used) == load


def test_what_is_counted():
    assert sglang.read_gauges(SGLANG)["tokens_out"] == 7557572
    assert ENGINES["tgi"].read_gauges(TGI)["tokens_out"] == 8123
    assert "drafted" not in sglang.read_gauges(SGLANG)


# Lines of running engines; those of vLLM and llama.cpp of runs here (0.32.0, build 11549), others of public issues.
LINES = [
    ("vllm", "Loading safetensors checkpoint shards:  50% Completed | 1/2", "loading", False, {"done": 0.5}),
    (
        "vllm",
        "INFO [kv_cache_utils.py] GPU KV cache size: 1,052,352 tokens",
        "cache-size",
        False,
        {"kv_tokens": 1052352},
    ),
    (
        "vllm",
        "Maximum concurrency for 32,768 tokens per request: 4.83x",
        "concurrency",
        False,
        {"concurrency": 4.83},
    ),
    (
        "vllm",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "cache",
        True,
        {},
    ),
    (
        "vllm",
        "ValueError: Free memory on device cuda:0 (10.2/79.1 GiB) on startup is less than desired GPU memory utilization",
        "free",
        True,
        {},
    ),
    (
        "vllm",
        "To serve at least one request with the models's max seq len (262144), (20.0 GiB KV cache is needed",
        "cache",
        True,
        {},
    ),
    (
        "vllm",
        "WARNING Unknown vLLM environment variable detected: VLLM_GPU_MEMORY_UTILIZATION",
        "variable",
        False,
        {},
    ),
    ("vllm", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "memory", True, {}),
    (
        "vllm",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3384",
        "links",
        True,
        {},
    ),
    ("vllm", "api_server.py: error: unrecognized arguments: --swap-space 4", "flag", True, {}),
    (
        "vllm",
        "The checkpoint you are trying to load has model type `gemma4` but Transformers does not recognize this architecture",
        "version",
        True,
        {},
    ),
    (
        "sglang",
        "max_total_num_tokens=139500, chunked_prefill_size=8192, max_prefill_tokens=16384",
        "cache-size",
        False,
        {"kv_tokens": 139500},
    ),
    (
        "sglang",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "cache",
        True,
        {},
    ),
    ("sglang", "The server is fired up and ready to roll!", "listening", False, {}),
    ("sglang", "Scheduler hit an exception: Traceback (most recent call last):", "load", True, {}),
    (
        "ollama",
        'time=2026-04-10T21:13:59.427+09:00 level=INFO source=server.go:1390 msg="llama runner started in 5.65 seconds"',
        "loaded",
        False,
        {},
    ),
    ("ollama", 'level=DEBUG msg="model load progress 0.42"', "loading", False, {"done": 0.42}),
    ("ollama", "load_tensors: offloaded 29/48 layers to GPU", "offloaded", False, {"done": 29 / 48}),
    (
        "ollama",
        'level=WARN msg="truncating input prompt" limit=4096 prompt=9000 keep=4 new=4096',
        "cut",
        False,
        {},
    ),
    (
        "tgi",
        "INFO text_generation_router: Setting max batch total tokens to 24352",
        "cache-size",
        False,
        {"kv_tokens": 24352},
    ),
    ("tgi", "Error: ShardCannotStart", "load", True, {}),
    (
        "tensorrt_llm",
        "[TRT-LLM] [I] [MemUsageChange] Allocated 50.20 GiB for max tokens in paged KV cache (821216).",
        "cache-size",
        False,
        {"kv_tokens": 821216},
    ),
    ("tensorrt_llm", "mpi4py.MPI.Exception: Executor worker died", "load", True, {}),
    (
        "transformers",
        "Gemma4ForConditionalGeneration does not support continuous batching. Falling back",
        "serial",
        False,
        {},
    ),
    ("llamacpp", "gemstead: loading 42 %", "loading", False, {"done": 0.42}),
]


@pytest.mark.parametrize(
    ("engine", "line", "kind", "fatal", "more"),
    LINES,
    ids=[f"{x[0]}-{x[2]}-{i}" for i, x in enumerate(LINES)],
)
def test_a_line_of_a_log(engine, line, kind, fatal, more):
    event = ENGINES[engine].read_log(line)
    assert event is not None and (event.kind, event.fatal) == (kind, fatal), event
    assert {name: getattr(event, name) for name in more} == more
    if fatal and engine != "llamacpp":
        assert event.remedy, "what is fatal has a remedy"


@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_adapter_answers_every_question(engine):
    adapter = ENGINES[engine]
    path, body = adapter.readiness("m")
    assert path in adapter.CAPABILITIES and body["model"] == "m"
    assert adapter.HEALTH_PATH.startswith("/") and adapter.METRICS_PATH[:1] in ("", "/")
    assert adapter.DIALECT.reasoning in ("reasoning", "reasoning_content")
    assert hasattr(adapter, "launch") is (engine != "external")
    for _pattern, kind, sentence, *remedy in adapter.LOG_PATTERNS:
        assert kind and sentence and len(remedy) < 2
    assert adapter.read_log("INFO 200 OK") is None


def test_a_share_is_never_more_than_all_of_it():
    page = "".join(f'vllm:kv_cache_usage_perc{{engine="{i}"}} 0.9\n' for i in range(8))
    assert vllm.read_load(page, 0.0).kv_used == pytest.approx(0.9)
