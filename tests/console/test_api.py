"""The admin API is described whole, and nothing that the description allows, or does not, breaks it."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from gemstead.console.api import document
from gemstead.console.app import console, server


class Head:
    """A service that does nothing, and answers in the forms of the real one."""

    def ready(self):
        return {"m": True}

    def status(self):
        return {"endpoints": []}

    async def metrics(self):
        return "up 1\n"

    async def reload(self):
        return {"refused": ["line 1"]}

    async def ask(self, verb, model, **how):
        return {"refused": ["no"]} if model == "m" else {"done": f"{verb} {model!r}"}

    def stop(self, *, now):
        pass


APP = console(Head(), "right")
SCHEMA = schemathesis.openapi.from_dict(document(APP.routes))


@pytest.fixture(scope="module")
def url():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = server(APP)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 10
        while not running.started and time.monotonic() < until:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.should_exit = True
        thread.join(10)


def operations():
    return [made.ok() for made in SCHEMA.get_all_operations()]


def test_every_route_is_described():
    assert {one.path for one in operations()} >= {
        "/healthz",
        "/admin/status",
        "/admin/reload",
        "/admin/stop",
        "/admin/models/{model}/{verb}",
    }


@given(st.data(), st.sampled_from(["Bearer right", "Bearer wrong", "Basic cmlnaHQ=", ""]))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_input_breaks_the_admin_port(url, data, authorization):
    operation = data.draw(st.sampled_from(operations()))
    case = data.draw(operation.as_strategy())
    answer = case.call(base_url=url, headers={"authorization": authorization}, timeout=10)
    case.validate_response(answer, checks=[not_a_server_error, status_code_conformance])
    guarded = operation.definition.raw["x-right"] and operation.path != "/metrics"
    if guarded and authorization != "Bearer right":
        assert answer.status_code in (401, 403, 404), (operation.label, answer.status_code)
