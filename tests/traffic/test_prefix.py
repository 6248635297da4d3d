from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.prefix import BYTES_PER_ENTRY, MOST_BLOCKS, PrefixIndex, chain

TEXT = bytes(range(256)) * 64


def test_a_prompt_shorter_than_a_block_has_no_prefix():
    assert chain(b"x" * 1023) == ()
    assert len(chain(b"x" * 1024)) == 1
    assert len(chain(b"x" * 2047)) == 1


def test_equal_blocks_at_different_places_have_different_hashes():
    assert len(set(chain(b"x" * 10_240))) == 10


def test_work_on_a_huge_prompt_is_bounded():
    assert len(chain(bytes(2_000_000))) == MOST_BLOCKS
    assert len(chain(bytes(10_000), most_blocks=3)) == 3


def test_a_seed_keeps_prompts_apart():
    assert not set(chain(TEXT)) & set(chain(TEXT, seed=1))


@given(st.binary(max_size=300), st.integers(0, 300), st.binary(max_size=40))
def test_hashes_agree_exactly_as_far_as_the_prompts_do(prompt, cut, rest):
    other = prompt[:cut] + rest
    same = next((n for n, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b), None)
    shared = (min(len(prompt), len(other)) if same is None else same) // 8
    a, b = chain(prompt, block_bytes=8), chain(other, block_bytes=8)
    agreed = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert agreed == shared


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(
    lambda path: tuple(hash((7, *path[: n + 1])) for n in range(len(path)))
)
NAMES = [f"e{n}" for n in range(5)]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), PROMPTS))), PROMPTS)
def test_a_match_is_the_longest_run_from_the_first_block_that_an_endpoint_was_sent(steps, prompt):
    index, sent = PrefixIndex(), {name: set() for name in NAMES}
    for name, prefix in steps:
        if prefix is None:
            index.forget(name)
            sent[name].clear()
        else:
            index.insert(name, prefix)
            sent[name] |= set(prefix)
    expected = [next((n for n, b in enumerate(prompt) if b not in sent[name]), len(prompt)) for name in NAMES]
    assert index.match(prompt, NAMES) == expected


@given(st.lists(st.tuples(st.sampled_from(NAMES), PROMPTS), max_size=60), PROMPTS, st.integers(1, 12))
def test_a_small_index_forgets_but_never_invents_and_stays_contiguous(steps, prompt, entries):
    index, sent = PrefixIndex(entries * BYTES_PER_ENTRY), {name: set() for name in NAMES}
    for name, prefix in steps:
        index.insert(name, prefix)
        sent[name] |= set(prefix)
        assert len(index) <= entries
        assert index.match(prefix, [name]) == [min(len(prefix), entries)]  # what was just sent is known
    for name, length in zip(NAMES, index.match(prompt, NAMES), strict=True):
        assert set(prompt[:length]) <= sent[name]


def test_endpoints_that_come_and_go_for_ever_inherit_nothing_and_cost_nothing():
    index = PrefixIndex(64 * BYTES_PER_ENTRY)
    index.insert("stays", (1, 2, 3))
    for n in range(5000):
        index.insert(f"e{n}", (hash(("p", n)), 7))
        assert index.match((hash(("p", n - 1)),), [f"e{n}"]) == [0]
        index.forget(f"e{n}")
        if n % 10 == 0:
            index.insert("stays", (1, 2, 3))
    assert index.match((1, 2, 3), ["stays", "e4999"]) == [3, 0]
    assert len(index) == 3


@pytest.mark.parametrize(("endpoints", "blocks"), [(1, 2), (64, 1), (64, 2), (300, 3)])
def test_the_index_stays_within_its_bytes(endpoints, blocks):
    most_bytes = 1024 * 1024
    index = PrefixIndex(most_bytes)
    names = [f"e{n}" for n in range(endpoints)]
    for name in names:
        index.insert(name, (1,))
    tracemalloc.start()
    try:
        base = tracemalloc.get_traced_memory()[0]
        for n in range(80_000 // blocks):
            index.insert(names[n % endpoints], tuple(hash((n, block)) for block in range(blocks)))
        peak = tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()
    assert peak <= most_bytes
    assert peak > most_bytes / 4  # the bound is not met by remembering nothing


def test_an_endpoint_forgets_what_its_cache_cannot_hold_the_longest_unused_first():
    index = PrefixIndex()
    for prompt in range(10):
        index.insert("a", [prompt * 100 + block for block in range(10)], most=32)
        index.insert("a", range(10), most=32)  # used again and again
    assert index.match(range(10), ["a"]) == [10]
    assert index.match([900, 901], ["a"]) == [2]
    assert index.match([100, 101], ["a"]) == [0]
    assert len(index) <= 32


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), PROMPTS))), PROMPTS)
def test_a_match_is_cut_back_to_the_last_place_where_a_prompt_ended_at_that_endpoint(steps, prompt):
    index, ended = PrefixIndex(), {name: set() for name in NAMES}
    for name, prefix in steps:
        if prefix is None:
            index.forget(name)
            ended[name].clear()
        else:
            index.insert(name, prefix)
            ended[name].add(prefix[-1])
    cut = index.cut(prompt, NAMES, index.match(prompt, NAMES))
    for name, length in zip(NAMES, cut, strict=True):
        assert length == max((n for n, block in enumerate(prompt, 1) if block in ended[name]), default=0)


@given(st.lists(st.tuples(st.sampled_from(NAMES), PROMPTS, st.integers(0, 6)), max_size=60), PROMPTS)
def test_where_prompts_ended_is_forgotten_with_them(steps, prompt):
    index = PrefixIndex()
    for name, prefix, most in steps:
        index.insert(name, prefix, most=most)
        if most == 3:
            index.drop(name, prefix[1:])
    lengths = index.match(prompt, NAMES)
    assert all(
        0 <= cut <= length for cut, length in zip(index.cut(prompt, NAMES, lengths), lengths, strict=True)
    )
    for name in NAMES:
        index.forget(name)
    assert not index._stops
    assert not len(index)


def test_of_a_prompt_the_end_is_forgotten_before_the_beginning():
    index = PrefixIndex()
    index.insert("a", range(100, 120), most=40)
    index.insert("a", range(200, 230), most=40)
    assert 0 < index.match(range(100, 120), ["a"])[0] < 20


def test_answers_take_room_from_prompts():
    index = PrefixIndex()
    index.insert("a", range(100, 110), most=20)
    index.answered("a", 30)
    index.insert("a", range(200, 202), most=20)
    assert index.match(range(200, 202), ["a"]) == [2]
    assert index.match(range(100, 110), ["a"])[0] < 10


@given(st.lists(st.tuples(st.sampled_from(NAMES), PROMPTS, st.integers(0, 6)), max_size=60), PROMPTS)
def test_what_an_endpoint_has_of_a_prompt_is_always_its_beginning(steps, prompt):
    index = PrefixIndex()
    for name, prefix, most in steps:
        index.insert(name, prefix, most=most)
        index.answered(name, most / 2)
    lengths = index.match(prompt, NAMES)
    for cut in range(1, len(prompt) + 1):  # a shorter question never has a longer answer, nor another one
        assert index.match(prompt[:cut], NAMES) == [min(length, cut) for length in lengths]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), PROMPTS)), max_size=40))
def test_when_all_is_forgotten_nothing_is_held(steps):
    index = PrefixIndex(8 * BYTES_PER_ENTRY)
    for name, prefix in steps:
        if prefix is None:
            index.forget(name)
        else:
            index.insert(name, prefix, most=5)
    for name in NAMES:
        index.forget(name)
    assert (len(index), index._table, index._every) == (0, {}, 0)
