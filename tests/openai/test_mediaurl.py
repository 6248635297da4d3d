"""What may be fetched for callers: the tricky addresses one by one, and a request of which nothing else changes."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.openai.media import check
from gemstead.openai.mediaurl import allowed, content_type, inlined, read, unfit, wanted
from gemstead.refused import Refused

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)

LISTED = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.8 192.0.0.192 192.0.2.1 192.88.99.1
192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1
255.255.255.255 168.63.129.16
:: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:169.254.169.254 ::7f00:1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1:: 2001:db8::1 2001:10::1 2002:7f00:1:: 2002:a9fe:a9fe::
2002:808:808:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1
2130706433 0x7f.1 127.1 0177.0.0.1 localhost example.org 1.2.3 1.2.3.4.5
"""
PUBLIC = "8.8.8.8 1.1.1.1 93.184.216.34 172.32.0.1 100.63.255.255 100.128.0.1 2606:4700::1 2a00:1450::1"


@pytest.mark.parametrize("address", [*LISTED.split(), "", "2001:db8::g"])
def test_no_connection_is_made_to_what_is_not_public(address):
    assert unfit(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_what_is_public_may_be_asked(address):
    assert unfit(address) == ""


def test_a_network_of_the_file_may_be_asked_and_no_more():
    assert unfit("10.20.3.4", ["10.20.0.0/16"]) == ""
    assert unfit("10.21.3.4", ["10.20.0.0/16"]) and unfit("::ffff:10.20.3.4", ["10.20.0.0/16"])
    assert unfit("fd12::1", ["fd12::/64"]) == ""


@pytest.mark.parametrize(
    "text",
    [
        "http://img.example/a.png",
        "ftp://img.example/a",
        "file:///etc/passwd",
        "//img.example/a",
        "https:img.example/a",
        "https:///img.example/a",
        "https://user@img.example/a",
        "https://img.example@evil.example/a",
        "https://img.example\\@evil.example/a",
        "https://img.example:443:80/a",
        "https://img.example:0/a",
        "https://img.example:99999/a",
        "https://img.example:8443/a",
        "https://img..example/a",
        "https://img.example./a",
        "https://evil.example/a",
        "https://img.example.evil.example/a",
        "https://evilimg.example/a",
        "https://img.example /a",
        "https://img.example/a b",
        "https://img.example/a\r\nhost: x",
        "https://img.example/a\x00",
        "https://img.example/ä",
        "https://ımg.example/a",
        "https://img\u3002example/a",
        " https://img.example/a",
        "https://img.example/a ",
        "https://[::1]/a",
        "https://127.0.0.1/a",
        "https://2130706433/a",
        "https://0x7f000001/a",
        "https://cdn.example/a",
        "https://img.example/" + "a" * 5000,
    ],
)
def test_an_address_is_written_as_allowed_or_not_asked(text):
    with pytest.raises(Refused) as refused:
        read(text, ["img.example", "*.cdn.example"])
    assert refused.value.code == "media_address"
    assert "evil" not in refused.value.message


def test_an_address_is_read_once_and_as_it_is():
    one = read("HTTPS://Img.Example/a%20b.png?x=1&y=[2]#part", ["IMG.example"])
    assert (one.tls, one.host, one.port, one.target) == (True, "img.example", 443, "/a%20b.png?x=1&y=[2]")
    assert one.authority == "img.example"
    assert read("https://a.b.cdn.example?x", ["*.cdn.example"]).target == "/?x"
    assert read("https://img.example:8443/", ["img.example:8443"]).authority == "img.example:8443"
    assert read("https://[2606:4700::1]/", ["[2606:4700::1]"]).authority == "[2606:4700::1]"
    assert read("http://img.example", ["*"], plain=True).port == 80


@pytest.mark.parametrize(
    ("host", "port", "hosts", "may"),
    [
        ("a.x", 443, ("*.x",), True),
        ("x", 443, ("*.x",), False),
        ("ax", 443, ("*.x",), False),
        ("a.x", 8443, ("*.x",), False),
        ("a.x", 8443, ("*.x:8443",), True),
        ("a.x", 443, ("*",), True),
        ("a.x", 22, ("*",), False),
        ("a.x", 443, (), False),
    ],
)
def test_a_list_of_hosts_means_what_it_says(host, port, hosts, may):
    assert allowed(host, port, True, hosts) is may


def test_only_the_addresses_of_a_request_change():
    body = rb"""{ "model":"m","temperature":1.50, "big":123456789012345678901234567890,"messages" : [
 {"role":"user","content":[{"type":"text","text":"say \"image_url\" \\ \u00e9 http://x/"},
  {"type":"image_url","image_url":{"url":"https:\/\/a\u002eb/1","detail":"low"}},
  {"type":"image_url","image_url":"https://a.b/2"},
  {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},
  {"type":"image","source":{"type":"url","url":"https://a.b/3"}}]}], "n": 1e400}"""
    found = wanted(body, sources=True)
    assert [(one.kind, one.address) for one in found] == [
        ("image", "https://a.b/1"),
        ("image", "https://a.b/2"),
        ("image", "https://a.b/3"),
    ]
    assert found[2].where == "messages[0].content[4].source.url"
    new = inlined(body, [(one, "image/png", PNG) for one in found])
    content = base64.b64encode(PNG)
    url = b'"data:image/png;base64,' + content + b'"'
    expected = body.replace(rb'"https:\/\/a\u002eb/1"', url).replace(b'"https://a.b/2"', url)
    expected = expected.replace(
        b'{"type":"url","url":"https://a.b/3"}',
        b'{"type":"base64","media_type":"image/png","data":"' + content + b'"}',
    )
    assert new == expected
    check(new, sources=True)


ADDRESS = st.sampled_from(["https://a.b/x", "data:image/png;base64,AAAA", "", "http://[::1]/", "/etc/passwd"])
NAME = st.sampled_from(
    [
        "messages",
        "content",
        "image_url",
        "video_url",
        "file_url",
        "input_audio",
        "source",
        "url",
        "data",
        "type",
        "x",
    ]
)
VALUE = st.recursive(
    ADDRESS | st.sampled_from(['"', "\\", "url", "é"]) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.tuples(NAME, VALUE), max_size=4), st.booleans(), st.booleans())
def test_nothing_that_an_engine_would_fetch_is_left(fields, sources, ascii_only):
    """Also with repeated fields. What is left after fetching passes the check of those who fetch nothing."""
    body = (
        "{" + ",".join(f"{json.dumps(n)}:{json.dumps(v, ensure_ascii=ascii_only)}" for n, v in fields) + "}"
    ).encode()
    try:
        found = wanted(body, sources)
    except Refused:
        return
    new = inlined(body, [(one, "image/png", PNG) for one in found])
    check(new, sources)
    json.loads(new)
    if not found:
        assert new == body


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_file", "file_url": "https://a.b/x"},
        {"type": "input_audio", "input_audio": {"data": "https://a.b/x"}},
        {"type": "image_url", "image_url": {"file_id": "x.y"}},
        {"type": "image", "source": {"type": "file", "file_id": "x"}},
        {"type": "image", "source": {"type": "url", "url": "https://a.b/x", "data": "https://a.b/y"}},
        {"type": "image", "source": {"url": "https://a.b/x"}},
    ],
)
def test_what_is_of_a_kind_that_is_not_fetched_is_refused(part):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}]}).encode()
    with pytest.raises(Refused) as refused:
        wanted(body, sources=True)
    assert refused.value.param and not re.search(r"a\.b", refused.value.message)


def test_bytes_say_what_they_are():
    assert content_type(PNG, "image") == "image/png" and content_type(PNG, "video") == ""
    assert content_type(b"RIFF\0\0\0\0WEBPVP8 ", "image") == "image/webp"
    assert content_type(b"RIFF\0\0\0\0WAVEfmt ", "audio") == "audio/wav"
    assert content_type(b"\0\0\0\x18ftypisom", "video") == "video/mp4"
    assert content_type(b"<html>", "image") == content_type(b"", "image") == ""
    assert content_type(b'<svg xmlns="http://www.w3.org/2000/svg">', "image") == ""
    assert content_type(b'{"AccessKeyId": "x"}', "image") == ""
