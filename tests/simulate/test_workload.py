"""Scaling keeps rates, lengths and beginnings; traces are read as they are published."""

from __future__ import annotations

import json
from random import Random

import pytest
from fleets import some_load
from hypothesis import given
from hypothesis import strategies as st

from gemstead.refused import Refused
from gemstead.simulate.synthetic import SHAPES, synthetic
from gemstead.simulate.traces import read
from gemstead.simulate.workload import scaled, surged

LOAD = some_load(200, rate=5.0)


@given(st.floats(0.5, 60.0), st.floats(0.0, 1.0), st.sampled_from([0, 50, 150, 700]))
def test_a_scaled_load_has_exactly_the_rate_and_as_many_as_were_asked_for(rate, shift, most):
    load = scaled(LOAD, rate, most, shift)
    times = [one.at_s for one in load.requests]
    assert times == sorted(times) and times[0] == 0.0
    assert len(times) / times[-1] == pytest.approx(rate)
    copies = max(1, round(rate / LOAD.rate))
    assert len(times) == min(most or 10**9, copies * len(LOAD.requests))


def test_copies_share_nothing_with_each_other():
    load = scaled(LOAD, 3 * LOAD.rate)
    owners = {}
    for one in load.requests:
        for block in one.blocks:
            owners.setdefault(block, set()).add(one.prompt_tokens)
    single = sum(len(set(one.blocks)) for one in LOAD.requests)
    assert sum(len(set(one.blocks)) for one in load.requests) == 3 * single
    assert len(owners) == 3 * len({block for one in LOAD.requests for block in one.blocks})


def test_a_surge_presses_what_comes_after_it_and_nothing_before():
    load = surged(LOAD, 2.0, 10.0)
    before = [one.at_s for one in LOAD.requests if one.at_s <= 10.0]
    assert [one.at_s for one in load.requests[: len(before)]] == before
    assert load.requests[-1].at_s == pytest.approx(10.0 + (LOAD.requests[-1].at_s - 10.0) / 2)


def test_lanes_keep_the_order_of_a_session_and_its_pauses():
    base = synthetic("agents", 400, 5.0, Random(1))
    load = scaled(base, 3.0, 120, 0.3)
    assert load.is_closed
    for one in load.requests:
        if one.after >= 0 and len(one.blocks) > len(load.requests[one.after].blocks):
            assert one.blocks[: len(load.requests[one.after].blocks)] == load.requests[one.after].blocks


@pytest.mark.parametrize("kind", SHAPES)
def test_made_up_loads_are_the_same_for_the_same_dice_and_their_blocks_fit_their_prompts(
    kind,
):
    one, other = (synthetic(kind, 300, 5.0, Random(7)) for _ in range(2))
    assert one == other and len(one.requests) == 300
    assert all(len(request.blocks) <= request.prompt_tokens // 512 for request in one.requests)
    assert scaled(one, 2.0, 100).requests


def test_a_load_that_has_no_rate_is_refused():
    with pytest.raises(ValueError, match="at once"):
        scaled(read(["t_s,input_tokens,output_tokens", "0,5,5", "0,5,5"]), 1.0)


def test_mooncake_lumps_are_spread_and_partial_blocks_dropped():
    rows = [
        {
            "timestamp": 3000 * lump,
            "input_length": 1030,
            "output_length": 5,
            "hash_ids": [0, 1, 2],
        }
        for lump in range(3)
        for _ in range(10)
    ]
    load = read(map(json.dumps, rows))
    assert [one.at_s for one in load.requests[:4]] == pytest.approx([0.0, 0.3, 0.6, 0.9])
    assert load.requests[0].blocks == (0, 1)


def test_agents_follow_each_other_and_their_blocks_are_joined():
    session = {
        "session": "a",
        "block_size": 64,
        "requests": [
            {"t": 0.0, "in": 1200, "out": 10, "think_s": 0.0, "hash_ranges": [[1, 19]]},
            {
                "t": 9.0,
                "in": 1700,
                "out": 10,
                "think_s": 4.0,
                "hash_ranges": [[1, 16], [40, 11]],
            },
        ],
    }
    first, second = read([json.dumps(session)]).requests
    assert (second.after, second.think_s) == (0, 4.0)
    assert first.blocks == second.blocks[:2] and len(second.blocks) == 3


@pytest.mark.parametrize(
    ("lines", "prompt", "tenant"),
    [
        (
            [
                "TIMESTAMP,ContextTokens,GeneratedTokens",
                "2023-11-16 18:15:46.6805900,374,44",
            ]
            * 1,
            374,
            "default",
        ),
        (["t_s,client,input_tokens,output_tokens", "0.1,42,79,479"], 79, "42"),
        (
            [
                "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
                "5,ChatGPT,472,18,490,C",
            ],
            472,
            "default",
        ),
        (
            ['{"began": 1.5, "tenant": "a", "prompt_tokens": 9, "output_tokens": 3}'],
            9,
            "a",
        ),
    ],
)
def test_each_form_is_known_by_its_first_line(lines, prompt, tenant):
    (one,) = read(lines).requests
    assert (one.at_s, one.prompt_tokens, one.tenant) == (0.0, prompt, tenant)


@pytest.mark.parametrize(
    "lines",
    [[], ["a,b,c", "1,2,3"], ['{"x": 1}'], ["t_s,input_tokens,output_tokens", "0,x,1"]],
)
def test_what_is_no_trace_is_refused_with_the_forms_that_are(lines):
    with pytest.raises(Refused, match="Mooncake"):
        read(lines)
