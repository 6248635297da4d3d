"""Vertex AI's request form: what it posts to a container's predict route, and what it takes back.

Three forms come there. `rawPredict`, `streamRawPredict` and the endpoint's `/chat/completions` pass the caller's body
on as it is: an OpenAI body, told by its fields. `predict` wraps: `{"instances": [...], "parameters": {...}}`, answered
by `{"predictions": ...}`; an instance with `"@requestFormat": "chatCompletions"` gets the whole chat answer as
`predictions`, as Google's own vLLM containers do, and every other one gets a list with one entry for each instance.

https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

from __future__ import annotations

from typing import Any

import msgspec

from gemstead.refused import Reason, Refused

FORMAT = "@requestFormat"
# Names of Google's models for what OpenAI calls otherwise.
RENAMED = {"maxOutputTokens": "max_tokens", "topP": "top_p", "topK": "top_k", "stopSequences": "stop"}
ROUTE_OF = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "input": "/v1/embeddings"}
AS_IS, OBJECT, LIST = "", "object", "list"


class Asked(msgspec.Struct, frozen=True):
    """A request as the gateway knows it, and the form in which its answer is wanted."""

    path: str
    body: bytes
    form: str  # AS_IS, OBJECT or LIST


def asked(body: bytes, model: str) -> Asked:
    """The request in what Vertex posted; `model` is put in where the caller named none.

    Raises:
        Refused: BAD_REQUEST, with the field at fault.
    """
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Refused(Reason.BAD_REQUEST, f"The request's body is not valid JSON: {error}.") from None
    if not isinstance(said, dict):
        raise _no("The request's body is a JSON object.", "")
    if "instances" not in said:
        said.pop(FORMAT, None)
        return _request(said, model, AS_IS)
    instances, parameters = said["instances"], said.get("parameters", {})
    if not isinstance(instances, list) or not instances:
        raise _no("`instances` is a list with at least one entry.", "instances")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict):
        raise _no("`parameters` is an object.", "parameters")
    parameters = {RENAMED.get(name, name): value for name, value in parameters.items()}
    wanted = [{**parameters, **(one if isinstance(one, dict) else {"prompt": one})} for one in instances]
    return _instances(wanted, model)


def _instances(wanted: list[dict[str, Any]], model: str) -> Asked:
    first = dict(wanted[0])
    form = OBJECT if first.pop(FORMAT, "") == "chatCompletions" else LIST
    if "messages" in first:
        if len(wanted) > 1:
            raise _no("One chat to a request: send further ones as requests of their own.", "instances")
        return _request(first, model, form)
    field = "prompt" if "prompt" in first else "input"
    if "content" in first and field == "input":
        wanted = [
            {("input" if name == "content" else name): value for name, value in one.items()} for one in wanted
        ]
        first = wanted[0]
    rest = {name: value for name, value in first.items() if name not in (field, FORMAT)}
    for one in wanted:
        if {name: value for name, value in one.items() if name not in (field, FORMAT)} != rest:
            raise _no("All instances of a request have the same parameters.", "instances")
    return _request({**rest, field: [one.get(field) for one in wanted]}, model, LIST)


def _request(said: dict[str, Any], model: str, form: str) -> Asked:
    path = next((path for field, path in ROUTE_OF.items() if field in said), "")
    if not path:
        raise _no("A request has `messages`, `prompt` or `input`.", "messages")
    if not said.get("model"):
        said["model"] = model
    if said.get("stream"):
        form = AS_IS  # streamed events are the caller's as they come
    return Asked(path, msgspec.json.encode(said), form)


def answered(body: bytes, form: str) -> bytes:
    """The engine's answer as Vertex takes it back."""
    if form == AS_IS:
        return body
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    return msgspec.json.encode({"predictions": said if form == OBJECT else _entries(said)})


def _entries(said: Any) -> list[Any]:
    """One entry for each instance."""
    if not isinstance(said, dict):
        return [said]
    if isinstance(data := said.get("data"), list):
        return [{"embedding": one.get("embedding")} for one in data]
    choices = said.get("choices")
    if isinstance(choices, list) and choices and "text" in choices[0]:
        return [one.get("text") for one in sorted(choices, key=lambda one: one.get("index") or 0)]
    return [said]


def _no(sentence: str, field: str) -> Refused:
    return Refused(Reason.BAD_REQUEST, sentence, param=field)
