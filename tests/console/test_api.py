"""The admin API is described whole, and nothing that the description allows, or does not, breaks it."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx2
import pytest
import requests
import schemathesis
from admin_port import Port
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from gemstead.console.api import ANSWERS, SUMMARIES, document
from gemstead.console.app import server
from gemstead.console.forms import BODIES, QUERIES
from gemstead.traffic.roles import ADMIN_RULES, Roles
from gemstead.wiring.password import Tries

PORT = Port()
APP, SECRETS = PORT.app, PORT.secrets
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


def test_every_route_is_described_and_says_what_it_is_for():
    described = {(one.method.upper(), one.path) for one in operations()}
    there = {tuple(rule.split(" ", 1)) for rule in ADMIN_RULES}
    assert {(method, path.replace(":path", "")) for method, path in there} == described
    assert all(one.definition.raw["summary"] for one in operations())
    assert set(SUMMARIES) == set(ADMIN_RULES) and {*BODIES, *QUERIES} <= set(ADMIN_RULES)


def test_the_document_is_served_to_anybody(url):
    served = httpx2.get(f"{url}/admin/openapi.json", trust_env=False)
    assert served.status_code == 200 and served.json() == json.loads(json.dumps(document(APP.routes)))


WHO = ["Bearer right", "Bearer wrong", "Basic cmlnaHQ=", "", *(f"Bearer {one}" for one in SECRETS.values())]
SLOW = {"/admin/login": 10, "/admin/password": 10}  # each try of a password takes a quarter of a second
SLOW |= {"/admin/audit/verify": 4, "/admin/audit/export": 4}  # each begins a process
ODD = (
    st.none()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(exclude_categories=()), max_size=9)
)
ODD |= st.sampled_from(["\ud800", "\0", "", "a" * 3000]) | st.lists(ODD, max_size=2)


def fields_of(label):
    return list(BODIES[label].__struct_fields__) if label in BODIES else []


def bodies(label):
    """Bodies that the description does not allow: its own fields with odd values, other objects, no JSON at all."""
    fields = fields_of(label) or ["x"]
    ours = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, ODD))
    full = st.fixed_dictionaries(dict.fromkeys(fields, ODD))
    return st.binary(max_size=200) | (ours | full | ODD).map(lambda value: json.dumps(value).encode())


CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.mark.parametrize("operation", operations(), ids=lambda one: one.label)
def test_no_input_breaks_the_admin_port(url, operation):
    """As its description allows, and with bodies that it does not; as everybody who may come."""
    right = operation.definition.raw["x-right"]
    rights = {secret: Roles().rights((role,)) for role, secret in SECRETS.items()}

    @given(st.data(), st.sampled_from(WHO), st.booleans())
    @settings(
        max_examples=SLOW.get(operation.path, 25), deadline=None, suppress_health_check=list(HealthCheck)
    )
    def tried(data, authorization, odd):
        case = data.draw(operation.as_strategy())
        said = {"authorization": authorization, "sec-fetch-site": "same-origin"}
        if odd and operation.method.upper() in ("POST", "PUT", "DELETE"):
            said["content-type"] = data.draw(st.sampled_from(["application/json", "text/plain", ""]))
            address = case.as_transport_kwargs(base_url=url)
            answer = requests.request(
                operation.method.upper(),
                address["url"],
                params=address.get("params"),
                data=data.draw(bodies(operation.label)),
                headers=said,
                timeout=10,
                allow_redirects=False,
            )
            assert str(answer.status_code) in ANSWERS and answer.status_code != 500
        else:
            answer = case.call(base_url=url, headers=said, timeout=10, allow_redirects=False)
            case.validate_response(answer, checks=CHECKS)
        if right and operation.path != "/metrics":
            may = authorization == "Bearer right" or right in rights.get(authorization[7:], ())
            if not may:
                assert answer.status_code in (401, 403, 404), (operation.label, answer.status_code)

    tried()


@pytest.mark.parametrize("label", sorted(BODIES))
@pytest.mark.parametrize("value", ["\ud800", "\0", "", "a" * 3000, None, -1, 10**30, 1e400, [], {}, True])
def test_odd_values_in_a_body_are_refused_or_taken(url, label, value):
    PORT.entrance._tries = Tries()  # others have tried too often by now
    method, path = label.replace("{id}", "gms_nosuchid").split(" ")
    body = json.dumps(dict.fromkeys(fields_of(label), value)).encode()
    said = {"authorization": f"Bearer {SECRETS['admin']}", "sec-fetch-site": "same-origin"}
    answer = requests.request(
        method, url + path, data=body, headers={**said, "content-type": "application/json"}, timeout=10
    )
    assert answer.status_code in (200, 400, 401, 403, 404, 409), answer.text
    assert answer.status_code == 200 or answer.json()["error"]
