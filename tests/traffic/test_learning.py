"""The picker over time: what it learns of endpoints, and who gets what because of it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.traffic.breaker import State
from gemstead.traffic.call import Call
from gemstead.traffic.endpoint import Endpoint, EndpointFacts, Load
from gemstead.traffic.picker import MOST_CANDIDATES, Picker
from gemstead.traffic.prefix import PrefixIndex
from gemstead.traffic.rates import Lengths, Line, Pace
from gemstead.traffic.roster import WARM_S, WEDGED_MOST_S, Roster


def facts(name: str, **more) -> EndpointFacts:
    return EndpointFacts(name=name, pool="m", host="127.0.0.1", port=1, **more)


def pool(size: int, **more) -> Roster:
    return Roster(Endpoint(facts(f"e{n}", **more)) for n in range(size))


def a_picker(seed: int = 0) -> Picker:
    return Picker(PrefixIndex(), Random(seed).randrange)


def send(picker: Picker, endpoints: Roster, now: float, **more) -> tuple[Endpoint, Call]:
    call = Call("m", **more)
    chosen = picker.pick(call, endpoints, now)
    picker.charge(chosen, call)
    return chosen, call


def serve(picker: Picker, endpoints: Roster, speeds: dict[str, float], calls: int, **more) -> Counter[str]:
    """One call after the other, each read at its engine's speed (tokens a second); who got how many."""
    now, got = 0.0, Counter()
    for _ in range(calls):
        chosen, call = send(picker, endpoints, now, prompt_tokens=2000, **more)
        now += 2000 / speeds[chosen.name]
        picker.first_token(chosen, call, now)
        picker.settle(chosen, call, True, now + 1.0, 100)
        got[chosen.name] += 1
    return got


# -- rates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guess", [100.0, 8000.0, 500_000.0])
def test_a_line_finds_the_rate_from_any_guess_through_noise_and_outliers(guess):
    random, line = Random(3), Line(0.02, 1 / guess, 4096)
    for _ in range(1500):
        tokens = random.expovariate(1 / 3000)
        seconds = (0.1 + tokens / 2000) * random.lognormvariate(0, 0.2)
        line.learn(tokens, seconds * (20 if random.random() < 0.02 else 1))
    assert 1 / line.slope == pytest.approx(2000, rel=0.25)
    assert line.at(4000) == pytest.approx(2.1, rel=0.25)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(1e-9, 1e5)), max_size=200))
def test_a_line_never_says_nonsense(points):
    line = Line(0.02, 1 / 8000, 4096)
    for x, y in points:
        line.learn(x, y)
        assert 0 < line.base < 1e3
        assert 0 < line.slope < 1e3
        assert line.at(1e6) > 0


def test_chance_makes_no_difference_between_equals():
    random, pace = Random(1), Pace()
    for _ in range(300):
        pace.learn(random.gauss(0.0, 0.5))
    assert pace.times == 1.0


def test_a_clear_difference_shows():
    random, pace = Random(1), Pace()
    for _ in range(100):
        pace.learn(random.gauss(1.1, 0.5))
    assert 1.8 < pace.times < 3.2


def test_a_slow_engine_is_found_and_gets_less():
    endpoints, picker = pool(4), a_picker()
    speeds = {"e0": 1000.0, "e1": 8000.0, "e2": 8000.0, "e3": 8000.0}
    serve(picker, endpoints, speeds, 400)
    got = serve(picker, endpoints, speeds, 100)
    assert got["e0"] <= 5
    assert min(got[name] for name in ("e1", "e2", "e3")) > 5


def test_rates_begin_with_the_plan():
    fast, slow = (
        Endpoint(facts("fast", prefill_tokens_s=20_000.0)),
        Endpoint(facts("slow", prefill_tokens_s=500.0)),
    )
    endpoints, picker = Roster([slow, fast]), a_picker()
    assert {send(picker, endpoints, 0.0, prompt_tokens=1000)[0].name for _ in range(10)} == {"fast"}


def test_a_new_replica_knows_what_its_like_have_learned():
    endpoints, picker = pool(2), a_picker()
    serve(picker, endpoints, {"e0": 500.0, "e1": 500.0}, 400)
    grown = Roster([*endpoints, Endpoint(facts("new"))])
    assert grown[2].rates.prefill.at(2000) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("tokens", [9, 2000])
@pytest.mark.parametrize("seconds", [0.0005, 0.05, 1.0])
def test_an_idle_engine_of_unknown_rate_is_tried(seconds, tokens, streams):
    """However fast the first one asked proves to be beside the guess that all begin with."""
    for seed in range(20):
        endpoints = Roster([Endpoint(facts("a", engine="external")), Endpoint(facts("b", engine="vllm"))])
        picker, noise, got = a_picker(seed), Random(seed), set[str]()
        for n in range(20):
            chosen, call = send(picker, endpoints, float(n), prompt_tokens=tokens, streams=streams)
            read_at = n + seconds * noise.uniform(0.8, 1.25)
            if streams:
                picker.first_token(chosen, call, read_at)
            picker.settle(chosen, call, True, read_at + 0.1 * streams, 6)
            got.add(chosen.name)
        assert got == {"a", "b"}


def test_an_engine_of_unknown_rate_that_proves_slow_cost_few_calls():
    kinds = {"known": 8000.0, "slow": 400.0, "fast": 20_000.0}
    endpoints = Roster(Endpoint(facts(name, engine=name)) for name in kinds)
    got = serve(a_picker(), endpoints, kinds, 100)
    assert 1 <= got["slow"] <= 3
    assert got["fast"] > 90


def test_an_engine_whose_first_call_loads_the_model_is_tried_again():
    for seed in range(20):
        kinds = {"a": 8000.0, "b": 8000.0}
        endpoints, picker = Roster(Endpoint(facts(name, engine=name)) for name in kinds), a_picker(seed)
        while not serve(picker, endpoints, kinds | {"b": 100.0}, 1)["b"]:
            pass
        assert serve(picker, endpoints, kinds, 20)["b"] >= 2


def test_who_joins_with_no_plan_begins_like_the_best_of_its_pool():
    endpoints, picker = pool(2), a_picker()
    serve(picker, endpoints, {"e0": 80_000.0, "e1": 80_000.0}, 200)
    new = Endpoint(facts("new", engine="other"))
    grown = Roster([*endpoints, new])
    assert 0.9 * endpoints[0].token_s < new.token_s < endpoints[0].token_s
    assert endpoints[0].rates is not new.rates
    picker.pick(Call("m"), grown, 0.0)
    alone = Roster([new, Endpoint(facts("like", engine="other"))])
    assert {each.token_s for each in alone} == {Endpoint(facts("x")).token_s}, "now it is a guess again"


@pytest.mark.parametrize(("speed", "times"), [(4000.0, 0.25), (1000.0, 1.0), (200.0, 1.0)])
def test_a_plan_is_believed_except_where_its_like_was_too_cautious(speed, times):
    first, second = (
        Endpoint(facts("first", prefill_tokens_s=1000.0, slots=8)),
        Endpoint(facts("second", prefill_tokens_s=500.0, slots=4)),
    )
    endpoints, picker, now = Roster([first, second]), a_picker(), 0.0
    for _ in range(100):
        call = Call("m", prompt_tokens=2000)
        picker.pick(call, endpoints, now)
        picker.charge(first, call)
        now += 2000 / speed
        picker.first_token(first, call, now)
        picker.settle(first, call, True, now, 100)
    assert 1 / second.rates.prefill.slope == pytest.approx(500.0 / times, rel=0.25)


def test_how_long_answers_get_is_learned_for_each_tenant():
    endpoints, picker, now = pool(2), a_picker(), 0.0
    for _ in range(100):
        for tenant, tokens in (("chatty", 2000), ("terse", 5)):
            chosen, call = send(picker, endpoints, now, tenant=tenant, prompt_tokens=100)
            picker.first_token(chosen, call, now + 0.1)
            now += 1.0
            picker.settle(chosen, call, True, now, tokens)
    assert picker.lengths.expect("m", "chatty") == pytest.approx(2000, rel=0.1)
    assert picker.lengths.expect("m", "terse") == pytest.approx(5, abs=20)
    assert 300 < picker.lengths.expect("m", "new") < 1500
    _, call = send(picker, endpoints, now, tenant="chatty", prompt_tokens=100, most_tokens=150)
    assert call.expected_output == 50


def test_lengths_of_many_tenants_are_bounded():
    lengths = Lengths(most=100)
    for n in range(1000):
        lengths.learn("m", f"t{n}", 10)
    assert len(lengths) <= 100


def test_what_was_read_meanwhile_is_not_waited_for():
    endpoints, picker = pool(2, prefill_tokens_s=1000.0), a_picker()
    first, _ = send(picker, endpoints, 0.0, prompt_tokens=4000)
    second, _ = send(picker, endpoints, 0.0, prompt_tokens=3000)
    assert second is not first
    assert send(picker, endpoints, 0.5, prompt_tokens=10)[0] is second
    # By now the second has been read for long, and the first nearly so, and has one call less.
    assert send(picker, endpoints, 4.2, prompt_tokens=10)[0] is first


def test_a_call_that_does_not_stream_does_not_count_as_unread_for_ever():
    endpoints, picker = pool(2, prefill_tokens_s=1000.0), a_picker()
    chosen, call = send(picker, endpoints, 0.0, prompt_tokens=4000, streams=False)
    picker.pick(Call("m", prompt_tokens=1), endpoints, 5.0)
    assert chosen.prefill_tokens >= 4000
    picker.pick(Call("m", prompt_tokens=1), endpoints, 8.0)
    assert chosen.prefill_tokens == 0
    picker.settle(chosen, call, True, 60.0, 500)
    assert (chosen.in_flight, chosen.prefill_tokens, chosen.kv_booked) == (0, 0, 0)


# -- memory, adapters, sessions -------------------------------------------------------------------------------


def test_a_call_goes_where_it_fits():
    endpoints, picker = pool(2, kv_tokens=10_000), a_picker()
    big, call = send(picker, endpoints, 0.0, prompt_tokens=8000)
    picker.first_token(big, call, 1.0)
    for _ in range(3):
        other, call = send(picker, endpoints, 1.0, prompt_tokens=500)
        picker.first_token(other, call, 1.0)
    assert send(picker, endpoints, 1.0, prompt_tokens=5000)[0] is not big


def test_a_fuller_cache_is_avoided():
    endpoints, picker = pool(2, kv_tokens=100_000), a_picker()
    for endpoint, used in zip(endpoints, (0.96, 0.2), strict=True):
        endpoint.load = Load(at=0.0, running=1, waiting=0, kv_used=used)
    assert {send(picker, endpoints, 0.1, prompt_tokens=10)[0].name for _ in range(5)} == {"e1"}


def test_a_call_goes_where_its_adapter_is_loaded():
    endpoints, picker = pool(4), a_picker()
    first, call = send(picker, endpoints, 0.0, prompt_tokens=10, adapter="law")
    picker.settle(first, call, True, 1.0, 10)
    for n in range(20):
        again, call = send(picker, endpoints, 2.0 + n, prompt_tokens=10, adapter="law")
        assert again is first
        picker.settle(again, call, True, 2.5 + n, 10)
    first.load = Load(at=30.0, adapters=())
    endpoints[0].load = endpoints[1].load = endpoints[2].load = endpoints[3].load = None
    first.load = Load(at=31.0, adapters=())
    other = next(endpoint for endpoint in endpoints if endpoint is not first)
    other.load = Load(at=31.0, adapters=("law",))
    assert picker.pick(Call("m", prompt_tokens=10, adapter="law"), endpoints, 31.5) is other


def test_a_session_stays_where_it_was_unless_that_is_busy():
    endpoints, picker = pool(4), a_picker()
    first, call = send(picker, endpoints, 0.0, prompt_tokens=500, session="s")
    picker.settle(first, call, True, 1.0, 10)
    for n in range(20):
        again, call = send(picker, endpoints, 2.0 + n, prompt_tokens=500, session="s")
        assert again is first
        picker.settle(again, call, True, 2.5 + n, 10)
    while send(picker, endpoints, 100.0, prompt_tokens=20_000, session="other")[0] is not first:
        pass
    assert picker.pick(Call("m", prompt_tokens=500, session="s"), endpoints, 100.0) is not first


# -- large pools ----------------------------------------------------------------------------------------------


def test_in_a_large_pool_the_holder_of_a_prefix_is_always_among_the_candidates():
    endpoints, picker = pool(4 * MOST_CANDIDATES), a_picker()
    for n in range(50):
        prefix = tuple(hash((n, block)) for block in range(8))
        first, call = send(picker, endpoints, float(n), prompt_tokens=2100, prefix=prefix)
        picker.settle(first, call, True, n + 0.1, 10)
        assert picker.pick(Call("m", prompt_tokens=2100, prefix=prefix), endpoints, n + 0.5) is first


def test_in_a_large_pool_calls_spread():
    endpoints, picker = pool(300), a_picker()
    for _ in range(1200):
        send(picker, endpoints, 0.0, prompt_tokens=1000)
    assert max(e.in_flight for e in endpoints) <= 8
    assert sum(e.in_flight == 0 for e in endpoints) <= 3


# -- silence, failure, warming --------------------------------------------------------------------------------


def taught(size: int) -> tuple[Roster, Picker, float]:
    """A pool whose picker knows how fast it is."""
    endpoints, picker = pool(size), a_picker()
    for n in range(40 * size):
        chosen, call = send(picker, endpoints, float(n), prompt_tokens=1000)
        picker.first_token(chosen, call, n + 0.15)
        chosen.heard_at = n + 0.5
        picker.settle(chosen, call, True, n + 0.9, 50)
    return endpoints, picker, 40.0 * size + 10


def test_an_engine_that_says_nothing_any_more_is_passed_over_until_it_speaks():
    endpoints, picker, now = taught(2)
    mute, call = send(picker, endpoints, now, prompt_tokens=100)
    well = next(endpoint for endpoint in endpoints if endpoint is not mute)
    held = [send(picker, endpoints, now, prompt_tokens=4000) for _ in range(3)]
    for where, one in held:
        if where is well:
            picker.first_token(well, one, now + 1.0)
    later = now + WEDGED_MOST_S
    well.heard_at = later
    assert {send(picker, endpoints, later + n / 100, prompt_tokens=100)[0] for n in range(10)} == {well}
    assert mute.wedged
    picker.first_token(mute, call, later + 1.0)
    assert not mute.wedged
    assert mute in {send(picker, endpoints, later + 1.0, prompt_tokens=100)[0] for _ in range(50)}


def test_where_nobody_tells_of_words_a_long_answer_is_no_silence():
    endpoints, picker, now = taught(2)
    for endpoint in endpoints:
        endpoint.hears = False
    for _ in range(2):
        chosen, call = send(picker, endpoints, now, prompt_tokens=100)
        picker.first_token(chosen, call, now + 0.1)
    picker.pick(Call("m"), endpoints, now + 500.0)
    assert not any(endpoint.wedged for endpoint in endpoints)


def test_when_all_are_silent_somebody_is_picked_all_the_same():
    endpoints, picker, now = taught(2)
    for _ in range(4):
        send(picker, endpoints, now, prompt_tokens=100)
    assert picker.pick(Call("m"), endpoints, now + 500.0) in endpoints


def test_calls_that_do_not_stream_make_no_engine_look_dead():
    endpoints, picker, now = taught(2)
    for _ in range(2):
        send(picker, endpoints, now, prompt_tokens=100, streams=False)
    picker.pick(Call("m"), endpoints, now + 500.0)
    assert not any(endpoint.wedged for endpoint in endpoints)


def fail(picker: Picker, endpoint: Endpoint, ok: bool, now: float) -> None:
    call = Call("m")
    picker.charge(endpoint, call)
    picker.settle(endpoint, call, ok, now)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_an_engine_that_fails_every_other_call_has_to_sit_out(size):
    endpoints, picker = pool(size), a_picker()
    for n in range(40):
        fail(picker, endpoints[0], n % 2 == 0, n / 100)
        for other in endpoints[1:]:
            fail(picker, other, True, n / 100)
        if endpoints[0].breaker.state is State.OPEN:
            break
    assert endpoints[0].breaker.state is State.OPEN
    assert {send(picker, endpoints, n / 100, prompt_tokens=1)[0] for _ in range(9)} <= {*endpoints[1:]}


def test_what_all_have_in_common_is_nobodys_fault():
    endpoints, picker = pool(4), a_picker()
    for n in range(60):
        for each in endpoints:
            fail(picker, each, n % 2 == 0, n / 100)
    assert all(each.breaker.state is State.CLOSED for each in endpoints)


@pytest.mark.parametrize(("size", "most"), [(2, 1), (3, 1), (4, 2), (8, 4)])
def test_never_more_than_half_sit_out_for_being_outliers(size, most):
    endpoints, picker = pool(size), a_picker()
    for n in range(200):
        for place, each in enumerate(endpoints):
            fail(picker, each, n % 2 == 0 or place == size - 1, 0.001 * n)
    assert sum(each.breaker.state is not State.CLOSED for each in endpoints) <= most


def test_a_new_replica_is_warmed_up_gently():
    endpoints, picker = pool(4), a_picker()
    picker.pick(Call("m"), endpoints, 0.0)
    new = Endpoint(facts("new"))
    grown, now = Roster([*endpoints, new]), WARM_S + 1.0
    got = Counter(send(picker, grown, now, prompt_tokens=1000)[0].name for _ in range(170))
    assert 5 <= got["new"] <= 25, "a quarter of the share of 34 that it would have"
    for each in grown:
        assert each.in_flight == got[each.name]
    picker.pick(Call("m"), grown, now + WARM_S + 1)
    assert {each.handicap for each in grown} == {1.0}


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 40)), max_size=60), st.randoms())
def test_a_vetoed_endpoint_is_never_picked_while_another_is_well(steps, order):
    """Whatever befalls endpoints, and at whatever time: with one that is well, only those that are get calls."""
    endpoints, picker, now = pool(3), a_picker(), 0.0
    calls: list[Call] = []
    for what, seconds in steps:
        now += seconds
        each = order.choice(endpoints)
        if what == "a":
            each.facts = facts(each.name, ready=order.random() < 0.6)
        elif what == "b":
            each.load = Load(at=now, running=1, waiting=0, kv_used=order.choice([0.1, 0.99]))
        elif what == "c" and calls:
            call = calls.pop()
            picker.settle(call.charged_to, call, False, now)
        elif what == "d" and calls:
            call = order.choice(calls)
            picker.first_token(call.charged_to, call, now)
        elif what == "e" and each.speaking:
            each.heard_at = now
        if not any(endpoint.takes_calls for endpoint in endpoints):
            continue
        silent = [e for e in endpoints if e.hears and e.speaking and now >= e.heard_at + e.patience_s]
        well = [e for e in endpoints if e.open_from <= now < e.well_until and e not in silent]
        # Looked at before the call is booked: one that tries whether an engine is back shuts it for others.
        chosen, call = send(picker, endpoints, now, prompt_tokens=100)
        calls.append(call)
        assert chosen in well or (not well and chosen.takes_calls)


def test_where_it_is_known_how_much_fits_a_nearly_full_cache_is_weighed_and_not_passed_over():
    """A share is a second old: whoever passes over all that are above it sends everything to the few below."""
    endpoints, picker = pool(2, kv_tokens=100_000, prefill_tokens_s=1000.0), a_picker()
    for endpoint, used in zip(endpoints, (0.98, 0.5), strict=True):
        endpoint.load = Load(at=0.0, running=1, waiting=0, kv_used=used)
    other, _ = send(picker, endpoints, 0.1, prompt_tokens=8000)
    assert other is endpoints[1]
    assert send(picker, endpoints, 0.1, prompt_tokens=10)[0] is endpoints[0]


def test_an_engine_that_is_in_the_middle_of_a_step_is_not_taken_for_idle():
    """It has read all that was sent there, by its rate; but its step takes more than that, and has not ended."""
    endpoints, picker = pool(2, prefill_tokens_s=10_000.0, decode_step_s=0.05), a_picker()
    busy, _ = send(picker, endpoints, 0.0, prompt_tokens=1000)
    chosen, _ = send(picker, endpoints, 0.11, prompt_tokens=16)
    assert chosen is not busy
