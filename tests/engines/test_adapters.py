"""What engines say, in our words."""

from __future__ import annotations

import pytest

from gemstead.engines import ENGINES, embedded, external, llamacpp, vllm
from gemstead.engines.reading import GAUGES
from gemstead.plan.values import ModelFile, Replica

LLAMACPP = """# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
llamacpp:requests_deferred 5
llamacpp:prompt_tokens_total 1700
llamacpp:tokens_predicted_total 7e2
llamacpp:spec_decode_num_draft_tokens_total 132
llamacpp:spec_decode_num_accepted_tokens_total 120
"""
VLLM = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 3.0
vllm:num_requests_running{engine="1",model_name="a b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="x}"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:generation_tokens_total{engine="0"} NaN
"""


def test_every_engine_answers_the_same_questions():
    for name, adapter in ENGINES.items():
        for part in ("HEALTH_PATH", "METRICS_PATH", "METRICS", "CAPABILITIES", "LOG_PATTERNS"):
            assert hasattr(adapter, part), (name, part)
        assert set(adapter.METRICS) == set(GAUGES)
        path, body = adapter.readiness("m")
        assert path in adapter.CAPABILITIES and body["messages"]
        assert adapter.read_log("nothing of interest") is None


@pytest.mark.parametrize("adapter", [embedded, llamacpp, external])
def test_llamacpp_figures(adapter):
    load = adapter.read_load(LLAMACPP, 7.0)
    assert (load.at, load.running, load.waiting, load.kv_used) == (7.0, 2, 5, None)
    gauges = adapter.read_gauges(LLAMACPP)
    assert (gauges["tokens_in"], gauges["tokens_out"]) == (1700, 700)
    assert gauges["accepted"] / gauges["drafted"] == pytest.approx(120 / 132)


@pytest.mark.parametrize("adapter", [vllm, external])
def test_vllm_figures_are_summed_over_its_cores(adapter):
    load = adapter.read_load(VLLM, 0.0)
    assert (load.running, load.waiting, load.kv_used) == (7, 1, 0.25)


def test_an_older_name_is_understood_and_the_newer_one_preferred():
    old = "vllm:gpu_cache_usage_perc 0.5\n"
    assert vllm.read_load(old, 0.0).kv_used == 0.5
    assert vllm.read_load(old + "vllm:kv_cache_usage_perc 0.75\n", 0.0).kv_used == 0.75


@pytest.mark.parametrize(
    "text", ["", "<html>no</html>", "vllm:num_requests_running", "vllm:num_requests_running x"]
)
def test_what_is_missing_is_none_and_never_zero(text):
    load = vllm.read_load(text, 1.0)
    assert (load.running, load.waiting, load.kv_used) == (None, None, None)
    assert vllm.read_gauges(text + VLLM.replace("running", "other")).get("tokens_out") is None


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (
            "0.00.1 E llama_model_load: error loading model: unknown model architecture: 'gemmaX'",
            "architecture",
            "`gemmaX`",
        ),
        (
            "0.00.3 E gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'",
            "corrupt",
            "fetch it again",
        ),
        (
            "0.00.4 E x: tensor 'a' data is not within the file bounds, model is corrupted or incomplete",
            "corrupt",
            "damaged",
        ),
        ("0.02.5 E srv load_model: failed to create_context with model 'x'", "memory", "smaller model"),
        (
            "0.00.1 E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 9914",
            "port",
            "127.0.0.1:9914",
        ),
        ("0.00.5 E srv init: exiting due to model loading error", "load", "could not load"),
    ],
)
def test_a_fatal_line_is_a_sentence(line, kind, words):
    event = llamacpp.read_log(line)
    assert event is not None and event.fatal and event.kind == kind and words in event.sentence


def test_loading_is_told_with_its_share():
    event = llamacpp.read_log("gemstead: loading 42 %")
    assert event is not None and (event.done, event.sentence, event.fatal) == (
        0.42,
        "loading the model, 42 %",
        False,
    )
    listening = llamacpp.read_log("0.00.02 I srv          init: listening on http://127.0.0.1:9934")
    assert listening is not None and listening.kind == "listening"


def test_a_replica_becomes_a_command_line_without_secrets():
    replica = Replica(
        "demo-0", "demo", "embedded", ModelFile("/m.gguf", "/p.gguf"), 4096, 4, 3, "127.0.0.1", 9, True
    )
    launch = embedded.launch(replica, python="python", api_key="secret")
    words = " ".join(launch.argv)
    assert words.startswith(
        "python -m gemstead.embedded --model /m.gguf --projector /p.gguf --host 127.0.0.1 --port 9"
    )
    assert "--context 4096 --slots 4 --threads 3 --thinking on" in words
    assert "secret" not in words and "secret" not in repr(launch)
    assert launch.env == {"GEMSTEAD_ENGINE_KEY": "secret"} and launch.version == "m.gguf"
    assert (launch.context_tokens, launch.slots, launch.served_model) == (4096, 4, "demo")
