"""Two replicas of vLLM behind a real gateway: what callers get, and what they do not notice.

The tests run in the order of the file: the last ones end replicas.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engine_service import MODEL, Load, Service, pieces, question, until

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}
PERU = "What is the capital of Peru?"


def text_of(answer) -> str:
    return answer["choices"][0]["message"]["content"]


def test_it_answers(fleet):
    answer = fleet.ask(PERU)
    assert text_of(answer) == "The capital of Peru is Lima."
    assert answer["usage"]["completion_tokens"] >= 6
    assert answer["model"] == MODEL


def test_a_stream_says_the_same_in_pieces_and_ends_with_its_usage(fleet):
    with fleet.client() as client:
        chunks = list(pieces(client, question("Tell me a story", stream_options={"include_usage": True})))
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    whole = fleet.ask("Tell me a story")
    assert len(chunks) > 5
    assert said == text_of(whole)
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_it_calls_a_tool(fleet):
    choice = fleet.ask("What is the weather in Lima?", tools=[WEATHER])["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert "Lima" in call["function"]["arguments"]


def test_thoughts_are_kept_apart_from_the_answer(fleet):
    message = fleet.ask(PERU, chat_template_kwargs={"enable_thinking": True})["choices"][0]["message"]
    assert message["content"] == "The capital of Peru is Lima."
    assert "capital" in (message.get("reasoning_content") or message.get("reasoning"))


def test_an_adapter_is_called_by_its_name(fleet):
    assert text_of(fleet.ask(PERU, model="ahoy")).startswith("Ahoy!")
    assert not text_of(fleet.ask(PERU)).startswith("Ahoy!")


def test_the_drafter_is_accepted_as_its_metrics_say(whole):
    for _ in range(4):
        whole.ask("Tell me a story", max_tokens=96)
    drafted = accepted = 0.0
    for endpoint in whole.endpoints():
        drafted += whole.metric(endpoint, "vllm:spec_decode_num_draft_tokens_total")
        accepted += whole.metric(endpoint, "vllm:spec_decode_num_accepted_tokens_total")
    print(f"drafted {drafted:.0f}, accepted {accepted:.0f} ({accepted / drafted:.0%})")
    assert drafted > 40
    assert accepted / drafted > 0.5  # below 0.2 a wrong drafter would be suspected; this pair has some 0.9


def test_what_the_engine_reports_of_its_cache_is_shown_beside_the_plan(whole):
    for endpoint in whole.endpoints():
        assert endpoint["kv_tokens_planned"] > 0
        assert endpoint["concurrency"] > 1


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads /proc")
def test_an_engine_is_bounded_and_reached_with_its_key_only(whole):
    import httpx2

    for endpoint in whole.endpoints():
        engine = engine_under(endpoint["pid"])
        limits = Path(f"/proc/{engine}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0", limits)
        assert int(Path(f"/proc/{engine}/oom_score_adj").read_text()) >= 500
        with httpx2.Client(trust_env=False, timeout=10) as client:
            assert client.get(f"http://{endpoint['address']}/v1/models").status_code == 401


def test_more_callers_than_it_serves_at_once_are_answered_or_told_when_to_come_back(whole):
    """Both replicas serve 8 at once: 80 callers are five times as many."""
    body = question("Count to 50", max_tokens=64)

    def once(_number: int) -> tuple[int, str]:
        with whole.client(180) as client:
            answer = client.post("/v1/chat/completions", json=body)
        return answer.status_code, answer.headers.get("retry-after", "")

    with ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(once, range(80)))
    served = sum(status == 200 for status, _ in answers)
    print(f"80 at once: {served} served, {80 - served} told to come back")
    assert served >= 16
    assert {status for status, _ in answers} <= {200, 429, 503}
    assert all(after for status, after in answers if status != 200)
    assert text_of(whole.ask(PERU)) == "The capital of Peru is Lima."


def test_the_core_of_an_engine_is_killed_and_callers_go_on(whole):
    """vLLM's own server notices within seconds and ends; the replica is started again; others take the calls."""
    victim, other = whole.endpoints()
    core = next(pid for pid in below(victim["pid"]) if "EngineCore" in command(pid))
    with Load(whole, callers=4) as load:
        until(lambda: load.served >= 8, 60)
        before = load.served
        os.kill(core, signal.SIGKILL)
        until(lambda: phase_of(whole, victim["name"]) != "ready", 30, whole.told)
        until(lambda: load.served >= before + 8, 60)
        until(lambda: whole.ready_count() == 2, 300, whole.told)
    print(f"engine core killed under load: {load.served} served, {len(load.failed)} failed")
    # What had its first word already cannot be asked anew; what had none was.
    assert len(load.failed) <= 4, load.failed
    again = next(one for one in whole.endpoints() if one["name"] == victim["name"])
    assert again["restarts"] >= 1
    assert next(one for one in whole.endpoints() if one["name"] == other["name"])["restarts"] == 0
    assert not Path(f"/proc/{core}").exists()


def test_replicas_are_replaced_under_load_without_a_failed_request(whole):
    """`gemstead restart`: one after another, and callers notice nothing."""
    before = {endpoint["pid"] for endpoint in whole.endpoints()}
    began = time.monotonic()
    with Load(whole, callers=3) as load:
        until(lambda: load.served >= 6, 60)
        done = whole.gemstead("restart", "--wait", within_s=420)
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: replaced(whole, before), 60, whole.told)
        after = load.served
        until(lambda: load.served >= after + 6, 60)
    print(f"restarted in {time.monotonic() - began:.0f} s: {load.served} served, {len(load.failed)} failed")
    assert load.failed == []


def test_a_running_stream_ends_before_the_service_does(whole):
    """SIGTERM while an answer is on its way: it comes whole, then everything is gone."""
    pids = [pid for endpoint in whole.endpoints() for pid in (endpoint["pid"], *below(endpoint["pid"]))]
    assert len(pids) >= 6
    chunks = []
    started = threading.Event()

    def read() -> None:
        with whole.client(120) as client:
            for chunk in pieces(client, question("Tell me a story", max_tokens=600, ignore_eos=True)):
                chunks.append(chunk)
                started.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(60)
    whole.process.send_signal(signal.SIGTERM)
    reader.join(90)
    assert not reader.is_alive()
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert whole.process.wait(90) == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)


def replaced(service: Service, before: set[int]) -> bool:
    now = service.endpoints()
    return len(now) == 2 and all(one["ready"] and one["pid"] not in before for one in now)


def phase_of(service: Service, name: str) -> str:
    return next((one["phase"] for one in service.endpoints() if one["name"] == name), "gone")


def below(pid: int) -> list[int]:
    """All processes that a process started, and those that they started."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *below(child)]
    return found


def engine_under(pid: int) -> int:
    """The engine's own process: beneath the small one that holds its leash."""
    return below(pid)[0]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
