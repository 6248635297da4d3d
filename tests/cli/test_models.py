"""`gemstead models`, as a user runs it: real processes, killed, stopped, in one another's way, on a full disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from gemstead.cli import main as cli
from gemstead.testing.hub import COMMIT, PretendHub, serving

BIG = bytes(range(256)) * 163_840  # 40 MiB
SLOW = 6 << 20  # bytes a second of one connection


@pytest.fixture
def hub() -> Iterator[PretendHub]:
    files = {"config.json": b"{}", "model.safetensors": BIG}
    with serving(PretendHub(files=files)) as pretend:
        yield pretend


@pytest.fixture
def environ(hub: PretendHub, tmp_path: Path) -> dict[str, str]:
    own = hub.environ(tmp_path / "hub", XDG_STATE_HOME=str(tmp_path / "state"), PYTHONUNBUFFERED="1")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GEMSTEAD_"))}
    return kept | own | {"GEMSTEAD_STORE__MIN_FREE_GB": "0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(environ: dict[str, str], folder: Path, *words: str) -> Done:
    """The command in this process, which starts sooner."""
    out, err, before, here = io.StringIO(), io.StringIO(), dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.main(["models", *words])
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(here)
    return Done(code, out.getvalue(), err.getvalue())


def start(environ: dict[str, str], folder: Path, *words: str, **more) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gemstead", "models", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environ, cwd=folder, stdout=pipe, stderr=pipe, text=True, **more)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def journalled(environ: dict[str, str]) -> bool:
    """Whether a part of the large file has come to stay."""
    found = Path(environ["HF_HOME"]).rglob(f"{hashlib.sha256(BIG).hexdigest()}.part.done")
    return any(path.read_text().count("\n") > 1 for path in found)


def test_a_model_is_pulled_listed_shown_verified_and_removed(environ: dict[str, str], folder: Path) -> None:
    pulled = run(environ, folder, "pull", "google/tiny")
    assert pulled.returncode == 0, pulled.stderr
    assert "licence apache-2.0" in pulled.stdout and "41.9 MB fetched" in pulled.stdout
    (listed,) = json.loads(run(environ, folder, "list", "--json").stdout)["models"]
    assert (listed["source"], listed["revision"], listed["bytes"]) == ("hf:google/tiny", COMMIT, len(BIG) + 2)
    assert "google/tiny" in run(environ, folder, "list").stdout
    (shown,) = json.loads(run(environ, folder, "show", "google/tiny", "--json").stdout)
    assert [file["path"] for file in shown["files"]] == ["config.json", "model.safetensors"]
    path = Path(shown["path"]) / "model.safetensors"
    assert run(environ, folder, "verify").returncode == 0
    path.write_bytes(BIG[::-1])
    damaged = run(environ, folder, "verify", "google/tiny")
    assert damaged.returncode == 1 and "model.safetensors has SHA-256" in damaged.stdout
    assert run(environ, folder, "pull", "google/tiny").returncode == 0
    assert path.read_bytes() == BIG
    assert "42.0 MB are free" in run(environ, folder, "rm", "google/tiny").stdout
    assert json.loads(run(environ, folder, "list", "--json").stdout)["models"] == []


def test_a_kill_in_the_middle_leaves_something_to_go_on_with(
    hub: PretendHub, environ: dict[str, str], folder: Path
) -> None:
    hub.bytes_per_s = SLOW
    first = start(environ, folder, "pull", "google/tiny")
    until(lambda: journalled(environ))
    first.kill()
    first.communicate()
    unfinished = json.loads(run(environ, folder, "list", "--json").stdout)["models"]
    assert all(one["unfinished_bytes"] and not one["revision"] for one in unfinished)
    hub.bytes_per_s = 0
    hub.asked.clear()
    again = run(environ, folder, "pull", "google/tiny", "--json")
    assert again.returncode == 0, again.stderr
    asked = sum(int(last) - int(begin) + 1 for begin, _, last in (g[6:].partition("-") for g in hub.gets))
    assert asked < len(BIG)
    assert (Path(json.loads(again.stdout)[0]["path"]) / "model.safetensors").read_bytes() == BIG
    assert not list(Path(environ["HF_HOME"]).rglob("*.part*"))


def test_ctrl_c_ends_it_soon_and_says_what_it_means(
    hub: PretendHub, environ: dict[str, str], folder: Path
) -> None:
    hub.bytes_per_s = SLOW
    process = start(environ, folder, "pull", "google/tiny")
    until(lambda: any(Path(environ["HF_HOME"]).rglob("*.part")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "what came is kept" in said and "Traceback" not in said


def test_two_pulls_at_once_fetch_once(hub: PretendHub, environ: dict[str, str], folder: Path) -> None:
    hub.bytes_per_s = 24 << 20
    both = [start(environ, folder, "pull", "google/tiny") for _ in "ab"]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(hub.gets) == 4  # three ranges and config.json
    waiting = [text for text in said if "is fetching hf:google/tiny; waiting for it" in text]
    assert len(waiting) == 1
    assert f"process {both[said.index(waiting[0]) - 1].pid} " in waiting[0]


def test_a_file_system_that_takes_no_more_is_a_sentence(environ: dict[str, str], folder: Path) -> None:
    most = 20 << 20

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    full = start(environ, folder, "pull", "google/tiny", preexec_fn=bound)
    _, said = full.communicate(timeout=60)
    assert full.returncode == 1
    assert "takes no file this large" in said and "Traceback" not in said
    assert run(environ, folder, "verify").stdout == ""
    assert run(environ, folder, "pull", "google/tiny").returncode == 0


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount a small tmpfs"
)
def test_a_full_disk_is_a_sentence_and_what_came_is_gone_on_with(
    hub: PretendHub, environ: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        hub.bytes_per_s = SLOW
        own = environ | {"GEMSTEAD_STORE__PATH": str(disk / "store")}
        process = start(own, folder, "pull", "google/tiny")
        until(lambda: any(disk.rglob("*.part")))
        ballast = disk / "ballast"  # somebody else fills the disk meanwhile
        with pytest.raises(OSError, match="space"):
            ballast.write_bytes(bytes(60 << 20))
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "is full" in said and "Traceback" not in said
        assert list(disk.rglob("snapshots/*")) == []
        ballast.unlink()
        hub.bytes_per_s = 0
        assert run(own, folder, "pull", "google/tiny").returncode == 0
        small = run(own, folder, "pull", "google/tiny", "--set", f"store.path={disk / 'second'}")
        assert small.returncode == 1 and "needs 41.9 MB of disk" in small.stderr
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_pin_is_written_kept_to_and_taken_back(
    hub: PretendHub, environ: dict[str, str], folder: Path
) -> None:
    pinned = run(environ, folder, "pin", "google/tiny")
    assert pinned.returncode == 0, pinned.stderr
    lock = json.loads((folder / "gemstead.lock").read_text())
    assert lock["models"]["hf:google/tiny"]["revision"] == COMMIT
    hub.commit, hub.branch = "f" * 40, "main"
    hub.asked.clear()
    assert f"@{COMMIT[:12]}" in run(environ, folder, "pull", "google/tiny").stdout
    assert hub.asked == []
    assert run(environ, folder, "pin", "google/tiny", "--remove").returncode == 0
    assert "@ffffffffffff" in run(environ, folder, "pull", "google/tiny").stdout
    (folder / "gemstead.lock").write_text("{")
    broken = run(environ, folder, "pull", "google/tiny")
    assert broken.returncode == 1 and "gemstead.lock" in broken.stderr


def test_an_export_through_a_pipe_is_an_import(environ: dict[str, str], folder: Path, tmp_path: Path) -> None:
    run(environ, folder, "pull", "google/tiny")
    out = subprocess.run(
        [sys.executable, "-m", "gemstead", "models", "export", "google/tiny", "--to", "-"],
        env=environ,
        cwd=folder,
        capture_output=True,
        timeout=60,
    )
    island = environ | {"HF_HOME": str(tmp_path / "island"), "HF_HUB_OFFLINE": "1"}
    taken = subprocess.run(
        [sys.executable, "-m", "gemstead", "models", "import", "-"],
        input=out.stdout,
        env=island,
        cwd=folder,
        capture_output=True,
        timeout=60,
    )
    assert taken.returncode == 0, taken.stderr
    assert run(island, folder, "pull", "google/tiny").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pull", "gemma-4-27b"), 1, "gemma-4-26b-a4b"),
        (("pull", "gemma4:31b-cloud"), 1, "gemma4:31b"),
        (("pull", "google/tinny"), 1, "HF_TOKEN"),
        (("show", "google/tiny"), 1, "models list"),
        (("import", "/nowhere.tar"), 1, "no file or folder"),
        (("import", ".", "--as", "support"), 2, "OWNER/NAME"),
        (("pull", "s3://nobody-has-this/x", "--set", "store.offline=true"), 1, "switched off"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_helps(
    environ: dict[str, str], folder: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = run(environ, folder, *words)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert said in done.stderr
