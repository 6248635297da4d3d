"""`gemstead init`, `validate` and `schema`, as a user runs them: a real process in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.cli.config import fitted
from gemstead.plan.deploy import plan
from gemstead.plan.first_model import fit
from gemstead.plan.values import Machine, ModelFile
from gemstead.spec import schema
from gemstead.spec.example import commented
from gemstead.spec.load import parse


def gemstead(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GEMSTEAD_")}
    return subprocess.run(
        [sys.executable, "-m", "gemstead.cli.main", *arguments],
        cwd=folder,
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_init_writes_a_file_that_is_valid_and_the_schema_beside_it(tmp_path: Path) -> None:
    done = gemstead(tmp_path, "init")
    assert (done.returncode, done.stderr) == (0, "")
    assert "next: gemstead serve" in done.stdout
    text = (tmp_path / "gemstead.yaml").read_text()
    assert parse(text).models[0].threads
    named = text.splitlines()[0].rpartition("=")[2]
    assert (tmp_path / named).read_text() == schema.text()
    assert gemstead(tmp_path, "validate").returncode == 0


def test_init_does_not_write_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "gemstead.yaml").write_text("# mine\n")
    done = gemstead(tmp_path, "init")
    assert done.returncode == 1
    assert "gemstead.yaml is there already; --force writes over it" in done.stderr
    assert (tmp_path / "gemstead.yaml").read_text() == "# mine\n"
    assert gemstead(tmp_path, "init", "--force").returncode == 0
    assert (tmp_path / "gemstead.yaml").read_text() != "# mine\n"


def test_init_to_the_terminal_writes_nothing(tmp_path: Path) -> None:
    done = gemstead(tmp_path, "init", "--stdout")
    assert parse(done.stdout).models[0].slots
    assert list(tmp_path.iterdir()) == []


@given(st.integers(8, 1024), st.integers(1, 128))
def test_what_init_writes_is_what_can_be_planned(gib: int, cpus: int) -> None:
    machine = Machine(cpus=cpus, memory_bytes=gib << 30, memory_free_bytes=gib << 30, disk_free_bytes=1 << 40)
    chosen = fit(machine.memory_bytes, cpus, machine.disk_free_bytes)
    spec = parse(commented(fitted(chosen, machine.memory_bytes, cpus)))
    gguf = chosen.facts.gguf
    file = ModelFile("x.gguf", "y.gguf", bytes=gguf.bytes)
    (replica,) = plan(spec, machine, {chosen.facts.name: file}).replicas
    assert (replica.context_tokens, replica.slots, replica.threads) == (chosen.context, chosen.slots, cpus)


def test_validate_says_what_would_run(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("models: [{name: gemma4:26b}]\n")
    done = gemstead(tmp_path, "validate", "a.yaml", "--set", "gateway.listen=127.0.0.1:9000")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "a.yaml: OK",
        "  model    gemma-4-26b-a4b from google/gemma-4-26B-A4B-it-qat-q4_0-gguf",
        "  gateway  http://127.0.0.1:9000, keys required",
        "  admin    http://127.0.0.1:4368",
    ]


def test_validate_says_every_fault_and_fails(tmp_path: Path) -> None:
    (tmp_path / "gemstead.yaml").write_text("hubb: true\nmodels:\n  - contxt: 1\n")
    done = gemstead(tmp_path, "validate")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "gemstead.yaml:1 hubb: is not a field here; did you mean `hub`?",
        "gemstead.yaml:3 models[0].contxt: is not a field here; did you mean `context`?",
        "2 faults",
    ]


@pytest.mark.parametrize(("text", "ok", "code"), [("version: 1\n", True, 0), ("versio: 1\n", False, 1)])
def test_validate_speaks_json(tmp_path: Path, text: str, ok: bool, code: int) -> None:
    (tmp_path / "gemstead.yaml").write_text(text)
    done = gemstead(tmp_path, "validate", "--json")
    said = json.loads(done.stdout)
    assert (said["ok"], done.returncode) == (ok, code)
    if not ok:
        assert said["faults"] == [
            {
                "source": "gemstead.yaml",
                "line": 1,
                "path": "versio",
                "message": "is not a field here",
                "suggestion": "did you mean `version`?",
            }
        ]


def test_validate_finds_what_serve_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "gemstead.yaml").write_text(
        "routes:\n  - {name: short, to: [{model: gone}]}\nlimits:\n  rules:\n"
        "    - {name: a, tokens_per_day: 9, model: gema-4-e2b}\n"
    )
    done = gemstead(tmp_path, "validate")
    assert done.returncode == 1
    first, second, count = done.stderr.splitlines()
    assert first.startswith("gemstead.yaml:2 routes[0].to: The model `gone` does not exist here.")
    assert second.startswith("gemstead.yaml:5 limits.rules[0].model: no model 'gema-4-e2b' is served here")
    assert count == "2 faults"


def test_validate_reads_the_environment_too(tmp_path: Path) -> None:
    done = gemstead(tmp_path, "validate", GEMSTEAD_MODELS__0__CONTXT="5")
    assert done.returncode == 1
    assert "GEMSTEAD_MODELS__0__CONTXT: is no setting of Gemstead; did you mean" in done.stderr


def test_a_file_that_is_not_there_is_said_without_a_traceback(tmp_path: Path) -> None:
    done = gemstead(tmp_path, "validate", "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml: there is no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_schema_prints_the_published_schema(tmp_path: Path) -> None:
    assert gemstead(tmp_path, "schema").stdout == schema.text()


def test_help_does_not_load_the_types(tmp_path: Path) -> None:
    script = """
import sys
from gemstead.cli.main import main
try:
    main(["validate", "--help"])
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    loaded = set(done.stderr.split())
    assert "gemstead.cli.config" in loaded
    assert not loaded & {"pydantic", "yaml", "msgspec", "uvloop", "httptools"}
