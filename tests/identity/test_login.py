"""`gemstead login`, `whoami`, `logout` against a real provider: by a browser, by a device code, renewed, given back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from gemstead.cli.main import main


@pytest.fixture
def home(provider, tmp_path, monkeypatch):
    (tmp_path / "gemstead.yaml").write_text(
        f"""
state_dir: {tmp_path}/state
identity:
  issuers:
    - name: corp
      issuer: {provider.issuer}
      audience: [gemstead]
      claims: {{tenant: org}}
      grants: [{{group: ml-users, role: developer}}]
      login: {{client_id: cli, resource: "urn:gemstead"}}
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def started(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "gemstead", *words], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def shown(process, pattern):
    """The first thing on standard error that looks so."""
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found[0]
    raise AssertionError(f"{pattern} was not shown; exit code {process.wait()}")


def kept(home):
    path = home / "config" / "gemstead" / "login.json"
    assert path.stat().st_mode & 0o777 == 0o600
    return path, json.loads(path.read_text())


def by_browser(home, sign_in):
    process = started("login", "--no-browser")
    try:
        url = shown(process, r"http://127\.0\.0\.1\S+/auth\?\S+")
        back = sign_in(
            url,
            "ann",
            until=re.search(r"redirect_uri=([^&]+)", url)[1].replace("%3A", ":").replace("%2F", "/"),
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(back, timeout=10) as answer:
            assert b"You are signed in" in answer.read()
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_by_a_browser(home, sign_in, capsys):
    assert main(["whoami"]) == 1
    by_browser(home, sign_in)
    path, said = kept(home)
    assert said["issuer"] == "corp" and said["refresh_token"]
    capsys.readouterr()
    assert main(["whoami"]) == 0
    assert "ann" in capsys.readouterr().out
    assert main(["whoami", "--token"]) == 0
    first = capsys.readouterr().out.strip()
    assert first == said["access_token"]

    path.write_text(json.dumps({**said, "expires_at": time.time() + 30}))  # about to end: it is renewed
    assert main(["whoami", "--token"]) == 0
    second = capsys.readouterr().out.strip()
    assert second.count(".") == 2 and second != first
    _, renewed = kept(home)
    assert renewed["expires_at"] > time.time() + 300

    assert main(["logout"]) == 0
    assert "signed out\n" in capsys.readouterr().out
    assert not path.exists()
    path.write_text(
        json.dumps({**renewed, "expires_at": 0})
    )  # given back: the refresh token is worth nothing
    assert main(["whoami", "--token"]) == 1
    assert "has ended" in capsys.readouterr().err


def test_by_a_code_on_another_machine(home, sign_in, capsys):
    process = started("login", "--device")
    try:
        url = shown(process, r"http://127\.0\.0\.1\S+/device\?user_code=\S+")
        assert "sign-in" in sign_in(url, "ann", until="nowhere").lower()
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    assert main(["whoami", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["claims"]["sub"] == "ann"


def test_answers_that_were_not_asked_for_sign_nobody_in(home, sign_in):
    process = started("login", "--no-browser")
    try:
        url = shown(process, r"http://127\.0\.0\.1\S+/auth\?\S+")
        back = re.search(r"redirect_uri=([^&]+)", url)[1].replace("%3A", ":").replace("%2F", "/")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{back}?code=stolen&state=guessed", timeout=10) as answer:
            assert b"failed" in answer.read()
        _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "another sign-in" in said and "Traceback" not in said
    finally:
        process.kill()
        process.wait()
    assert not (home / "config" / "gemstead" / "login.json").exists()


def test_what_stands_in_the_way_is_said(home, capsys):
    text = Path("gemstead.yaml").read_text()
    Path("gemstead.yaml").write_text(re.sub(r"issuer: http\S+", "issuer: http://127.0.0.1:1", text))
    assert main(["login"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    Path("gemstead.yaml").write_text("")
    assert main(["login"]) == 2
    assert "identity.issuers" in capsys.readouterr().err
    assert main(["logout"]) == 0


def test_denials_by_hand(home, capsys):
    assert main(["deny", "list"]) == 0
    assert main(["deny", "subject", "ann", "--issuer", "corp", "--note", "left"]) == 0
    assert main(["deny", "token", "jti-1", "--for", "1d"]) == 0
    capsys.readouterr()
    assert main(["deny", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["value"], one["issuer"]) for one in found] == [
        ("subject", "ann", "corp"), ("token", "jti-1", "*")
    ]  # fmt: skip
    assert main(["deny", "lift", "subject", "ann", "--issuer", "corp"]) == 0
    assert main(["deny", "lift", "subject", "ann", "--issuer", "corp"]) == 1
    assert main(["keys", "create", "--role", "nonsense"]) == 2
    assert main(["keys", "create", "--network", "10.0.0.0/33"]) == 1
    assert main(["keys", "create", "--network", "10.0.0.0/8", "--role", "viewer"]) == 0
    assert main(["roles", "--json"]) == 0
