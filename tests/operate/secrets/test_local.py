"""What is read from this machine, how changes are noticed, and that nothing shows a value."""

from __future__ import annotations

import asyncio
import json

import pytest

from gemstead.cli.main import main
from gemstead.operate.secrets.keeper import Keeper
from gemstead.operate.secrets.reference import NoSecret, parse
from gemstead.spec.model import Spec
from gemstead.spec.secrets import SecretsSpec, references
from gemstead.wiring.secrets import watch


def keeper(environ=None, **spec) -> Keeper:
    return Keeper(SecretsSpec(**spec), environ or {})


def secret_file(path, text: str, mode: int = 0o600):
    path.touch()
    path.chmod(mode)
    path.write_text(text)
    return f"file:{path}"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    reference = secret_file(tmp_path / "s", "hush", mode)
    with pytest.raises(NoSecret, match="chmod 600") as refused:
        keeper().get(reference)
    assert "hush" not in str(refused.value)
    assert keeper(file_mode="any").get(reference) == "hush"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_private_file_is_read(tmp_path, mode):
    assert keeper().get(secret_file(tmp_path / "s", " hush\n", mode)) == "hush"


def test_a_changed_file_is_read_again_and_a_lost_one_keeps_its_last_value(tmp_path):
    told: list[str] = []
    kept = Keeper(SecretsSpec(), {}, trouble=told.append)
    reference = secret_file(tmp_path / "s", "one")
    assert (kept.get(reference), kept.changed()) == ("one", [])
    secret_file(tmp_path / "new", "two!")
    (tmp_path / "new").replace(tmp_path / "s")  # as Kubernetes and careful people do
    assert kept.changed() == [reference]
    assert (kept.get(reference), kept.changed()) == ("two!", [])
    (tmp_path / "s").unlink()
    assert (kept.get(reference), kept.changed()) == ("two!", [])
    assert len(told) == 1 and "two" not in told[0]


def test_nothing_shows_a_value(tmp_path):
    kept = keeper({"A": "hush-hush"})
    assert kept.get("env:A") == "hush-hush"
    assert "hush" not in repr(kept) + repr(vars(kept)["_kept"])


@pytest.mark.parametrize("text", ["vault:secret/a", "k8s:a/b", "ftp:x", "vault:#x", "env:"])
def test_a_reference_that_says_too_little_is_a_sentence(text):
    with pytest.raises(NoSecret):
        parse(text)


def test_every_reference_of_a_file_is_found():
    spec = Spec.model_validate(
        {
            "models": [
                {"name": "a", "endpoints": [{"url": "http://127.0.0.1:1", "api_key": "env:A"}]},
                {"name": "b", "endpoints": [{"url": "http://127.0.0.1:1", "api_key": "k8s:n/s#k"}]},
            ],
            "secrets": {"vault": {"address": "http://127.0.0.1:2", "role_id": "env:R", "secret_id": "env:S"}},
        },
        strict=False,
    )
    assert dict(references(spec)) == {
        "models[0].endpoints[0].api_key": "env:A",
        "models[1].endpoints[0].api_key": "k8s:n/s#k",
        "secrets.vault.role_id": "env:R",
        "secrets.vault.secret_id": "env:S",
    }


def test_check_proves_each_and_prints_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GOOD_KEY", "hush-hush")
    file = tmp_path / "gemstead.yaml"
    file.write_text(
        "models:\n  - name: a\n    endpoints:\n"
        "      - {url: 'http://127.0.0.1:1', api_key: 'env:GOOD_KEY'}\n"
        "      - {url: 'http://127.0.0.1:2', api_key: 'file:/nowhere/x'}\n"
    )
    assert main(["secrets", "check", "--config", str(file), "--json"]) == 1
    printed = capsys.readouterr().out
    assert [row["ok"] for row in json.loads(printed)] == [True, False]
    assert "hush" not in printed
    monkeypatch.setenv("GEMSTEAD_CONFIG", str(file))
    assert main(["secrets", "check", "--set", "models[0].endpoints[1].api_key=env:GOOD_KEY"]) == 0
    assert "hush" not in capsys.readouterr().out


async def test_a_change_is_put_to_use_and_tried_again_until_it_is(tmp_path):
    kept = keeper()
    reference = secret_file(tmp_path / "s", "one")
    kept.get(reference)
    answers, done = [False, True], asyncio.Event()
    tried = []

    async def reload() -> bool:
        tried.append(kept.get(reference))
        if len(tried) == 2:
            done.set()
        return answers[len(tried) - 1]

    watching = asyncio.create_task(watch(lambda: kept, reload, 0.01))
    secret_file(tmp_path / "s", "other")
    await asyncio.wait_for(done.wait(), 10)
    watching.cancel()
    assert tried == ["other", "other"]
