"""`gemstead catalog`, as a user runs it; and the tables of docs/catalogue.md, which are what it prints."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gemstead.catalog.catalogue import built_in
from gemstead.cli import main as cli
from gemstead.cli.catalog import KINDS
from gemstead.cli.catalog_rows import HEADINGS, rows_of

DOCS = Path(__file__).parents[2] / "docs" / "catalogue.md"
TEXT = "catalogue: 1\nas_of: 2026-11-01\nsource: contract 4711\nrent:\n  - {gpu: H100, usd_hour: 2.10}\n"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("GEMSTEAD_CATALOGUE", raising=False)
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["catalog", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_for_people_and_for_programs(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "list", kind)
    rows = rows_of(kind, built_in())
    assert code == 0
    assert len(out.splitlines()) == 1 + len(rows)
    assert "compiled 2026-11-20" in err
    code, out, _ = run(capsys, "list", kind, "--json")
    said = json.loads(out)
    assert len(said["entries"]) == len(rows)
    assert set(HEADINGS[kind].values()) <= set(said["entries"][0])


def test_old_prices_come_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert "prices are older than 90 days" in run(capsys, "list", "prices")[2]


def test_words_narrow_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "list", "prices", "h100-sxm", "SPOT")
    assert out.splitlines()[1:]
    assert all("h100-sxm" in line and "spot" in line for line in out.splitlines()[1:])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("31B", "cache, 16 bits       81,920 bytes a token"),
        ("google/gemma-4-31B-it", "google/gemma-4-31B-it-assistant (896 MiB; 4-8 tokens)"),
        ("gemma4:e2b", "layers with a cache  12 sliding, 3 full"),
        ("26B-A4B", "128, of which 8 run for a token"),
        ("nvidia/Gemma-4-31B-IT-NVFP4", "31.18 GiB, known by log"),
        ("H100", "81,559 MiB (79.6 GiB), as the driver reports it"),
        ("RTX PRO 6000", "rtx-pro-6000-server/1g.24gb         4"),
        ("h100/1g.20gb", "worked out; ask the device"),
        ("t4", "no bf16"),
        ("g4-standard-384", "8 x NVIDIA RTX PRO 6000 Blackwell Server Edition 96GB"),
        ("vLLM", "vllm-0251-mtp-v1"),
        ("vllm-0251-mtp-v1", "set VLLM_USE_V2_MODEL_RUNNER=1"),
    ],
)
def test_one_thing_is_shown_by_any_of_its_names(
    name: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "show", *name.split())
    assert code == 0
    assert shown in out
    code, out, _ = run(capsys, "show", name, "--json")
    assert json.loads(out)["kind"] in ("model", "checkpoint", "accelerator", "machine", "engine", "known-bad")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gemma-4-9b", "There is no Gemma 4 9B. The nearest sizes are E4B and 12B"),
        ("H1000", "Did you mean `h100"),
        ("h100/1g.99gb", "has no MIG profile"),
        ("vlm", "did you mean `vllm`?"),
        ("zzz", "`gemstead catalog list` shows what there is"),
    ],
)
def test_what_does_not_exist_is_said_with_what_does(
    name: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "show", name)
    assert code != 0
    assert out == ""
    assert why in err


def test_a_kind_that_is_none_is_said_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "list", "gpu")
    assert (code, "did you mean `gpus`?" in err) == (2, True)


def test_a_file_of_ones_own_is_taken_shown_and_put_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    code, out, _ = run(capsys, "refresh", "--dry-run", "mine.yaml")
    assert code == 0
    assert "rent h100-sxm: 2.1 USD/h on-demand, contract 4711 (built in: 4.14 as the median)" in out
    assert not (tmp_path / "config").exists()
    code, out, _ = run(capsys, "refresh", "mine.yaml")
    assert code == 0
    assert f"kept in {tmp_path / 'config' / 'gemstead' / 'catalogue.yaml'}" in out
    _, out, err = run(capsys, "list", "prices", "contract")
    assert "2.1" in out
    assert "over it: contract 4711, as of 2026-11-01" in err
    code, out, _ = run(capsys, "refresh", "--json")  # from where it came
    assert json.loads(out)["before"].endswith("catalogue.yaml.before")
    assert "put" in run(capsys, "refresh", "--remove")[1]
    assert "over it" not in run(capsys, "list")[2]
    assert "there is none" in run(capsys, "refresh", "--remove")[1]


def test_a_faulty_file_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    assert run(capsys, "refresh", "mine.yaml")[0] == 0
    (tmp_path / "mine.yaml").write_text(TEXT + "pries: []\n")
    code, _, err = run(capsys, "refresh", "mine.yaml")
    assert code == 2
    assert "mine.yaml:6 pries: is not a field here" in err
    assert "over it: contract 4711" in run(capsys, "list")[2]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("refresh",), "Nothing is fetched from anywhere on its own"),
        (("refresh", "https://127.0.0.1:1/facts.yaml"), "nothing was changed. Without a network"),
        (("refresh", "http://example.test/facts.yaml"), "over https only"),
        (("refresh", "--remove", "mine.yaml"), "--remove takes no file"),
    ],
)
def test_a_refresh_that_cannot_be_says_what_to_do(
    words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *words)
    assert code != 0
    assert why in err


def test_a_look_costs_less_than_three_tenths_of_a_cpu_second() -> None:
    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    spent = []
    for _ in range(3):
        before = cpu()
        words = [sys.executable, "-m", "gemstead", "catalog", "show", "RTX PRO 6000"]
        done = subprocess.run(words, capture_output=True, timeout=60, env=dict(os.environ), check=False)
        assert done.returncode == 0
        spent.append(cpu() - before)
    assert min(spent) < 0.3


def tables(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The page with every table as the command prints it now."""

    def printed(match: re.Match[str]) -> str:
        out = run(capsys, *match[2].split())[1]
        return f"{match[1]}```text\n{out.rstrip()}\n```\n"

    return re.sub(
        r"(<!-- gemstead catalog ([a-z -]+) -->\n)```text\n.*?```\n", printed, text, flags=re.DOTALL
    )


def test_the_tables_of_the_page_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCS.read_text("utf-8")
    anew = tables(text, capsys)
    assert anew.count("<!-- gemstead catalog list") >= 7
    if os.environ.get("GEMSTEAD_WRITE_DOCS"):
        DOCS.write_text(anew, "utf-8")
    assert text == anew, "run: GEMSTEAD_WRITE_DOCS=1 pytest tests/cli/test_catalog.py"


def test_the_example_of_the_page_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```yaml\n(catalogue: 1 .*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert example is not None
    (tmp_path / "example.yaml").write_text(example[1])
    code, out, err = run(capsys, "refresh", "--dry-run", "example.yaml")
    assert (code, err) == (0, "")
    for section in ("rent", "api", "accelerator", "checkpoint", "engine", "known-bad"):
        assert f"\n  {section} " in out


def test_the_commands_of_the_page_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    commands = re.findall(r"^\$ gemstead catalog ([^#\n]*)", DOCS.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 7
    for words in commands:
        assert run(capsys, *shlex.split(words))[0] == 0
