"""curl against the running service: what a newcomer pastes first."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*words: str) -> str:
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "60", *words], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(service, **more: object) -> tuple[str, ...]:
    messages = [{"role": "user", "content": "What is the capital of Peru?"}]
    fields = {"model": service.model, "messages": messages, "temperature": 0, **more}
    return (
        f"{service.v1}/chat/completions",
        *("-H", f"Authorization: Bearer {service.key}", "-H", "Content-Type: application/json"),
        *("-d", json.dumps(fields)),
    )


def test_a_whole_answer(service):
    answer = json.loads(curl(*asked(service)))
    assert answer["choices"][0]["message"]["content"] == "The capital of Peru is Lima."


def test_a_streamed_answer_ends_with_done(service):
    lines = curl("-N", *asked(service, stream=True)).strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


def test_http_1_0_is_answered_without_chunks(service):
    head, _, body = curl("--http1.0", "-i", *asked(service)).partition("\n\n")
    assert "transfer-encoding" not in head.lower()
    assert "Lima" in body


def test_a_large_body_is_announced_and_let_in(service):
    """curl sends `Expect: 100-continue` with bodies of more than 1 MiB and waits a second for the answer."""
    words = asked(service, max_tokens=1, metadata={"note": "x" * 1_200_000})
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "60", *words[:-1], "@-"],
        input=words[-1],
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["object"] == "chat.completion"


def test_no_key_is_said_in_json(service):
    url = f"{service.v1}/chat/completions"
    body, _, status = curl("-w", " %{http_code}", "-d", "{}", url).rpartition(" ")
    assert status == "401"
    assert json.loads(body)["error"]["message"]


def test_health_is_open(service):
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{service.url}/healthz") == "200"
