"""The one change that the gateway makes to an accepted request: the model's name, as the engine knows it.

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
