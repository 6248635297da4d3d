"""What a meter reads from real streams, however they are cut, and what cannot fool it."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.openai.meter import Meter, usage_of

STREAMS = Path(__file__).parents[1] / "data" / "streams"

# name: dialect, events with words, prompt, cached, output, source, finish reason
EXPECTED = {
    "llamacpp-chat-usage.sse": ("openai", 21, 26, 0, 28, "engine", "stop"),
    "llamacpp-chat.sse": ("openai", 21, 26, 21, 28, "engine", "stop"),
    "llamacpp-chat-length.sse": ("openai", 0, 26, 21, 3, "engine", "length"),
    "llamacpp-chat-tool.sse": ("openai", 8, 99, 0, 20, "engine", "tool_calls"),
    "llamacpp-completions.sse": ("openai", 1, 6, 0, 2, "engine", "stop"),
    "llamacpp-responses.sse": ("responses", 21, 26, 21, 28, "engine", "completed"),
    "llamacpp-messages.sse": ("anthropic", 15, 26, 21, 20, "engine", "max_tokens"),
    "vllm-chat-usage.sse": ("openai", 6, 17, 16, 7, "engine", "stop"),
    "vllm-chat-continuous-usage.sse": ("openai", 6, 17, 0, 6, "engine", "length"),
    "spaced-crlf-chat.sse": ("openai", 8, 0, 0, 8, "counted", "stop"),
    "anthropic-messages.sse": ("anthropic", 6, 40, 12, 15, "engine", "end_turn"),
    "openai-responses-incomplete.sse": ("responses", 6, 36, 4, 87, "engine", "incomplete"),
}


def told(meter: Meter) -> tuple[object, ...]:
    return (
        meter.events,
        meter.prompt_tokens,
        meter.cached_tokens,
        meter.output_tokens,
        meter.source,
        meter.finish_reason,
        meter.done,
    )


def metered(dialect: str, pieces: list[bytes]) -> Meter:
    meter = Meter(dialect)
    for piece in pieces:
        meter.feed(piece)
    return meter


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    places = sorted(places)
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def events_of(stream: bytes) -> list[bytes]:
    end = b"\r\n\r\n" if b"\r\n" in stream else b"\n\n"
    return [event + end for event in stream.split(end) if event.strip()]


def test_every_recorded_stream_is_expected():
    assert set(EXPECTED) == {path.name for path in STREAMS.glob("*.sse")}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_stream_is_read_to_its_end(name):
    dialect, *expected = EXPECTED[name]
    assert told(metered(dialect, [(STREAMS / name).read_bytes()])) == (*expected, True)


@pytest.mark.parametrize("name", EXPECTED)
def test_whole_events_byte_by_byte_and_all_at_once_are_the_same(name):
    dialect, *expected = EXPECTED[name]
    stream = (STREAMS / name).read_bytes()
    assert told(metered(dialect, events_of(stream))) == (*expected, True)
    assert told(metered(dialect, [stream[i : i + 1] for i in range(len(stream))])) == (*expected, True)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_how_a_stream_is_cut_never_matters(name, data):
    dialect, *expected = EXPECTED[name]
    stream = (STREAMS / name).read_bytes()
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=40))
    assert told(metered(dialect, cut(stream, places))) == (*expected, True)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_a_stream_that_breaks_off_is_read_the_same_however_it_was_cut(name, data):
    dialect = EXPECTED[name][0]
    stream = (STREAMS / name).read_bytes()
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    assert told(metered(dialect, cut(stream, places))) == told(metered(dialect, [stream]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=20), st.data())
def test_whatever_the_model_says_is_one_event_per_piece(words, data):
    chunk = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]}
    events = []
    for word in words:
        chunk["choices"][0]["delta"]["content"] = word
        events.append(b"data: %s\n\n" % json.dumps(chunk, separators=(",", ":")).encode())
    stream = b"".join(events)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    for pieces in (events, [stream], cut(stream, places)):
        meter = metered("openai", pieces)
        assert (meter.output_tokens, meter.source, meter.done) == (len(words), "counted", False)


@pytest.mark.parametrize(
    ("dialect", "form"),
    [
        (
            "openai",  # SGLang
            b'data: {"choices":[{"delta":{"role":null,"content":"%s","tool_calls":null},"finish_reason":null}]'
            b',"usage":null}',
        ),
        ("openai", b'data: {"choices":[{"delta":{"role":"assistant","content":"%s"},"finish_reason":null}]}'),
        ("openai", b'data: {"choices":[{"index":0,"text":"%s","finish_reason":null}]}'),
        ("openai", b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}, "finish_reason": null}]}'),
        (
            "responses",
            b'data: {"type":"response.output_text.delta","sequence_number":1,"delta":"%s","logprobs":[]}',
        ),
        (
            "anthropic",
            b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":'
            b'{"type":"text_delta","text":"%s"}}',
        ),
    ],
)
@settings(deadline=None)
@given(
    words=st.lists(st.sampled_from(["a", ' "b"', "\\", '\\"', "\n\n", '{"usage":{', "[DONE]", "é", ","])),
    data=st.data(),
)
def test_every_engines_form_is_counted_whether_learnt_or_looked_at(dialect, form, words, data):
    events = [form % json.dumps(word)[1:-1].encode() + b"\n\n" for word in words]
    stream = b"".join(events)
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    for pieces in (events, [stream], cut(stream, places)):
        meter = metered(dialect, pieces)
        assert (meter.events, meter.done, meter.failed, meter.prompt_tokens) == (len(words), False, False, 0)


def test_a_last_event_without_its_blank_line_is_read_when_the_stream_closes():
    stream = (STREAMS / "vllm-chat-usage.sse").read_bytes()
    stream = stream[: stream.rindex(b"data: [DONE]") - 2]
    meter = metered("openai", [stream])
    assert meter.source == "counted"
    meter.close()
    assert (meter.source, meter.output_tokens) == ("engine", 7)


def test_a_client_that_leaves_early_has_the_figures_so_far():
    events = events_of((STREAMS / "vllm-chat-continuous-usage.sse").read_bytes())
    meter = metered("openai", events[:4])
    assert (meter.prompt_tokens, meter.output_tokens, meter.source) == (17, 3, "engine")
    events = events_of((STREAMS / "anthropic-messages.sse").read_bytes())
    meter = metered("anthropic", events[:6])
    assert (meter.prompt_tokens, meter.output_tokens, meter.source) == (40, 3, "counted")


@pytest.mark.parametrize(
    ("dialect", "event"),
    [
        ("openai", b'data: {"error": {"message": "EngineDeadError", "code": 500}}\n\n'),
        (
            "anthropic",
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n',
        ),
        ("responses", b'data: {"type":"response.failed","response":{"error":{"code":"server_error"}}}\n\n'),
    ],
)
def test_an_engine_that_fails_in_its_own_words_is_noticed(dialect, event):
    name = {
        "openai": "vllm-chat-usage",
        "anthropic": "anthropic-messages",
        "responses": "llamacpp-responses",
    }[dialect]
    stream = (STREAMS / f"{name}.sse").read_bytes()
    assert not metered(dialect, [stream]).failed
    assert metered(dialect, [stream, event]).failed


def test_a_meter_is_freed_at_once():
    class Watched(Meter):
        pass

    meter = Watched("openai")
    meter.feed(b"data: x\n\n")
    seen = weakref.ref(meter)
    del meter
    assert seen() is None


@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
@given(junk=st.lists(st.binary(max_size=60), max_size=10))
def test_no_bytes_break_a_meter(dialect, junk):
    marks = [b"data: ", b"\n\n", b'{"usage":{', b'"delta":{"content":"x"', b'"response":', b"\r\n\r\n"]
    meter = metered(dialect, [piece + marks[i % len(marks)] for i, piece in enumerate(junk)])
    meter.close()
    assert meter.output_tokens >= 0


def test_an_event_without_end_does_not_fill_memory():
    meter = Meter("openai")
    meter.feed(b"data: ")
    for _ in range(20):
        meter.feed(b"x" * (1 << 20))
    assert len(meter._carry) <= 9 << 20


WHOLE = {
    "llamacpp-chat-whole.json": ("openai", (26, 21, 28)),
    "llamacpp-completions-whole.json": ("openai", (6, 1, 2)),
    "llamacpp-responses-whole.json": ("responses", (26, 21, 28)),
    "llamacpp-messages-whole.json": ("anthropic", (26, 21, 20)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_usage_of_a_whole_answer(name):
    dialect, expected = WHOLE[name]
    body = (STREAMS / name).read_bytes()
    assert usage_of(body, dialect) == expected
    padded = b'{"words":"%s",' % (b'\\"usage\\":{\\"prompt_tokens\\":9} ' * 400) + body[1:]
    assert usage_of(padded, dialect) == expected


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"usage":null}', b'{"usage":7}', b"<html>", b"\xff" * 9000]
)
def test_an_answer_without_usage_has_none(body):
    assert usage_of(body, "openai") is None
