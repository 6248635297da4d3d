"""What an API server would say of an object, without one: core kinds by their published schemas, custom ones by their
definitions' schemas with defaults filled in and CEL rules evaluated. An object that nobody knows is a fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from cel.cel import Context, evaluate
from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[1] / "data" / "schemas"
VERSION = "1.34"
CORE = {"apps", "batch", "autoscaling", "policy"}


def faults(one: dict[str, Any]) -> tuple[str, ...]:
    """Every fault of an object; none when a strict server would take it."""
    return _faults(json.dumps(one))


@cache  # most objects are the same in most bundles
def _faults(text: str) -> tuple[str, ...]:
    one = json.loads(text)
    name = f"{one.get('kind')}/{one.get('metadata', {}).get('name')}"
    group = one["apiVersion"].rpartition("/")[0]
    if not group or group in CORE or (group.endswith(".k8s.io") and not _custom(group)):
        return tuple(f"{name}: {fault}" for fault in _core(one))
    return tuple(f"{name}: {fault}" for fault in _defined(one))


def _custom(group: str) -> bool:
    return (SCHEMAS / "crd" / group).is_dir()


def _core(one: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(one, VERSION, strict=True)
    except kubernetes_validate.ValidationError as fault:
        return [f"{'/'.join(map(str, fault.path))}: {fault.message[:200]}"]
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as fault:
        return [f"no schema: {fault}"]
    return []


def _defined(one: dict[str, Any]) -> list[str]:
    group, version = one["apiVersion"].split("/")
    path = SCHEMAS / "crd" / group / f"{one['kind'].lower()}_{version}.json"
    if not path.exists():
        return [f"no schema: {group}/{version} {one['kind']}"]
    schema = _schema(path)
    whole = _defaulted(copy.deepcopy(one), schema)
    found = [
        f"{'/'.join(map(str, fault.path))}: {fault.message[:200]}"
        for fault in Draft202012Validator(schema).iter_errors(whole)
    ]
    return found or list(_rules(whole, schema, ""))


@cache
def _schema(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read


def _defaulted(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        for name, inner in (schema.get("properties") or {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                value[name] = _defaulted(value[name], inner)
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            for name in value.keys() - (schema.get("properties") or {}).keys():
                value[name] = _defaulted(value[name], more)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_defaulted(one, schema["items"]) for one in value]
    return value


def _rules(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations") or []:
        if "oldSelf" in rule["rule"]:
            continue
        around = Context()
        around.add_variable("self", value)
        around.add_function("split", lambda text, mark: text.split(mark))  # Kubernetes' own library has it
        if evaluate(rule["rule"], around) is not True:
            yield f"{path or '.'}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        known = schema.get("properties") or {}
        more = schema.get("additionalProperties")
        for name, inner in value.items():
            below = known.get(name, more if isinstance(more, dict) else None)
            if below:
                yield from _rules(inner, below, f"{path}/{name}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for at, inner in enumerate(value):
            yield from _rules(inner, schema["items"], f"{path}/{at}")
