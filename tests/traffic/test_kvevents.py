from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.kvevents import BadEvent, Cached, Cleared, Removed, Stored, block_keys, decode, sequence

TOKENS = tuple(range(64))


def packed(*events: object, rank: int | None = 0) -> bytes:
    return msgspec.msgpack.encode([1234.5, list(events), rank])


def stored(first: int, blocks: int, parent: int | None = None, **more: object) -> list[object]:
    """As vLLM sends it: array_like, tag first. Blocks of 16 tokens of `TOKENS`, hashes 100, 101, ..."""
    names = [100 + first + n for n in range(blocks)]
    tokens = list(TOKENS[first * 16 : (first + blocks) * 16])
    group = more.get("group", 0)
    return ["BlockStored", names, parent, tokens, 16, None, "GPU", None, None, group, *more.get("spec", [])]


def test_both_forms_of_an_event_say_the_same():
    array = packed(stored(0, 2), ["BlockRemoved", [100], "GPU", 0], ["AllBlocksCleared"])
    as_map = msgspec.msgpack.encode(
        {
            "ts": 1234.5,
            "events": [
                {
                    "type": "BlockStored",
                    "block_hashes": [100, 101],
                    "parent_block_hash": None,
                    "token_ids": list(TOKENS[:32]),
                    "block_size": 16,
                    "lora_id": None,
                    "medium": "GPU",
                    "something_new": 1,
                },
                {"type": "BlockRemoved", "block_hashes": [100], "medium": "GPU"},
                {"type": "AllBlocksCleared"},
            ],
            "data_parallel_rank": 3,
        }
    )
    at, events, rank = decode(array)
    assert (at, rank) == (1234.5, 0)
    assert decode(as_map) == (1234.5, events, 3)
    assert isinstance(events[1], Removed)
    assert events[2] == Cleared()


def test_fields_of_older_and_newer_engines_are_read():
    short, long = decode(
        packed(
            ["BlockStored", [1], None, list(range(16)), 16],
            ["BlockStored", [b"x"], 1, [1], 1, 7, "CPU", "law", [["salt"]], 2, "sliding_window", 512, "new"],
        )
    )[1]
    assert isinstance(short, Stored)
    assert (short.adapter, short.medium, short.group) == ("", "", 0)
    assert isinstance(long, Stored)
    assert (long.hashes, long.adapter, long.extra, long.window) == ((b"x",), "law", (("salt",),), 512)


def test_events_that_nobody_knows_are_passed_over():
    assert decode(packed(["BlockMoved", [1]], ["AllBlocksCleared"]))[1] == [Cleared()]


@given(st.binary(max_size=60))
def test_nonsense_is_refused_with_a_word_of_our_own(payload):
    try:
        decode(payload)
    except BadEvent:
        pass


def test_the_number_of_a_message_is_eight_bytes():
    assert sequence(b"\0\0\0\0\0\0\1\2") == 258
    with pytest.raises(BadEvent):
        sequence(b"\1")


def test_a_prompt_is_found_as_far_as_its_blocks_are_there():
    cached = Cached()
    assert cached.take(5, decode(packed(stored(0, 2)))[1])
    assert cached.take(6, decode(packed(stored(2, 1, parent=101)))[1])
    assert cached.match(TOKENS) == 48
    assert cached.match(TOKENS[:40]) == 32
    assert cached.match((*TOKENS[:20], 999, *TOKENS[21:])) == 16
    assert cached.match(TOKENS, adapter="law") == 0
    assert cached.tokens == 48
    cached.take(7, [Removed(hashes=(101,))])
    assert cached.match(TOKENS) == 16
    cached.take(8, [Cleared()])
    assert (cached.match(TOKENS), cached.tokens) == (0, 0)


def test_a_gap_clears_the_picture():
    cached = Cached()
    cached.take(1, decode(packed(stored(0, 2)))[1])
    assert not cached.take(3, [])
    assert cached.match(TOKENS) == 0
    assert cached.take(4, decode(packed(stored(0, 1)))[1])
    assert cached.match(TOKENS) == 16


def test_blocks_behind_an_unknown_one_are_not_placed():
    cached = Cached()
    cached.take(1, decode(packed(stored(1, 1, parent=100)))[1])
    assert cached.tokens == 0


def test_a_hit_needs_the_window_of_the_sliding_layers_before_it():
    """Gemma 4: the full group has all four blocks, the sliding one (window 17: one block) what is told here."""
    cached = Cached()
    window = ["sliding_window", 17]
    cached.take(1, decode(packed(stored(0, 4, spec=["full_attention", None])))[1])
    assert cached.match(TOKENS) == 64
    cached.take(2, decode(packed(stored(0, 4, group=1, spec=window)))[1])
    assert cached.match(TOKENS) == 64
    cached.take(3, [Removed(hashes=(103, 101), group=1)])
    assert cached.match(TOKENS) == 48, (
        "after the fourth block its window is gone, after the third it is there"
    )
    cached.take(4, [Removed(hashes=(102, 100), group=1)])
    assert cached.match(TOKENS) == 0
    assert cached.tokens == 64
    cached.take(5, decode(packed(stored(3, 1, parent=102, group=1, spec=window)))[1])
    assert cached.match(TOKENS) == 64, "the parent is known from the group that keeps everything"


def test_other_media_do_not_count():
    cached = Cached()
    event = stored(0, 2)
    event[6] = "CPU"
    cached.take(1, decode(packed(event))[1])
    assert cached.tokens == 0


def test_memory_is_bounded():
    cached = Cached(most_blocks=100)
    for number in range(300):
        tokens = tuple(range(number * 16, number * 16 + 16))
        cached.take(number, [Stored(hashes=(number,), parent=None, tokens=tokens, block_tokens=16)])
        assert cached.tokens <= 100 * 16


def test_what_lies_beside_the_tokens_tells_prompts_apart():
    plain = block_keys(TOKENS, 16)
    assert plain[0] != block_keys(TOKENS, 16, adapter="law")[0]
    salted = block_keys(TOKENS, 16, extra=[("salt",)])
    assert not set(plain) & set(salted)
