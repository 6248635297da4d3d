"""Files and batches through the real gateway, with the official client."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from batch_house import house, line, lines

import openai
from gemstead.ledger.keys import open_keys
from gemstead.testing.script import Script

SLOW = Script(delay_s=0.15)
ONLY_PURPOSE = b"--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n--x--\r\n"


@pytest.fixture
async def home(tmp_path):
    async with house(tmp_path) as made:
        yield made


async def test_a_batch_goes_from_upload_to_answers(home):
    batch = await home.order(lines(30), metadata={"for": "test"})
    assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"for": "test"})
    done = await home.ended(batch.id)
    assert done.status == "completed"
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (30, 30, 0)
    assert done.usage.output_tokens == 30 * 7
    assert done.error_file_id is None
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at < done.expires_at
    answers = await home.answers(done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"c{number}" for number in range(1, 31)]
    assert all(answer["response"]["status_code"] == 200 and answer["error"] is None for answer in answers)
    assert "Lima" in answers[0]["response"]["body"]["choices"][0]["message"]["content"]
    output = await home.client().files.retrieve(done.output_file_id)
    assert (output.purpose, output.status) == ("batch_output", "processed")


async def test_lines_count_as_calls_of_who_ordered_them(home):
    done = await home.ended((await home.order(lines(5))).id)
    assert done.status == "completed"
    await home.worker.drained()
    with closing(sqlite3.connect(home.folder / "audit.db")) as ledger:
        rows = ledger.execute("SELECT tenant, key_id, route, outcome FROM audit").fetchall()
    chats = [row for row in rows if row[2] == "/v1/chat/completions"]
    assert chats == [("acme", home.key_ids["acme"], "/v1/chat/completions", "served")] * 5
    assert {"/v1/files", "/v1/batches"} <= {row[2] for row in rows}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "Peru"}),
        ("/v1/embeddings", {"input": "Peru"}),
        ("/v1/responses", {"input": "Peru"}),
    ],
)
async def test_every_endpoint_can_be_asked(home, endpoint, body):
    asked = {"custom_id": "x", "method": "POST", "url": endpoint, "body": {"model": "alias", **body}}
    done = await home.ended((await home.order(json.dumps(asked).encode(), endpoint=endpoint)).id)
    assert done.request_counts.completed == 1, await home.answers(done.error_file_id)
    assert done.usage.input_tokens > 0


async def test_a_bad_file_fails_with_its_lines(home):
    content = "\n".join([line(1), "{", line(1), "", line(2, stream=True), line(3, model="mm")]).encode()
    done = await home.ended((await home.order(content)).id)
    assert done.status == "failed"
    assert done.failed_at
    found = [(fault.line, fault.code, fault.param) for fault in done.errors.data]
    assert found == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (5, "invalid_request", "body.stream"),
        (6, "mismatched_model", "body.model"),
    ]
    assert not home.executed()


async def test_a_model_that_the_key_may_not_use_runs_nothing(home):
    done = await home.ended((await home.order(lines(3), "narrow")).id, tenant="narrow")
    assert done.status == "failed"
    assert done.errors.data[0].code == "model_not_allowed"
    unknown = await home.ended((await home.order(line(1, model="nobody").encode())).id)
    assert unknown.errors.data[0].code == "model_not_found"


async def test_nobody_sees_what_is_another_tenants(home):
    batch = await home.order(lines(2))
    done = await home.ended(batch.id)
    other = home.client("other")
    for ask in (
        other.files.retrieve(done.output_file_id),
        other.files.content(done.output_file_id),
        other.files.delete(batch.input_file_id),
        other.batches.retrieve(batch.id),
        other.batches.cancel(batch.id),
        other.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            await ask
    assert (await other.files.list()).data == []
    assert (await other.batches.list()).data == []
    with pytest.raises(openai.AuthenticationError):
        await openai.AsyncOpenAI(base_url=f"{home.url}/v1", api_key="gms_no").files.list()


async def test_nobody_but_the_gateway_is_answered(home):
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{home.port}", trust_env=False) as http:
        for headers in ({}, {"authorization": "Bearer no"}):
            assert (await http.get("/v1/files", headers=headers)).status_code == 403
    async with httpx2.AsyncClient(base_url=home.url, trust_env=False) as http:
        forged = await http.get("/v1/models", headers={"authorization": "Gemstead no e30="})
        assert forged.status_code == 401


async def test_files_are_listed_in_pages_read_and_deleted(home):
    client = home.client()
    made = [(await home.upload(b"%d" % number)).id for number in range(5)]
    page = await client.files.list(limit=2)
    assert [file.id for file in page.data] == made[:2:-1]
    assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id async for file in client.files.list(limit=2, order="asc")] == made
    assert (await client.files.content(made[3])).content == b"3"
    assert (await client.files.delete(made[3])).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(made[3])
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(file=("x", b"x"), purpose="assistants")
    assert refused.value.param == "purpose"


async def test_files_are_for_their_owner_only(home):
    await home.ended((await home.order(lines(2))).id)
    for path in (home.folder / "batch").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


async def test_a_large_upload_streams_and_one_too_large_is_refused(tmp_path):
    async with house(tmp_path, file_bytes=48 << 20) as home:
        content = b"x" * (40 << 20)
        before = resident_mib(home.worker.pid)
        file = await home.upload(content)
        assert file.bytes == len(content)
        assert resident_mib(home.worker.pid) - before < 16, "a body larger than any request's is never held"
        assert (await home.client().files.content(file.id)).content == content
        with pytest.raises(openai.APIStatusError) as refused:
            await home.client(max_retries=0).files.create(file=("x", b"x" * (50 << 20)), purpose="batch")
        assert refused.value.status_code == 413
        assert [path.name for path in (tmp_path / "batch" / "files").iterdir()] == [file.id]


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / (1 << 20)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data; boundary=x", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data", b"--x--\r\n"),
        ("multipart/form-data; boundary=x", ONLY_PURPOSE),
    ],
)  # fmt: skip
async def test_a_broken_form_is_a_400(home, content_type, body):
    headers = {"authorization": f"Bearer {home.keys['acme']}", "content-type": content_type}
    async with httpx2.AsyncClient(base_url=home.url, trust_env=False) as http:
        answer = await http.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert list((home.folder / "batch" / "files").iterdir()) == []


async def test_cancel_keeps_what_is_done(tmp_path):
    async with house(tmp_path, SLOW, concurrency=2) as home:
        batch = await home.order(lines(50))
        await home.until(batch.id, lambda batch: batch.request_counts.completed >= 4)
        with pytest.raises(openai.BadRequestError, match="cancel that first"):
            await home.client().files.delete(batch.input_file_id)
        assert (await home.client().batches.cancel(batch.id)).status in ("cancelling", "cancelled")
        done = await home.ended(batch.id)
        assert done.status == "cancelled"
        kept, left = await home.answers(done.output_file_id), await home.answers(done.error_file_id)
        assert len(kept) == done.request_counts.completed >= 4
        assert {answer["error"]["code"] for answer in left} == {"batch_cancelled"}
        assert {answer["custom_id"] for answer in kept + left} == {f"c{number}" for number in range(1, 51)}
        assert len(kept) + len(left) == 50
        with pytest.raises(openai.BadRequestError):
            await home.client().batches.cancel(batch.id)


async def test_what_is_not_done_in_time_expires_and_the_rest_is_kept(tmp_path):
    async with house(tmp_path, SLOW, concurrency=2) as home:
        batch = await home.order(lines(40))
        await home.until(batch.id, lambda batch: batch.request_counts.completed >= 3)
        await home.kill()
        with closing(sqlite3.connect(tmp_path / "batch" / "batches.db")) as rows:  # a day goes by
            rows.execute("UPDATE batches SET row = json_set(row, '$.expires_at', 1)")
            rows.commit()
        await home.start()
        done = await home.ended(batch.id)
        assert done.status == "expired"
        kept, left = await home.answers(done.output_file_id), await home.answers(done.error_file_id)
        assert len(kept) >= 3
        assert len(kept) + len(left) == 40
        assert {answer["error"]["code"] for answer in left} == {"batch_expired"}


async def test_lines_that_fail_are_tried_again_and_then_answered_as_errors(tmp_path):
    async with house(tmp_path, retries=1) as home:
        bad = Script(status=400)
        home.engine.then(bad)
        done = await home.ended((await home.order(lines(5))).id)
        counts = done.request_counts
        assert (counts.completed, counts.failed) == (4, 1)
        failed = await home.answers(done.error_file_id)
        assert [answer["response"]["status_code"] for answer in failed] == [400]
        home.engine.script = Script(status=500)
        done = await home.ended((await home.order(lines(2))).id)
        assert (done.status, done.request_counts.failed, done.output_file_id) == ("completed", 2, None)
        failed = await home.answers(done.error_file_id)
        assert {answer["response"]["status_code"] for answer in failed} == {500}
        assert set(home.executed().values()) <= {1, 2, 3}


async def test_a_busy_model_costs_no_line_anything(home):
    busy = Script(status=429, headers=(("Retry-After", "0"),))
    home.engine.then(*[busy] * 6)
    done = await home.ended((await home.order(lines(30))).id)
    assert (done.request_counts.completed, done.request_counts.failed) == (30, 0)


async def test_a_revoked_key_runs_nothing_more(home):
    home.engine.script = SLOW
    batch = await home.order(lines(40))
    await home.until(batch.id, lambda batch: batch.request_counts.completed >= 1)
    store = open_keys(home.folder / "keys.db", bytes.fromhex(home.pepper))
    from gemstead.ledger.keys import Grant

    second = store.create(Grant(tenant="acme"), now=1.0)
    store.revoke(home.key_ids["acme"], now=2.0)
    home.keys["acme"] = second.secret
    done = await home.ended(batch.id)
    failed = await home.answers(done.error_file_id)
    assert {answer["response"]["status_code"] for answer in failed} == {401}
    assert done.request_counts.completed < 40


async def test_a_stop_brings_what_is_answered_to_disk(tmp_path):
    async with house(tmp_path, SLOW) as home:
        batch = await home.order(lines(40))
        await home.until(batch.id, lambda batch: batch.request_counts.completed >= 1)
        await home.kill(signal.SIGTERM)
        answered = len(home.engine.seen)
        await home.start()
        done = await home.ended(batch.id)
        assert done.request_counts.completed == 40
        assert set(home.executed().values()) == {1}, "what was on its way at the stop was waited for"
        assert answered <= 40


async def test_a_full_disk_pauses_and_loses_nothing(tmp_path):
    disk = Limited()
    async with house(tmp_path, replace(SLOW, delay_s=0.05), concurrency=4) as home:
        batch = await home.order(lines(60))
        await home.until(batch.id, lambda batch: batch.request_counts.completed >= 8)
        disk.limit(home.process.pid, 4096)
        paused = await home.until(batch.id, lambda batch: batch.gemstead["paused"])
        assert "the disk is full" in paused.gemstead["paused"]
        with pytest.raises(openai.APIStatusError) as refused:
            await home.client(max_retries=0).files.create(file=("x", b"x" * 20_000), purpose="batch")
        assert refused.value.status_code == 507
        disk.limit(home.process.pid, None)
        done = await home.ended(batch.id)
        assert done.request_counts.completed == 60
        assert len(await home.answers(done.output_file_id)) == 60
        assert set(home.executed().values()) == {1}


class Limited:
    """A file-size limit on a running process: writes beyond it fail with EFBIG, as on a full disk."""

    def limit(self, pid: int, size_bytes: int | None) -> None:
        import resource

        most = resource.RLIM_INFINITY
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if size_bytes is None else size_bytes, most))


async def test_a_request_while_the_process_is_away_says_so(home):
    await home.kill()
    async with httpx2.AsyncClient(base_url=home.url, trust_env=False) as http:
        headers = {"authorization": f"Bearer {home.keys['acme']}"}
        small = await http.get("/v1/batches", headers=headers)
        large = await http.post("/v1/files", headers=headers, content=b"x" * (3 << 20))
        assert (small.status_code, large.status_code) == (502, 502)
        assert "try again" in small.json()["error"]["message"]
        served = await http.post(
            "/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
            headers=headers,
        )
        assert served.status_code == 200, "callers of models notice nothing"


async def test_a_client_that_leaves_in_mid_upload_leaves_nothing(home):
    _, writer = await asyncio.open_connection("127.0.0.1", home.worker.port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {home.keys['acme']}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9999999\r\n\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"y" * 100_000
    writer.write(head.encode() + part)
    await writer.drain()
    files = home.folder / "batch" / "files"
    await until(lambda: list(files.iterdir()))
    writer.transport.abort()
    await until(lambda: not list(files.iterdir()))


async def until(holds, within_s: float = 10.0):
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


async def test_old_files_and_batches_are_removed(home):
    done = await home.ended((await home.order(lines(2))).id)
    await home.kill()
    with closing(sqlite3.connect(home.folder / "batch" / "batches.db")) as rows:
        rows.execute("UPDATE files SET expires_at = 1")
        rows.execute("UPDATE batches SET ended_at = 1")
        rows.commit()
    (home.folder / "batch" / "files" / "file-stray.part").write_bytes(b"x")
    (home.folder / "batch" / "results" / "batch_stray.log").write_bytes(b"x")
    await home.start()
    await until(lambda: not list((home.folder / "batch" / "files").iterdir()))
    assert list((home.folder / "batch" / "results").iterdir()) == []
    with pytest.raises(openai.NotFoundError):
        await home.client().batches.retrieve(done.id)
