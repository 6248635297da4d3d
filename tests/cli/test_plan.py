"""`gemstead plan` as people type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from gemstead.catalog.check import read
from gemstead.cli.main import main
from gemstead.cli.plan_write import with_models

SIZES = ("E2B", "E4B", "12B", "26B-A4B", "31B")
CARDS = ("L4", "A100", "H100", "RTX PRO 6000", "B200", "MI300X")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def ask(capsys, *words: str) -> tuple[int, dict]:
    code = main(["plan", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("card", CARDS)
def test_every_size_on_every_card_is_answered_in_one_command(size, card, capsys):
    for context in ("8k", "32k"):
        code, said = ask(capsys, "--model", size, "--gpu", card, "--context", context)
        assert code == (0 if said["meets"] else 1)
        best = said["chosen"]
        assert best["fits"] == bool(said["launch"])
        assert best["fits"] or "does not fit" in best["verdict"]
        assert not best["fits"] or best["largest_context_tokens"] >= best["context_tokens"]


def test_with_nothing_said_it_plans_for_this_machine(capsys):
    code, said = ask(capsys)
    assert code in (0, 1) and said["chosen"]["accelerator"]
    assert said["launch"] or not said["chosen"]["fits"]


def test_the_table_compares_and_the_line_can_be_pasted(capsys):
    assert main(["plan", "--model", "31B", "--gpu", "RTX PRO 6000", "--count", "8", "--context", "32k"]) == 0
    said = capsys.readouterr().out
    assert "4 replicas of 2 x" in said and "the same with CUDA_VISIBLE_DEVICES=6,7 --port 8003" in said
    assert "vllm serve google/gemma-4-31B-it \\\n  --" in said
    for word in ("fp8", "nvfp4", "int4", "sglang", "llamacpp", "$/h"):
        assert word in said


def test_explain_gives_every_flag_its_reason_and_source(capsys):
    main(["plan", "--model", "E4B", "--gpu", "L4", "--explain"])
    said = capsys.readouterr().out
    assert "memory of one card" in said and "how it comes about" in said
    _, values = ask(capsys, "--model", "E4B", "--gpu", "L4")
    for flag in values["launch"][0]["flags"]:
        assert flag["name"] in said and flag["reason"] in said and flag["source"] in said


def test_a_plan_that_does_not_fit_says_what_would(capsys):
    code, said = ask(capsys, "--model", "31B", "--gpu", "H100", "--context", "128k", "--weights", "bf16")
    assert code == 1 and not said["launch"]
    assert "does not fit" in said["reasons"][0] and "Fits with" in said["reasons"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "gemma-4-9b", "--gpu", "H100"], "gemma-4-e4b"),
        (["--model", "31B", "--gpu", "H1O0"], "There is no accelerator"),
        (["--model", "31B", "--gpu", "H100", "--engine-version", "0.18.0"], "too old"),
        (["--model", "31B", "--gpu", "H100", "--plot", "x.jpg"], ".svg or .png"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words, said, capsys):
    assert main(["plan", *words]) in (1, 2)
    caught = capsys.readouterr().err
    assert said in caught and "Traceback" not in caught and "mistake in Gemstead" not in caught


def test_the_picture_is_a_picture(tmp_path, capsys):
    assert main(["plan", "--model", "E4B", "--gpu", "L4", "--plot", "load.svg"]) == 0
    picture = ElementTree.fromstring((tmp_path / "load.svg").read_text("utf-8"))
    assert picture.tag.endswith("svg") and len(list(picture.iter())) > 20


def test_write_keeps_the_rest_of_the_file_and_the_file_is_valid(tmp_path, capsys):
    old = "# ours\ngateway:\n  listen: 127.0.0.1:5000\nmodels:\n  - name: gemma-4-e2b\n\n# who may\nlimits: {}\n"
    (tmp_path / "gemstead.yaml").write_text(old)
    words = ["plan", "--model", "31B", "--gpu", "RTX PRO 6000", "--count", "4", "--context", "32k", "--write"]
    assert main(words) == 0
    text = (tmp_path / "gemstead.yaml").read_text()
    assert text.startswith("# ours\ngateway:\n  listen: 127.0.0.1:5000\n") and text.endswith(
        "\n# who may\nlimits: {}\n"
    )
    (model,) = read(text, "gemstead.yaml", [], {}).spec.models
    assert model.name == "gemma-4-31b" and [str(one.url) for one in model.endpoints] == [
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8001",
    ]
    assert "#   vllm serve" in text or "vllm serve google/gemma-4-31B-it" in text
    assert (tmp_path / "gemstead.yaml.old").read_text() == old
    assert main(words) == 0, "a second time"
    assert (tmp_path / "gemstead.yaml").read_text() == text


def test_write_for_a_processor_gives_a_file_that_serve_takes(tmp_path, capsys):
    assert main(["plan", "--model", "E2B", "--gpu", "cpu", "--context", "8k", "--write"]) == 0
    (model,) = read((tmp_path / "gemstead.yaml").read_text(), "gemstead.yaml", [], {}).spec.models
    assert (model.name, model.context, model.engine) == ("gemma-4-e2b", 8192, "auto")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "models: X\n"),
        ("a: 1", "a: 1\nmodels: X\n"),
        ("models:\n- name: a\nb: 2\n", "models: X\nb: 2\n"),
        ("models: []\n", "models: X\n"),
        (
            "a: 1\nmodels:\n  - name: a\n    # inside\n    context: 1\n\n# of b\nb: 2\n",
            "a: 1\nmodels: X\n\n# of b\nb: 2\n",
        ),
    ],
)
def test_only_the_models_are_replaced(old, new):
    assert with_models(old, "models: X\n") == new


def test_a_log_is_learnt_from_and_kept(tmp_path, capsys):
    (tmp_path / "vllm.log").write_text(
        "INFO vLLM API server version 0.23.0\n"
        "INFO non-default args: {'model_tag': 'google/gemma-4-E4B-it', 'max_model_len': 32768}\n"
        "INFO Model loading took 15.2 GiB memory and 12.3 seconds\n"
        "INFO Available KV cache memory: 52.40 GiB\n"
        "INFO GPU KV cache size: 2,700,000 tokens\n"
    )
    words = ["--from-log", "vllm.log", "--gpu", "H100", "--model", "E4B"]
    code, said = ask(capsys, *words)
    assert code == 0 and any(row["name"].startswith("weights") for row in said["rows"])
    assert said["kept"] and Path(said["kept"]).exists()
    assert main(["plan", "--from-log", "none.log", "--gpu", "H100"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_it_answers_within_the_processor_time_that_is_promised(tmp_path):
    """CPU time of the whole command, the better of three, not wall time: the bar is 0.3 s on the reference machine."""
    words = [
        sys.executable,
        "-m",
        "gemstead",
        "plan",
        "--model",
        "31B",
        "--gpu",
        "RTX PRO 6000",
        "--count",
        "8",
    ]
    spent = []
    for _ in range(3):
        before = os.times()
        subprocess.run(words, check=True, capture_output=True)
        after = os.times()
        spent.append(
            after.children_user - before.children_user + after.children_system - before.children_system
        )
    assert min(spent) < 1.0, f"{min(spent):.2f} s: something heavy is imported"


OWN = """\
catalogue: 1
as_of: 2026-11-01
source: contract 4711
accelerators:
  - {id: my-card, like: h100-sxm, memory_mib: 81559, aliases: [Mine]}
checkpoints:
  - {repo: acme/gemma-31b-ours, like: fp8-block, model: 31B, weights_gib: 31.0}
rent:
  - {gpu: my-card, usd_hour: 1.25, who: our contract}
known_bad:
  - {id: ours-1, engine: vllm, models: [31B], symptom: hangs at start, remedy: use SGLang, severity: stops}
"""


def test_the_users_own_facts_count_in_every_part_of_a_plan(tmp_path, capsys):
    """Card, checkpoint and rent are found, and what the user knows to be bad is not launched."""
    (tmp_path / "config" / "gemstead").mkdir(parents=True)
    words = ["--model", "31B", "--gpu", "Mine", "--weights", "acme/gemma-31b-ours", "--context", "16k"]
    mine = tmp_path / "config" / "gemstead" / "catalogue.yaml"
    mine.write_text(OWN.partition("known_bad")[0])
    _, before = ask(capsys, *words)
    assert (before["chosen"]["engine"], before["chosen"]["accelerator"]) == ("vllm", "my-card")
    assert before["chosen"]["checkpoint"] == "acme/gemma-31b-ours" and before["chosen"]["usd_hour"] == 1.25
    mine.write_text(OWN)
    _, after = ask(capsys, *words)
    assert after["chosen"]["engine"] != "vllm"
    assert any("passed over" in note and "hangs at start" in note for note in after["notes"])


def test_an_engine_with_slots_is_not_preferred_to_one_that_shares_a_tight_pool(capsys):
    """31B at 131,072 tokens on one H100: 8-bit weights in vLLM hold forty usual requests, llama.cpp four."""
    code, said = ask(capsys, "--model", "31b", "--gpu", "H100", "--context", "131072")
    best = said["chosen"]
    assert code == 0 and (best["engine"], best["format"][:3]) == ("vllm", "fp8")
    assert best["largest_context_tokens"] >= 131_072 and best["requests_at_once"] >= 16
