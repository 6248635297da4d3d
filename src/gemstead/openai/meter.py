"""Count what a stream carries, while it passes, without taking it apart.

A `Meter` is fed the raw bytes of a stream as they come. It counts events that carry words (about one per token),
notes the end and its reason, and reads the engine's own figures where the engine gives them. How the bytes are cut
never matters: only whole events are looked at, and an event that is cut waits for its rest.

**Why searching is safe.** A pattern such as `"usage":{` holds unescaped quotes. Inside a JSON string every quote is
written `\\"`, so the pattern can never occur in the model's words, whatever the model says; and a raw line feed
cannot occur in JSON at all, so `\\n\\n` always ends an event. Therefore one or two searches at C speed replace a
JSON decoder for all events but the last few, and only those are decoded.

**Whose figures count.** The engine's `usage` before its `timings` (llama.cpp), before our count of events. The count
is a lower bound: an engine that decodes several tokens per step (speculation) may send them in one event.
"""

from __future__ import annotations

import re

import msgspec

_CARRY_MOST = 8 << 20  # an event longer than this is not measured, so that a broken engine cannot fill memory
_SMALL = 4096


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The usage objects of all dialects, as one."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    total_tokens: int | None = None


class Timings(msgspec.Struct, gc=False):
    """llama.cpp's own figures: `prompt_n` are the prompt tokens that were computed, `cache_n` those that were not."""

    prompt_n: int = 0
    predicted_n: int = 0
    cache_n: int = 0


class _Inner(msgspec.Struct, gc=False):
    usage: Usage | None = None


class _Event(msgspec.Struct, gc=False):
    usage: Usage | None = None
    timings: Timings | None = None
    response: _Inner | None = None  # Responses
    message: _Inner | None = None  # Anthropic


_event = msgspec.json.Decoder(_Event).decode


class Meter:
    """What one stream has carried so far. Feed it; ask it at any time."""

    __slots__ = (
        "_carry",
        "_dialect",
        "_from_timings",
        "_output_tokens",
        "_usage",
        "cached_tokens",
        "done",
        "events",
        "finish_reason",
        "prompt_tokens",
    )

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._carry = bytearray()  # the beginning of an event whose end has not come yet
        self._usage = False  # the engine has given its usage
        self._from_timings = False
        self._output_tokens = 0
        self.done = False  # the stream's own end was seen: [DONE], message_stop, response.completed
        self.events = 0  # that carried words: about one per token
        self.finish_reason = ""  # the engine's word: stop, length, tool_calls, end_turn, completed, ...
        self.prompt_tokens = 0  # all of the prompt, cached or not
        self.cached_tokens = 0

    @property
    def output_tokens(self) -> int:
        """Tokens generated: the engine's figure, or the events counted so far."""
        if self._usage or self._from_timings:
            # A figure that came with an early event (continuous usage) is not taken back by a lower count.
            return self._output_tokens
        return self.events

    @property
    def source(self) -> str:
        """Where `output_tokens` comes from: "engine", "counted", or "" while there is nothing."""
        if self._usage or self._from_timings:
            return "engine"
        return "counted" if self.events else ""

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the stream, cut anywhere."""
        if not self._carry:
            if data.find(b"\n\n") == len(data) - 2:  # one whole event: the usual read
                at = data.find(b'"delta":{"content":"')
                if (
                    at > 0
                    and data[at + 20] != 34
                    and data.count(b'":{') == 1
                    and b'"finish_reason":null' in data
                ):
                    self.events += 1
                    return
            if data.endswith(b"\n\n"):
                self._look(data)
                return
        self._keep(data)

    def close(self) -> None:
        """The stream has ended: a last event that lacks its blank line is looked at too."""
        if self._carry:
            self._look(bytes(self._carry))
            self._carry.clear()

    def _keep(self, data: bytes) -> None:
        """Look at the whole events in what was kept and `data`; keep the rest."""
        carry = self._carry
        start = max(len(carry) - 3, 0)
        carry += data
        end = max(carry.rfind(b"\n\n", start) + 2, carry.rfind(b"\r\n\r\n", start) + 4)
        if end >= 4 or (end >= 2 and carry[end - 2 : end] == b"\n\n"):
            self._look(bytes(carry[:end]))
            del carry[:end]
        if carry.startswith((b"data: [DONE]", b"data:[DONE]")):
            self.done = True
        elif len(carry) > _CARRY_MOST:
            carry.clear()

    def _look(self, events: bytes) -> None:
        """Read `events`, one or more whole events."""
        if self._dialect == "openai":
            self._look_openai(events)
        elif self._dialect == "anthropic":
            self._look_anthropic(events)
        else:
            self._look_responses(events)

    def _look_openai(self, events: bytes) -> None:
        count = events.count
        worded = count(b'"delta":{"') + count(b'"delta": {"')
        if not worded:
            worded = count(b'"text":"') + count(b'"text": "') - count(b'"text":""') - count(b'"text": ""')
        else:
            worded -= count(b'"content":""') + count(b'"content": ""')
            worded -= count(b'"content":null}') + count(b'"content": null}')
        if worded > 0:
            self.events += worded
        if reason := _last_word(events, b'"finish_reason":'):
            self.finish_reason = reason
        if b'"usage":{' in events or b'"usage": {' in events:
            self._read(events, b'"usage":')
        if not self._usage and b'"timings":{' in events:
            self._read(events, b'"timings":')
        if b"[DONE]" in events and _starts_line(events, b"data: [DONE]", b"data:[DONE]"):
            self.done = True

    def _look_anthropic(self, events: bytes) -> None:
        count = events.count
        self.events += count(b'"type":"content_block_delta"') + count(b'"type": "content_block_delta"')
        self.events -= count(b'"type":"signature_delta"') + count(b'"type": "signature_delta"')
        if b'"usage":' in events:
            if b"message_start" in events:
                self._read(events, b'"usage":', first=True)
            self._read(events, b'"usage":')
            if reason := _last_word(events, b'"stop_reason":'):
                self.finish_reason = reason
        if b"message_stop" in events and _has(events, b'"type":', b'"message_stop"'):
            self.done = True

    def _look_responses(self, events: bytes) -> None:
        self.events += events.count(b'"delta":"') + events.count(b'"delta": "')
        if b'"response":' not in events:
            return
        for state in (b"completed", b"incomplete", b"failed"):
            if _has(events, b'"type":', b'"response.%s"' % state):
                self.done, self.finish_reason = True, state.decode()
                self._read(events, b'"usage":')

    def _read(self, events: bytes, name: bytes, *, first: bool = False) -> None:
        """Take the figures of the last (or the first) event in `events` that has them."""
        place = events.find(name) if first else events.rfind(name)
        while place >= 0:
            start, end = events.rfind(b"\n", 0, place) + 1, events.find(b"\n", place)
            line = events[start : end if end >= 0 else len(events)]
            if self._take(line.removeprefix(b"data:")) or first:
                return
            place = events.rfind(name, 0, start)

    def _take(self, line: bytes) -> bool:
        """Take the figures in one event's JSON. False: it has none."""
        try:
            told = _event(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        inner = told.response or told.message
        usage = told.usage or (inner.usage if inner is not None else None)
        if usage is not None:
            return self._take_usage(usage)
        if told.timings is not None and not self._usage:
            self.prompt_tokens, self.cached_tokens, self._output_tokens = _of_timings(told.timings)
            self._from_timings = True
            return True
        return False

    def _take_usage(self, usage: Usage) -> bool:
        """Take a usage object. An Anthropic stream gives the prompt first and the answer last."""
        if self._dialect != "anthropic":
            figures = _of_usage(usage)
            if figures is None:
                return False
            self.prompt_tokens, self.cached_tokens, self._output_tokens = figures
            self._usage = True
            return True
        if usage.input_tokens is not None:
            self.cached_tokens = usage.cache_read_input_tokens or 0
            self.prompt_tokens = (
                usage.input_tokens + self.cached_tokens + (usage.cache_creation_input_tokens or 0)
            )
        if usage.output_tokens:  # message_start says 0 or 1: not the answer's length
            self._output_tokens = usage.output_tokens
            self._usage = self._usage or self.events > 0
        return True


def usage_of(body: bytes, dialect: str) -> tuple[int, int, int] | None:
    """Prompt, cached and output tokens of a whole answer; None if it tells none.

    A short body is decoded. In a long one (embeddings) the figures are looked for from the end.
    """
    told = _decoded(body if len(body) <= _SMALL else _tail(body))
    if told is None:
        return None
    if told.usage is not None and (figures := _of_usage(told.usage)) is not None:
        return figures
    return _of_timings(told.timings) if told.timings is not None else None


def _decoded(body: bytes) -> _Event | None:
    try:
        return _event(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _tail(body: bytes) -> bytes:
    """An object of only the usage (or else the timings) of a long body."""
    for name in (b'"usage":', b'"timings":'):
        place = body.rfind(name)
        if place >= 0 and (found := _OBJECT.match(body, place + len(name))):
            return b"{%s%s}" % (name, found[0])
    return b"{}"


# An object with at most one level of objects in it, and no braces in strings: what usage objects are.
_OBJECT = re.compile(rb"\s*\{[^{}]{0,4096}(?:\{[^{}]{0,4096}\}[^{}]{0,4096}){0,16}\}")


def _of_usage(usage: Usage) -> tuple[int, int, int] | None:
    """Prompt (cached ones included), cached and output tokens."""
    if usage.prompt_tokens is not None:
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens if details is not None else 0) or 0
        return usage.prompt_tokens, cached, usage.completion_tokens or 0
    if usage.input_tokens is None:
        return None
    if (details := usage.input_tokens_details) is not None:
        return usage.input_tokens, details.cached_tokens or 0, usage.output_tokens or 0
    # Anthropic counts the cached tokens beside the input, the others count them in it.
    cached = usage.cache_read_input_tokens or 0
    written = usage.cache_creation_input_tokens or 0
    return usage.input_tokens + cached + written, cached, usage.output_tokens or 0


def _of_timings(timings: Timings) -> tuple[int, int, int]:
    return timings.prompt_n + timings.cache_n, timings.cache_n, timings.predicted_n


def _last_word(events: bytes, name: bytes) -> str:
    """The last string value of the key `name`; "" if it is null everywhere or absent."""
    place = max(events.rfind(name + b'"'), events.rfind(name + b' "'))
    if place < 0:
        return ""
    start = events.find(b'"', place + len(name)) + 1
    return events[start : events.find(b'"', start)].decode("ascii", "replace")[:64]


def _has(events: bytes, name: bytes, value: bytes) -> bool:
    return name + value in events or name + b" " + value in events


def _starts_line(events: bytes, *words: bytes) -> bool:
    return events.startswith(words) or any(b"\n" + word in events for word in words)
