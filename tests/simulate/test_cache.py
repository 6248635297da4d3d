"""The prefix cache against one that looks at every block, and its books."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemstead.simulate.cache import Cache

SIZE = 16


class Plain:
    """The same promise, as plainly as it can be written: a list of blocks by when they were last let go."""

    def __init__(self, most: int) -> None:
        self.most, self.held, self.kept = most, [], []

    def match(self, blocks):
        count = 0
        for block in blocks:
            if block not in self.kept and not any(block in chain for chain in self.held):
                break
            count += 1
        return count

    def pin(self, blocks):
        self.held.append(list(blocks))
        self.kept = [block for block in self.kept if block not in blocks]
        self.fit()

    def release(self, blocks):
        self.held.remove(list(blocks))
        for block in reversed(blocks):
            if not any(block in chain for chain in self.held):
                self.kept.append(block)
        self.fit()

    def fit(self):
        held = {block for chain in self.held for block in chain}
        while len(held) + len(self.kept) > self.most and self.kept:
            self.kept.pop(0)


def chain(path):
    """Ids for a path: each stands for everything before it."""
    blocks, last = [], 0
    for step in path:
        last = last * 3 + step + 1
        blocks.append(last)
    return tuple(blocks)


PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(chain)


@given(st.integers(6, 14), st.lists(st.tuples(PATHS, st.booleans()), max_size=60))
def test_it_keeps_what_a_plain_least_recently_used_cache_keeps(most, steps):
    cache, plain, holding = Cache(most * SIZE, SIZE), Plain(most), []
    for blocks, hold in steps:
        assert cache.match(blocks) == plain.match(blocks)
        if hold and cache.pins(blocks) <= cache.free_tokens:
            cache.pin(blocks)
            plain.pin(blocks)
            holding.append(blocks)
        elif holding:
            gone = holding.pop(0)
            cache.release(gone)
            plain.release(gone)
        assert list(cache.kept) == plain.kept
        assert cache.used_tokens + cache.kept_tokens <= cache.most
        assert cache.kept_tokens == len(plain.kept) * SIZE


def test_what_is_held_by_two_is_counted_once_and_stays_until_both_have_let_go():
    cache = Cache(10 * SIZE, SIZE)
    cache.pin((1, 2))
    cache.pin((1, 2, 3))
    assert cache.used_tokens == 3 * SIZE
    cache.release((1, 2, 3))
    assert (cache.used_tokens, cache.kept_tokens, cache.match((1, 2, 3))) == (
        2 * SIZE,
        SIZE,
        3,
    )


def test_the_end_of_a_prompt_is_evicted_before_its_beginning():
    cache = Cache(4 * SIZE, SIZE)
    cache.pin((1, 2, 3))
    cache.release((1, 2, 3))
    cache.take(2 * SIZE)
    assert cache.match((1, 2, 3)) == 2


def test_with_a_sliding_window_a_prompt_is_taken_up_only_at_the_end_of_an_earlier_one():
    cache = Cache(100 * SIZE, SIZE, window_tokens=2 * SIZE)
    cache.take(2 * SIZE)
    cache.pin((1, 2, 3))
    cache.end((1, 2, 3))
    cache.release((1, 2, 3))
    assert cache.match((1, 2, 9)) == 0  # nobody's window lies there
    assert cache.match((1, 2, 3, 4)) == 3


def test_a_window_goes_before_the_blocks_that_it_belongs_to():
    cache = Cache(5 * SIZE, SIZE, window_tokens=2 * SIZE)
    cache.take(2 * SIZE)
    cache.pin((1, 2, 3))
    cache.end((1, 2, 3))
    cache.release((1, 2, 3))
    cache.take(SIZE)
    assert cache.match((1, 2, 3)) == 0
    assert cache.kept_tokens == 3 * SIZE
