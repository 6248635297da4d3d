"""The command itself: quick, clear about what it does not know, and never a traceback."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from gemstead import __version__
from gemstead.cli import main as cli
from gemstead.cli.trouble import Trouble, said
from gemstead.refused import Reason, Refused


def gemstead(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "gemstead", *words], capture_output=True, text=True, timeout=60, **more
    )


def test_help_names_every_verb_and_imports_nothing_heavy():
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gemstead", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0
    assert all(f"  {verb} " in run.stdout for verb in cli.VERBS)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert not imported & {"asyncio", "starlette", "uvicorn", "pydantic", "yaml", "rich", "httpx2", "msgspec"}


def test_help_costs_less_than_15_hundredths_of_a_cpu_second():
    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    spent = []
    for _ in range(5):
        before = cpu()
        assert gemstead("--help").returncode == 0
        spent.append(cpu() - before)
    assert min(spent) < 0.15


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb != "version"])
def test_every_verb_explains_itself(verb):
    run = gemstead(verb, "--help")
    assert run.returncode == 0, run.stderr
    assert f"usage: gemstead {verb}" in run.stdout


def test_the_version_is_text_or_json(capsys):
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"gemstead {__version__}\n"
    assert cli.main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


@pytest.mark.parametrize(
    ("word", "hint"), [("srve", "did you mean `gemstead serve`?"), ("xyzzy", "see `gemstead --help`")]
)
def test_a_mistyped_verb_gets_the_nearest(word, hint, capsys):
    assert cli.main([word]) == 2
    assert hint in capsys.readouterr().err


def test_nothing_at_all_shows_the_help(capsys):
    assert cli.main([]) == 2
    assert "gemstead serve" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Trouble("the port is taken; choose another"), 1, "gemstead: the port is taken; choose another\n"),
        (Trouble("no such file", code=2), 2, "gemstead: no such file\n"),
        (Refused(Reason.UNSUPPORTED, "it does not fit"), 1, "gemstead: it does not fit\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "gemstead: /x: Permission denied\n"),
    ],
)
def test_what_is_expected_is_said_in_a_line(error, code, text, capsys):
    assert said(error) == code
    assert capsys.readouterr().err == text


def test_a_mistake_of_ours_is_a_line_and_its_traceback_a_private_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    try:
        raise KeyError("secret-ish detail")
    except KeyError as error:
        assert said(error) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (kept,) = (tmp_path / "gemstead").iterdir()
    assert str(kept) in err
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_a_reader_that_goes_away_is_no_error():
    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m gemstead schema | head -c 10; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""
    assert run.stdout.endswith("0\n")


@pytest.mark.parametrize(
    "words", [("ps",), ("logs",), ("reload",), ("run", "hi"), ("ps", "--json"), ("logs", "nobody")]
)
def test_nothing_runs_is_said_clearly(words, tmp_path):
    run = gemstead(*words, "--set", f"state_dir={tmp_path / 'none'}", cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "nothing runs" in run.stderr or "there" in run.stderr or '"running": false' in run.stdout
    assert not (tmp_path / "none").exists(), "looking leaves nothing behind"


def test_stopping_nothing_is_done_at_once(tmp_path):
    run = gemstead("stop", "--set", f"state_dir={tmp_path}", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "nothing runs\n")


def test_a_bad_file_is_shown_with_its_lines(tmp_path):
    (tmp_path / "gemstead.yaml").write_text("gatway:\n  listen: 1\n")
    run = gemstead("serve", cwd=tmp_path, env={**os.environ, "XDG_STATE_HOME": str(tmp_path)})
    assert run.returncode == 2
    assert "gemstead.yaml:1 gatway" in run.stderr
    assert "gateway" in run.stderr


def test_closed_streams_are_no_obstacle(tmp_path):
    line = f"{sys.executable} -m gemstead version <&- >&- 2>{tmp_path / 'err'}"
    assert subprocess.run(["sh", "-c", line], timeout=60).returncode == 0
    assert (tmp_path / "err").read_text() == ""
    code = "from gemstead.cli import main as m; m.entry()"
    line = f"{sys.executable} -c '{code}' ps --set state_dir={tmp_path} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], timeout=60).returncode == 1, (
        "nothing runs, and no more than that"
    )
