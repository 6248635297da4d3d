"""`gemstead simulate`: tables, JSON, pictures, and what it says to what cannot be."""

from __future__ import annotations

import gzip
import json

import pytest

from gemstead.cli.main import main

QUICK = ["simulate", "--requests", "200", "--replicas", "2", "--policy", "ours,round-robin"]


def test_it_prints_a_table_for_each_policy(capsys):
    assert main([*QUICK, "--load", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "50% of capacity" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["policy", "ours", "round-robin"]


def test_the_same_seed_prints_the_same(capsys):
    texts = []
    for _ in range(2):
        main([*QUICK, "--rps", "4", "--seed", "5", "--json"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    (run,) = json.loads(texts[0])["runs"]
    assert run["replicas"] == 2 and run["requests_per_s"] == 4.0
    assert 0.0 < run["policies"]["ours"]["ttft_p50"] <= run["policies"]["ours"]["ttft_p99"]


def test_a_trace_is_played_with_failures_surges_drafters_and_gateways_and_drawn(tmp_path, capsys):
    trace = tmp_path / "trace.jsonl.gz"
    rows = [
        {
            "timestamp": 500 * place,
            "input_length": 2000,
            "output_length": 40,
            "hash_ids": [0, place % 5, 9, place],
        }
        for place in range(120)
    ]
    with gzip.open(trace, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    picture = tmp_path / "waits.svg"
    options = ["--fail", "1@10s", "--recover", "1@20", "--traffic", "2x@15s", "--gateways", "2", "--mtp"]
    more = [
        "--model",
        "E4B",
        "--scrape-delay",
        "0.2",
        "--plot",
        str(picture),
        "--rps",
        "5",
        "--trace",
        str(trace),
    ]
    assert main([*QUICK, *options, *more]) == 0
    assert "trace.jsonl.gz: 120 requests" in capsys.readouterr().out or picture.exists()
    drawn = picture.read_text()
    assert drawn.startswith("<svg") and "1 die" in drawn and "round-robin" in drawn


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--policy", "best"], "there is ours, random"),
        (["--replicas", "0"], "from 1 to 10000"),
        (["--load", "much"], "such as 0.8 or 80%"),
        (["--fail", "2"], "such as 2@60s"),
        (["--fail", "2@5s"], "at least one has to stay"),
        (["--traffic", "double"], "such as 2x"),
        (["--synthetic", "noise"], "chat, documents, agents, short"),
        (["--trace", "/nowhere"], "cannot be read"),
        (["--trace", "x", "--synthetic", "chat"], "say one of them"),
        (["--gateways", "0"], "from 1 to 64"),
        (["--model", "31C"], "gemma-4-31b"),
        (["--gpu", "L4", "--tp", "1", "--weights", "BF16"], "does not fit"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(options, says, capsys):
    assert main([*QUICK, *options]) in (1, 2)
    told = capsys.readouterr()
    assert says in told.err and "Traceback" not in told.err
    assert not told.out


def test_a_file_that_is_no_trace_is_named(tmp_path, capsys):
    path = tmp_path / "notes.csv"
    path.write_text("a,b\n1,2\n")
    assert main([*QUICK, "--trace", str(path)]) == 1
    assert "notes.csv cannot be read as a trace" in capsys.readouterr().err
