"""What README, quickstart and operations show is true: commands run, files are valid, links lead somewhere."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemstead.catalog.check import read
from gemstead.cli.main import VERBS
from gemstead.openai.errors import STATUS
from gemstead.refused import Reason

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "operations.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)
OTHERS = {"make", "pip", "pipx", "uv", "export", "curl", "echo", "sqlite3", "cp"}  # beside `gemstead`
NOT_RUN = re.compile(r"gemstead (serve|run$|stop|logs -f)")  # they do not end by themselves, or end all


def blocks(page: Path, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text()) if found == kind]


def commands(page: Path) -> list[str]:
    """Shell lines, without what a prompt and a comment add."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "console blocks hold commands only"
    return [re.sub(r"\s+# .*", "", line[2:]) for line in lines]


def parts(command: str) -> list[list[str]]:
    """The commands of a pipeline, in words."""
    found: list[list[str]] = [[]]
    for word in shlex.split(command):
        if word == "|":
            found.append([])
        else:
            found[-1].append(word)
    return found


EVERY = [(page, command) for page in PAGES for command in commands(page)]
named = pytest.mark.parametrize(("page", "command"), EVERY, ids=[f"{p.stem}: {c[:50]}" for p, c in EVERY])


@named
def test_every_command_is_one(page, command):
    for words in parts(command):
        if words[0] == "gemstead":
            parse(words[1:])
        elif words[0] == "make":
            target, settings = words[1], words[2:]
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
            for setting in settings:
                name, _, value = setting.partition("=")
                assert name == "ARGS"
                if target == "serve":
                    parse(["serve", *shlex.split(value)])
        else:
            assert words[0] in OTHERS
            if "gemstead" in words[1:]:
                parse(words[words.index("gemstead") + 1 :])


def parse(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="gemstead", allow_abbrev=False)
    importlib.import_module(f"gemstead.cli.{VERBS[words[0]][0]}").add(parser.add_subparsers(dest="verb"))
    parser.parse_args(words)


FILES = [(page.stem, text) for page in PAGES for text in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "text"), FILES, ids=[page for page, _ in FILES])
def test_every_file_is_valid(page, text):
    read(text, f"{page}.yaml", [], {})


@pytest.mark.parametrize("page", sorted({*PAGES, *(ROOT / "docs").glob("*.md")}), ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", text):
        if target.startswith("http"):
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, anchor


def test_names_on_the_operations_page_exist():
    page = (ROOT / "docs" / "operations.md").read_text()
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    for name in set(re.findall(r"gemstead_\w+", page)):
        assert f"`{name}`" in metrics, name
    outcomes = re.search(r"^\| `gemstead_requests_total` by `outcome` \|(.*)\|$", page, re.M)
    assert outcomes
    for outcome in re.findall(r"`(\w+)`", outcomes[1]):
        assert outcome in {"served", "cut", *(reason.value for reason in Reason)}, outcome
    assert set(STATUS) == set(Reason)


def test_the_map_shows_the_code_as_it_is():
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "src" / "gemstead"
    for name in set(re.findall(r"`([\w/]+\.py)`", page)):
        assert (package / name).exists(), name
    tree = page[page.index("src/gemstead/\n") : page.index("## Who may import whom")]
    shown = set(re.findall(r"^  (\w+)(?:/|\.py) ", tree, re.M))
    there = {path.name for path in package.iterdir() if (path / "__init__.py").exists()} | {"refused"}
    assert shown == there
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert "\n".join(layers["layers"]) in page


class Shown:
    """A service in a home of its own, so that the paths on the pages are the real ones."""

    def __init__(self, home: Path) -> None:
        bin_ = home / "bin"
        bin_.mkdir()
        program = bin_ / "gemstead"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gemstead "$@"\n')
        program.chmod(0o755)
        keep = {name: value for name, value in os.environ.items()
                if not name.startswith(("GEMSTEAD", "HF_", "XDG_", "OPENAI"))}  # fmt: skip
        self.home = home
        self.env = keep | {
            "HOME": str(home),
            "PATH": f"{bin_}{os.pathsep}{keep['PATH']}",
            "GEMSTEAD_GATEWAY__LISTEN": "127.0.0.1:0",
            "GEMSTEAD_ADMIN__LISTEN": "127.0.0.1:0",
        }
        self.said = home / "serve.log"
        with self.said.open("wb") as output:
            self.process = subprocess.Popen(
                [str(program), "serve", "--demo"], cwd=home, env=self.env, stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        until = time.monotonic() + 60
        while "Ready after" not in (text := self.said.read_text()):
            assert time.monotonic() < until and self.process.poll() is None, text
            time.sleep(0.05)
        self.key = re.findall(r"gms_\w+", text)[0]
        self.url = re.findall(r"gateway on (http://[^,]+),", text)[0]
        self.env["GEMSTEAD_API_KEY"] = self.key

    def run(self, command: str) -> str:
        """What a shell prints for it, with this service's address, key and call in place of the page's."""
        command = command.replace("http://127.0.0.1:4367", self.url).replace("gms_u8thQsn1", self.id)
        if "req_" in command:
            latest = json.loads(self.run("gemstead audit tail -n 1 --json").splitlines()[-1])
            command = re.sub(r"req_\w+", latest["call_id"], command)
        if command == "gemstead reload":  # what an earlier page has changed must have taken its place
            self.run("gemstead rollout --wait")
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.home, env=self.env, capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def id(self) -> str:
        return self.key[:12]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    shown = Shown(tmp_path_factory.mktemp("home"))
    yield shown
    shown.process.terminate()
    shown.process.wait(30)


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_the_commands_run_as_shown(shown, page):
    ran = 0
    for command in commands(page):
        program = command.split()[0]
        if program in ("make", "pip", "pipx", "uv", "export") or NOT_RUN.match(command):
            continue
        if program in ("sqlite3", "curl") and shutil.which(program) is None:
            continue
        said = shown.run(command)
        ran += 1
        if "capital of Peru" in command:
            assert "Lima" in said, command
        if "keys rotate" in command:  # the key of the page's next lines
            assert "gms_" in said
    assert ran > 8
    for code in blocks(page, "python"):
        code = code.replace("http://127.0.0.1:4367", shown.url)
        done = subprocess.run(
            [sys.executable, "-c", code], env=shown.env, capture_output=True, text=True, timeout=60
        )
        assert "Lima" in done.stdout, done.stderr


@pytest.mark.live
@pytest.mark.slow
def test_what_stop_promises(shown):
    assert "stopped" in shown.run("gemstead stop")
    assert shown.process.wait(20) == 0
