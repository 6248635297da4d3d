"""Google's discovery documents, as a judge of exchanges: is there such a method, may it say this, may it answer that.

`tests/data/google/API.json` holds the methods that Gemstead uses and the types that they name, from the documents in
google-api-python-client 2.202.0, without descriptions. A request that fits no method is a fault; so is a field that its
type has not, and one that only Google sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format
from jsonschema import Draft202012Validator

from gemstead.testing.googleapi import Exchange

Object = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "data" / "google"
APIS = ("aiplatform.v1", "run.v1", "secretmanager.v1")
SYSTEM = {"$alt", "alt", "fields", "key", "prettyPrint", "quotaUser"}  # parameters that every method has
PREFIX = "GoogleCloudAiplatformV1"


@cache
def api(name: str) -> Object:
    found: Object = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return found


def faults(exchange: Exchange) -> list[str]:
    """What Google's documents do not allow in the exchange."""
    where = f"{exchange.method} {exchange.path}"
    for name in APIS:
        for id_, method in api(name)["methods"].items():
            if _fits(method, exchange):
                return [f"{where} ({id_}): {one}" for one in _judged(name, method, exchange)]
    return [f"{where}: there is no such method"]


def method_of(exchange: Exchange) -> str:
    """Its id, such as `projects.locations.endpoints.deployModel`."""
    for name in APIS:
        for id_, method in api(name)["methods"].items():
            if _fits(method, exchange):
                return str(id_)
    return ""


def _fits(method: Object, exchange: Exchange) -> bool:
    pattern = re.escape("/" + method["path"])
    for name, parameter in method["parameters"].items():
        if parameter["location"] == "path":
            inner = parameter.get("pattern", "^[^/]+$").strip("^$")
            pattern = pattern.replace(re.escape("{+" + name + "}"), f"(?:{inner})")
    return exchange.method == method["httpMethod"] and re.fullmatch(pattern, exchange.path) is not None


def _judged(name: str, method: Object, exchange: Exchange) -> list[str]:
    known = {key for key, one in method["parameters"].items() if one["location"] == "query"} | SYSTEM
    found = [f"no parameter {one}" for one in exchange.query.keys() - known]
    wanted = method.get("request")
    try:
        body = _named(wanted or "", exchange.body)
        answer = _named(method["response"], exchange.answer) if 200 <= exchange.status < 300 else {}
    except json_format.ParseError as error:
        return [*found, str(error)]
    if wanted is None and exchange.body:
        found.append("it takes no body")
    if wanted is not None:
        found += _of_type(name, wanted, body, "request")
    if 200 <= exchange.status < 300:
        found += _of_type(name, method["response"], answer, "answer")
    return found


def _of_type(name: str, type_: str, said: Any, side: str) -> list[str]:
    errors = _validator(name, type_, side).iter_errors(said)
    return [f"{side}: {'/'.join(map(str, one.absolute_path))}: {one.message[:200]}" for one in errors]


@cache
def _validator(name: str, type_: str, side: str) -> Draft202012Validator:
    types = {key: _schema(one, side) for key, one in api(name)["schemas"].items()}
    return Draft202012Validator({"$ref": f"#/$defs/{type_}", "$defs": types})


def _schema(said: Mapping[str, Any], side: str) -> Object:
    """A type of a discovery document as JSON Schema; in requests without what only Google sets."""
    if "$ref" in said:
        return {"$ref": f"#/$defs/{said['$ref']}"}
    if said.get("type") == "any":
        return {}
    made: Object = {"type": said["type"]} if "type" in said else {}
    made.update({key: said[key] for key in ("enum", "pattern") if key in said})
    if "items" in said:
        made["items"] = _schema(said["items"], side)
    if "properties" in said:
        made["properties"] = {
            key: _schema(one, side)
            for key, one in said["properties"].items()
            if not (side == "request" and one.get("readOnly"))
        }
        made["additionalProperties"] = False
    elif "additionalProperties" in said:
        made["additionalProperties"] = _schema(said["additionalProperties"], side)
    return made


def _named(type_: str, body: Object) -> Object:
    """With enum values by name: google-cloud-aiplatform sends and asks for numbers, the documents know names only."""
    if not type_.startswith(PREFIX):
        return body
    kind = getattr(aiplatform_v1.types, type_.removeprefix(PREFIX))
    made = kind()
    json_format.ParseDict(body, kind.pb(made))
    named: Object = json_format.MessageToDict(kind.pb(made))
    return named
