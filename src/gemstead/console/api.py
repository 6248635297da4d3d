"""The admin API described as an OpenAPI 3.1 document, made from the routes themselves and their rules.

It is what the fuzzing in tests/console/test_api.py reads; no route serves it.
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
        "x-right": right or "",
        "parameters": parameters,
        "responses": {status: {"description": words} for status, words in ANSWERS.items()},
    }
    return said | ({"security": []} if right == OPEN else {})
