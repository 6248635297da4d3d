"""Which file is read, and that a file which cannot be read is explained."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from gemstead.cli import main as cli
from gemstead.cli.options import DEFAULT_FILE, add_common, file_of, load, read_places, read_spec
from gemstead.cli.trouble import USAGE, Trouble
from gemstead.spec.fault import SpecError


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GEMSTEAD_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_without_a_file_the_default_runs(folder: Path) -> None:
    assert file_of(options()) is None
    assert read_spec(options()).models[0].name == "gemma-4-e2b"


def test_the_named_file_wins_over_the_variable_and_that_over_the_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, retries in ((DEFAULT_FILE, 1), ("variable.yaml", 2), ("option.yaml", 3)):
        (folder / name).write_text(f"gateway: {{retries: {retries}}}")
    assert read_spec(options()).gateway.retries == 1
    monkeypatch.setenv("GEMSTEAD_CONFIG", "variable.yaml")
    assert read_spec(options()).gateway.retries == 2
    assert read_spec(options("-c", "option.yaml")).gateway.retries == 3
    assert read_spec(options("-c", "option.yaml", "--set", "gateway.retries=4")).gateway.retries == 4


def test_faults_name_the_file_as_it_was_asked_for(folder: Path) -> None:
    (folder / "ops").mkdir()
    (folder / "ops" / "a.yaml").write_text("version: 1\n")
    assert load(options("-c", "ops/a.yaml")).name == "ops/a.yaml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "x.yaml: there is no such file (--config); `gemstead init` writes one"),
        ("folder", "x.yaml: is a folder; name the file in it, such as x.yaml/gemstead.yaml"),
        (b"version: 1\n# caf\xe9\n", "x.yaml:2: is not UTF-8 text; save it as UTF-8"),
        (b"#" * (1 << 20) + b"#", "x.yaml: is larger than 1 MiB, so it is no gemstead.yaml"),
    ],
)
def test_a_file_that_cannot_be_read_is_explained(
    folder: Path, content: bytes | str | None, said: str
) -> None:
    path = folder / "x.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    with pytest.raises(Trouble) as caught:
        load(options("-c", "x.yaml"))
    assert (str(caught.value), caught.value.code) == (said, USAGE)


def test_a_link_that_leads_nowhere_is_not_taken_for_no_file(folder: Path) -> None:
    (folder / DEFAULT_FILE).symlink_to("gone.yaml")
    with pytest.raises(Trouble, match="cannot be read"):
        load(options())


def test_a_byte_order_mark_is_no_fault(folder: Path) -> None:
    (folder / DEFAULT_FILE).write_bytes(b"\xef\xbb\xbfgateway: {retries: 5}")
    assert read_spec(options()).gateway.retries == 5


@pytest.mark.parametrize(
    "broken",
    [
        "modles: 3\n",
        "models:\n- name: gemma-4-e2b\n   context: 5\n",
        "version: 2\ngateway: [\n",
        "models: [{name: no-such-model}]\nlimits: {rules: [}\n",
    ],
)
def test_a_file_that_is_being_edited_still_says_where_the_service_is(
    folder: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / DEFAULT_FILE).write_text(
        f"state_dir: {folder}/state\n{broken}ledger:\n  path: {folder}/ledger\n"
    )
    spec = read_places(options("--set", "gateway.retries=4"))
    assert (spec.state_dir, spec.ledger.path) == (f"{folder}/state", f"{folder}/ledger")
    assert capsys.readouterr().err.startswith(f"note: passed over: {DEFAULT_FILE}:")
    with pytest.raises(SpecError):
        read_spec(options())


def test_a_mistake_in_the_place_itself_is_one(folder: Path) -> None:
    (folder / DEFAULT_FILE).write_text("state_dir: [a]\n")
    with pytest.raises(SpecError, match="state_dir"):
        read_places(options())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ps",), 1),
        (("stop",), 0),
        (("logs",), 1),
        (("limits",), 1),
        (("audit", "tail"), 0),
        (("audit", "verify"), 0),
        (("usage",), 0),
        (("keys", "list"), 0),
        (("keys", "revoke", "gms_AbCdEfGh"), 1),
        (("deny", "list"), 0),
        (("keys", "create"), USAGE),  # what it may do is said by the file
    ],
)
def test_a_broken_file_hides_no_running_service(
    folder: Path, words: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / DEFAULT_FILE).write_text(f"state_dir: {folder}/state\nmodles: 3\n")
    assert cli.main(list(words)) == code
    said = capsys.readouterr().err
    assert "modles: is not a field here" in said
    assert code == USAGE or said.startswith("note: ")
