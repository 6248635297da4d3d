"""What `serve` prints for people to type."""

from __future__ import annotations

import os

from gemstead.cli.serve import program


def test_it_calls_itself_as_the_shell_can(tmp_path, monkeypatch):
    here, there = tmp_path / "bin" / "gemstead", tmp_path / "a b" / "gemstead"
    for path in (here, there):
        path.parent.mkdir()
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(here.parent) + os.pathsep + "/bin")
    assert program(str(here)) == "gemstead"
    assert program(str(there)) == f"'{there}'"
    assert program("/lib/python3/site-packages/gemstead/__main__.py") == "gemstead"
    monkeypatch.setenv("PATH", "/bin")
    assert program(".venv/bin/gemstead") == ".venv/bin/gemstead"
