"""What processes send each other can be decoded when it is compiled.

A class of a module that mypyc compiles keeps an annotation only where it is a plain name; of `int | None` it keeps
`type`, and a message with such a field is refused by every worker, without a test of the source noticing.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gemstead.gateway.control import ToHead, ToWorker

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMPILED = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"])


def structs(kind: Any, seen: set[Any]) -> Iterator[type]:
    """Every message class that a type leads to."""
    if kind in seen:
        return
    seen.add(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for inner in typing.get_type_hints(kind).values():
            yield from structs(inner, seen)
    for inner in typing.get_args(kind):
        yield from structs(inner, seen)


def test_compiled_messages_have_plain_types() -> None:
    found = list(structs(ToWorker | ToHead, set()))
    assert len(found) > 8
    compiled = [kind for kind in found if (source(kind)).relative_to(ROOT).as_posix() in COMPILED]
    assert {"Load", "EndpointFacts"} <= {kind.__name__ for kind in found}, (
        "messages are not followed to their parts"
    )
    for kind in compiled:
        for name, lost in annotations(kind).items():
            assert not lost, (
                f"{kind.__name__}.{name}: define it where it is not compiled, as traffic/told.py does"
            )


def annotations(kind: type) -> dict[str, bool]:
    """Field -> whether mypyc loses its type."""
    tree = ast.parse(source(kind).read_text("utf-8"))
    (body,) = [one.body for one in tree.body if isinstance(one, ast.ClassDef) and one.name == kind.__name__]
    return {
        ast.unparse(one.target): not isinstance(one.annotation, ast.Name)
        for one in body
        if isinstance(one, ast.AnnAssign)
    }


def source(kind: type) -> Path:
    file = sys.modules[kind.__module__].__file__
    assert file is not None
    if not file.endswith(".py"):
        pytest.skip("compiled: there is no source to read")
    return Path(file)


@pytest.mark.parametrize("package", ["gemstead.gateway", "gemstead.traffic", "gemstead.supervise"])
def test_no_default_is_an_instance_of_a_compiled_struct(package: str) -> None:
    """mypyc loses `frozen`, and msgspec refuses a default that could be changed: the module cannot be imported then."""
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    for module in [importlib.import_module(one.name) for one in found]:
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                for field in msgspec.structs.fields(kind):
                    if isinstance(field.default, msgspec.Struct):
                        made = source(type(field.default)).relative_to(ROOT).as_posix()
                        assert made not in COMPILED, (
                            f"{kind.__name__}.{field.name}: say `msgspec.field(default_factory=...)`"
                        )
