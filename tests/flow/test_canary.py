"""No content anywhere: marked words are sent in every place that content can be in, calls go wrong in every way, the
worker is killed and aborted, and then everything that was written is searched."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gemstead.gateway.settings import Bounds, Deadlines
from gemstead.ledger.acts import checkpoint, new_act, remember
from gemstead.ledger.keys import Grant
from gemstead.ledger.proof import export
from gemstead.ledger.ship.forms import FORMS
from gemstead.ledger.ship.spool import Spool
from gemstead.ledger.signing import Signer
from gemstead.testing import FakeEngine, Script, make_key
from gemstead.testing.peer import post
from gemstead.testing.stack import start_stack

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
