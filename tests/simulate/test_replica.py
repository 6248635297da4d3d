"""One engine: leaps against single steps, nothing lost, and a queue that theory knows."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from fleets import ENGINE
from hypothesis import given, settings
from hypothesis import strategies as st

from gemstead.simulate.replica import Replica, Sequence


def run(replica, arrivals):
    """{number: (first token, end)} for (at, Sequence) pairs."""
    told, due, place, now = {}, None, 0, 0.0
    while place < len(arrivals) or due is not None:
        if place < len(arrivals) and (due is None or arrivals[place][0] <= due):
            now, sequence = arrivals[place]
            place += 1
            due = replica.add(sequence, now) or due
            continue
        now = due
        due = replica.step(now)
        for one in replica.first:
            told[one.number] = (now, None)
        for one in replica.ended:
            told[one.number] = (told[one.number][0], now)
    return told


class OneByOne(Replica):
    """Takes no leaps: each step of decoding is a step."""

    def _begin(self, now):
        until = super()._begin(now)
        if until is not None and self._leap > 1:
            self._leap = 1
            self._until_s = until = now + self._lasting(1)
        return until


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 5000), st.integers(1, 60)),
    min_size=1,
    max_size=12,
)


def sequences(rows):
    rows = sorted(rows)
    return [(at, Sequence(number, prompt, out, (), at)) for number, (at, prompt, out) in enumerate(rows)]


@given(ARRIVALS, st.sampled_from([12_000, 400_000]), st.sampled_from([1.0, 2.5]))
@settings(max_examples=60, deadline=None)
def test_a_leap_lasts_as_long_as_its_steps(rows, room, kept):
    engine = replace(ENGINE, kv_tokens=room, kept=kept)
    leaping, stepping = Replica(engine, 512), OneByOne(engine, 512)
    ours, theirs = run(leaping, sequences(rows)), run(stepping, sequences(rows))
    assert ours.keys() == theirs.keys() == set(range(len(rows)))
    for number, times in ours.items():
        assert times == pytest.approx(theirs[number], abs=1e-6)
    assert leaping.preemptions == stepping.preemptions


@given(ARRIVALS, st.sampled_from([11_000, 16_000, 400_000]), st.sampled_from([0.0, 1500.0]))
@settings(max_examples=60, deadline=None)
def test_everyone_ends_once_and_leaves_nothing_behind(rows, room, window):
    replica = Replica(replace(ENGINE, kv_tokens=room, kv_window_tokens=window, most_running=4), 512)
    told = run(replica, sequences(rows))
    assert len(told) == len(rows)
    assert all(first <= end for first, end in told.values())
    assert not replica.running and not replica.waiting and not replica.ends
    assert replica.cache.used_tokens == pytest.approx(0.0, abs=1e-6)
    assert replica.cache.kept_tokens <= replica.cache.most
    assert replica._context == pytest.approx(0.0, abs=1e-6)


def test_a_prompt_longer_than_a_step_is_read_in_chunks_while_others_write_on():
    replica = Replica(ENGINE, 512)
    told = run(
        replica,
        [(0.0, Sequence(0, 10, 400, (), 0.0)), (1.0, Sequence(1, 6000, 1, (), 1.0))],
    )
    alone = run(Replica(ENGINE, 512), [(0.0, Sequence(1, 6000, 1, (), 0.0))])
    assert told[1][0] - 1.0 > alone[1][0]  # the other's tokens share its steps
    assert told[0][1] > told[1][1]  # and the other was not held up to its end


def test_what_another_request_has_read_is_not_read_again():
    replica = Replica(ENGINE, 512)
    blocks = tuple(range(8))
    told = run(
        replica,
        [
            (0.0, Sequence(0, 4100, 2, blocks, 0.0)),
            (5.0, Sequence(1, 4600, 2, (*blocks, 99), 5.0)),
        ],
    )
    assert told[1][0] - 5.0 < 0.3 * told[0][0]
    assert replica.prompt_done == 4100 + 4600 - 8 * 512


def test_the_one_begun_last_is_preempted_and_reads_again_what_it_had_written():
    engine = replace(ENGINE, kv_tokens=5_000)
    replica = Replica(engine, 512)
    told = run(
        replica,
        [
            (0.0, Sequence(0, 2000, 900, (), 0.0)),
            (0.1, Sequence(1, 2000, 900, (), 0.1)),
        ],
    )
    assert replica.preemptions == 1
    assert told[0][1] < told[1][1]
    assert replica.prompt_done > 4000


def test_it_waits_as_queueing_theory_says():
    """One place, equal service, Poisson arrivals: M/D/1, whose mean wait is rho s / (2 (1 - rho))."""
    engine = replace(
        ENGINE,
        most_running=1,
        base_s=0.1,
        each_s=0.0,
        context_s=0.0,
        prefill_s=0.0,
        deeper_s=0.0,
    )
    service, rho, dice, now, arrivals = 0.1, 0.7, Random(5), 0.0, []
    for number in range(40_000):
        now += dice.expovariate(rho / service)
        arrivals.append((now, Sequence(number, 1, 1, (), now)))
    told = run(Replica(engine, 512), arrivals)
    mean = sum(told[number][1] - at for number, (at, _) in enumerate(arrivals)) / len(arrivals)
    assert mean == pytest.approx(service + rho * service / (2 * (1 - rho)), rel=0.03)


def test_a_drafter_shortens_the_answer_by_what_it_keeps():
    plain = run(Replica(ENGINE, 512), [(0.0, Sequence(0, 10, 301, (), 0.0))])
    drafted = run(Replica(replace(ENGINE, kept=3.0), 512), [(0.0, Sequence(0, 10, 301, (), 0.0))])
    assert (drafted[0][1] - drafted[0][0]) == pytest.approx((plain[0][1] - plain[0][0]) / 3, rel=0.02)
