"""Wrong break-glass passwords count wherever they were tried: two gateways on a real PostgreSQL."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from gemstead.ledger.postgres.link import linked
from gemstead.ledger.postgres.place import Place
from gemstead.ledger.postgres.tries import StoreTries
from gemstead.wiring.password import TRIES, TRIES_WITHIN_S, Tries


def tries(url: str) -> Tries:
    return Tries(StoreTries(Place(url=lambda: url, secret=lambda: "s" * 40, node="n")))


def wrong(gateway: Tries) -> float:
    """A try with a wrong password, as the admin port makes it; the seconds that it has to wait instead."""
    now = time.time()
    if (wait_s := gateway.begin(now)) == 0:
        gateway.failed(now)
    return wait_s


def test_two_gateways_allow_no_more_than_one(store_url):
    east, west = tries(store_url), tries(store_url)
    assert [wrong(one) for one in (east, west, east, west, west)] == [0.0] * TRIES
    for one in (east, west, tries(store_url)):
        assert TRIES_WITHIN_S - 60 < wrong(one) <= TRIES_WITHIN_S
    assert tries(store_url).begin(time.time(), since=time.time() + 1) == 0  # another password by now
    tries(store_url).right()
    assert wrong(tries(store_url)) == 0


def test_at_the_same_moment_too(store_url):
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: wrong(tries(store_url)), range(12)))
    assert waits.count(0.0) == TRIES


def test_they_run_out_and_a_right_one_clears_them(store_url):
    east = tries(store_url)
    for _ in range(TRIES - 1):
        wrong(east)
    assert east.begin(time.time()) == 0
    east.right()
    with linked(store_url) as link:
        assert link.value("SELECT count(*) FROM gemstead_tries") == 0
    for _ in range(TRIES):
        wrong(tries(store_url))
    with linked(store_url) as link:
        link.do("UPDATE gemstead_tries SET at = at - $1", TRIES_WITHIN_S)
    assert wrong(tries(store_url)) == 0


def test_while_the_store_is_away_each_gateway_counts_its_own(store_url):
    away = store_url.replace("/test_", "/nothing_")
    east = tries(away)
    assert [wrong(east) for _ in range(TRIES)] == [0.0] * TRIES
    assert wrong(east) > 0
    assert wrong(tries(away)) == 0
