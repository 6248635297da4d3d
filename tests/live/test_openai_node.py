"""The official `openai` package for Node against the running service (`node/client.mjs` asks)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ANSWER = "The capital of Peru is Lima."


@pytest.fixture(scope="module")
def seen(service, node_modules: Path):
    """What the Node client got."""
    words = ["node", str(node_modules / "client.mjs"), service.v1, service.key, service.model]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_whole_and_streamed_answers(seen):
    assert seen["whole"] == seen["streamed"] == ANSWER
    assert seen["usage"] == seen["streamUsage"] > 8


def test_a_streamed_tool_call(seen):
    assert seen["tool"]["name"] == "get_weather"
    assert json.loads(seen["tool"]["arguments"]) == {"location": "Lima"}


def test_structured_output(seen):
    assert set(seen["structured"]) == {"city", "capital"}


def test_the_responses_api(seen):
    assert seen["response"] == ANSWER


def test_models(seen, service):
    assert service.model in seen["models"]


def test_errors_are_of_the_classes_that_programs_catch(seen):
    assert seen["wrongKey"][:2] == ["AuthenticationError", 401]
    assert seen["wrongModel"] == ["NotFoundError", 404, "model_not_found"]
    assert seen["tooLong"] == ["BadRequestError", 400, "context_length_exceeded"]


def test_leaving_a_stream_harms_nothing(seen):
    assert seen["afterLeaving"] == ANSWER
