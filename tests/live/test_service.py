"""The running service as an operator sees it: `gemstead check`, and what is left when a client leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import httpx2
import pytest


@pytest.fixture
def gemstead(service):
    """Runs a command on our own service; its JSON. Skipped on somebody else's."""
    if service.state is None:
        pytest.skip("only for a service that the tests started")

    def run(*words: str) -> Any:
        env = {name: value for name, value in os.environ.items() if not name.startswith("GEMSTEAD_")}
        command = [
            sys.executable,
            "-m",
            "gemstead.cli.main",
            *words,
            "--json",
            "--set",
            f"state_dir={service.state}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def test_the_check_passes_on_a_healthy_service_and_leaves_no_key(gemstead):
    said = gemstead("check")
    assert [one for one in said["checks"] if one["outcome"] == "fail"] == []
    assert said["passed"] >= 12
    listed = gemstead("keys", "list")
    keys = listed if isinstance(listed, list) else listed["keys"]
    states = [key["state"] for key in keys if key["tenant"] == "gemstead-check"]
    assert states and set(states) == {"revoked"}


def test_a_client_that_leaves_frees_its_place_in_the_engine(service, gemstead):
    """The answer would be thousands of tokens long; the engine stops because the client has gone."""
    ask = {
        "model": service.model,
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "stream": True,
        "max_tokens": 3000,
        "ignore_eos": True,
    }
    headers = {"Authorization": f"Bearer {service.key}"}
    with (
        httpx2.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", service.v1 + "/chat/completions", json=ask, headers=headers) as answer,
    ):
        next(answer.iter_raw())
        request_id = answer.headers["x-request-id"]
    until = time.monotonic() + 10
    while time.monotonic() < until:
        endpoint = gemstead("ps")["endpoints"][0]
        if endpoint["in_flight"] == 0:
            break
    assert endpoint["in_flight"] == 0
    record = gemstead("audit", "show", request_id)
    assert record["outcome"] == "client_left"
    assert 0 < record["output_tokens"] < 3000
