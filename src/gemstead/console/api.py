"""The admin API described as an OpenAPI 3.1 document, made from the routes themselves and their rules.

`GET /admin/openapi.json` serves it, and the fuzzing in tests/console/test_api.py reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from starlette.routing import BaseRoute, Route

from gemstead import __version__
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
    "409": "cannot be done now; the sentences say why",
    "422": "the file or a value is wrong; the sentences say where",
    "429": "too many attempts",
    "502": "the identity provider cannot be asked",
    "503": "not ready",
}
# Values in the query, by route; all may be left out.
QUERIES: dict[str, dict[str, str]] = {
    "/admin/stop": {"now": "string"},
    "/admin/models/{model:path}/{verb}": {"gap": "string", "replicas": "integer", "why": "string"},
    "/admin/limits/reset": {"rule": "string", "who": "string"},
    "/admin/callback": {"code": "string", "state": "string", "iss": "string", "error": "string"},
}
# Bodies, as JSON objects: each field's schema, and which must be there.
BODIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "POST /admin/keys/own": (
        {
            "days": {"type": "integer", "minimum": 1, "maximum": 365, "default": 90},
            "app": {"type": "string"},
        },
        (),
    ),
    "POST /admin/login": ({"password": {"type": "string"}}, ("password",)),
    "POST /admin/password": (
        {"password": {"type": "string"}, "new": {"type": "string"}},
        ("password", "new"),
    ),
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
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


def _operation(method: str, route: str) -> dict[str, Any]:
    right = admin_right(method, route)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": {"type": kind}}
        for name, kind in QUERIES.get(route, {}).items()
    ]
    said: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method} {route}".lower()).strip("_"),
        "summary": SUMMARIES.get(f"{method} {route}", ""),
        "x-right": right or "",
        "parameters": parameters,
        "responses": {status: {"description": words} for status, words in ANSWERS.items()},
    }
    if (body := BODIES.get(f"{method} {route}")) is not None:
        fields, needed = body
        schema = {"type": "object", "properties": fields, "required": list(needed)}
        said["requestBody"] = {
            "required": bool(needed),
            "content": {"application/json": {"schema": schema}},
        }
    return said | ({"security": []} if right == OPEN else {})
