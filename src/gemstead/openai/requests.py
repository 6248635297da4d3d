"""Parse: the bytes of a request to the few facts that the gateway needs, or a refusal that names the field.

A request is read once, and only so far as decisions need it. What the model will read (messages, tools, input)
stays as the raw JSON bytes that the client sent; everything else passes through untouched, known or not. So a
field that an engine learns tomorrow works today. What no engine could serve is refused here, because here it
costs a microsecond: broken JSON, wrong types, a missing model or prompt, negative bounds.

What this does not do: judge content, count tokens, or look up models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw

from gemstead.openai import forms
from gemstead.openai.depth import MOST as MOST_DEPTH
from gemstead.openai.depth import too_deep
from gemstead.openai.forms import NOTHING
from gemstead.refused import Reason, Refused

# The dialect of each relayed route: whose shapes its errors and streams have.
ROUTES: dict[str, str] = {
    "/v1/chat/completions": "openai",
    "/v1/completions": "openai",
    "/v1/responses": "responses",
    "/v1/embeddings": "openai",
    "/v1/messages": "anthropic",
    "/v1/messages/count_tokens": "anthropic",
    "/tokenize": "openai",
    "/detokenize": "openai",
}

_MOST: Final = 2**31 - 1  # what a 32-bit engine field holds


class Request:
    """What the gateway knows of one request.

    Args:
        model: as the caller wrote it; "" where the route does not need one.
        prompt: JSON, as the client wrote it.
        most_output: tokens per answer; None: the client set no bound.
        include_usage: the client asked for a usage event at the end of its stream.
        thinking: what a chat says of it; None: nothing.
        by_effort: it said so by `reasoning_effort` alone, which not every engine reads.
    """

    __slots__ = (
        "answers",
        "by_effort",
        "include_usage",
        "model",
        "most_output",
        "prompt",
        "stream",
        "thinking",
    )

    def __init__(
        self,
        model: str,
        prompt: bytes,
        stream: bool = False,
        most_output: int | None = None,
        answers: int = 1,
        include_usage: bool = False,
        thinking: bool | None = None,
        by_effort: bool = False,
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.stream = stream
        self.most_output = most_output
        self.answers = answers
        self.include_usage = include_usage
        self.thinking = thinking
        self.by_effort = by_effort

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self.facts() == other.facts()

    def __hash__(self) -> int:
        return hash(self.facts())

    def facts(self) -> tuple[object, ...]:
        """All of it, in the order in which it is given."""
        bounds = (self.most_output, self.answers, self.include_usage, self.thinking, self.by_effort)
        return (self.model, self.prompt, self.stream, *bounds)

    def __repr__(self) -> str:
        return (
            f"Request({self.model}, {len(self.prompt)} bytes, stream={self.stream}, most={self.most_output})"
        )

    @property
    def images(self) -> bool:
        """Whether the prompt may hold an image: a hint, found by its field names."""
        prompt = self.prompt
        return b'"image' in prompt or b'"input_image"' in prompt or b"image_url" in prompt


def parse(path: str, body: bytes) -> Request:
    """The request in `body`, which was posted to `path`, a key of ROUTES.

    Raises:
        Refused: BAD_REQUEST, with a sentence and the field at fault.
    """
    try:
        request = _READ[path](body)
    except msgspec.ValidationError as error:
        raise _field(str(error)) from None
    except msgspec.DecodeError as error:
        raise _refused(f"The request's body is not valid JSON: {_plain(error)}.") from None
    except UnicodeDecodeError:
        raise _refused("The request's body is not valid UTF-8.") from None
    except RecursionError:
        raise _refused("The request's JSON is nested too deeply.") from None
    if too_deep(body):
        raise _refused(f"The request's JSON is nested too deeply: {MOST_DEPTH} levels are allowed.")
    if not body.isascii():
        _check_utf8(body)
    return request


def _read_chat(body: bytes) -> Request:
    asked = forms.chat(body)
    most, options, tools = (
        _bound("max_completion_tokens", asked.max_completion_tokens),
        asked.stream_options,
        asked.tools,
    )
    if most is None:
        most = _bound("max_tokens", asked.max_tokens)
    request = Request(
        asked.model or _no_model(),
        _array("messages", asked.messages)
        if tools is NOTHING
        else _prompt(_array("messages", asked.messages), tools),
        asked.stream is True,
        most,
        1 if asked.n is None else _answers(asked.n),
        options is not None and options.include_usage is True,
    )
    template, effort = asked.chat_template_kwargs, asked.reasoning_effort
    if template is not NOTHING or effort is not NOTHING:
        request.thinking, request.by_effort = _thinking(template, effort)
    return request


def _thinking(template: Raw, effort: Raw) -> tuple[bool | None, bool]:
    """What a chat says of thinking, and whether it says it by its effort alone."""
    told, said = bytes(template), bytes(effort)
    if told and b"enable_thinking" in told:
        try:
            thinks = forms.template(told).enable_thinking
        except msgspec.ValidationError:  # no object: the engine says what it thinks of that
            thinks = None
        if isinstance(thinks, bool):
            return thinks, False
    if said and said != b"null":
        return said not in (b'"none"', b'"minimal"'), True
    return None, False


def _read_completion(body: bytes) -> Request:
    asked = forms.completion(body)
    most, options = asked.max_tokens, asked.stream_options
    return Request(
        asked.model or _no_model(),
        _prompt(_given("prompt", asked.prompt)),
        asked.stream is True,
        _bound("max_tokens", most),
        1 if asked.n is None else _answers(asked.n),
        options is not None and options.include_usage is True,
    )


def _read_responses(body: bytes) -> Request:
    asked = forms.responses(body)
    most = asked.max_output_tokens
    return Request(
        asked.model or _no_model(),
        _prompt(_given("input", asked.input), asked.instructions, asked.tools),
        asked.stream is True,
        _bound("max_output_tokens", most),
    )


def _read_embeddings(body: bytes) -> Request:
    asked = forms.embeddings(body)
    return Request(asked.model or _no_model(), _prompt(_given("input", asked.input)), most_output=0)


def _read_messages(body: bytes) -> Request:
    asked = forms.messages(body)
    most = asked.max_tokens
    return Request(
        asked.model or _no_model(),
        _prompt(_array("messages", asked.messages), asked.system, asked.tools),
        asked.stream is True,
        _bound("max_tokens", most),
    )


def _read_count(body: bytes) -> Request:
    request = _read_messages(body)
    request.most_output = 0
    return request


def _read_tokenize(body: bytes) -> Request:
    asked = forms.tokenize(body)
    prompt = _bytes(asked.prompt) or _bytes(asked.messages) or _bytes(asked.content)
    if not prompt:
        raise _refused("Field 'prompt' is missing: send the text to tokenize.", "prompt")
    return Request(asked.model or "", prompt, most_output=0)


def _read_detokenize(body: bytes) -> Request:
    asked = forms.tokenize(body)
    if not _bytes(asked.tokens):
        raise _refused("Field 'tokens' is missing: send the token ids to turn into text.", "tokens")
    return Request(asked.model or "", _array("tokens", asked.tokens), most_output=0)


_READ: dict[str, Callable[[bytes], Request]] = {
    "/v1/chat/completions": _read_chat,
    "/v1/completions": _read_completion,
    "/v1/responses": _read_responses,
    "/v1/embeddings": _read_embeddings,
    "/v1/messages": _read_messages,
    "/v1/messages/count_tokens": _read_count,
    "/tokenize": _read_tokenize,
    "/detokenize": _read_detokenize,
}
assert set(_READ) == set(ROUTES), "every route has a reader"


def _prompt(main: bytes, *before: Raw) -> bytes:
    """The parts that the model reads, in the order in which a chat template writes them: shared prefixes first."""
    parts = [part for part in map(_bytes, before) if part]
    return b"".join([*parts, main]) if parts else main


def _bytes(raw: Raw) -> bytes:
    """The bytes of a field; none if it is absent or null."""
    found = bytes(raw)
    return b"" if found == b"null" else found


def _array(name: str, raw: Raw) -> bytes:
    """The bytes of a JSON array."""
    found = bytes(raw)
    if not found.startswith(b"["):
        raise _refused(f"Field '{name}' must be an array.", name)
    return found


def _given(name: str, raw: Raw) -> bytes:
    """The bytes of a field that is not null and not a bare number, boolean or object."""
    found = bytes(raw)
    if not found.startswith((b"[", b'"')):
        raise _refused(f"Field '{name}' must be a string or an array.", name)
    return found


def _answers(n: int | float) -> int:
    if (whole := _whole("n", n)) < 1:
        raise _refused("Field 'n' must be 1 or more.", "n")
    return whole


def _bound(name: str, value: int | float | None) -> int | None:
    """A bound in tokens; engines take 10.0 for 10, and so do we."""
    return None if value is None else _whole(name, value)


def _whole(name: str, value: int | float) -> int:
    if value < 0:
        raise _refused(f"Field '{name}' must not be negative.", name)
    if value != value // 1 or value > _MOST:
        raise _refused(f"Field '{name}' must be a whole number of at most {_MOST}.", name)
    return int(value)


def _no_model() -> str:
    raise _refused("Field 'model' is empty: send the name of a model; GET /v1/models lists them.", "model")


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise _refused(f"The request's body is not valid UTF-8 (byte {error.start}).") from None


def _refused(message: str, param: str | None = None) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, param=param)


_NAMES = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}
_NAMES |= {"object": "an object", "array": "an array", "null": "null"}
_EXPECTED = re.compile(r"Expected `(\w+)(?: \| \w+)*`, got `(\w+)`(?: - at `\$\.?(.*)`)?$")
_MISSING = re.compile(r"missing required field `(\w+)`")


def _field(told: str) -> Refused:
    """A refusal out of msgspec's words ("Expected `bool | null`, got `str` - at `$.stream`")."""
    if missing := _MISSING.search(told):
        name = missing[1]
        return _refused(f"Field '{name}' is missing.", name)
    if not (wrong := _EXPECTED.search(told)):
        return _refused(f"The request's body is not as expected: {told}.")
    wanted, got, path = wrong.groups()
    wanted, got = _NAMES.get(wanted, wanted), _NAMES.get(got, got)
    if not path:
        return _refused(f"The request's body must be {wanted} (JSON), not {got}.")
    return _refused(f"Field '{path}' must be {wanted}, not {got}.", path)


def _plain(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ")
