"""Where calls go beyond the model that they name: by size, headers and weight; copies, fallbacks, regions."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec.structs import replace

from gemstead.gateway.settings import Pool
from gemstead.ledger.keys import Grant
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.gateway import make_key
from gemstead.testing.peer import events, post
from gemstead.testing.stack import start_stack
from gemstead.traffic import budget
from gemstead.traffic.caller import RateLimit
from gemstead.traffic.queue import QueueBounds
from gemstead.traffic.rules import Rule, Target

ASK = {"model": "large", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
STREAM = ASK | {"stream": True}
POOLS = (Pool(name="large"), Pool(name="small"))
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


def fleet(large, small, of_large=None, of_small=None):
    return {
        "pools": POOLS,
        "endpoints": (
            replace(large.facts("l", pool="large"), **(of_large or {})),
            replace(small.facts("s", pool="small"), **(of_small or {})),
        ),
    }


async def test_short_and_simple_calls_go_to_the_small_model_and_the_caller_is_told(tmp_path):
    rule = Rule(
        name="short-and-simple", models=("large",), prompt_below=200, answer_below=100, turns_below=3,
        tools=False, images=False, targets=(Target("small"),),
    )  # fmt: skip
    long = {"role": "user", "content": " ".join(words(400))}
    stays = (
        ASK | {"messages": [long]},
        ASK | {"max_tokens": 100},
        {"model": "large", "messages": ASK["messages"]},
        ASK | {"messages": [{"role": "user", "content": "hi"}] * 3},
        ASK | {"tools": [TOOL]},
        ASK | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
    )  # fmt: skip
    async with (
        FakeEngine() as large,
        FakeEngine() as small,
        start_stack(folder=tmp_path, routing=(rule,), **fleet(large, small)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        answer = await peer.answer()
        assert (answer.status, answer.headers["x-gemstead-model"]) == (200, "small")
        assert json.loads(small.seen[0].body)["model"] == "small", "the engine is asked for its own model"
        for fields in stays:
            await peer.send(post(fields))
            answer = await peer.answer()
            assert answer.status == 200
            assert "x-gemstead-model" not in answer.headers
        assert (len(large.seen), len(small.seen)) == (len(stays), 1)
        records = await stack.records(len(stays) + 1)
        assert (records[0].model, records[0].pool, records[0].reason) == (
            "large", "small", "route short-and-simple",
        )  # fmt: skip
        assert {(record.pool, record.reason) for record in records[1:]} == {("large", "")}


async def test_headers_decide_and_a_sticky_split_keeps_a_caller_with_one_model(tmp_path):
    free = Rule(name="free", headers={"x-tier": "free"}, targets=(Target("small"),))
    halves = Rule(name="halves", targets=(Target("large", 1.0), Target("small", 1.0)), sticky=True)
    keys = [make_key(tmp_path, Grant(app=f"app{n}")) for n in range(12)]
    async with (
        FakeEngine() as large,
        FakeEngine() as small,
        start_stack(
            folder=tmp_path, routing=(free, halves), keys_required=True, keys_path=keys[0].keys_path,
            pepper=keys[0].pepper, **fleet(large, small),
        ) as stack,
        await stack.peer() as peer,
    ):  # fmt: skip
        for key in keys:
            for _ in range(3):
                await peer.send(post(ASK, headers=(f"Authorization: Bearer {key.secret}",)))
                assert (await peer.answer()).status == 200
        records = await stack.records(36)
        went = {(record.app, record.pool) for record in records}
        assert len(went) == 12, "each stays with one"
        assert {pool for _, pool in went} == {"large", "small"}
        before = len(small.seen)
        for key in keys:
            await peer.send(post(ASK, headers=(f"Authorization: Bearer {key.secret}", "X-Tier: free")))
            assert (await peer.answer()).headers["x-gemstead-model"] == "small"
        assert len(small.seen) == before + 12


@pytest.mark.parametrize("how", ["dead", "503", "not ready", "busy", "full"])
@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_answers_when_the_first_cannot(tmp_path, how, stream):
    rule = Rule(name="never-nothing", models=("large",), fallbacks=("small",))
    script = {"dead": Script(die_before_headers=True), "503": Script(status=503), "busy": Script(never=True)}
    facts = {"not ready": {"ready": False}, "busy": {"slots": 1}}.get(how, {})
    bounds = QueueBounds(wait_s=0.2, requests=0 if how == "full" else 10)
    if how == "full":
        facts, script["full"] = {"slots": 1}, Script(never=True)
    async with (
        FakeEngine(script.get(how, Script())) as large,
        FakeEngine() as small,
        start_stack(
            folder=tmp_path, routing=(rule,), queue=bounds, **fleet(large, small, of_large=facts)
        ) as stack,
        await stack.peer() as first,
        await stack.peer() as peer,
    ):
        if how in ("busy", "full"):
            await first.send(post(ASK))
            await large.until(lambda: len(large.seen) == 1)
        await peer.send(post(ASK | {"stream": stream}))
        answer = await peer.answer()
        assert answer.status == 200
        assert (answer.headers["x-gemstead-model"], answer.headers["x-gemstead-fallback"]) == (
            "small",
            "large",
        )
        if stream:
            assert events(answer.body)[-1] == b"data: [DONE]"
        [record] = await stack.records(1)
        assert (record.outcome, record.pool) == ("served", "small")
        assert "so small" in record.reason
        first.close()
        await stack.quiet()


BUDGET = budget.RuleBook(
    rules=(budget.Rule(name="r", tokens_per_day=10**6, requests_per_day=100, concurrent=1),)
)


@pytest.mark.parametrize(
    "limits", [{"rulebook": BUDGET}, {"limit": RateLimit(requests_per_minute=60, concurrent=1)}]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_too_long_for_its_model_goes_whole_to_one_that_takes_it_and_is_held_once(
    tmp_path, limits, stream
):
    rule = Rule(name="never-nothing", models=("large",), fallbacks=("other", "small"))
    prompt = {"role": "user", "content": " ".join(f"word{n}" for n in range(3000))}
    async with FakeEngine() as large, FakeEngine() as small:
        two = fleet(large, small, of_large={"context_tokens": 500})
        other = replace(large.facts("o", pool="other"), context_tokens=1000)
        two |= {"pools": (*POOLS, Pool(name="other")), "endpoints": (*two["endpoints"], other)}
        async with (
            start_stack(folder=tmp_path, routing=(rule,), **two, **limits) as stack,
            await stack.peer() as peer,
        ):
            left = []
            for _ in range(2):
                await peer.send(post(ASK | {"messages": [prompt], "stream": stream}))
                answer = await peer.answer()
                assert (answer.status, answer.headers["x-gemstead-model"]) == (200, "small")
                left.append(int(answer.headers.get("x-ratelimit-remaining-requests", "-1")))
            assert left[0] - left[1] == (1 if left[0] >= 0 else 0), "each is one request"
            assert large.seen == [], "nobody is asked who cannot answer"
            assert [json.loads(seen.body)["messages"] for seen in small.seen] == [[prompt], [prompt]]
            records = await stack.records(2)
            assert [(one.outcome, one.pool, one.attempts) for one in records] == [("served", "small", 1)] * 2
            assert "large: context_exceeded, so other; other: context_exceeded, so small" in records[0].reason
            await stack.quiet()
            if "rulebook" in limits:
                spent = sum(one.prompt_tokens + one.output_tokens for one in records)
                await counted(stack, {"tokens_per_day": spent, "requests_per_day": 2})


@pytest.mark.parametrize("how", ["too long", "503"])
async def test_limits_of_the_model_that_answers_hold_and_not_those_of_the_one_that_did_not(tmp_path, how):
    """A call that falls back is one request, and pays where it was answered; a limit there may refuse it."""
    of = lambda name, model, **limits: budget.Rule(  # noqa: E731
        name=name, select=budget.Selector(model=model), **limits
    )
    rules = (
        of("all", (), requests_per_day=100, tokens_per_day=10**6, concurrent=1),
        of("l", ("large",), tokens_per_minute=10**6, money_per_day=10**12),
        of("s", ("small",), requests_per_hour=2, tokens_per_month=10**6),
    )
    rule = Rule(name="never-nothing", models=("large",), fallbacks=("small",))
    prompt = {"role": "user", "content": " ".join(f"word{n}" for n in range(3000))}
    facts = {"context_tokens": 500} if how == "too long" else {}
    async with (
        FakeEngine(Script(status=503)) as large,
        FakeEngine() as small,
        start_stack(
            folder=tmp_path,
            routing=(rule,),
            rulebook=budget.RuleBook(rules=rules),
            **fleet(large, small, of_large=facts),
        ) as stack,
        await stack.peer() as peer,
    ):
        statuses = []
        for _ in range(3):
            await peer.send(post(ASK | {"messages": [prompt]}))
            statuses.append((await peer.answer()).status)
        assert statuses == [200, 200, 429], "the third is one more than the small model's limit"
        records = await stack.records(3)
        assert len(small.seen) == 2
        spent = sum(one.prompt_tokens + one.output_tokens for one in records)
        held = 2 if how == "too long" else 3  # the third was let in at the first model, or nowhere
        used = {"tokens_per_day": spent, "tokens_per_month": spent, "requests_per_day": held}
        await counted(stack, used)
        await stack.quiet()


async def counted(stack, wanted, within_s=5.0):
    """Wait until the store of counters has just this."""
    until = asyncio.get_running_loop().time() + within_s
    while (
        found := {s.cap.name: s.used for s in stack.windows.standings(0.0) if s.cap.name in wanted}
    ) != wanted:
        assert asyncio.get_running_loop().time() < until, found
        await asyncio.sleep(0.02)


async def test_a_call_that_no_model_takes_gets_one_refusal_and_one_record(tmp_path):
    rule = Rule(name="chain", fallbacks=("small", "large"))
    dead = Script(die_before_headers=True)
    async with (
        FakeEngine(dead) as large,
        FakeEngine(dead) as small,
        start_stack(folder=tmp_path, routing=(rule,), **fleet(large, small)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        answer = await peer.answer()
        assert answer.status == 502
        [record] = await stack.records(1)
        assert record.outcome == "upstream_failed"
        await stack.quiet()


async def test_after_the_first_byte_no_other_model_takes_over(tmp_path):
    rule = Rule(name="chain", models=("large",), fallbacks=("small",))
    async with (
        FakeEngine(Script(pieces=words(20), die_after=3)) as large,
        FakeEngine() as small,
        start_stack(folder=tmp_path, routing=(rule,), **fleet(large, small)) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(STREAM))
        answer = await peer.answer()
        assert b"error" in events(answer.body)[-1] or b"error" in events(answer.body)[-2]
        assert small.seen == []
        [record] = await stack.records(1)
        assert record.outcome == "cut"


@pytest.mark.parametrize("how", ["well", "never", "dead", "cut", "500"])
async def test_a_copy_goes_to_another_model_and_nobody_notices(tmp_path, how):
    rule = Rule(name="shadow", models=("large",), mirror="small", mirror_share=1.0)
    script = {
        "well": Script(), "never": Script(never=True), "dead": Script(die_before_headers=True),
        "cut": Script(pieces=words(20), die_after=2), "500": Script(status=500),
    }[how]  # fmt: skip
    async with (
        FakeEngine() as large,
        FakeEngine(script) as small,
        start_stack(folder=tmp_path, routing=(rule,), **fleet(large, small)) as stack,
        await stack.peer() as peer,
    ):
        for stream in (False, True):
            await peer.send(post(ASK | {"stream": stream}))
            answer = await peer.answer()
            assert answer.status == 200
            assert "x-gemstead-model" not in answer.headers
        await small.until(lambda: len(small.seen) == 2)
        assert json.loads(small.seen[0].body)["messages"] == ASK["messages"]
        if how == "never":
            assert len(await stack.records(2)) == 2
            return
        records = await stack.records(4)
        await stack.quiet()
        copies = [record for record in records if record.pool == "small"]
        assert [record.reason.startswith("mirror of req_") for record in copies] == [True, True]
        assert {record.outcome for record in records if record.pool == "large"} == {"served"}
        if how == "well":
            assert {record.outcome for record in copies} == {"served"}
            assert all(record.output_tokens for record in copies), "its cost is known"


async def test_a_copy_is_not_sent_where_there_is_no_room_and_few_run_at_once(tmp_path):
    rule = Rule(name="shadow", models=("large",), mirror="small", mirror_share=1.0)
    async with (
        FakeEngine() as large,
        FakeEngine(Script(never=True)) as small,
        start_stack(folder=tmp_path, routing=(rule,), **fleet(large, small, of_small={"slots": 4})) as stack,
        await stack.peer() as peer,
    ):
        for _ in range(12):
            await peer.send(post(ASK))
            assert (await peer.answer()).status == 200
        await asyncio.sleep(0)
        assert len(small.seen) <= 4


async def test_a_sovereign_tenants_calls_never_leave_its_region(tmp_path):
    key = make_key(tmp_path, Grant(tenant="acme"))
    rule = Rule(name="chain", fallbacks=("large",), mirror="small", mirror_share=1.0, headers={"x-all": "*"})
    auth = f"Authorization: Bearer {key.secret}"
    async with FakeEngine() as here, FakeEngine() as there, FakeEngine() as small:
        endpoints = (
            replace(here.facts("here", pool="large"), region="eu"),
            replace(there.facts("there", pool="large"), region="us"),
            replace(small.facts("s", pool="small"), region="us"),
        )
        async with (
            start_stack(
                folder=tmp_path, pools=POOLS, endpoints=endpoints, regions={"acme": "eu"}, routing=(rule,),
                keys_required=True, keys_path=key.keys_path, pepper=key.pepper,
            ) as stack,
            await stack.peer() as peer,
        ):  # fmt: skip
            for _ in range(10):
                await peer.send(post(ASK, headers=(auth,)))
                assert (await peer.answer()).status == 200
            await peer.send(post(ASK | {"model": "small"}, headers=(auth,)))
            answer = await peer.answer()
            assert (answer.status, answer.fields["error"]["code"]) == (403, "region_unavailable")
            await peer.send(post(ASK | {"model": "small"}, headers=(auth, "X-All: 1")))
            answer = await peer.answer()
            assert (answer.status, answer.headers["x-gemstead-model"]) == (200, "large")
            here.script = Script(die_before_headers=True)
            await peer.send(post(ASK, headers=(auth,)))
            assert (await peer.answer()).status == 502, "refused rather than sent elsewhere"
            assert there.seen == small.seen == []
