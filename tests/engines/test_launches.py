"""What starts each engine: the installation's words, its own flags, its cards, a key, and nothing of the head's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemstead.engines import ENGINES, container
from gemstead.engines.installed import Installed
from gemstead.engines.surroundings import inherited
from gemstead.plan.host import on_cards
from gemstead.plan.values import Card, Launch, LoraAdapter, Machine, Replica
from gemstead.refused import Refused
from gemstead.spec.model import ModelSpec

SEEN = {"vllm": "0.32.0", "sglang": "0.5.23", "llamacpp": "11549", "ollama": "0.21.0", "tgi": "3"}
SEEN |= {"tensorrt_llm": "1", "transformers": "5.22.2"}
NAMED_BUT_NEVER_READ = {"VLLM_GPU_MEMORY_UTILIZATION", "VLLM_MAX_NUM_BATCHED_TOKENS", "VLLM_SERVER_DEV_MODE"}


def replica(engine: str = "vllm", slice_uuid: str = "", version: str = "", **more) -> Replica:
    name = "NVIDIA H100 80GB HBM3"
    card = (
        Card(f"{name} MIG 1g.20gb", "nvidia", 0, slice_uuid)
        if slice_uuid
        else Card(name, "nvidia", 3, "GPU-3", 81559)
    )
    here = Machine(64, 512 << 30, 500 << 30, 1 << 40, cards=(card,))
    asked = ModelSpec(name="gemma-4-e2b", engine=engine, **more)
    (one,) = on_cards([(asked, engine)], here, {}, {engine: version or SEEN[engine]}).replicas
    return replace(one, port=9000)


def launch(one: Replica, version: str = "", runner="venv", prefix=("/e/bin",), **more) -> Launch:
    installed = Installed(one.engine, version or SEEN[one.engine], runner, prefix)
    return ENGINES[one.engine].launch(one, installed=installed, api_key="k3y", **more)


def value(argv, name):
    return argv[argv.index(name) + 1]


@pytest.mark.parametrize("engine", list(SEEN))
def test_every_engine_is_started_where_it_is_installed_on_its_own_card_and_port(engine):
    made = launch(replica(engine))
    assert made.argv[0] == "/e/bin" and (made.host, made.port) == ("127.0.0.1", 9000)
    assert made.env["CUDA_VISIBLE_DEVICES"] in ("3", "GPU-3")
    assert ("CUDA_DEVICE_ORDER" in made.env) == (made.env["CUDA_VISIBLE_DEVICES"] == "3")
    assert "9000" in " ".join([*made.argv, *made.env.values()])
    assert not NAMED_BUT_NEVER_READ & set(made.env) and "--trust-remote-code" not in made.argv
    assert made.context_tokens == 32768 and made.served_model and made.engine_version == SEEN[engine]
    if engine != "sglang":  # it takes its key in no other way
        assert "k3y" not in repr(made)


@pytest.mark.parametrize(
    ("engine", "variable"), [("vllm", "VLLM_API_KEY"), ("llamacpp", "LLAMA_API_KEY"), ("tgi", "API_KEY")]
)
def test_a_key_that_nobody_else_sees(engine, variable):
    made = launch(replica(engine))
    assert made.env[variable] == made.api_key == "k3y"


def test_an_engine_that_knows_no_key_is_sent_none():
    assert launch(replica("ollama")).api_key == ""


def test_the_users_flags_win_and_are_checked():
    made = launch(replica(flags=("--max-num-seqs=17", "--no-async-scheduling", '--hf-overrides {"a": [1]}')))
    assert value(made.argv, "--max-num-seqs") == "17" and made.argv.count("--max-num-seqs") == 1
    assert "--async-scheduling" not in made.argv and value(made.argv, "--hf-overrides") == '{"a": [1]}'
    with pytest.raises(Refused, match=r"--swap-space.*0\.32\.0|0\.32\.0.*--swap-space"):
        launch(replica(flags=("--swap-space 4",)))
    with pytest.raises(Refused, match="did you mean"):
        launch(replica(flags=("--max-num-seq 4",)))


def test_a_flag_that_this_build_lacks_is_refused():
    lacking = Installed("vllm", "0.32.0", "venv", ("/e",), lacks=frozenset({"--shutdown-timeout"}))
    with pytest.raises(Refused, match="--shutdown-timeout"):
        ENGINES["vllm"].launch(replica(), installed=lacking)


def test_slices_need_a_version_that_reads_their_names():
    made = launch(replica(slice_uuid="MIG-7"))
    assert made.env["CUDA_VISIBLE_DEVICES"] == "MIG-7"
    with pytest.raises(Refused, match="MIG"):
        launch(replica(slice_uuid="MIG-7", version="0.23.0"), "0.23.0")
    assert launch(replica(version="0.23.0"), "0.23.0").env["CUDA_VISIBLE_DEVICES"] == "3"


ADAPTERS = (LoraAdapter("support", "/l/support", 8), LoraAdapter("legal", "/l/legal", 20))


def test_adapters_are_loaded_at_the_start_or_by_request():
    at_start = launch(replace(replica(), adapters=ADAPTERS))
    assert (
        value(at_start.argv, "--lora-modules") == "support=/l/support" and "legal=/l/legal" in at_start.argv
    )
    assert value(at_start.argv, "--max-lora-rank") == "32" and not at_start.loads
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in at_start.env
    later = launch(replace(replica(), adapters=ADAPTERS, adapters_on_demand=True))
    assert later.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True" and "--lora-modules" not in later.argv
    assert later.adapters == {"support": "/l/support", "legal": "/l/legal"} and not later.loads
    assert value(later.argv, "--max-loras") == "2" and later.adapters_most == 0
    one = launch(replace(replica(), adapters=ADAPTERS, adapters_on_demand=True, adapters_most=1))
    assert value(one.argv, "--max-loras") == "1" and one.adapters_most == 1
    with pytest.raises(Refused, match="LoRA"):
        launch(replace(replica("sglang"), adapters=ADAPTERS))


def test_dev_mode_only_for_an_engine_that_sleeps():
    assert "VLLM_SERVER_DEV_MODE" not in launch(replica()).env
    asleep = launch(replace(replica(), sleeps=True))
    assert asleep.env["VLLM_SERVER_DEV_MODE"] == "1" and asleep.host == "127.0.0.1"


def test_in_a_container_the_tool_pins_the_card_and_publishes_on_loopback():
    words = container.prefix("docker", "vllm/vllm-openai:v0.32.0", "vllm", "nvidia")
    one = replace(replica(), model=replace(replica().model, path="/models/e2b"))
    made = launch(one, runner="container", prefix=words)
    text = " ".join(made.argv)
    assert "device=GPU-3" in text and "--publish 127.0.0.1:9000:9000" in text
    assert value(made.argv, "--host") == "0.0.0.0" and "CUDA_VISIBLE_DEVICES" not in made.env
    assert "--env VLLM_API_KEY" in text and "k3y" not in text and "source=/models/e2b" in text
    assert "vllm/vllm-openai:v0.32.0 serve /models/e2b" in text and made.version == "google/gemma-4-E2B-it"


def test_ollama_gets_its_model_and_always_a_context():
    made = launch(replica("ollama"))
    assert made.env["OLLAMA_CONTEXT_LENGTH"] == "32768"
    assert made.afterwards == (("/e/bin", "pull", made.served_model),)
    local = replace(replica("ollama"), model=replace(replica("ollama").model, path="/m/e2b.gguf"))
    made = launch(local, modelfile="/s/Modelfile")
    assert made.afterwards == (("/e/bin", "create", "gemma-4-e2b", "--file", "/s/Modelfile"),)
    assert ENGINES["ollama"].modelfile(local) == "FROM /m/e2b.gguf\nPARAMETER num_ctx 32768\n"


def test_an_engine_sees_what_it_needs_of_the_heads_environment():
    head = {
        "PATH": "/bin",
        "HOME": "/h",
        "HF_TOKEN": "t",
        "https_proxy": "p",
        "CUDA_HOME": "/c",
        "NCCL_DEBUG": "INFO",
    }
    secrets = {
        "GEMSTEAD_PEPPER": "x",
        "DATABASE_URL": "x",
        "VLLM_API_KEY": "x",
        "PYTHONPATH": "x",
        "OPENAI_API_KEY": "x",
    }
    assert inherited({**head, **secrets}) == head
