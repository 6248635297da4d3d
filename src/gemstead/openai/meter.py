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
from typing import Final

from gemstead.openai.told import Usage
from gemstead.openai.usage import decoded, of_timings, of_usage, usage_of

__all__ = ["Meter", "usage_of"]

_CARRY_MOST: Final = (
    8 << 20
)  # an event longer than this is not measured, so that a broken engine cannot fill memory


class Meter:
    """What one stream has carried so far. Feed it; ask it at any time.

    An engine's ordinary events differ in one string only. So the bytes before and after that string are learnt from
    one event, and the next is recognised by them and by its quotes (all that are new are escaped: nothing but words).
    A stream whose events differ in more (a sequence number) is learnt from more and more seldom.
    """

    __slots__ = (
        "_after",
        "_before",
        "_carry",
        "_dialect",
        "_figures",
        "_learn_at",
        "_learn_step",
        "_output",
        "_quotes",
        "_shortest",
        "cached_tokens",
        "done",
        "events",
        "failed",
        "finish_reason",
        "prompt_tokens",
    )

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._carry = bytearray()  # the beginning of an event whose end has not come yet
        self._before = self._after = b"\0"  # of an ordinary event's words
        self._quotes = self._shortest = 0
        self._learn_at, self._learn_step = 0, 1  # in events
        self._figures = 0  # whose figures: 0 none, 1 the engine's timings, 2 the engine's usage
        self._output = 0
        self.done = False  # the stream's own end was seen: [DONE], message_stop, response.completed
        self.failed = False  # the engine said in the stream that it failed
        self.events = 0  # that carried words: about one per token
        self.finish_reason = ""  # the engine's word: stop, length, tool_calls, end_turn, completed, ...
        self.prompt_tokens = 0  # all of the prompt, cached or not
        self.cached_tokens = 0

    @property
    def output_tokens(self) -> int:
        """Tokens generated: the engine's figure, or the events counted so far."""
        return self._output if self._figures else self.events

    @property
    def source(self) -> str:
        """Where `output_tokens` comes from: "engine", "counted", or "" while there is nothing."""
        if self._figures:
            return "engine"
        return "counted" if self.events else ""

    @property
    def between_events(self) -> bool:
        """Whether what has come ends with a whole event, so that something can be put behind it."""
        return not self._carry

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the stream, cut anywhere."""
        if self._carry:
            self._keep(data)
        elif (
            data.endswith(self._after)
            and data.startswith(self._before)
            and ((more := data.count(b'"') - self._quotes) == 0 or more == data.count(b'\\"'))
            and len(data) > self._shortest
        ):
            self.events += 1
        elif data.endswith(b"\n\n"):
            had = self.events
            self._look(data)
            if self.events == had + 1 and had >= self._learn_at:
                self._learn(data)
        else:
            self._keep(data)

    def close(self) -> None:
        """The stream has ended: a last event that lacks its blank line is looked at too."""
        if self._carry:
            self._look(bytes(self._carry))
            self._carry.clear()

    def _learn(self, event: bytes) -> None:
        """Remember the form of `event`, if it is one ordinary event that carried words and nothing else."""
        useless = self.events == self._learn_at + 1  # what was learnt last has recognised nothing
        self._learn_step = min(self._learn_step * 2, 64) if useless else 1
        self._learn_at = self.events + self._learn_step - 1
        if event.find(b"\n\n") != len(event) - 2 or _NOT_ORDINARY.search(event) is not None:
            return
        if (words := _WORDS.search(event)) is not None:
            self._before, self._after = event[: words.start(1)], event[words.end(1) :]
            self._quotes = self._before.count(b'"') + self._after.count(b'"')
            self._shortest = len(self._before) + len(self._after)

    def _keep(self, data: bytes) -> None:
        """Look at the whole events in what was kept and `data`; keep the rest."""
        carry = self._carry
        fresh = max(len(carry) - 3, 0)
        carry += data
        plain, returned = carry.rfind(b"\n\n", fresh), carry.rfind(b"\r\n\r\n", fresh)
        if plain >= 0 or returned >= 0:
            end = plain + 2 if plain > returned else returned + 4
            self._look(bytes(carry[:end]))
            del carry[:end]
        if carry.startswith((b"data: [DONE]", b"data:[DONE]")):
            self.done = True
        elif len(carry) > _CARRY_MOST:
            carry.clear()

    def _look(self, events: bytes) -> None:
        """Read one or more whole events."""
        if self._dialect == "openai":
            self._look_openai(events)
        elif self._dialect == "anthropic":
            self._look_anthropic(events)
        else:
            self._look_responses(events)
        if b'"error":' in events and _count(events, b'"error":', b"{"):
            self.failed = True

    def _look_openai(self, events: bytes) -> None:
        count = events.count
        if worded := count(b'"delta":{"'):  # compact JSON: vLLM, SGLang, llama.cpp
            worded -= count(b'"content":""}') + count(b'"content":null}')
        elif worded := count(b'"text":"'):
            worded -= count(b'"text":""')
        elif worded := count(b'"delta": {"'):  # Python's default spacing
            worded -= count(b'"content": ""}') + count(b'"content": null}')
        elif worded := count(b'"text": "'):
            worded -= count(b'"text": ""')
        if worded > 0:
            self.events += worded
        if reason := _last_word(events, b'"finish_reason":'):
            self.finish_reason = reason
        if b'"usage":{' in events or b'"usage": {' in events:
            self._read(events, b'"usage":')
        if self._figures < 2 and b'"timings":{' in events:
            self._read(events, b'"timings":')
        if b"[DONE]" in events and _starts_line(events, b"data: [DONE]", b"data:[DONE]"):
            self.done = True

    def _look_anthropic(self, events: bytes) -> None:
        worded = _count(events, b'"type":', b'"content_block_delta"')
        if worded:
            self.events += max(worded - _count(events, b'"type":', b'"signature_delta"'), 0)
        if b'"usage":' in events:
            if b"message_start" in events:
                self._read(events, b'"usage":', first=True)
            self._read(events, b'"usage":')
            if reason := _last_word(events, b'"stop_reason":'):
                self.finish_reason = reason
        if b"message_stop" in events and _count(events, b'"type":', b'"message_stop"'):
            self.done = True

    def _look_responses(self, events: bytes) -> None:
        self.events += _count(events, b'"delta":', b'"')
        if b'"response":' not in events:
            return
        for state in ("completed", "incomplete", "failed"):
            if _count(events, b'"type":', f'"response.{state}"'.encode()):
                self.done, self.finish_reason = True, state
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
        if (told := decoded(line)) is None:
            return False
        if told.message is not None and told.message.usage is not None:
            self._take_prompt(told.message.usage)
            return True
        usage = told.usage or (told.response.usage if told.response is not None else None)
        if usage is not None:
            if self._dialect == "anthropic":
                return self._take_prompt(usage) | self._take_output(usage)
            return self._take_all(of_usage(usage), 2)
        return told.timings is not None and self._take_all(of_timings(told.timings), 1)

    def _take_all(self, figures: tuple[int, int, int] | None, whose: int) -> bool:
        if figures is None or whose < self._figures:
            return False
        self.prompt_tokens, self.cached_tokens, self._output = figures
        self._figures = whose
        return True

    def _take_prompt(self, usage: Usage) -> bool:
        """Anthropic: message_start tells the prompt; message_delta may tell it again, with less detail."""
        if usage.input_tokens is None or (self.prompt_tokens and usage.cache_read_input_tokens is None):
            return False
        self.prompt_tokens, self.cached_tokens, _ = of_usage(usage) or (0, 0, 0)
        return True

    def _take_output(self, usage: Usage) -> bool:
        """Anthropic: message_delta tells the answer's length so far."""
        if usage.output_tokens is None:
            return False
        self._output, self._figures = usage.output_tokens, 2
        return True


# The words of an ordinary event, in any dialect.
_WORDS = re.compile(
    rb'"(?:content|reasoning_content|reasoning|text|delta|thinking|partial_json|arguments)":\s?"([^"\\]+)"'
)
_NOT_ORDINARY = re.compile(rb'"(?:usage|timings|response|error)":\s?\{|"finish_reason":\s?"|\[DONE\]')


def _last_word(events: bytes, name: bytes) -> str:
    """The last string value of the key `name`; "" if it is null everywhere or absent."""
    place = max(events.rfind(name + b'"'), events.rfind(name + b' "'))
    if place < 0:
        return ""
    start = events.find(b'"', place + len(name)) + 1
    return events[start : events.find(b'"', start)].decode("ascii", "replace")[:64]


def _count(events: bytes, name: bytes, value: bytes) -> int:
    """How often `value` follows the key `name`, in compact or in spaced JSON."""
    return events.count(name + value) + events.count(name + b" " + value)


def _starts_line(events: bytes, *words: bytes) -> bool:
    return events.startswith(words) or any(b"\n" + word in events for word in words)
