"""Launch lines: what is said to each engine, and that its own flag list takes it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.catalog.accelerators import accelerator
from gemstead.catalog.checkpoints import checkpoints
from gemstead.catalog.models import models
from gemstead.engines.commands import COMMANDS, launch_command
from gemstead.engines.flag import Command
from gemstead.engines.flaglist import FILES, check, flag_list, read_arguments
from gemstead.plan.placement import Media, Placement
from gemstead.plan.setup import Setup
from gemstead.refused import Refused

BY_SIZE = {facts.size: facts for facts in models()}
CARD = accelerator("RTX PRO 6000")


def setup(size: str = "31B", engine: str = "vllm", card=CARD, bits: str = "bf16", **more) -> Setup:
    of_size = [one for one in checkpoints(size) if engine in one.engines and not one.fault_on(card)]
    form = next((one for one in of_size if one.bits == bits), of_size[0])
    return Setup(BY_SIZE[size], form, card, engine=engine, **{"context": 32768, "vision": False, **more})


def words(command: Command) -> dict[str, tuple[str, ...]]:
    return read_arguments(
        flag_list(command.engine, command.version), [word for flag in command.flags for word in flag.words]
    )


def test_the_article_on_two_rtx_pro_6000():
    """Callstack's line for two cards, with what it lacks: video off, thinking said, no address that others reach."""
    two = setup(tp=2, utilisation=0.9, drafter=True, draft_tokens=4, requests=100, vision=True)
    line = launch_command(Placement(two, devices=("0", "1"), media=Media(images=4)))
    said = words(line)
    assert line.program == ("vllm", "serve", "google/gemma-4-31B-it")
    assert line.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert said["--tensor-parallel-size"] == ("2",)
    assert said["--gpu-memory-utilization"] == ("0.90",)
    assert said["--max-model-len"] == ("32768",)
    assert {"--enable-auto-tool-choice", "--async-scheduling"} <= said.keys()
    assert said["--reasoning-parser"] == said["--tool-call-parser"] == ("gemma4",)
    assert json.loads(said["--limit-mm-per-prompt"][0]) == {"image": 4, "audio": 0, "video": 0}
    assert json.loads(said["--speculative-config"][0]) == {
        "method": "mtp",
        "model": "google/gemma-4-31B-it-assistant",
        "num_speculative_tokens": 4,
    }
    assert json.loads(said["--default-chat-template-kwargs"][0]) == {"enable_thinking": False}
    assert said["--host"] == ("127.0.0.1",)


def test_the_articles_line_for_sglang():
    two = setup(engine="sglang", tp=2, utilisation=0.9, drafter=True, draft_tokens=5)
    said = words(launch_command(Placement(two)))
    assert said["--model-path"] == ("google/gemma-4-31B-it",)
    assert (said["--tp-size"], said["--mem-fraction-static"]) == (("2",), ("0.90",))
    assert said["--speculative-algorithm"] == ("NEXTN",)
    assert said["--speculative-draft-model-path"] == ("google/gemma-4-31B-it-assistant",)
    assert (said["--speculative-num-steps"], said["--speculative-num-draft-tokens"]) == (("5",), ("6",))
    assert said["--speculative-eagle-topk"] == ("1",)


def test_media_that_nobody_uses_are_off_and_the_engine_fetches_nothing():
    text = words(launch_command(Placement(setup())))
    assert "--language-model-only" in text and "--limit-mm-per-prompt" not in text
    assert text["--allowed-media-domains"] == ("none.invalid",)
    line = launch_command(Placement(setup(vision=True), media=Media(images=1, domains=("img.example",))))
    assert words(line)["--allowed-media-domains"] == ("img.example",)
    assert line.env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


def test_a_modality_that_the_model_has_not_is_refused():
    with pytest.raises(Refused, match="31B takes no audio"):
        launch_command(Placement(setup(vision=True), media=Media(audios=1)))


def test_thinking_is_always_said():
    for engine in ("vllm", "sglang", "llamacpp", "transformers"):
        for thinking in (True, False):
            line = launch_command(Placement(setup("E4B", engine), thinking=thinking))
            said = next(flag for flag in line.flags if "chat-template-kwargs" in flag.name)
            assert json.loads(str(said.value)) == {"enable_thinking": thinking}


def test_an_older_version_gets_only_what_it_knows_or_a_refusal():
    assert "--language-model-only" not in words(
        launch_command(Placement(setup(engine="sglang", version="0.5.12")))
    )
    with pytest.raises(Refused, match="cannot think by default"):
        launch_command(Placement(setup(engine="sglang", version="0.5.12"), thinking=True))
    with pytest.raises(Refused, match=r"0\.21\.0 is the first that serves it"):
        launch_command(Placement(setup(version="0.20.2", drafter=True, draft_tokens=2)))
    with pytest.raises(Refused, match=r"0\.23\.0 is the first"):
        launch_command(Placement(setup("12B", version="0.21.0")))


def test_a_version_that_was_not_read_is_checked_against_its_nearest_and_said_so():
    line = launch_command(Placement(setup(version="0.33.0")))
    assert any("checked against vLLM 0.32.0" in note for note in line.notes)
    assert not any(
        "checked against" in note for note in launch_command(Placement(setup(version="0.32.0"))).notes
    )


def test_a_quantised_trained_target_gets_its_own_drafter():
    small = setup(bits="int4", drafter=True, draft_tokens=2)
    config = json.loads(words(launch_command(Placement(small)))["--speculative-config"][0])
    assert config["model"] == "google/gemma-4-31B-it-qat-q4_0-unquantized-assistant"


def test_llamacpp_shares_its_context_among_slots():
    said = words(launch_command(Placement(setup("E4B", "llamacpp", requests=4, context=8192))))
    assert (said["--ctx-size"], said["--parallel"]) == (("32768",), ("4",))


def test_ollama_always_says_its_context_and_never_leaves_the_machine():
    line = launch_command(Placement(setup("E4B", "ollama", requests=2, context=16384), port=11434))
    assert line.env["OLLAMA_CONTEXT_LENGTH"] == "16384" and line.env["OLLAMA_NUM_PARALLEL"] == "2"
    assert line.env["OLLAMA_HOST"] == "127.0.0.1:11434"
    assert line.afterwards[0][:2] == ("ollama", "pull")
    from dataclasses import replace

    own = setup("E4B", "ollama")
    cloud = own.with_(checkpoint=replace(own.checkpoint, repo="gemma4:31b-cloud"))
    with pytest.raises(Refused, match="somebody else's machine"):
        launch_command(Placement(cloud))


def test_engines_without_evidence_say_so():
    assert any("unproven" in note for note in launch_command(Placement(setup("E4B", "tgi"))).notes)
    assert any(
        "experimental" in note for note in launch_command(Placement(setup("E4B", "tensorrt_llm"))).notes
    )
    assert words(launch_command(Placement(setup("E4B", "tgi"))))["--dtype"] == ("bfloat16",)


def test_what_is_known_not_to_start_is_refused_and_the_rest_is_told():
    with pytest.raises(Refused, match="14942"):
        launch_command(Placement(setup("E4B", "tensorrt_llm", card=accelerator("L4"))))


@settings(max_examples=150, deadline=None)
@given(
    size=st.sampled_from(sorted(BY_SIZE)),
    engine=st.sampled_from(sorted(COMMANDS)),
    card=st.sampled_from(
        ["H100", "L4", "A100", "RTX PRO 6000", "B200", "MI300X", "cpu", "tpu-v6e", "RTX 3090"]
    ),
    tp=st.sampled_from([1, 2, 4, 8]),
    context=st.integers(1024, 131_072),
    requests=st.integers(1, 512),
    draft_tokens=st.integers(0, 8),
    kv_dtype=st.sampled_from(["auto", "bf16", "fp8", "q8_0"]),
    images=st.integers(0, 4),
    thinking=st.booleans(),
    version=st.sampled_from(["", "old", "new"]),
    hybrid=st.booleans(),
)
def test_every_line_parses_under_the_engines_own_list_with_reasons_and_never_what_must_not_be(
    size, engine, card, tp, context, requests, draft_tokens, kv_dtype, images, thinking, version, hybrid
):
    versions = {"vllm": ("0.23.0", "0.32.0"), "sglang": ("0.5.12", "0.5.23")}.get(engine, ("", ""))
    place = accelerator(card)
    able = [one for one in checkpoints(size) if engine in one.engines and not one.fault_on(place)]
    if not able:
        return
    if engine == "vllm" and kv_dtype == "q8_0":
        kv_dtype = "fp8"
    made = Setup(
        BY_SIZE[size],
        able[0],
        place,
        tp=tp,
        engine=engine,
        version={"": "", "old": versions[0], "new": versions[1]}[version],
        context=context,
        kv_dtype=kv_dtype,
        requests=requests,
        drafter=draft_tokens > 0,
        draft_tokens=draft_tokens,
        vision=images > 0,
        hybrid=hybrid,
    )
    try:
        line = launch_command(Placement(made, thinking=thinking, media=Media(images=images), devices=("0",)))
    except Refused as refused:
        assert len(refused.message) > 20
        assert "does not know the flag" not in refused.message and "never reads" not in refused.message
        return
    if engine in FILES:
        check(line)
    assert all(one.reason and one.source for one in (*line.flags, *line.variables))
    text = " ".join(line.argv)
    assert "float16" not in text.replace("bfloat16", "") and "--trust-remote-code" not in text
    assert "0.0.0.0" not in text + " ".join(line.env.values())
    assert not {"VLLM_GPU_MEMORY_UTILIZATION", "VLLM_MAX_NUM_BATCHED_TOKENS"} & line.env.keys()
    assert line.shell()


def test_a_drafter_for_llamacpp_is_a_file_that_must_be_made_first():
    line = launch_command(Placement(setup("E4B", "llamacpp", drafter=True, draft_tokens=4, requests=2)))
    assert words(line)["--model-draft"][0].endswith("assistant.gguf")
    assert any("convert_hf_to_gguf" in note for note in line.notes)
