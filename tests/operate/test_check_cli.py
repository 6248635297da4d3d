"""`gemstead check` as a command: exit codes, the table, JSON, and a key of its own that ends with it."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from gemstead.cli.check import contexts, metrics_urls, report, row, total
from gemstead.operate.check import Client, Finding, Target, Verdict, begin
from gemstead.testing import FakeEngine

PASS = Finding("plain answer", Verdict("pass", "Lima."), 0.12)
FAIL = Finding("usage", Verdict("fail", "It is absent.", "Update the engine."), 1.0)


async def gemstead(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a `gemstead check`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gemstead.cli.main", "check", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def test_a_row_says_what_to_do_only_when_something_failed():
    assert row(PASS).split() == ["pass", "plain", "answer", "0.1", "s", "Lima."]
    assert "Update the engine." in row(FAIL).splitlines()[1]
    assert total([PASS, FAIL], 1.12) == "1 passed, 1 failed, 0 skipped in 1.1 s"


def test_what_the_service_says_about_its_engines_is_used():
    endpoints = [
        {"model": "a", "context_tokens": 8192, "address": "127.0.0.1:5"},
        {"model": "a", "context_tokens": 4096, "address": None},
        {"model": "b", "context_tokens": 0, "address": "https://x"},
    ]
    assert contexts(endpoints) == {"a": 4096}
    assert metrics_urls(endpoints) == ("http://127.0.0.1:5/metrics", "https://x/metrics")


async def test_the_report_is_complete():
    async with FakeEngine() as engine:
        visit = await asyncio.to_thread(begin, Client(Target(engine.url)))
        said = report(visit, [PASS, FAIL], 1.1234)
    assert (said["passed"], said["failed"], said["model"], said["seconds"]) == (1, 1, "fake", 1.123)
    assert said["checks"][1] == {
        "name": "usage",
        "outcome": "fail",
        "sentence": "It is absent.",
        "remedy": "Update the engine.",
        "seconds": 1.0,
    }


async def test_a_failed_check_is_a_failed_command():
    async with FakeEngine(context_tokens=500) as engine:
        code, out, _ = await gemstead("--url", engine.url + "/v1/", "--key", "k", "--json")
        assert code == 1
        said = json.loads(out)
        assert said["failed"] == sum(check["outcome"] == "fail" for check in said["checks"]) > 0
        assert {seen.header("authorization") for seen in engine.seen} >= {"Bearer k"}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--url", "http://127.0.0.1:1"), 1, "Nothing answers at http://127.0.0.1:1"),
        (("--url", "127.0.0.1:1"), 2, "http://"),
        (("--url", "http://[::1"), 2, "not an address"),
        (("--url", "http://x:99999"), 2, "not an address"),
        (("--url", "http://x", "--key", "schlüssel"), 2, "API key"),
        (("--url", "http://x", "--key-file", "/nowhere/key"), 2, "/nowhere/key"),
    ],
)
async def test_mistakes_are_said_in_words(words, code, says):
    status, _, err = await gemstead(*words)
    assert (status, says in err, "Traceback" in err) == (code, True, False), err
