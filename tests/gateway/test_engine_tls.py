"""Mutual TLS with engines: both sides show certificates, the right ones only, and new ones without a restart."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from msgspec.structs import replace

from gemstead.gateway.trust import Trust
from gemstead.testing import FakeEngine, Script, words
from gemstead.testing.peer import events, post
from gemstead.testing.stack import POOL, start_stack
from gemstead.traffic.told import EngineTls

ASK = {"model": POOL, "messages": []}


def demanding(authority: trustme.CA, name: str = "engine.test") -> ssl.SSLContext:
    """An engine's side: its own certificate, and none but callers with one of `authority` (vLLM's cert-reqs 2)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def write(authority: trustme.CA, folder: Path, *, name: str = "gateway.test") -> EngineTls:
    """The gateway's files, put in the place of those that were there."""
    own = authority.issue_cert(name)
    chain = b"".join(blob.bytes() for blob in own.cert_chain_pems)
    texts = {"ca.crt": authority.cert_pem.bytes(), "tls.crt": chain, "tls.key": own.private_key_pem.bytes()}
    for file, text in texts.items():
        new = folder / f"{file}.new"
        new.write_bytes(text)
        new.replace(folder / file)
    return EngineTls(**{
        field: str(folder / file)
        for field, file in (("ca", "ca.crt"), ("certificate", "tls.crt"), ("key", "tls.key"))
    })  # fmt: skip


async def asked(stack) -> int:
    async with await stack.peer() as peer:
        await peer.send(post(ASK))
        return (await peer.answer()).status


def facing(engine: FakeEngine, files: EngineTls | None):
    return replace(engine.facts("a", pool=POOL), tls_name="engine.test", tls_files=files)


async def test_the_gateway_shows_its_certificate_and_checks_the_engine_s_name(tmp_path):
    authority = trustme.CA()
    files = write(authority, tmp_path)
    async with (
        FakeEngine(Script(pieces=words(20)), tls=demanding(authority)) as engine,
        start_stack(folder=tmp_path, endpoints=(facing(engine, files),)) as stack,
    ):
        assert await asked(stack) == 200
        async with await stack.peer() as peer:
            await peer.send(post(ASK | {"stream": True}))
            assert events((await peer.answer()).body)[-1] == b"data: [DONE]"
        named_otherwise = replace(facing(engine, files), tls_name="another.test")
        stack.configure(endpoints=(named_otherwise,))
        await stack.figures()
        assert await asked(stack) in (502, 503)
    assert len(engine.seen) == 2


@pytest.mark.parametrize("which", ["none", "another's", "the engine is another's"])
async def test_without_the_right_certificates_nothing_is_said(tmp_path, which):
    authority, stranger = trustme.CA(), trustme.CA()
    files = write(authority, tmp_path)
    (tmp_path / "other").mkdir()
    others = write(stranger, tmp_path / "other")
    files = {
        "none": EngineTls(ca=files.ca),
        "another's": EngineTls(ca=files.ca, certificate=others.certificate, key=others.key),
        "the engine is another's": EngineTls(ca=others.ca, certificate=files.certificate, key=files.key),
    }[which]
    async with (
        FakeEngine(tls=demanding(authority)) as engine,
        start_stack(folder=tmp_path, endpoints=(facing(engine, files),)) as stack,
    ):
        assert await asked(stack) in (502, 503)
    assert not engine.seen


async def test_renewed_certificates_are_used_without_a_restart(tmp_path):
    before, after = trustme.CA(), trustme.CA()
    files = write(before, tmp_path)
    async with (
        FakeEngine(tls=demanding(before)) as engine,
        start_stack(folder=tmp_path, endpoints=(facing(engine, files),)) as stack,
    ):
        assert await asked(stack) == 200
        await engine.stop()
        engine.tls = demanding(after)
        await engine.start()
        assert await asked(stack) in (502, 503)
        write(after, tmp_path)
        stack.configure(endpoints=(facing(engine, files),))  # which closes no line, and forgets no breaker
        await stack.figures()
        statuses = []
        while 200 not in statuses and len(statuses) < 200:
            statuses.append(await asked(stack))
        assert statuses[-1] == 200


def test_files_that_do_not_fit_each_other_leave_what_worked(tmp_path):
    one, two = trustme.CA(), trustme.CA()
    trust = Trust(write(one, tmp_path))
    first = trust.context()
    assert trust.context() is first
    (tmp_path / "other").mkdir()
    other = write(two, tmp_path / "other")
    Path(other.key).replace(tmp_path / "tls.key")  # half of a renewal
    assert trust.context() is first
    Path(other.certificate).replace(tmp_path / "tls.crt")
    assert trust.context() is not first


def test_files_that_never_fitted_are_an_error_that_names_them(tmp_path):
    files = write(trustme.CA(), tmp_path)
    (tmp_path / "tls.key").write_text("no key")
    with pytest.raises(OSError, match=r"tls\.key"):
        Trust(files).context()
