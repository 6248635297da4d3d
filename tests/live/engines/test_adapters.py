"""Real vLLM: an adapter is loaded when a call first names it, and another one takes its place."""

from __future__ import annotations

import pytest
from engine_service import Service, question, until

FILE = """\
models:
  - name: gemma-4-31b
    engine: vllm
    checkpoint: {checkpoints}/tiny-gemma-4-31B-it
    context: 2048
    draft: "off"
    adapters:
      - {{name: ahoy, path: {checkpoints}/tiny-gemma-4-31B-it-lora-ahoy, rank: 8}}
      - {{name: second, path: {checkpoints}/tiny-gemma-4-31B-it-lora-ahoy, rank: 8}}
      - {{name: broken, path: {checkpoints}/nothing-here, rank: 8}}
    adapters_load: on_demand
    adapters_most: 1
    flags:
      - --enforce-eager
      - --dtype bfloat16
      - --kv-cache-memory-bytes 64M
      - --max-num-seqs 4
supervise: {{start_s: 300, backoff_s: 0.5}}
"""


@pytest.fixture(scope="module")
def service(vllm, checkpoints, state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    with Service(folder, FILE.format(checkpoints=checkpoints), engines=state / "engines") as one:
        one.wait_ready(replicas=1, within_s=300)
        yield one


def ask(service, model):
    with service.client() as client:
        answer = client.post(
            "/v1/chat/completions", json={**question("Hello", max_tokens=12), "model": model}
        )
    return answer.status_code, answer.json()


def log(service):
    return "\n".join(path.read_text(errors="replace") for path in (service.state / "logs").glob("*.log"))


def test_an_adapter_is_loaded_when_it_is_named_and_gives_way_to_the_next(service):
    plain = ask(service, "gemma-4-31b")[1]["choices"][0]["message"]["content"]
    assert "adapter ahoy loaded" not in log(service)
    status, first = ask(service, "ahoy")
    assert status == 200, first
    assert first["choices"][0]["message"]["content"] != plain
    assert log(service).count("adapter ahoy loaded") == 1
    assert ask(service, "AHOY")[1]["choices"][0]["message"] == first["choices"][0]["message"]
    assert log(service).count("adapter ahoy loaded") == 1
    status, second = ask(service, "second")  # one at a time
    assert status == 200, second
    until(lambda: "adapter ahoy unloaded" in log(service), 10)
    assert ask(service, "ahoy")[0] == 200
    assert log(service).count("adapter ahoy loaded") == 2


def test_one_that_cannot_be_loaded_is_told_and_the_others_go_on(service):
    status, said = ask(service, "broken")
    assert status == 502
    assert "The adapter broken could not be loaded" in said["error"]["message"]
    assert ask(service, "gemma-4-31b")[0] == 200
