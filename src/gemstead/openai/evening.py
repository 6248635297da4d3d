"""Evening out: what a call needs so that an engine's dialect does not show. Bytes in, bytes out.

`needed` looks once at a call and an engine and says what there is to do; for most calls that is nothing (None), and
their bytes pass as they came. Where a request says whether the model is to think, and an engine would not understand
how, the request is told in the engine's way. Where an answer may hold thoughts that an engine calls otherwise, or
leaves marks in, the answer is put right: `whole` for an answer in one piece, a `Stream` for one in pieces, however they
are cut.

**Why replacing bytes is safe.** A key such as `"reasoning":` holds quotes that JSON escapes inside words, so it can
occur only where it is a key. In chat answers of every engine here it is a key only of messages and of their deltas.

What llama.cpp leaves behind (build 11549, 2026-11-21): a whole answer that `max_tokens` ended before the thought's
mark was complete has `<|channel>th` as its content; streams hold it back. Its Responses events lack `output_index`,
`content_index` and `sequence_number`, which clients' helpers need.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gemstead.openai.dialect import Dialect
from gemstead.openai.requests import Request

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
OUTWARD = "reasoning_content"
OPENS, CLOSES = "<|channel>", "<channel|>"  # around a thought of Gemma 4
TITLE = "thought\n"  # with which it begins
UNSAID = ("", "none", "minimal")  # values of reasoning_effort that do not ask for thoughts
_UNDERSCORE: Final = 0x5F

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_any = msgspec.json.Decoder().decode
_json = msgspec.json.encode


class Needed:
    """What one call needs. Each part may be nothing."""

    __slots__ = ("dialect", "indexes", "marks", "rename", "tell", "thoughts")

    def __init__(
        self, dialect: Dialect, *, tell: bool | None, thoughts: bool, rename: bool, marks: bool, indexes: bool
    ) -> None:
        self.dialect = dialect
        self.tell = tell  # the request is to say that it thinks, or that it does not; None: it is left alone
        self.thoughts = (
            thoughts  # its earlier turns carry thoughts under a name that the engine does not read
        )
        self.rename = rename  # the answer's thoughts have another name
        self.marks = marks  # the answer may hold marks
        self.indexes = indexes  # the answer's events lack their indexes

    @property
    def whole(self) -> bool:
        """Whether an answer in one piece has to be looked at."""
        return self.rename or self.marks

    @property
    def stream(self) -> bool:
        """Whether an answer in pieces has to be looked at."""
        return self.rename or self.indexes


def needed(dialect: Dialect, path: str, request: Request, thinks: bool, is_set: bool) -> Needed | None:
    """What a call needs at an engine of this dialect; None for nothing.

    Args:
        thinks: whether the model is to think when a request does not say.
        is_set: whether the engine itself was started so.
    """
    if path == RESPONSES:
        lacks = request.stream and not dialect.indexes
        return (
            Needed(dialect, tell=None, thoughts=False, rename=False, marks=False, indexes=True)
            if lacks
            else None
        )
    if path != CHAT:
        return None
    said = request.thinking
    will = thinks if said is None else said
    other = dialect.thinking == "effort"
    tell: bool | None = None
    if said is not None and (other or request.by_effort):
        tell = said
    elif said is None and not is_set and dialect.thinks is not thinks:
        tell = thinks
    thoughts = _has(request.prompt, dialect.reasoning == OUTWARD)
    rename = will and dialect.reasoning != OUTWARD
    marks = will and dialect.marks and not request.stream
    if tell is None and not (thoughts or rename or marks):
        return None
    return Needed(dialect, tell=tell, thoughts=thoughts, rename=rename, marks=marks, indexes=False)


def _has(prompt: bytes, inward: bool) -> bool:
    """Whether a key for thoughts is there: `reasoning`, or else `reasoning_content`.

    A few of its bytes first: Python looks for one byte twenty times as fast as for a few, and for fewer than six five
    times as fast as for more.
    """
    if inward:
        return prompt.find(b'ing":') >= 0 and prompt.find(b'"reasoning":') >= 0
    if _UNDERSCORE not in prompt or prompt.find(b"g_con") < 0:
        return False
    return prompt.find(b'"reasoning_content":') >= 0


def request_for(body: bytes, need: Needed) -> bytes:
    """The request in the engine's words. Values that are not concerned keep their bytes."""
    if need.tell is None and not need.thoughts:
        return body
    fields = _fields(body)
    if need.tell is not None:
        _tell(fields, need.tell, need.dialect)
    if need.thoughts and "messages" in fields:
        theirs, ours = (OUTWARD, "reasoning") if need.dialect.reasoning == OUTWARD else ("reasoning", OUTWARD)
        messages = _any(fields["messages"])
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict) and ours in message and theirs not in message:
                message[theirs] = message.pop(ours)
        fields["messages"] = msgspec.Raw(_json(messages))
    return _json(fields)


def _tell(fields: dict[str, Any], think: bool, dialect: Dialect) -> None:
    """Say in the request whether it thinks, as this engine reads it."""
    said = _object(fields.get("chat_template_kwargs"))
    if dialect.thinking == "effort":
        said.pop("enable_thinking", None)
        if not think:
            fields["reasoning_effort"] = msgspec.Raw(b'"none"')
        elif _word(fields.get("reasoning_effort")) in UNSAID:
            fields["reasoning_effort"] = msgspec.Raw(b'"medium"')
    else:
        said["enable_thinking"] = think
        fields.pop(
            "reasoning_effort", None
        )  # some engines hand it to the template, which knows no such thing
    if said:
        fields["chat_template_kwargs"] = msgspec.Raw(_json(said))
    else:
        fields.pop("chat_template_kwargs", None)


def _object(raw: Any) -> dict[str, Any]:
    found = _any(raw) if raw is not None else None
    return found if isinstance(found, dict) else {}


def _word(raw: Any) -> str:
    found = _any(raw) if raw is not None else None
    return found if isinstance(found, str) else ""


def whole(body: bytes, need: Needed) -> bytes:
    """A whole chat answer put right; one that is not JSON stays as it is."""
    if (
        need.rename
        and b'"%s":' % need.dialect.reasoning.encode() in body
        and b'"reasoning_content":' not in body
    ):
        body = body.replace(b'"%s":' % need.dialect.reasoning.encode(), b'"reasoning_content":')
    if not need.marks or OPENS.encode() not in body:
        return body
    try:
        answer = _any(body)
        choices = answer["choices"]
        for choice in choices:
            _unmark(choice["message"], choice.get("finish_reason") == "length")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return body
    return _json(answer)


def _unmark(message: dict[str, Any], cut: bool) -> None:
    """Move a thought that begins a message's content to where thoughts belong, with or without its end."""
    content = message.get("content")
    if not isinstance(content, str) or not content.startswith(OPENS):
        return
    thought, closed, rest = content[len(OPENS) :].partition(CLOSES)
    if not closed and not cut:
        return  # the model may quote its own marks
    if thought.startswith(TITLE):
        thought = thought[len(TITLE) :]
    elif TITLE.startswith(thought):
        thought = ""  # cut within the title
    message["content"] = rest.lstrip("\n")
    if thought.strip() and not message.get(OUTWARD):
        message[OUTWARD] = thought.strip("\n")


class Stream:
    """A stream put right while it passes. What has not come whole is held back: a few bytes of a key, or an event."""

    __slots__ = ("_held", "_indexes", "_key", "_numbers")

    def __init__(self, need: Needed) -> None:
        self._held = b""
        self._key = b'"%s":' % need.dialect.reasoning.encode() if need.rename else b""
        self._indexes = need.indexes
        self._numbers = Numbers() if need.indexes else None

    def feed(self, data: bytes) -> bytes:
        """What can be handed on, with these bytes taken in; it may be nothing."""
        return self._events(data) if self._indexes else self._renamed(data)

    def close(self) -> bytes:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held

    def _renamed(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        if self._key in data:
            data = data.replace(self._key, b'"reasoning_content":')
        if not data.endswith(b"\n"):
            size = _overlap(data, self._key)
            if size:
                self._held, data = data[-size:], data[:-size]
        return data

    def _events(self, data: bytes) -> bytes:
        data = self._held + data
        end = data.rfind(b"\n\n")
        if end < 0:
            self._held = data
            return b""
        self._held = data[end + 2 :]
        assert self._numbers is not None
        numbers = self._numbers
        return b"".join([numbers.event(one) + b"\n\n" for one in data[:end].split(b"\n\n")])


def _overlap(data: bytes, key: bytes) -> int:
    """How many bytes at the end of `data` may be the beginning of `key`."""
    for size in range(min(len(key) - 1, len(data)), 0, -1):
        if data.endswith(key[:size]):
            return size
    return 0


class Numbers:
    """Indexes for the events of the Responses API, given in the order in which items and their parts begin."""

    __slots__ = ("_items", "_sequence")

    def __init__(self) -> None:
        self._items: dict[str, int] = {}
        self._sequence = 0

    def event(self, event: bytes) -> bytes:
        """The event with `output_index`, `content_index` and `sequence_number` where they are lacking."""
        start = event.find(b"data:")
        if start < 0 or (start and event[start - 1] != 0x0A):
            return event
        try:
            told = _any(event[start + 5 :])
        except msgspec.DecodeError:  # not JSON, such as [DONE]
            return event
        if not isinstance(told, dict) or not isinstance(kind := told.get("type"), str):
            return event
        if (item := self._item(told)) is not None:
            told.setdefault("output_index", self._items.setdefault(item, len(self._items)))
            if ".output_text." in kind or ".content_part." in kind or ".reasoning_text." in kind:
                told.setdefault("content_index", 0)
            if ".output_text." in kind:
                told.setdefault("logprobs", [])
        told.setdefault("sequence_number", self._sequence)
        self._sequence += 1
        return event[:start] + b"data: " + _json(told)

    def _item(self, told: dict[str, Any]) -> str | None:
        """The item that an event is about, by its id."""
        own = told.get("item_id")
        if own is None and isinstance(item := told.get("item"), dict):
            own = item.get("id")
        return own if isinstance(own, str) else None
