"""The real engine in its own process, with the demonstration model: what callers may count on."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gemstead.embedded.demonstration import demonstration
from gemstead.engines import embedded, llamacpp
from gemstead.plan.values import Replica

pytestmark = pytest.mark.live
FILES = demonstration()
CONTEXT = 4096
KEY = "engine-key"


@dataclass
class Engine:
    process: subprocess.Popen[str]
    url: str
    port: int

    def post(self, path: str, body: dict[str, Any], timeout: float = 30) -> httpx2.Response:
        return httpx2.post(
            self.url + path, json=body, timeout=timeout, headers={"Authorization": f"Bearer {KEY}"}
        )

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=10, headers={"Authorization": f"Bearer {KEY}"})

    def chat(self, text: str, **more: Any) -> httpx2.Response:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}
        return self.post("/v1/chat/completions", body)

    def busy(self) -> int:
        return sum(slot["is_processing"] for slot in self.get("/slots").json())


def start(
    *more: str, port: int = 0, model: str = FILES.path, slots: int = 4, **given: Any
) -> subprocess.Popen[str]:
    replica = Replica(
        name="demo-0",
        pool="demo",
        engine="embedded",
        model=FILES.__class__(model, FILES.projector if model == FILES.path else ""),
        context_tokens=CONTEXT,
        slots=slots,
        threads=1,
        host="127.0.0.1",
        port=port,
    )
    launch = embedded.launch(replica, api_key=KEY)
    return subprocess.Popen(
        [*launch.argv, *more],
        env={**os.environ, **launch.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **given,
    )


def listening(process: subprocess.Popen[str]) -> Engine:
    assert process.stdout and process.stderr
    threading.Thread(target=process.stderr.read, daemon=True).start()
    line = process.stdout.readline()
    where = json.loads(line)["listening"]
    return Engine(process, f"http://127.0.0.1:{where['port']}", where["port"])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    process = start()
    try:
        yield listening(process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def own() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []

    def make(*more: str, **given: Any) -> subprocess.Popen[str]:
        made.append(start(*more, **given))
        return made[-1]

    yield make
    for process in made:
        process.kill()
        process.communicate()


def eventually(true: Callable[[], bool], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def text(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


# What callers get.


def test_it_answers_and_counts(engine: Engine) -> None:
    response = engine.chat("What is the capital of Peru?")
    assert text(response) == "The capital of Peru is Lima."
    assert response.json()["usage"]["completion_tokens"] == 7
    assert response.json()["model"] == "demo"


def test_a_stream_has_the_same_words_usage_and_an_end(engine: Engine) -> None:
    body = {
        "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    lines = [line for line in engine.post("/v1/chat/completions", body).text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    words = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(words) == "The capital of Peru is Lima."
    assert chunks[-1]["usage"]["completion_tokens"] == 7


def test_thinking_is_off_until_a_request_asks_for_it(engine: Engine) -> None:
    question = "What is the capital of Peru?"
    quiet = engine.chat(question).json()["choices"][0]["message"]
    assert not quiet.get("reasoning_content")
    thought = engine.chat(question, chat_template_kwargs={"enable_thinking": True}).json()["choices"][0][
        "message"
    ]
    assert "Lima" in thought["reasoning_content"]
    assert thought["content"] == "The capital of Peru is Lima."


def test_thinking_can_be_the_default(own: Callable[..., subprocess.Popen[str]]) -> None:
    engine = listening(own("--thinking", "on"))
    question = "What is the capital of Peru?"
    assert engine.chat(question).json()["choices"][0]["message"]["reasoning_content"]
    quiet = engine.chat(question, chat_template_kwargs={"enable_thinking": False}).json()
    assert not quiet["choices"][0]["message"].get("reasoning_content")


def tool(name: str) -> dict[str, Any]:
    place = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
    description = f"Get the {'weather' if name == 'get_weather' else 'local time'} of a city"
    return {"type": "function", "function": {"name": name, "description": description, "parameters": place}}


def test_a_tool_is_called_and_its_result_used(engine: Engine) -> None:
    question = {"role": "user", "content": "What is the weather in Lima?"}
    body = {"messages": [question], "tools": [tool("get_weather")], "temperature": 0}
    choice = engine.post("/v1/chat/completions", body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"location": "Lima"}
    result = {"role": "tool", "tool_call_id": call["id"], "name": "get_weather", "content": "sunny"}
    again = {**body, "messages": [question, choice["message"], result]}
    assert text(engine.post("/v1/chat/completions", again)) == "The weather in Lima is sunny."


def test_with_parallel_calls_allowed_the_right_tool_is_chosen(engine: Engine) -> None:
    body = {
        "messages": [{"role": "user", "content": "What time is it in Rome?"}],
        "tools": [tool("get_weather"), tool("get_time")],
        "parallel_tool_calls": True,
        "temperature": 0,
    }
    calls = engine.post("/v1/chat/completions", body).json()["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_time"]


def test_a_json_schema_is_kept_to(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "ok": {"type": "boolean"}},
        "required": ["city", "ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = json.loads(text(engine.chat("Return JSON", response_format=form, max_tokens=100)))
    assert set(answer) == {"city", "ok"} and answer["city"] in ("Paris", "Rome")


def test_logprobs_are_given(engine: Engine) -> None:
    response = engine.chat("ping", logprobs=True, top_logprobs=2).json()
    first = response["choices"][0]["logprobs"]["content"][0]
    assert first["logprob"] <= 0 and len(first["top_logprobs"]) == 2


def test_an_image_is_taken(engine: Engine) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(32, 32)}"}}
    content = [{"type": "text", "text": "ping"}, picture]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    response = engine.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["prompt_tokens"] > 30


def png(width: int, height: int) -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\xff\x80\x00" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(data).decode()


def test_the_other_routes_answer(engine: Engine) -> None:
    ping = [{"role": "user", "content": "ping"}]
    answers = {
        "/v1/completions": {"prompt": "Once upon", "max_tokens": 4},
        "/v1/responses": {"input": "ping"},
        "/v1/messages": {"messages": ping, "max_tokens": 8},
        "/v1/embeddings": {"input": ["a quiet river", "the old bridge"]},
        "/tokenize": {"content": "a quiet river"},
    }
    for path, body in answers.items():
        assert path in llamacpp.CAPABILITIES
        response = engine.post(path, {"model": "demo", **body})
        assert response.status_code == 200, (path, response.text)
    vectors = [
        entry["embedding"]
        for entry in engine.post("/v1/embeddings", answers["/v1/embeddings"]).json()["data"]
    ]
    assert len(vectors) == 2 and vectors[0] != vectors[1]


def test_embeddings_leave_chats_alone(engine: Engine) -> None:
    right: list[bool] = []

    def chat() -> None:
        right.append(text(engine.chat("What is the capital of Peru?")) == "The capital of Peru is Lima.")

    def embed() -> None:
        right.append(engine.post("/v1/embeddings", {"input": "a quiet river"}).status_code == 200)

    threads = [threading.Thread(target=work) for work in (chat, embed) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert right == [True] * 8
    again = engine.chat("What is the capital of Peru?").json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] > 0


# What callers never get.


def test_a_prompt_that_is_too_long_is_refused_and_never_cut(engine: Engine) -> None:
    prompt = "The secret word is xylophone.\n" + "river " * 8000 + "\nWhat is the secret word?"
    response = engine.chat(prompt)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "exceed_context_size_error"


def test_the_context_is_what_was_asked_for_to_the_token(engine: Engine) -> None:
    base = engine.chat("river", max_tokens=1).json()["usage"]["prompt_tokens"] - 1
    assert engine.chat("river " * (CONTEXT - base - 1), max_tokens=1).status_code == 200
    assert engine.chat("river " * (CONTEXT - base), max_tokens=1).status_code == 400


def test_nothing_but_health_is_told_without_the_key(engine: Engine) -> None:
    for path in ("/metrics", "/slots", "/v1/models"):
        expected = {401} if path != "/v1/models" else {200, 401}
        assert httpx2.get(engine.url + path, timeout=10).status_code in expected
    assert httpx2.post(engine.url + "/v1/chat/completions", json={}, timeout=10).status_code == 401
    assert httpx2.get(engine.url + "/health", timeout=10).status_code == 200


def test_no_web_page_may_read_it(engine: Engine) -> None:
    headers = {"Origin": "https://elsewhere.example", "Authorization": f"Bearer {KEY}"}
    response = httpx2.get(engine.url + "/v1/models", headers=headers, timeout=10)
    assert response.headers.get("Access-Control-Allow-Origin", "") == ""


# What the gateway and the supervisor count on.


def test_a_caller_who_leaves_frees_the_slot_within_a_second(engine: Engine) -> None:
    assert eventually(lambda: engine.busy() == 0, 5)
    body = {
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "ignore_eos": True,
        "max_tokens": 4000,
    }
    payload = json.dumps({**body, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", engine.port)) as sock:
        sock.sendall(head.encode() + payload)
        sock.recv(4096)
        assert engine.busy() == 1
    assert eventually(lambda: engine.busy() == 0, 1)


def test_its_metrics_are_understood(engine: Engine) -> None:
    load = llamacpp.read_load(engine.get(llamacpp.METRICS_PATH).text, 1.0)
    assert (load.running, load.waiting, load.kv_used) == (0, 0, None)
    found = llamacpp.read_gauges(engine.get(llamacpp.METRICS_PATH).text)
    assert found["tokens_out"] > 0 and set(llamacpp.METRICS) - set(found) == {"kv_used"}


def test_readiness_is_a_real_answer(engine: Engine) -> None:
    path, body = llamacpp.readiness("demo")
    assert engine.post(path, dict(body)).json()["usage"]["completion_tokens"] == 1


# How it ends.


def test_sigterm_takes_nothing_new_and_finishes_what_runs(own: Callable[..., subprocess.Popen[str]]) -> None:
    engine = listening(own())
    body = {
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "ignore_eos": True,
        "max_tokens": 3000,
    }
    got: list[str] = []
    caller = threading.Thread(
        target=lambda: got.append(engine.post("/v1/chat/completions", {**body, "stream": True}).text)
    )
    caller.start()
    assert eventually(lambda: engine.busy() == 1, 5)
    engine.process.send_signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", engine.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        return False

    assert eventually(refused, 2)
    assert caller.is_alive(), "the stream must still be running when the door is closed"
    caller.join(30)
    assert got[0].rstrip().endswith("data: [DONE]")
    assert engine.process.wait(5) == 0


def test_the_drain_is_bounded(own: Callable[..., subprocess.Popen[str]]) -> None:
    engine = listening(own("--drain-s", "0.2"))
    body = {
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "ignore_eos": True,
        "max_tokens": 4000,
    }

    def cut() -> None:
        with pytest.raises(httpx2.HTTPError):
            engine.post("/v1/chat/completions", body)

    caller = threading.Thread(target=cut)
    caller.start()
    assert eventually(lambda: engine.busy() == 1, 5)
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(3) == 0
    caller.join(5)


def test_it_ends_when_its_leash_is_let_go(own: Callable[..., subprocess.Popen[str]]) -> None:
    theirs, ours = os.pipe()
    process = own("--leash-fd", str(theirs), pass_fds=(theirs,))
    os.close(theirs)
    listening(process)
    assert process.poll() is None
    os.close(ours)
    assert process.wait(2) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "r, w = os.pipe(); os.set_inheritable(w, True)\n"  # the child holds both ends: only the kernel can tell
        "p = subprocess.Popen([sys.executable, '-m', 'gemstead.embedded', '--model', sys.argv[1], '--leash-fd',"
        " str(r)], close_fds=False, pass_fds=(), stdout=subprocess.PIPE, text=True)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)\n"
    )
    script = script.replace(
        "os.set_inheritable(w, True)", "os.set_inheritable(w, True); os.set_inheritable(r, True)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, FILES.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout
    engine = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert eventually(lambda: gone(engine), 2)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


# Why it will not start.


def words_of(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def test_a_missing_file_is_one_sentence(own: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    said = words_of(own(model=str(tmp_path / "none.gguf")))
    assert said == f"gemstead: cannot start the engine: {tmp_path}/none.gguf: there is no such model file"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda good: b"hello", "not a GGUF file"),
        (lambda good: good[: len(good) // 2], "damaged or incomplete"),
        (lambda good: good.replace(b"gemma4", b"gemmaX"), "does not know the architecture `gemmaX`"),
    ],
)
def test_a_bad_file_is_one_sentence(
    own: Callable[..., subprocess.Popen[str]], tmp_path: Path, content: Callable[[bytes], bytes], word: str
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(content(Path(FILES.path).read_bytes()))
    assert word in words_of(own(model=str(bad)))


def test_a_taken_port_is_one_sentence(own: Callable[..., subprocess.Popen[str]], engine: Engine) -> None:
    said = words_of(own(port=engine.port))
    assert f"cannot listen on 127.0.0.1:{engine.port}" in said and "another port" in said


def test_too_little_memory_is_one_sentence(own: Callable[..., subprocess.Popen[str]]) -> None:
    import resource

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    said = words_of(own("--context", "1000000", slots=16, preexec_fn=little))
    assert "not enough memory" in said
