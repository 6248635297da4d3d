"""The admin port: open where it must be, shut where it acts."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from gemstead.console.app import console


class PretendHead:
    def __init__(self):
        self.models, self.done, self.stops = {"a": False}, {"added": []}, []

    def ready(self):
        return self.models

    def status(self):
        return {"endpoints": []}

    async def metrics(self):
        return "up 1\n"

    async def reload(self):
        return self.done

    async def ask(self, verb, model, **how):
        self.asked = (verb, model, how)
        return {"refused": ["no room"]} if verb == "restart" else {"done": "so it is"}

    def stop(self, *, now):
        self.stops.append(now)


@pytest.fixture
def head():
    return PretendHead()


@pytest.fixture
def ask(head):
    def asked(method, path, token=None):
        async def once():
            transport = httpx2.ASGITransport(console(head, "right"))
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(transport=transport, base_url="http://admin") as http:
                return await http.request(method, path, headers=headers)

        return asyncio.run(once())

    return asked


def test_probes_and_metrics_are_open(ask, head):
    assert ask("GET", "/healthz").text == "ok\n"
    assert ask("GET", "/readyz").status_code == 503
    head.models = {"a": False, "b": True}
    assert ask("GET", "/readyz").status_code == 200
    metrics = ask("GET", "/metrics")
    assert (metrics.text, metrics.headers["content-type"]) == (
        "up 1\n",
        "text/plain; version=0.0.4; charset=utf-8",
    )


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin/status"), ("POST", "/admin/reload"), ("POST", "/admin/stop")]
)
@pytest.mark.parametrize("token", [None, "", "wrong", "right "])
def test_what_acts_or_tells_needs_the_token(ask, head, method, path, token):
    answer = ask(method, path, token)
    assert (answer.status_code, head.stops) == (401, [])
    assert "gemstead ps" in answer.json()["error"]


def test_with_the_token_it_acts(ask, head):
    assert ask("GET", "/admin/status", "right").json() == {"endpoints": []}
    assert ask("POST", "/admin/reload", "right").json() == {"added": []}
    head.done = {"refused": ["no"]}
    assert ask("POST", "/admin/reload", "right").status_code == 422
    assert ask("POST", "/admin/stop", "right").status_code == 202
    ask("POST", "/admin/stop?now=1", "right")
    assert head.stops == [False, True]
    assert ask("GET", "/admin/stop", "right").status_code == 405


def test_a_model_is_changed_by_whoever_has_the_token(ask, head):
    assert ask("POST", "/admin/models/m/wake").status_code == 401
    answer = ask("POST", "/admin/models/google%2Fgemma/scale?replicas=3", "right")
    assert (answer.status_code, answer.json()) == (200, {"done": "so it is"})
    assert head.asked == ("scale", "google/gemma", {"replicas": 3})
    assert ask("POST", "/admin/models/m/restart?gap=1", "right").status_code == 409
    assert head.asked == ("restart", "m", {"gap": True})
    ask("POST", "/admin/models/m/restart?gap=0", "right")
    assert head.asked == ("restart", "m", {"gap": False}), "nothing is ended first that was not to be"
    assert ask("POST", "/admin/models/m/scale?replicas=many", "right").status_code == 422
    unsaid = ask("POST", "/admin/models/m/scale", "right")
    assert (unsaid.status_code, unsaid.json()) == (422, {"refused": ["say how many: scale?replicas=2"]})
    assert "there are: restart" in ask("POST", "/admin/models/m/explode", "right").json()["error"]
    assert ask("GET", "/admin/models/m/wake", "right").status_code == 405
