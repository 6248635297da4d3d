"""Real vLLM with a tiny Gemma 4, hybrid cache and all: events place our prompts, and what is evicted is forgotten."""

from __future__ import annotations

import os
import re
import signal
import time

import httpx2
import pytest
from engine_service import Service, until

FILE = """\
models:
  - name: gemma-4-31b
    engine: vllm
    checkpoint: {checkpoints}/tiny-gemma-4-31B-it
    replicas: 2
    context: 2048
    draft: "off"
    flags:
      - --enforce-eager
      - --dtype bfloat16
      - --kv-cache-memory-bytes 64M
      - --num-gpu-blocks-override 120
      - --max-num-seqs 4
traffic:
  kv_events: true
supervise: {{start_s: 300, backoff_s: 0.5}}
"""


@pytest.fixture(scope="module")
def service(vllm, checkpoints, state, tmp_path_factory):
    pytest.importorskip("zmq")
    folder = tmp_path_factory.mktemp("kv")
    with Service(folder, FILE.format(checkpoints=checkpoints), engines=state / "engines") as one:
        one.wait_ready(replicas=2, within_s=300)
        yield one


def figures(service, name):
    """What the gateway shows, by its labels."""
    with httpx2.Client(trust_env=False, timeout=10) as client:
        text = client.get(f"{service.admin}/metrics").text
    found = re.findall(rf"^gemstead_{name}(?:\{{([^}}]*)\}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def total(service, name, what=""):
    return sum(value for labels, value in figures(service, name).items() if what in labels)


def prompt(number):
    return " ".join(f"story {number} goes on {n}" for n in range(70))


def cached(answer):
    return (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def test_prompts_are_placed_by_the_engines_own_word_and_forgotten_with_its_blocks(service):
    until(lambda: total(service, "kv_events_live") == 2, 60, service.told)
    first = service.ask(prompt(0), max_tokens=5)
    tokens = first["usage"]["prompt_tokens"]
    assert tokens > 700
    until(lambda: total(service, "kv_prompts") == 1, 10, service.told)
    again = service.ask(prompt(0), max_tokens=5)
    assert cached(again) > 0.8 * tokens  # it went where it is
    for number in range(1, 40):
        service.ask(prompt(number), max_tokens=5)
    until(lambda: total(service, "kv_events_total", "placed") >= 40, 10)
    time.sleep(1.5)  # figures are shown once a second
    # Two replicas with 120 blocks of 128 tokens, eight for a prompt, have room for thirty of the forty, and say so.
    there = total(service, "kv_prompts")
    assert 20 <= there <= 32
    assert total(service, "kv_events_total", "gaps") == 0
    print(f"{tokens} tokens a prompt; {there:.0f} of 40 prompts are there")
    # What it has evicted was forgotten: the first prompt is nowhere, and its answer says so, too.
    assert cached(service.ask(prompt(0), max_tokens=5)) == 0


def test_a_replica_that_dies_has_nothing_and_is_heard_again(service):
    victim = service.endpoints()[0]
    before = total(service, "kv_prompts")
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: service.ready_count() == 1, 60, service.told)
    until(lambda: total(service, "kv_prompts") < before, 30, service.told)
    until(lambda: service.ready_count() == 2, 300, service.told)
    until(lambda: total(service, "kv_events_live") == 2, 60, service.told)
    began = time.monotonic()
    count = total(service, "kv_events_total", "placed")
    for number in range(100, 106):
        service.ask(prompt(number), max_tokens=5)
    until(lambda: total(service, "kv_events_total", "placed") >= count + 6, 20)
    assert time.monotonic() - began < 120
