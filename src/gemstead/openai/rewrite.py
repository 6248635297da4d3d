"""The changes that the gateway makes to an accepted request: the model's name, as the engine knows it, and a bound of
the answer where a rule or a budget needs one.

Every other value keeps its bytes and its order. A key that a client wrote twice at the top level is sent once, with
its last value, which is also the one that `requests.parse` judged: two readers can never see two models.
"""

from __future__ import annotations

import msgspec

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_json = msgspec.json.encode


def with_model(body: bytes, name: str) -> bytes:
    """`body`, a JSON object that was accepted, with `name` as its top-level model (added if it had none)."""
    fields = _fields(body)
    fields["model"] = msgspec.Raw(_json(name))
    return _json(fields)


_BOUNDS = {"/v1/responses": "max_output_tokens"}


def with_most_output(body: bytes, path: str, tokens: int) -> bytes:
    """`body`, a JSON object that was accepted at `path`, with an answer of at most so many tokens."""
    fields = _fields(body)
    bound = msgspec.Raw(_json(tokens))
    name = _BOUNDS.get(path, "max_tokens")
    if path == "/v1/chat/completions" and _said(fields.get("max_completion_tokens")):
        fields["max_completion_tokens"] = bound
        if not _said(fields.get(name)):
            return _json(fields)
    fields[name] = bound
    return _json(fields)


def _said(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw) != b"null"
