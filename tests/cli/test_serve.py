"""What `serve` prints for people to type."""

from __future__ import annotations

import os
from argparse import Namespace

from gemstead.cli.serve import order_of, program


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


def test_a_file_that_is_written_after_the_start_is_found_at_a_reload(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEMSTEAD_CONFIG", raising=False)
    order = order_of(Namespace(config=None, overrides=["gateway.retries=4"], model=None, demo=True))
    assert order.read().models[0].context is None
    (tmp_path / "gemstead.yaml").write_text("models: [{name: gemma-4-e2b, context: 2048}]\n")
    read = order.read()
    assert (read.models[0].context, read.gateway.retries) == (2048, 4)
