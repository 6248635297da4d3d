"""Prompts by an engine's events: what is placed, what is forgotten with which block, and what is shared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.kvevents import Cleared, Removed, Stored
from gemstead.traffic.kvprompts import Ended, Follow, Prompts

SIZE = 16  # tokens of a block
WINDOW = {"kind": "sliding_window", "window": 32, "group": 1}


def stored(names, session="", parent=None, **more):
    names = tuple(names)
    tokens = tuple(range(SIZE * len(names)))
    return Stored(hashes=names, parent=parent, tokens=tokens, block_tokens=SIZE, session=session, **more)


def ended(name, texts, tokens, each=64):
    """A prompt of `texts` blocks of 64 tokens."""
    return Ended(name, tuple(texts), tokens, each, tokens, 10)


def known(prompts, texts):
    return [text for text in texts if prompts.knows(text)]


def test_a_prompt_lies_where_its_call_has_stored_blocks():
    prompts = Prompts()
    prompts.take([stored(range(100, 116), "call-1")])
    assert prompts.ended(ended("call-1", (1, 2, 3, 4), 256)) == (True, [])
    assert known(prompts, (1, 2, 3, 4)) == [1, 2, 3, 4]
    assert prompts.ended(ended("call-9", (8, 9), 128)) == (False, [])


def test_the_answer_is_none_of_the_prompt():
    prompts = Prompts()
    prompts.take([stored(range(100, 108), "c"), stored(range(108, 120), "c", parent=107)])
    assert prompts.ended(Ended("c", (1, 2), 128, 64, 0, 12 * SIZE)) == (True, [])
    assert prompts.take([Removed(hashes=(119,)), Removed(hashes=(108,))]) == ([], False)
    assert prompts.take([Removed(hashes=(107,))]) == ([2], False)
    assert known(prompts, (1, 2)) == [1]


def test_blocks_that_go_take_the_text_with_them_from_the_end_on():
    prompts = Prompts()
    prompts.take([stored(range(100, 116), "c")])
    prompts.ended(ended("c", (1, 2, 3, 4), 256))
    assert prompts.take([Removed(hashes=(115,))])[0] == [4]
    assert prompts.take([Removed(hashes=(114, 113, 112))])[0] == []
    assert prompts.take([Removed(hashes=(103,))])[0] == [1, 2, 3]
    assert prompts.prompts == 0


def test_text_that_another_prompt_has_too_stays():
    prompts = Prompts()
    prompts.take([stored(range(100, 108), "a")])
    prompts.take([stored(range(200, 208), "b", parent=107)])
    prompts.ended(ended("a", (1, 2), 128))
    prompts.ended(ended("b", (1, 2, 3, 4), 256))
    assert prompts.take([Removed(hashes=(207,))])[0] == [4]
    assert prompts.take([Removed(hashes=(203,))])[0] == [3]
    assert known(prompts, (1, 2)) == [1, 2]
    assert prompts.take([Removed(hashes=(107,))])[0] == [2]


def test_layers_with_a_window_must_have_the_end_of_a_prompt():
    """Gemma 4: group 0 keeps everything, group 1 has only the last two blocks before the end."""
    prompts = Prompts()
    prompts.take([stored((114, 115), "c", **WINDOW), stored(range(100, 116), "c")])
    assert prompts.ended(ended("c", (1, 2, 3, 4), 256)) == (True, [])
    gone, _ = prompts.take([Removed(hashes=(115,), group=1)])
    assert gone == [1, 2, 3, 4]  # nowhere else can it be taken up


def test_a_prompt_is_cut_back_to_where_prompts_have_parted():
    prompts = Prompts()
    prompts.take([stored((106, 107), "a", **WINDOW), stored(range(100, 108), "a")])
    prompts.take([stored((206, 207), "b", parent=107, **WINDOW), stored(range(200, 208), "b", parent=107)])
    prompts.ended(ended("b", (1, 2, 3, 4), 256))
    assert prompts.take([Removed(hashes=(207,), group=1)])[0] == [3, 4]
    assert known(prompts, (1, 2)) == [1, 2]


def test_what_is_not_in_whole_blocks_is_said_not_to_be_there():
    prompts = Prompts()
    prompts.take([stored(range(100, 107), "c")])
    assert prompts.ended(ended("c", (1, 2), 127)) == (True, [2])


def test_an_empty_cache_has_no_prompts():
    prompts = Prompts()
    prompts.take([stored(range(100, 108), "a")])
    prompts.ended(ended("a", (1, 2), 128))
    assert prompts.take([Cleared()]) == ([], True)
    assert (prompts.blocks, prompts.prompts, known(prompts, (1, 2))) == (0, 0, [])


def test_blocks_behind_what_was_never_heard_of_are_left_out():
    prompts = Prompts()
    prompts.take([stored(range(100, 108), "a", parent=99)])
    assert prompts.blocks == 0
    assert prompts.ended(ended("a", (1, 2), 128)) == (False, [])


def test_nodes_are_bounded():
    prompts = Prompts(most_nodes=100)
    for n in range(100):
        prompts.take([stored(range(1000 * n, 1000 * n + 8), f"{n}")])
    assert prompts.blocks <= 108


@given(st.data())
def test_an_engine_that_evicts_from_the_end_is_followed_exactly(data):
    """Prompts share beginnings; blocks go in the order in which vLLM frees them; what is left is what there is."""
    paths = data.draw(
        st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=8, unique_by=tuple)
    )
    prompts, there = Prompts(), {}
    for number, path in enumerate(paths):
        chain = [hash(("node", tuple(path[: n + 1]))) for n in range(len(path))]
        texts = [hash(("text", tuple(path[: n + 1]))) for n in range(len(path))]
        fresh = [name for name in chain if name not in there]
        if not fresh:
            continue
        parent = chain[chain.index(fresh[0]) - 1] if chain.index(fresh[0]) else None
        prompts.take([stored(fresh, f"{number}", parent=parent)])
        placed, _ = prompts.ended(
            Ended(f"{number}", tuple(texts), SIZE * len(texts), SIZE, SIZE * len(texts))
        )
        assert placed
        there.update(dict(zip(chain, texts, strict=True)))
    parents = {}
    for path in paths:
        for n in range(len(path)):
            parents[hash(("node", tuple(path[: n + 1])))] = hash(("node", tuple(path[:n]))) if n else None
    while there:
        leaves = [name for name in there if not any(parents[other] == name for other in there)]
        name = data.draw(st.sampled_from(leaves))
        text = there.pop(name)
        assert prompts.take([Removed(hashes=(name,))])[0] == [text]
        assert all(prompts.knows(one) for one in there.values())
    assert (prompts.blocks, prompts.prompts) == (0, 0)


def test_numbers_tell_gaps_and_new_beginnings():
    follow = Follow()
    assert [follow.told(n) for n in (0, 1, 2)] == [Follow.IN_ORDER] * 3
    assert follow.told(5) == Follow.GAP
    assert follow.next == 3
    follow.go_on(5)
    assert follow.told(6) == Follow.IN_ORDER
    assert follow.told(0) == Follow.ANEW
