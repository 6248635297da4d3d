"""`transformers serve` on a processor, started by `gemstead serve` like any other engine."""

from __future__ import annotations

import time

import pytest
from engine_service import Service, pieces, question

FILE = """\
models:
  - name: gemma-4-31b
    engine: transformers
    checkpoint: {checkpoints}/tiny-gemma-4-31B-it
    context: 2048
    draft: "off"
supervise: {{start_s: 240}}
"""
PERU = "What is the capital of Peru?"


@pytest.fixture(scope="module")
def lone(transformers, checkpoints, state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    with Service(folder, FILE.format(checkpoints=checkpoints), engines=state / "engines") as service:
        began = time.monotonic()
        service.wait_ready(replicas=1, within_s=240)
        print(f"transformers ready after {time.monotonic() - began:.0f} s")
        yield service


def test_it_answers_to_the_name_that_callers_know(lone):
    answer = lone.ask(PERU)
    assert answer["choices"][0]["message"]["content"].strip() == "The capital of Peru is Lima."


@pytest.mark.xfail(strict=True, reason="the gateway hands on the engine's own name of its model, here a path")
def test_its_answers_name_the_model_as_callers_do(lone):
    assert lone.ask(PERU)["model"] == "gemma-4-31b"


def test_its_stream_ends_as_a_stream_must(lone):
    """It sends no [DONE] of its own: `pieces` fails without one."""
    with lone.client() as client:
        chunks = list(pieces(client, question(PERU)))
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert "Lima" in said
