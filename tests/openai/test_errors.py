"""Error shapes, judged by the official clients over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import anthropic
import pytest

import openai
from gemstead.openai import errors
from gemstead.refused import Reason, Refused

DATA = Path(__file__).parents[1] / "data" / "streams"
NO = Refused(Reason.UNKNOWN_MODEL, "There is no model 'x'.", param="model")


@contextmanager
def server(status: int, content: str, body: bytes) -> Iterator[str]:
    """A server that gives every call the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", content)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def openai_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0)


def anthropic_client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
def test_every_reason_has_a_shape_in_every_dialect(reason, dialect):
    told = json.loads(errors.body(Refused(reason, "No.", param="a.b"), dialect, "req-1"))
    assert told["request_id"] == "req-1"
    assert "No." in told["error"]["message"]
    assert told["error"]["type"]
    if dialect != "anthropic":
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["error"]["code"]
    assert errors.from_engine(400, json.dumps(told).encode(), dialect, "req-1") is None
    assert errors.STATUS_LINES[errors.STATUS[reason]].startswith(
        b"HTTP/1.1 4" if errors.STATUS[reason] < 500 else b"HTTP/1.1 5"
    )


def test_an_unknown_status_has_a_line_too():
    assert errors.STATUS_LINES[520] == b"HTTP/1.1 520 \r\n"


@pytest.mark.parametrize(
    ("reason", "raised"),
    [
        (Reason.BAD_REQUEST, openai.BadRequestError),
        (Reason.UNAUTHENTICATED, openai.AuthenticationError),
        (Reason.FORBIDDEN, openai.PermissionDeniedError),
        (Reason.UNKNOWN_MODEL, openai.NotFoundError),
        (Reason.RATE_LIMITED, openai.RateLimitError),
        (Reason.UPSTREAM_FAILED, openai.InternalServerError),
    ],
)
def test_openais_client_raises_the_right_error(reason, raised):
    body = errors.body(Refused(reason, "No.", param="model"), "openai", "req-1")
    with server(errors.STATUS[reason], "application/json", body) as url, openai_client(url) as client:
        with pytest.raises(raised) as caught:
            client.chat.completions.create(model="m", messages=[])
        assert caught.value.param == "model"
        assert caught.value.type and caught.value.code


@pytest.mark.parametrize(
    ("reason", "raised", "kind"),
    [
        (Reason.UNAUTHENTICATED, anthropic.AuthenticationError, "authentication_error"),
        (Reason.UNKNOWN_MODEL, anthropic.NotFoundError, "not_found_error"),
        (Reason.RATE_LIMITED, anthropic.RateLimitError, "rate_limit_error"),
        (Reason.CONTEXT_EXCEEDED, anthropic.BadRequestError, "invalid_request_error"),
        (Reason.NO_ENDPOINT, anthropic.InternalServerError, "overloaded_error"),
    ],
)
def test_anthropics_client_raises_the_right_error(reason, raised, kind):
    body = errors.body(Refused(reason, "No."), "anthropic", "req-1")
    with server(errors.STATUS[reason], "application/json", body) as url, anthropic_client(url) as client:
        with pytest.raises(raised) as caught:
            client.messages.create(model="m", messages=[], max_tokens=1)
        assert caught.value.type == kind


def begun(name: str, events: int) -> bytes:
    return b"".join(event + b"\n\n" for event in (DATA / name).read_bytes().split(b"\n\n")[:events])


def test_openais_chat_client_raises_in_mid_stream():
    stream = begun("vllm-chat-usage.sse", 3) + errors.event(NO, "openai", "req-1")
    assert stream.endswith(errors.DONE)
    with server(200, "text/event-stream", stream) as url, openai_client(url) as client:
        seen = []
        with pytest.raises(openai.APIError, match="no model 'x'") as caught:
            for chunk in client.chat.completions.create(model="m", messages=[], stream=True):
                seen.append(chunk)
        assert len(seen) == 3
        assert caught.value.code == "model_not_found"


def test_openais_responses_client_raises_in_mid_stream():
    stream = begun("openai-responses-incomplete.sse", 4) + errors.event(NO, "responses", "req-1")
    with server(200, "text/event-stream", stream) as url, openai_client(url) as client:
        seen = []
        with pytest.raises(openai.APIError, match="no model 'x'"):
            for event in client.responses.create(model="m", input="hi", stream=True):
                seen.append(event)
        assert len(seen) == 4


def test_anthropics_client_raises_in_mid_stream():
    stream = begun("anthropic-messages.sse", 5) + errors.event(NO, "anthropic", "req-1")
    with server(200, "text/event-stream", stream) as url, anthropic_client(url) as client:
        seen = []
        with pytest.raises(anthropic.APIStatusError, match="no model 'x'"):
            for event in client.messages.create(model="m", messages=[], max_tokens=1, stream=True):
                seen.append(event)
        assert len(seen) == 4  # the client hides the ping


OVERFLOWS = {
    "llama.cpp": (DATA / "llamacpp-error-overflow.json").read_bytes(),
    "vLLM": b'{"error":{"message":"This model\'s maximum context length is 1024 tokens. However, you requested 2000 '
    b'tokens.","type":"BadRequestError","param":null,"code":400}}',
    "vLLM, older": b'{"object":"error","message":"This model\'s maximum context length is 1024 tokens.","type":'
    b'"BadRequestError","param":null,"code":400}',
    "FastAPI": b'{"detail":"Input is longer than the model\'s context length (8192)."}',
}


@pytest.mark.parametrize("engine", OVERFLOWS)
def test_a_context_overflow_has_the_code_that_clients_look_for(engine):
    told = json.loads(errors.from_engine(400, OVERFLOWS[engine], "openai", "req-1") or b"")
    assert told["error"]["code"] == "context_length_exceeded"
    assert told["error"]["type"] == "invalid_request_error"
    assert "context" in told["error"]["message"]
    told = json.loads(errors.from_engine(400, OVERFLOWS[engine], "anthropic", "req-1") or b"")
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")


@pytest.mark.parametrize(
    ("status", "raw", "message"),
    [
        (
            404,
            b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}',
            "File Not Found",
        ),
        (422, b'{"detail":[{"loc":["body","n"],"msg":"too small"}]}', "n: too small"),
        (404, b'{"detail":"Not Found"}', "Not Found"),
        (500, b"Internal Server Error", "Internal Server Error"),
        (502, b"<html><body>Bad gateway</body></html>", "The model's engine answered with status 502."),
        (503, b"", "The model's engine answered with status 503."),
        (500, b"{broken", "The model's engine answered with status 500."),
        (400, b'{"error":"no such template"}', "no such template"),
        (
            500,
            b'{"error":{"message":"\\n-----\\nWhile executing X at line 3 in source:\\n...\\n ^\\nError: no turn",'
            b'"type":"server_error","code":500}}',
            "The model's chat template cannot write these messages: no turn.",
        ),
        (400, b"[1]", "The model's engine answered with status 400."),
        (400, b"\xff\x00", "The model's engine answered with status 400."),
    ],
)
@pytest.mark.parametrize("dialect", ["openai", "responses", "anthropic"])
def test_whatever_an_engine_says_gets_the_clients_shape(status, raw, message, dialect):
    shaped = errors.from_engine(status, raw, dialect, "req-1")
    assert shaped is not None
    told = json.loads(shaped)
    assert message in told["error"]["message"]
    assert told["request_id"] == "req-1"
    assert errors.from_engine(status, shaped, dialect, "req-1") is None
    event = errors.event_from_engine(status, raw, dialect, "req-1")
    assert json.loads(event.split(b"data: ", 1)[1].split(b"\n")[0])["error"]["message"]


@pytest.mark.parametrize(
    ("message", "blames"),
    [
        ("Failed to parse tools: Unsupported tool type", True),
        ("Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] ...", True),
        ("JSON schema error at #: cannot resolve $ref #/nope", True),
        ("\n----\nWhile executing BinaryExpression at line 30\nError: undefined", True),
        ("CUDA error: out of memory", False),
        ("", False),
    ],
)
def test_what_an_engine_blames_the_request_for_is_told_from_its_own_troubles(message, blames):
    assert errors.blames_request(json.dumps({"error": {"message": message, "code": 500}}).encode()) is blames


@pytest.mark.parametrize("raw", [b"", b"[1]", b"{broken", b'{"error": 5}', b'{"error": {"message": 5}}'])
def test_what_cannot_be_read_blames_nobody(raw):
    assert not errors.blames_request(raw)
