"""No content anywhere: marked words are sent in every place that content can be in, calls go wrong in every way, the
worker is killed and aborted, and then everything that was written is searched."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import pytest
import redis.asyncio as redis

from gemstead.gateway.settings import Bounds, Deadlines, Fetch, Sharing
from gemstead.ledger.acts import checkpoint, new_act, remember
from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.keys import Grant
from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.push import Pusher
from gemstead.ledger.postgres.schema import upgrade
from gemstead.ledger.proof import export
from gemstead.ledger.ship.forms import FORMS
from gemstead.ledger.ship.spool import Spool
from gemstead.ledger.signing import Signer
from gemstead.operate.backup import backup
from gemstead.testing import FakeEngine, Script, make_key
from gemstead.testing.peer import post
from gemstead.testing.stack import start_stack
from gemstead.traffic.budget import Rule, RuleBook

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger" / "counters"))

from servers import postgres_bin, postgres_server, redis_server, until

PLACES = (
    "prompt", "system", "tool", "argument", "toolresult", "image", "imagename",
    "answer", "toolcall", "header", "agent", "query", "path", "metadata",
    "user", "garbage", "engineerror", "bearer", "cookie",
)  # fmt: skip
CANARIES = {place: f"canary-{place}-x7q9" for place in PLACES}


def spellings(canary):
    """As it is, and as something could have turned it into something else."""
    raw = canary.encode()
    return {
        raw,
        base64.b64encode(raw)[:-4],
        raw.hex().encode(),
        canary.upper().encode(),
        raw[::-1],
        raw.replace(b"-", b"%2D"),
    }


def found_in(data):
    return [place for place, canary in CANARIES.items() for form in spellings(canary) if form in data]


def ask(**more):
    c = CANARIES
    image = (
        f"data:image/png;name={c['imagename']};base64,{base64.b64encode(c['image'].encode() * 9).decode()}"
    )
    return {
        "model": "m",
        "user": c["user"],
        "metadata": {"note": c["metadata"]},
        "tools": [{"type": "function", "function": {"name": "look", "description": c["tool"], "parameters": {}}}],
        "messages": [
            {"role": "system", "content": c["system"]},
            {"role": "user", "content": [{"type": "text", "text": c["prompt"]},
                                         {"type": "image_url", "image_url": {"url": image}}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {
                "name": "look", "arguments": json.dumps({"q": c["argument"]})}}]},
            {"role": "tool", "tool_call_id": "1", "content": c["toolresult"]},
        ],
        **more,
    }  # fmt: skip


HEADERS = (
    f"X-Note: {CANARIES['header']}",
    f"User-Agent: {CANARIES['agent']}",
    f"Cookie: session={CANARIES['cookie']}",
)


async def tell(stack, data, *, within_s=5.0):
    async with await stack.peer() as peer:
        await peer.send(data)
        try:
            await asyncio.wait_for(peer.answer(), within_s)
        except Exception:  # whatever came back is not what is tested
            pass


async def everything_goes_wrong(stack, engine, own):
    c = CANARIES
    head = (*HEADERS, own)
    answer = Script(
        pieces=tuple(f"{c['answer']} {n}" for n in range(4)),
        tool_call=("look", json.dumps({"q": c["toolcall"]})),
    )
    engine.script = answer
    for stream in (False, True):
        await tell(stack, post(ask(stream=stream), headers=head))
    await tell(stack, post(ask(), f"/v1/chat/completions?q={c['query']}", headers=head))
    await tell(stack, post(ask(), f"/v1/{c['path']}", headers=head))
    await tell(stack, post(ask(), headers=(*HEADERS, f"Authorization: Bearer {c['bearer']}")))
    await tell(stack, post(b'{"model": "m", "messages": [' + c["garbage"].encode(), headers=head))
    await tell(stack, post({"model": "m", "messages": c["garbage"]}, headers=head))
    await tell(
        stack,
        post(
            {"model": "m", "messages": [{"role": c["garbage"], "content": {c["garbage"]: 1}}]}, headers=head
        ),
    )
    await tell(stack, post(ask(padding="x" * 50_000), headers=head))
    await tell(stack, f"{c['garbage']} / HTTP/1.1\r\n\r\n".encode())
    error = json.dumps({"error": {"message": c["engineerror"]}}).encode()
    for script in (
        Script(status=400, body=error),
        Script(status=500, body=error),
        Script(status=200, body=c["engineerror"].encode()),
        Script(pieces=answer.pieces, die_after=1),
    ):
        engine.script = script
        for stream in (False, True):
            await tell(stack, post(ask(stream=stream), headers=head))
    whole = post(ask(), headers=head)
    await tell(stack, whole[: len(whole) // 2], within_s=1.0)  # a client that leaves in the middle


def left_over(folder):
    """Everything that was written, whatever its name."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file), file.read_bytes()


async def test_no_content_is_written_anywhere(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    key = make_key(folder, Grant(tenant="acme", app="shop", user="eve"))
    own = f"Authorization: Bearer {key.secret}"
    async with (
        FakeEngine() as engine,
        start_stack(
            engine,
            folder=folder,
            keys_required=True,
            keys_path=key.keys_path,
            pepper=key.pepper,
            bounds=Bounds(body_bytes=20_000),
            deadlines=Deadlines(client_header_s=0.3, client_body_s=0.3),
        ) as stack,
    ):
        await everything_goes_wrong(stack, engine, own)
        assert any(CANARIES["prompt"].encode() in seen.body for seen in engine.seen), (
            "content did pass through"
        )
        while len(stack._records()) < 18:
            await asyncio.sleep(0.02)
        metrics = msgspec.json.encode(await stack.figures())
        heard = repr(stack.heard).encode()
        engine.script = Script(pieces=(CANARIES["answer"],) * 50, pace_s=0.05)
        cut = asyncio.create_task(tell(stack, post(ask(stream=True), headers=(own,)), within_s=3.0))
        while engine.running == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        stack.process.send_signal(signal.SIGABRT)  # a crash, with an answer half way
        await stack.process.wait()
        await cut
    audit = folder / "audit.db"
    remember(audit, new_act("key.create", key.key_id))
    signer = Signer(folder / "audit.key")
    checkpoint(audit, signer, 1.0)
    (folder / "export.jsonl").write_bytes(b"".join(export(audit, 0.0, 1e11)))
    spool = Spool(audit)
    shipped = spool.after(0, 10_000)
    spool.close()
    assert len(shipped) > 15
    sent = b"".join(msgspec.json.encode(form(one)) for one in shipped for form in FORMS.values())
    (folder / "shipped.gz").write_bytes(gzip.compress(sent))
    for name, data in [*left_over(folder), ("metrics", metrics), ("troubles", heard), ("shipped", sent)]:
        assert not found_in(data), name
        assert key.secret.encode() not in data, name
    assert {Path(name).name for name, _ in left_over(folder)} >= {"audit.db", "worker.log", "export.jsonl"}


async def a_host_that_knows_nothing(reader, writer):
    """Tells in its answer what it was asked for."""
    asked = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n" + asked)
    writer.close()


def rows_of(url):
    """Every row of every table, as text."""
    with linked(url) as link:
        tables = link.rows("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
        return {table: repr(link.rows(f"SELECT t::text FROM {table} t")).encode() for (table,) in tables}


async def keys_of(url):
    """All that a Redis holds; streams and hashes as they were written."""
    client = redis.Redis.from_url(url)
    found = []
    async for key in client.scan_iter():
        kind = await client.type(key)
        read = {b"stream": client.xrange, b"hash": client.hgetall, b"string": client.get}.get(
            kind, client.dump
        )
        found.append(repr((key, await read(key))).encode())
    await client.aclose()
    return found


async def test_no_content_goes_to_the_store_to_other_gateways_or_into_a_backup(tmp_path):
    """Nor to hosts of media that cannot be fetched, into counters of limits, or into words about any of that."""
    if shutil.which("redis-server") is None or postgres_bin() is None:
        pytest.skip("redis-server or PostgreSQL is not installed")
    folder = tmp_path / "state"
    folder.mkdir()
    key = make_key(folder, Grant(tenant="acme", app="shop", user="eve"))
    head = (*HEADERS, f"Authorization: Bearer {key.secret}")
    server = await asyncio.start_server(a_host_that_knows_nothing, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    fetch = Fetch(hosts=(host,), networks=("127.0.0.0/8",), plain_http=True)
    rules = RuleBook(rules=(Rule(name="r", tokens_per_day=10**9, requests_per_minute=10**6),))
    answer = Script(pieces=tuple(f"{CANARIES['answer']} {n}" for n in range(4)))
    with redis_server() as kept, postgres_server() as store:
        async with (
            FakeEngine(answer) as one,
            FakeEngine(answer) as other,
            start_stack(
                one,
                other,
                folder=folder,
                keys_required=True,
                keys_path=key.keys_path,
                pepper=key.pepper,
                media="fetch",
                fetch=fetch,
                rulebook=rules,
                limit_store=kept.url,
                sharing=Sharing(store=kept.url, secret="s" * 32),
            ) as stack,
        ):
            long = {"role": "user", "content": CANARIES["prompt"] * 500}
            for stream in (False, True):
                await tell(stack, post(ask(stream=stream), headers=head))
                await tell(stack, post(ask(messages=[long], stream=stream), headers=head))
            for address in (f"http://{host}/{CANARIES['path']}?{CANARIES['query']}",
                            f"http://{host}/{'x' * 9000}{CANARIES['path']}",
                            f"https://{CANARIES['path']}.example/{CANARIES['query']}",
                            f"file:///{CANARIES['path']}"):  # fmt: skip
                part = {"type": "image_url", "image_url": {"url": address}}
                await tell(stack, post(ask(messages=[{"role": "user", "content": [part]}]), headers=head))
            assert any(CANARIES["prompt"].encode() in seen.body for seen in (*one.seen, *other.seen))
            await stack.records(8)
            metrics = msgspec.json.encode(await stack.figures())
            await asyncio.sleep(0.6)  # two turns of what gateways tell each other
            told = await keys_of(kept.url)
            heard = repr(stack.heard).encode()
        until_there(store.url)
        pusher = Pusher(folder / "audit.db", "n")
        with linked(store.url) as link:
            while pusher.push(link):
                pass
        pusher.close()
        tables = rows_of(store.url)
    server.close()
    backup(folder, tmp_path / "backup.tar.gz", 1.0)
    with tarfile.open(tmp_path / "backup.tar.gz") as archive:
        packed = [(one.name, archive.extractfile(one).read()) for one in archive if one.isfile()]
    assert len(told) >= 2 and any(b"traffic" in one for one in told), (
        "limits are counted there, and it was told"
    )
    assert tables["gemstead_audit"].count(b"acme") >= 8 and any(
        name.endswith("audit.db") for name, _ in packed
    )
    everywhere = [*left_over(folder), *tables.items(), *packed, *(("Redis", one) for one in told)]
    for name, data in [*everywhere, ("metrics", metrics), ("troubles", heard)]:
        assert not found_in(data), name
        assert key.secret.encode() not in data, name


def until_there(url):
    until(lambda: reachable(url), "PostgreSQL lets nobody in")
    upgrade(url)


def reachable(url):
    try:
        with linked(url) as link:
            return bool(link.value("SELECT 1"))
    except LedgerTrouble:
        return False


def test_the_search_finds_what_it_looks_for(tmp_path):
    """Each place and each spelling, in a file somewhere below: the check above can fail."""
    for place, canary in CANARIES.items():
        for form in spellings(canary):
            (tmp_path / "deep").mkdir(exist_ok=True)
            (tmp_path / "deep" / "file").write_bytes(b"\0..." + form + b"...")
            assert [place in found_in(data) for _, data in left_over(tmp_path)] == [True]


CRASH = """
import faulthandler, os, resource, sys
from pathlib import Path
from gemstead.ledger.audit import AuditRecord, PromptHashers, HashKey
from gemstead.ledger.writer import Writer
faulthandler.enable()
prompt = sys.stdin.buffer.read()
writer = Writer(Path(sys.argv[1]), flush_s=0.001)
hashers = PromptHashers((HashKey(id="1", secret="11" * 32),))
for number in range(500):
    writer.put(AuditRecord(call_id=f"c{number}", began=1.0, prompt_hash=hashers.hash(prompt, "acme")))
import time
while writer.written < 500: time.sleep(0.001)
os.abort()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at how Linux ends a process")
def test_a_crash_of_the_writing_process_tells_no_prompt(tmp_path):
    prompt = CANARIES["prompt"].encode()
    command = [sys.executable, "-c", CRASH, str(tmp_path / "audit.db")]
    done = subprocess.run(command, input=prompt, capture_output=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == -signal.SIGABRT
    assert not found_in(done.stdout + done.stderr)
    names = [name for name, data in left_over(tmp_path) if found_in(data) and "core" not in Path(name).name]
    assert names == [] and (tmp_path / "audit.db").exists()
