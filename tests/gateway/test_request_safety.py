"""What a request may not do to the network behind the gateway, nor to whoever reads it."""

from __future__ import annotations

import gzip
import json
import ssl

import httpx2
import pytest
import trustme

from gemstead.console.app import console
from gemstead.console.headers import SAID
from gemstead.gateway.settings import Tls
from gemstead.gateway.worker import tls_context
from gemstead.testing import FakeEngine
from gemstead.testing.peer import post
from gemstead.testing.stack import start_stack

PICTURE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data/"}}
ASK = {"model": "m", "messages": [{"role": "user", "content": [PICTURE]}]}


@pytest.mark.parametrize(("media", "status"), [("refuse", 400), ("engine", 200)])
async def test_an_address_reaches_an_engine_only_when_the_file_says_so(tmp_path, media, status):
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, media=media) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(post(ASK))
        answer = await peer.answer()
        assert answer.status == status, answer.body
        assert len(engine.seen) == (status == 200)
        if status == 400:
            error = json.loads(answer.body)["error"]
            assert error["code"] == "media_address" and "data:image" in error["message"]
            assert error["param"] == "messages[0].content[0].image_url.url"


async def test_a_packed_body_is_refused_unread(tmp_path):
    bomb = gzip.compress(b"[" * 30_000_000)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\n"
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path) as stack,
        await stack.peer() as peer,
    ):
        await peer.send(f"{head}content-length: {len(bomb)}\r\n\r\n".encode() + bomb)
        answer = await peer.answer()
        assert answer.status == 400 and b"Content-Encoding" in answer.body
        assert engine.seen == []


def test_only_modern_ciphers_are_offered(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = tls_context(Tls(certificate=str(tmp_path / "both.pem"), key=str(tmp_path / "both.pem")))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    for cipher in context.get_ciphers():
        name = cipher["name"]
        assert cipher["aead"] and (name.startswith(("TLS_", "ECDHE-"))), name


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/admin/status", "/nothing"])
async def test_every_answer_of_the_admin_port_guards_the_browser(path):
    class Head:
        async def metrics(self):
            return "up 1\n"

    transport = httpx2.ASGITransport(console(Head(), "right"))
    async with httpx2.AsyncClient(transport=transport, base_url="http://admin") as http:
        answer = await http.get(path)
    assert {name: answer.headers[name] for name in SAID} == SAID
