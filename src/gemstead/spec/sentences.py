"""What pydantic found wrong, in plain words: what is wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from gemstead.spec.fault import Fault, Path, nearest, shown
from gemstead.spec.fields import elsewhere, names_at

# What people bring from llama.cpp, vLLM, Ollama and LiteLLM, and what it is called here.
KNOWN_ELSEWHERE = {
    "address": "listen",
    "api_key": "keys",
    "api_keys": "keys",
    "auth": "keys",
    "base_url": "url",
    "bind": "listen",
    "cert": "certificate",
    "context_length": "context",
    "ctx": "context",
    "ctx_size": "context",
    "host": "listen",
    "max_model_len": "context",
    "max_num_seqs": "slots",
    "mmproj": "projector",
    "model": "name",
    "n_ctx": "context",
    "n_parallel": "slots",
    "parallel": "slots",
    "path": "file",
    "port": "listen",
}

_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a section with fields of its own",
    "model_attributes_type": "a section with fields of its own",
    "dict_type": "a section with fields of its own",
}
_FORMS = {
    "listen": ("is no address", "write host:port, such as 127.0.0.1:4367, :4367 or [::1]:4367"),
    "url": ("is no base address", "write it like http://10.0.0.5:8000, without a query"),
    "cors_origins": ("is no origin", "write it like https://chat.example.com, without a path, or `*`"),
}


def faults(errors: Sequence[ErrorDetails]) -> list[Fault]:
    """One fault for each error that a person can act on."""
    paths = [error["loc"] for error in errors]
    return [
        _fault(error)
        for error in errors
        # A list whose items are at fault is also reported as too short; that would only confuse.
        if not (
            error["type"] == "too_short"
            and any(path != error["loc"] and path[: len(error["loc"])] == error["loc"] for path in paths)
        )
    ]


def _fault(error: ErrorDetails) -> Fault:
    path, kind, value = error["loc"], error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown(path)
    if kind == "missing":
        return Fault(path, "is missing")
    if kind in _WANTED:
        return Fault(path, f"should be {_WANTED[kind]}, not {_kind(value, path)}", _hint(kind, value))
    if kind == "string_pattern_mismatch":
        return _misshapen(path, value)
    if kind == "literal_error":
        return _choice(path, value, str(error.get("ctx", {}).get("expected", "")))
    if kind in _BOUNDS:
        return Fault(path, _BOUNDS[kind](shown(value, path), error.get("ctx", {})))
    words = error["msg"].removeprefix("Value error, ")
    return Fault(path, words[:1].lower() + words[1:])


_BOUNDS: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    "greater_than": lambda said, ctx: f"{said} is too small: it must be more than {ctx['gt']:g}",
    "greater_than_equal": lambda said, ctx: f"{said} is too small: at least {ctx['ge']}",
    "less_than_equal": lambda said, ctx: f"{said} is too large: at most {_whole(ctx['le'])}",
    "finite_number": lambda said, ctx: "must be a finite number",
    "string_too_short": lambda said, ctx: "is empty",
    "string_too_long": lambda said, ctx: f"is longer than {ctx['max_length']} characters",
    "too_short": lambda said, ctx: "is an empty list: at least one entry is needed",
}


def _whole(number: float) -> str:
    return str(int(number) if number == int(number) else number)


def _unknown(path: Path) -> Fault:
    name, section = str(path[-1]), names_at(path[:-1])
    meant = KNOWN_ELSEWHERE.get(name)
    guess = meant if meant in section else nearest(name, section)
    if guess is None and (place := elsewhere(meant or "") or elsewhere(name)):
        return Fault(path, "is not a field here", f"did you mean {place}?")
    known = f"known here: {', '.join(section)}"
    return Fault(path, "is not a field here", f"did you mean `{guess}`?" if guess else known)


def _misshapen(path: Path, value: Any) -> Fault:
    name = next(step for step in reversed(path) if isinstance(step, str))
    if name == "api_key":
        only = "holds a value where only a reference to a secret belongs"
        return Fault(path, only, "use env:NAME, file:PATH, vault:, aws-sm:, gcp-sm: or k8s:")
    message, suggestion = _FORMS.get(name, ("holds a control character", "delete it"))
    return Fault(path, f"{shown(value, path)} {message}", suggestion)


def _choice(path: Path, value: Any, expected: str) -> Fault:
    choices = [choice.strip("' ") for choice in expected.replace(" or ", ", ").split(", ")]
    suggestion = ""
    if isinstance(value, str) and (close := nearest(value, choices)):
        suggestion = f"did you mean `{close}`?"
    elif path == ("version",):
        suggestion = "this Gemstead reads version 1; a newer one may be needed"
    listed = " or ".join(choices) if len(choices) < 3 else ", ".join(choices[:-1]) + " or " + choices[-1]
    return Fault(path, f"should be {listed}, not {shown(value, path)}", suggestion)


def _kind(value: Any, path: Path) -> str:
    """What was said instead, in words."""
    if isinstance(value, str):
        return f"the text {shown(value, path)}".replace("the text the value", "text")
    return shown(value, path)


def _hint(kind: str, value: Any) -> str:
    if kind == "string_type" and not isinstance(value, (dict, list, tuple)):
        return "put it in quotes"
    if kind == "tuple_type":
        return "begin each entry with `- `" if isinstance(value, dict) else "write it as [a, b]"
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.replace(".", "").isdigit():
        return "leave out the quotes"
    return ""
