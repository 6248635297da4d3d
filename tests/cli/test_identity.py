"""`gemstead deny`: what it says must be so."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemstead.cli import main as cli

ISSUERS = "identity: {issuers: [{name: okta, issuer: 'https://acme.example', audience: [gemstead]}]}\n"


def test_a_denial_at_an_issuer_that_the_file_does_not_name_says_that_it_refuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemstead.yaml").write_text(f"state_dir: {tmp_path}/state\n{ISSUERS}")
    assert cli.main(["keys", "create"]) == 0  # so that there is a ledger
    capsys.readouterr()
    assert cli.main(["deny", "subject", "00u1", "--issuer", "okat"]) == 0
    assert "note: the file names no issuer okat (it has okta)" in capsys.readouterr().err
    for issuer in ("okta", "*"):
        assert cli.main(["deny", "subject", "00u1", "--issuer", issuer]) == 0
        assert capsys.readouterr().err == ""
