"""TLS at the gateway: modern versions only, certificates that change without a restart, client certificates."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
import trustme

from gemstead.gateway.control import Trouble
from gemstead.gateway.settings import Deadlines, Tls
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import Peer, events, post
from gemstead.testing.stack import Stack, start_stack

ASK = {"model": "m", "messages": []}


def write(authority: trustme.CA, folder: Path) -> Tls:
    """A new certificate of `authority`, in the files of `folder`."""
    made = authority.issue_cert("127.0.0.1")
    certificate, key = folder / "tls.crt", folder / "tls.key"
    for path, blobs in ((certificate, made.cert_chain_pems), (key, [made.private_key_pem])):
        new = path.with_suffix(".new")
        new.write_bytes(b"".join(blob.bytes() for blob in blobs))
        new.replace(path)
    return Tls(certificate=str(certificate), key=str(key))


def trusting(authority: trustme.CA, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


async def ask(peer: Peer) -> int:
    await peer.send(post(ASK))
    return (await peer.answer()).status


def serial(peer: Peer) -> str:
    return peer.writer.get_extra_info("peercert")["serialNumber"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
async def test_modern_versions_are_spoken(tmp_path, version):
    authority = trustme.CA()
    async with (
        FakeEngine(Script(pieces=words(200))) as engine,
        start_stack(engine, folder=tmp_path, tls=write(authority, tmp_path)) as stack,
        await stack.peer(tls=trusting(authority, version)) as peer,
    ):
        assert peer.writer.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        for _ in range(3):
            assert await ask(peer) == 200
        await peer.send(post(ASK | {"stream": True}))
        answer = await peer.answer()
        assert events(answer.body)[-1] == b"data: [DONE]"
        assert len(answer.chunks) > 100
        big = post(ASK | {"padding": "x" * 3_000_000})
        await peer.send(big)
        assert (await peer.answer()).status == 200
        [*_, record] = await stack.records(5)
        assert (record.outcome, record.client) == ("served", "127.0.0.1")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_old_versions_are_refused(tmp_path):
    authority = trustme.CA()
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, tls=write(authority, tmp_path)) as stack,
    ):
        old = trusting(authority, ssl.TLSVersion.TLSv1_1)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await stack.peer(tls=old)


@pytest.mark.parametrize("data", [post(ASK), b"\x16\x03\x01\x02\x00\x01", b"\x00" * 500, b""])
async def test_what_is_no_tls_reaches_nobody_and_is_not_waited_for(tmp_path, data):
    authority = trustme.CA()
    deadlines = Deadlines(client_header_s=0.5)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, tls=write(authority, tmp_path), deadlines=deadlines) as stack,
    ):
        async with await stack.peer() as peer:
            await peer.send(data)
            try:
                assert b"HTTP" not in await peer.rest()
            except ConnectionError:
                pass
        assert engine.seen == []
        await stack.sockets_fall_to(stack.sockets_at_start)
        async with await stack.peer(tls=trusting(authority)) as peer:
            assert await ask(peer) == 200
        assert "Traceback" not in stack.log()


async def changed(stack: Stack, context: ssl.SSLContext, old: str) -> str:
    """The serial number of the certificate that new connections get, once it is another than `old`."""
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        async with await stack.peer(tls=context) as peer:
            if (found := serial(peer)) != old:
                assert await ask(peer) == 200
                return found
        await asyncio.sleep(0.05)
    raise AssertionError("the certificate did not change")


async def test_a_new_certificate_is_used_without_a_restart(tmp_path):
    authority = trustme.CA()
    context = trusting(authority)
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, tls=write(authority, tmp_path)) as stack,
        await stack.peer(tls=context) as kept,
    ):
        first = serial(kept)
        write(authority, tmp_path)
        second = await changed(stack, context, first)
        assert await ask(kept) == 200, "a connection that is open stays as it is"
        write(authority, tmp_path)
        await changed(stack, context, second)


@pytest.mark.parametrize("spoilt", ["certificate", "key", "both", "gone"])
async def test_a_half_written_certificate_changes_nothing(tmp_path, spoilt):
    authority = trustme.CA()
    context = trusting(authority)
    tls = write(authority, tmp_path)
    async with FakeEngine() as engine, start_stack(engine, folder=tmp_path, tls=tls) as stack:
        async with await stack.peer(tls=context) as peer:
            first = serial(peer)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        other = write(authority, elsewhere)
        match spoilt:
            case "certificate":  # a new certificate whose key is still on its way
                Path(tls.certificate).write_bytes(Path(other.certificate).read_bytes())
            case "key":
                Path(tls.key).write_bytes(Path(other.key).read_bytes()[:100])
            case "both":
                Path(tls.certificate).write_bytes(b"garbage")
                Path(tls.key).write_bytes(b"garbage")
            case _:
                Path(tls.certificate).unlink()
        until = time.monotonic() + 5.0
        while not any(isinstance(word, Trouble) for word in stack.heard) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert any("the old one stays" in word.message for word in stack.heard if isinstance(word, Trouble))
        for _ in range(3):
            async with await stack.peer(tls=context) as peer:
                assert serial(peer) == first
                assert await ask(peer) == 200
        write(authority, tmp_path)
        await changed(stack, context, first)


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("whose", ["nobody's", "ours", "another's"])
async def test_client_certificates(tmp_path, required, whose):
    authority, clients = trustme.CA(), trustme.CA()
    (tmp_path / "clients.pem").write_bytes(clients.cert_pem.bytes())
    made = write(authority, tmp_path)
    tls = Tls(
        certificate=made.certificate,
        key=made.key,
        client_ca=str(tmp_path / "clients.pem"),
        client_required=required,
    )
    context = trusting(authority)
    if whose != "nobody's":
        (clients if whose == "ours" else trustme.CA()).issue_cert("client.test").configure_cert(context)
    welcome = whose == "ours" or (whose == "nobody's" and not required)
    async with FakeEngine() as engine, start_stack(engine, folder=tmp_path, tls=tls) as stack:
        if welcome:
            async with await stack.peer(tls=context) as peer:
                assert await ask(peer) == 200
        else:
            with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
                async with await stack.peer(tls=context) as peer:
                    await ask(peer)
            assert engine.seen == []


async def test_a_client_that_leaves_over_tls_is_noticed(tmp_path):
    authority = trustme.CA()
    async with (
        FakeEngine(Script(never=True)) as engine,
        start_stack(engine, folder=tmp_path, tls=write(authority, tmp_path)) as stack,
    ):
        peer = await stack.peer(tls=trusting(authority))
        await peer.send(post(ASK))
        await engine.until(lambda: len(engine.seen) == 1)
        peer.close()
        await engine.until(lambda: engine.aborted == 1, 1.0)
        [record] = await stack.records(1)
        assert record.outcome == "client_left"


async def test_a_refusal_is_seen_over_tls_too(tmp_path):
    authority = trustme.CA()
    async with (
        FakeEngine() as engine,
        start_stack(engine, folder=tmp_path, tls=write(authority, tmp_path)) as stack,
        await stack.peer(tls=trusting(authority)) as peer,
    ):
        await peer.send(b"POST / HTTP/1.1\r\nHost : x\r\n\r\n")
        assert (await peer.answer()).status == 400
        await stack.records(1)
        peer.close()
        await stack.sockets_fall_to(stack.sockets_at_start)
