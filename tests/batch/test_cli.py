"""`gemstead batch` as people use it: against a running service, followed, left and found again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from batch_house import house, line, lines

from gemstead.cli.batch import cost, with_model
from gemstead.cli.trouble import Trouble
from gemstead.testing.script import Script


async def gemstead(home, *words: str, code: int = 0, key: str = "acme") -> subprocess.CompletedProcess[str]:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gemstead", "batch", *words],
        cwd=home.folder,
        env={**os.environ, "GEMSTEAD_URL": home.url, "GEMSTEAD_API_KEY": home.keys[key]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


async def test_a_file_is_answered_and_reported(tmp_path):
    async with house(tmp_path) as home:
        (tmp_path / "in.jsonl").write_bytes(lines(25).replace(b'"m"', b'"whatever"'))
        done = await gemstead(home, "in.jsonl", "--model", "m", "-o", "out.jsonl", "--usd-hour", "2")
        assert "completed: 25 of 25 lines answered" in done.stdout
        assert re.search(r"tokens: 50 in \(0 from the cache\), 175 out", done.stdout)
        assert re.search(r"cost: at most 0\.\d+ USD", done.stdout)
        answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [answer["custom_id"] for answer in answers] == [f"c{number}" for number in range(1, 26)]
        listed = await gemstead(home, "list")
        assert re.search(r"batch_\w+ +completed +25 +0 +25 +m ", listed.stdout)
        as_json = json.loads((await gemstead(home, "in.jsonl", "-m", "m", "--json")).stdout)
        assert as_json["cost"]["output_tokens"] == 175
        assert as_json["files"] == {"answers": "in.jsonl.answers.jsonl"}
        shown = await gemstead(home, "show", as_json["id"])
        assert "completed: 25 of 25" in shown.stdout


async def test_a_place_for_answers_that_cannot_be_written_is_said_before_and_loses_nothing(tmp_path):
    async with house(tmp_path) as home:
        (tmp_path / "in.jsonl").write_bytes(lines(3))
        refused = await gemstead(home, "in.jsonl", "-o", "nowhere/out.jsonl", code=2)
        assert "-o nowhere/out.jsonl: there is no folder" in refused.stderr
        assert not home.engine.seen, "nothing was ordered"
        (tmp_path / "taken.jsonl").mkdir()
        late = await gemstead(home, "in.jsonl", "-o", "taken.jsonl", code=1)
        assert "the answers could not be written" in late.stderr
        batch_id = re.search(r"gemstead batch follow (batch_\w+) -o FILE", late.stderr)[1]
        await gemstead(home, "follow", batch_id, "-o", "out.jsonl")
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


async def test_ctrl_c_only_stops_looking_on(tmp_path):
    async with house(tmp_path, Script(delay_s=0.2), concurrency=2) as home:
        (tmp_path / "in.jsonl").write_bytes(lines(40))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gemstead", "batch", "in.jsonl"),
            cwd=tmp_path,
            env={**os.environ, "GEMSTEAD_URL": home.url, "GEMSTEAD_API_KEY": home.keys["acme"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await home.engine.until(lambda: len(home.engine.seen) > 2)
        process.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 130
        batch_id = re.search(r"gemstead batch follow (batch_\w+)", said.decode())[1]
        assert f"gemstead batch cancel {batch_id}" in said.decode()
        before = len(home.engine.seen)
        await home.engine.until(lambda: len(home.engine.seen) > before + 2)
        assert "what is answered is kept" in (await gemstead(home, "cancel", batch_id)).stdout
        followed = await gemstead(home, "follow", batch_id, "-o", "out.jsonl", code=1)
        assert "cancelled" in followed.stdout
        assert (tmp_path / "out.jsonl").exists()


async def test_what_cannot_be_is_said_with_what_to_do(tmp_path):
    async with house(tmp_path) as home:
        (tmp_path / "bad.jsonl").write_text(f"{line(1)}\n{line(1)}\n")
        bad = await gemstead(home, "bad.jsonl", code=1)
        assert "line 2: `custom_id` 'c1' was used by an earlier line" in bad.stdout
        (tmp_path / "text").write_text("hello\n")
        for words, sentence in (
            (("nowhere.jsonl",), "nowhere.jsonl: No such file"),
            (("text",), "is no line of a batch"),
            (("text", "-m", "m"), "text:1: is no line of a batch"),
            (("show",), "gemstead batch show ID"),
            (("bad.jsonl", "--window", "soon"), "24h"),
        ):
            assert sentence in (await gemstead(home, *words, code=2)).stderr
        assert "No batch found" in (await gemstead(home, "show", "batch_no", code=1)).stderr
        assert "no batches yet" in (await gemstead(home, "list", key="other")).stdout


def test_a_cost_is_for_the_time_that_it_ran():
    batch = {
        "in_progress_at": 1000,
        "finalizing_at": 4600,
        "completed_at": 4601,
        "usage": {
            "input_tokens": 5,
            "output_tokens": 2_000_000,
            "input_tokens_details": {"cached_tokens": 1},
        },
    }
    report = cost(batch, 3.0)
    assert (report["seconds"], report["usd_at_most"], report["usd_per_million_output"]) == (3600, 3.0, 1.5)
    assert "usd_at_most" not in cost(batch, None)


def test_a_model_is_put_into_every_line():
    out = with_model(lines(3) + b"\n", "other", "x").splitlines()
    assert [json.loads(raw)["body"]["model"] for raw in out if raw] == ["other"] * 3
    with pytest.raises(Trouble, match="x:1: is no line"):
        with_model(b"[]\n", "m", "x")
