"""The admin API described as an OpenAPI 3.1 document, made from the routes themselves and their rules.

`GET /admin/openapi.json` serves it, and the fuzzing in tests/console/test_api.py reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route

from gemstead import __version__
from gemstead.console.forms import BODIES, QUERIES, Form
from gemstead.traffic.roles import OPEN, admin_right

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
ANSWERS = {
    "200": "done, or what was asked for",
    "202": "begun",
    "302": "go on at the issuer (sign-in)",
    "303": "go on at another address (sign-in)",
    "400": "not as it should be",
    "401": "nobody who is known",
    "403": "known, and may not",
    "404": "there is no such thing",
    "405": "there is such a thing, and not this to be done with it",
    "409": "cannot be done now; the sentences say why",
    "413": "too large",
    "422": "the file or a value is wrong; the sentences say where",
    "429": "too many attempts",
    "502": "the identity provider cannot be asked",
    "503": "not ready, or a store is away",
}
REF = "#/components/schemas/{name}"
ERROR = {
    "type": "object",
    "description": "Why not, in sentences: `error`, or `refused` of what changes the service.",
    "properties": {
        "error": {"type": "string"},
        "refused": {"type": "array", "items": {"type": "string"}},
    },
    "anyOf": [{"required": ["error"]}, {"required": ["refused"]}],
}
READY = {"type": "object", "properties": {"ready": {"type": "boolean"}}, "required": ["ready"]}
# What is answered that is no JSON, by route.
MEDIA = {
    "GET /healthz": "text/plain",
    "GET /metrics": "text/plain",
    "GET /admin/login": "text/html",
    "GET /admin/audit/export": "application/x-ndjson",
}
# What each is for, by method and route.
SUMMARIES: dict[str, str] = {
    "GET /healthz": "whether the process is alive",
    "GET /readyz": "whether a model answers",
    "GET /metrics": "figures, as Prometheus reads them",
    "GET /admin/status": "what runs",
    "GET /admin/openapi.json": "this document",
    "POST /admin/reload": "put the changed file in force",
    "POST /admin/stop": "end the service; `now=1` cuts running calls off",
    "POST /admin/models/{model:path}/{verb}": "restart, start, promote, undo, sleep, wake or scale a model",
    "GET /admin/whoami": "who the visitor is, and what he may do",
    "GET /admin/keys/own": "the visitor's own keys",
    "POST /admin/keys/own": "a new key of the visitor's own; its secret is shown this once",
    "POST /admin/keys/own/{id}/rotate": "another secret for it; the old one works for an hour more",
    "DELETE /admin/keys/own/{id}": "revoke it",
    "GET /admin/usage/own": "what the visitor has used in 30 days, by model",
    "GET /admin/keys": "everybody's keys and their rights; secrets are kept nowhere",
    "POST /admin/keys": "a new key; its secret is shown this once",
    "DELETE /admin/keys": "revoke every key of a tenant, a user or an application",
    "GET /admin/keys/{id}": "one key",
    "DELETE /admin/keys/{id}": "revoke it: refused by every worker at its next lookup",
    "POST /admin/keys/{id}/rotate": "another key with the same rights; the old one works on for `overlap_s`",
    "GET /admin/denials": "what is refused although it is signed and valid",
    "POST /admin/denials": "refuse a token, a person or a certificate",
    "DELETE /admin/denials": "refuse it no longer",
    "GET /admin/roles": "the roles in force with their rights",
    "GET /admin/access-review": "every way in, what it may do, when it was last used, what is stale",
    "POST /admin/access-review": "write down that it was reviewed now",
    "GET /admin/compliance/{framework}": "each control of a framework: what is set, open, and left to people",
    "POST /admin/secrets/check": "whether each secret of the file can be read; none is told",
    "GET /admin/usage": "what was used, summed by names",
    "GET /admin/audit": "records of calls or acts, the latest first, a page at a time; never content",
    "GET /admin/audit/calls/{id}": "one call, by the answer's request id",
    "GET /admin/audit/verify": "whether the log is as it was written; the first broken record",
    "POST /admin/audit/verify": "the same, held against checkpoints that were kept elsewhere",
    "GET /admin/audit/export": "a part of the log with proof, to be verified anywhere",
    "GET /admin/audit/key": "the public key that verifies the log",
    "POST /admin/audit/key/rotate": "sign with a new key from now on",
    "POST /admin/audit/checkpoint": "sign where the log ends now: keep it elsewhere",
    "GET /admin/audit/holds": "every legal hold",
    "POST /admin/audit/holds": "keep records, whatever the rules say",
    "DELETE /admin/audit/holds/{id}": "end a legal hold",
    "POST /admin/audit/prune": "delete what the file's rules no longer keep",
    "GET /admin/audit/ship": "how far each receiver of records has come",
    "GET /admin/audit/ship/{sink}/refused": "records that a receiver will never take, and why",
    "POST /admin/audit/ship/{sink}/replay": "send records again",
    "GET /admin/audit/hash-keys": "the generations of the key behind hashes of prompts, by their ids",
    "POST /admin/audit/hash-keys": "hash prompts with a new key from now on",
    "DELETE /admin/audit/hash-keys/{id}": "destroy a retired one: its hashes can never be compared again",
    "POST /admin/audit/hash-prompt": "what a prompt hashes to, under each key; it is written nowhere",
    "PUT /admin/password": "set the break-glass password, whatever the present one is",
    "GET /admin/limits": "what is used, held and left of each limit",
    "POST /admin/limits/reset": "let a rule's counters begin anew",
    "GET /admin/login": "the page of signing in",
    "POST /admin/login": "sign in with the break-glass password",
    "GET /admin/login/{issuer}": "sign in at an issuer",
    "GET /admin/callback": "where the issuer sends the browser back",
    "POST /admin/password": "change the break-glass password",
    "POST /admin/logout": "sign out",
}


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes, in their order."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if not isinstance(route, Route):
            continue
        path = paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            path[method.lower()] = _operation(method, route.path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gemstead admin API",
            "version": __version__,
            "description": "Of the admin port, which is loopback by default.",
        },
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**_forms()[1], "Error": ERROR},
        },
        "paths": paths,
    }


@cache
def _forms() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of each form by its name, and all that these refer to."""
    kinds = sorted({*QUERIES.values(), *BODIES.values()}, key=lambda kind: kind.__name__)
    _, found = msgspec.json.schema_components(kinds, ref_template=REF)
    return {kind.__name__: found[kind.__name__] for kind in kinds}, found


def _query(kind: type[Form]) -> list[dict[str, Any]]:
    """The fields of a form as parameters of a query."""
    schema = _forms()[0][kind.__name__]
    needed = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": said}
        for name, said in schema["properties"].items()
    ]


def _operation(method: str, route: str) -> dict[str, Any]:
    label = f"{method} {route}"
    right = admin_right(method, route)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route)
    ]
    said: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", label.lower()).strip("_"),
        "summary": SUMMARIES.get(label, ""),
        "x-right": right or "",
        "parameters": [*parameters, *(_query(QUERIES[label]) if label in QUERIES else ())],
        "responses": {status: _response(label, status) for status in ANSWERS},
    }
    if (body := BODIES.get(label)) is not None:
        schema = _forms()[0][body.__name__]
        said["requestBody"] = {
            "required": bool(schema.get("required")),
            "content": {"application/json": {"schema": {"$ref": REF.format(name=body.__name__)}}},
        }
    return said | ({"security": []} if right == OPEN else {})


def _response(label: str, status: str) -> dict[str, Any]:
    media, schema = "application/json", {"$ref": REF.format(name="Error")}
    if status < "300":
        return {"description": ANSWERS[status], "content": {MEDIA.get(label, media): {}}}
    if status < "400":
        return {"description": ANSWERS[status]}
    if label == "GET /readyz":
        return {"description": ANSWERS[status], "content": {media: {"schema": READY}}}
    return {"description": ANSWERS[status], "content": {media: {"schema": schema}}}
