"""A whole run of `gemstead check` against pretend engines: faults are found, and none of them stops it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gemstead.operate.check import Client, Finding, Target, UnreachableError, begin, run
from gemstead.testing import FakeEngine, Script


async def check(engine: FakeEngine, **known: Any) -> dict[str, Finding]:
    client = Client(Target(engine.url, **known), patience_s=10)
    try:
        return {
            finding.name: finding for finding in await asyncio.to_thread(lambda: list(run(begin(client))))
        }
    finally:
        client.close()


async def test_an_engine_that_always_says_the_same_passes_what_it_can_and_fails_the_rest():
    async with FakeEngine(context_tokens=500) as engine:
        found = await check(engine)
    outcomes = {name: finding.verdict.outcome for name, finding in found.items()}
    assert len(found) >= 12
    for name in ("models", "plain answer", "streamed answer", "usage", "thinking off", "prompt too long"):
        assert outcomes[name] == "pass", found[name]
    for name in ("tool call", "tool result", "JSON schema", "unknown model"):
        assert outcomes[name] == "fail", found[name]
    assert found["prompt too long"].verdict.sentence.endswith("(500 tokens)")


async def test_where_the_context_is_not_known_the_prompt_is_longer_than_any_gemma_reads():
    async with FakeEngine(context_tokens=9000) as engine:
        found = await check(engine)
        longest = max(len(seen.body) for seen in engine.seen)
    assert found["prompt too long"].verdict.outcome == "pass"
    assert longest > 262_144
    assert found["context edge"].verdict.sentence == "8,999 tokens served, 9,000 served, 9,001 refused."


async def test_a_context_that_is_stated_is_believed():
    async with FakeEngine(context_tokens=9000) as engine:
        found = await check(engine, contexts={"fake": 9000})
    assert found["prompt too long"].verdict.sentence.startswith("9,244 tokens: 400")


@pytest.mark.parametrize(
    "script",
    [
        Script(die_before_headers=True),
        Script(garbage=b"x"),
        Script(status=500),
        Script(body=b"[]"),
        Script(die_after=2),
    ],
)
async def test_a_sick_engine_fails_in_words(script):
    async with FakeEngine(script) as engine:
        found = await check(engine)
    assert found["plain answer"].verdict.outcome == "fail"
    assert found["plain answer"].verdict.remedy
    assert len(found) >= 12


async def test_a_service_that_falls_silent_is_not_waited_for_again_and_again():
    async with FakeEngine(Script(never=True)) as engine:
        client = Client(Target(engine.url), patience_s=0.2)
        found = await asyncio.to_thread(lambda: list(run(begin(client))))
    assert [finding.verdict.outcome for finding in found] == ["pass", "fail"]
    assert "took too long" in found[1].verdict.sentence


async def test_nobody_there_is_said_at_once():
    async with FakeEngine() as engine:
        url = engine.url
    with pytest.raises(UnreachableError, match="Nothing answers"):
        begin(Client(Target(url)))
