"""No engine gets an address to fetch, however it is written; what is not one passes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.openai.depth import too_deep
from gemstead.openai.media import check
from gemstead.openai.requests import parse
from gemstead.refused import Refused

ADDRESSES = (
    "http://169.254.169.254/latest/meta-data/",
    "https://example.org/cat.png",
    "HTTP://127.0.0.1:4368/admin/stop",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://[::ffff:169.254.169.254]/",
    "//example.org/cat.png",
    "ftp://example.org/x",
    "file:///etc/passwd",
    "/etc/passwd",
    " http://127.0.0.1/",
    "gopher://127.0.0.1:6379/_FLUSHALL",
)


def chat(*parts: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": list(parts)}]}).encode()


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_refused_wherever_an_engine_would_look(address):
    bodies = [
        chat({"type": "image_url", "image_url": {"url": address}}),
        chat({"type": "image_url", "image_url": address}),
        chat({"type": "video_url", "video_url": {"url": address}}),
        chat({"type": "audio_url", "audio_url": {"url": address}}),
        chat({"type": "input_audio", "input_audio": {"data": address, "format": "wav"}}),
        chat({"type": "image", "source": {"type": "url", "url": address}}),
        json.dumps({"model": "m", "input": [{"type": "input_file", "file_url": address}]}).encode(),
        json.dumps({"model": "m", "input": [{"type": "input_image", "image_url": address}]}).encode(),
    ]
    for body in bodies:
        if b"input_audio" in body and address == "/etc/passwd":
            continue  # bare base64 may begin so
        with pytest.raises(Refused, match="send the content itself"):
            check(body, sources=True)
        escaped = body.replace(b"image_url", rb"\u0069mage_url").replace(b"source", rb"\u0073ource")
        with pytest.raises(Refused):
            check(escaped, sources=True)


def test_every_occurrence_of_a_repeated_field_counts():
    first = b'{"model":"m","messages":[{"content":[{"image_url":{"url":"http://x/"},"image_url":{"url":"data:,"}}]}]}'
    last = b'{"model":"m","messages":[{"content":[{"image_url":{"url":"data:,","url":"http://x/"}}]}]}'
    both = b'{"model":"m","messages":[{"content":[{"image_url":"http://x/"}]}],"messages":[]}'
    for body in (first, last, both):
        with pytest.raises(Refused) as refused:
            check(body)
        assert refused.value.param


@pytest.mark.parametrize("name", ["image_url", "input_audio"])
@pytest.mark.parametrize("before", [0, 1, 63, 64, 65, 1000])
def test_an_address_is_found_behind_however_much_program_code(name, before):
    with pytest.raises(Refused):
        check(
            chat({"type": "text", "text": "snake_case " * before}, {"type": name, name: {"url": "http://a/"}})
        )


@pytest.mark.parametrize(
    "body",
    [
        chat({"type": "text", "text": "see http://example.org/a.png and image_url"}),
        chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}),
        chat({"type": "input_audio", "input_audio": {"data": "UklGRg+/AA==", "format": "wav"}}),
        chat({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}),
        b'{"model":"m","messages":[],"tools":[{"parameters":{"properties":{"image_url":{"default":"http://x"}}}}]}',
        b'{"model":"m","messages":[{"role":"user","content":"\\u00e9\\u0069"}]}',
    ],
)
def test_what_is_no_address_passes(body):
    check(body, sources=True)


JSON = st.recursive(
    st.none() | st.text(max_size=6, alphabet='ab"\\[]{}\n') | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(JSON, st.integers(0, 6), st.booleans())
def test_depth_is_what_a_parser_would_find(value, most, pretty):
    text = json.dumps(value, indent=2 if pretty else None).encode()
    assert too_deep(text, most) == (depth(value) > most)


def test_a_deep_request_is_refused_and_a_long_one_is_not():
    deep = b'{"model":"m","messages":[' + b"[" * 70 + b"]" * 70 + b"]}"
    with pytest.raises(Refused, match="nested too deeply"):
        parse("/v1/chat/completions", deep)
    wide = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x[[["}] * 500}).encode()
    assert parse("/v1/chat/completions", wide).model == "m"
