"""Names to files, and the demonstration model only where nobody is deceived by it."""

from __future__ import annotations

import pytest

from gemstead.operate.store.trouble import StoreTrouble
from gemstead.spec.model import Spec
from gemstead.wiring.models import Stopped, model_files
from gemstead.wiring.secrets import CannotRun, resolved


def files(spec, tmp_path, *, demo=False, said=None, stopped=lambda: False):
    environ = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    say = (lambda _: None) if said is None else said.append
    return model_files(spec, demo=demo, fetching=lambda *_: None, say=say, stopped=stopped, environ=environ)


def spec_of(**model):
    return Spec.model_validate({"models": ({"name": "gemma-4-e2b", **model},)})


def test_a_given_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF")
    found = files(spec_of(name="mine", file=str(path)), tmp_path)["mine"]
    assert (found.path, found.bytes, found.demonstration) == (str(path), 4, False)


def test_a_file_that_is_not_there_is_named_with_its_field(tmp_path):
    with pytest.raises(CannotRun, match=r"models\[0\]\.file: there is no file .*/nowhere\.gguf"):
        files(spec_of(name="mine", file=str(tmp_path / "nowhere.gguf")), tmp_path)


def test_a_file_that_is_none_of_a_model_is_refused_before_an_engine_tries(tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CannotRun, match=r"models\[0\]\.file: .*/mine\.gguf is no GGUF file"):
        files(spec_of(name="mine", file=str(path)), tmp_path)


def test_without_a_network_a_default_becomes_the_demonstration_model_and_says_so(tmp_path):
    said = []
    assert files(Spec(), tmp_path, said=said)["gemma-4-e2b"].demonstration
    assert "demonstration model" in said[0]


def test_a_model_that_the_file_names_is_never_replaced(tmp_path):
    with pytest.raises(StoreTrouble, match="--demo"):
        files(spec_of(), tmp_path)
    assert files(spec_of(), tmp_path, demo=True)["gemma-4-e2b"].demonstration


def test_what_runs_elsewhere_needs_no_file(tmp_path):
    assert files(spec_of(endpoints=({"url": "http://127.0.0.1:1"},)), tmp_path) == {}


def test_secrets_are_read_where_they_are_said_to_be(tmp_path):
    assert resolved("env:KEY", {"KEY": "abc"}, "x") == "abc"
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text("abc\n")
    assert resolved(f"file:{tmp_path / 'key'}", {}, "x") == "abc"
    assert resolved(None, {}, "x") == ""


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("env:NOTHING", r"models\[0\].api_key: the environment variable NOTHING is not set"),
        ("env:SPLIT", "cannot be sent in a header"),
        ("file:/nowhere/key", "cannot read /nowhere/key: No such file"),
        ("file:/dev/null", "is empty"),
    ],
)
def test_a_secret_that_cannot_be_had_is_a_sentence_without_the_secret(reference, text):
    with pytest.raises(CannotRun, match=text) as refused:
        resolved(reference, {"SPLIT": "hush hush"}, "models[0].api_key")
    assert "hush" not in str(refused.value)


def test_a_stop_during_a_download_is_not_an_error_of_the_hub():
    assert not issubclass(Stopped, StoreTrouble | OSError)
