from __future__ import annotations

import pytest

from gemstead.engines.flaglist import flag_list, read_arguments
from gemstead.engines.loading import Weights, loading

GB = 1_000_000_000
RUNAI = {"runai-model-streamer": "0.15.9"}
FAST = {"fastsafetensors": "0.3.3"}


@pytest.mark.parametrize(
    ("engine", "storage", "size", "installed", "flags"),
    [
        ("vllm", "local", 62 * GB, {}, ()),
        ("vllm", "local", 62 * GB, FAST, ("--load-format", "fastsafetensors")),
        ("vllm", "local", 62 * GB, {"fastsafetensors": "0.3.2"}, ()),
        ("vllm", "local", 2 * GB, FAST, ()),
        ("vllm", "memory", 62 * GB, FAST, ()),
        ("vllm", "network", 62 * GB, {}, ("--safetensors-load-strategy", "prefetch")),
        ("vllm", "network", 62 * GB, RUNAI, ("--load-format", "runai_streamer")),
        (
            "vllm",
            "fuse",
            62 * GB,
            {"runai_model_streamer": "0.15.6"},
            ("--safetensors-load-strategy", "prefetch"),
        ),
        ("sglang", "network", 62 * GB, {}, ()),
        ("sglang", "bucket", 62 * GB, RUNAI, ("--load-format", "runai_streamer")),
        ("llamacpp", "network", 62 * GB, RUNAI, ()),
    ],
)
def test_a_loader_is_chosen_where_it_helps_and_is_installed(engine, storage, size, installed, flags):
    assert loading(engine, Weights(size, storage), installed=installed).flags == flags
    read_arguments(flag_list(engine), flags)  # refuses what the engine does not know


def test_gguf_has_its_own_loader_and_the_processor_none():
    assert loading("vllm", Weights(GB, "local", gguf=True), installed=FAST).flags == ("--load-format", "gguf")
    assert loading("vllm", Weights(62 * GB, "local"), installed=FAST, vendor="cpu").flags == ()


def test_several_cards_share_the_reading_of_a_bucket():
    flags = loading("vllm", Weights(62 * GB, "bucket"), installed=RUNAI, tensor_parallel=2).flags
    assert flags[2:] == ("--model-loader-extra-config", '{"distributed":true}')


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_a_bucket_that_nothing_reads_is_said_with_a_way_out(engine):
    with pytest.raises(ValueError, match="gemstead models pull"):
        loading(engine, Weights(GB, "bucket"), installed={})
