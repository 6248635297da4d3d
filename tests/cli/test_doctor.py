"""`gemstead doctor` on the machine that the tests run on."""

from __future__ import annotations

import json

from gemstead.cli.main import main


def test_it_ends_with_1_only_for_a_problem_and_prints_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "gemstead.yaml").write_text(
        "gateway: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}\n"
    )
    code = main(["doctor", "--quick", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == (0 if said["ok"] else 1)
    assert {"topic", "level", "cause", "evidence", "remedy"} == set(said["findings"][0])
    assert {"gpu", "memory", "disk", "port"} <= {one["topic"] for one in said["findings"]}


def test_a_certificate_that_is_not_there_is_a_problem_in_plain_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "gemstead.yaml").write_text(
        "gateway: {listen: '127.0.0.1:0', tls: {certificate: none.pem, key: none.key}}\n"
    )
    assert main(["doctor", "--quick", "--problems"]) == 1
    said = capsys.readouterr().out
    assert "none.pem cannot be used" in said and "name a PEM file" in said and "1 problem" in said
    assert "ok " not in said
