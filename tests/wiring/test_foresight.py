from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from gemstead.ledger.read import Usage
from gemstead.observe import names
from gemstead.observe.metrics import render_labels
from gemstead.spec.autoscale import AutoscaleHoursSpec, AutoscaleSpec
from gemstead.traffic.autoscale import Seen
from gemstead.traffic.endpoint import EndpointFacts
from gemstead.wiring.foresight import Foresight, by_hour, week_h, zone_of
from gemstead.wiring.rollouts import BOUNDS
from gemstead.wiring.secrets import CannotRun

MONDAY = datetime(2026, 11, 16, tzinfo=UTC).timestamp()
BERLIN = ZoneInfo("Europe/Berlin")


def engine(ready=True, name="m-0") -> EndpointFacts:
    return EndpointFacts(name=name, pool="m", host="127.0.0.1", port=1, ready=ready)


def used(at: float, requests: int, mean_s: float, model: str = "m") -> Usage:
    hour = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
    return Usage(
        by={"hour": hour, "model": model}, requests=requests, served=requests, refused=0, failed=0, left=0,
        prompt_tokens=0, cached_tokens=0, output_tokens=0, first_token_mean_s=None, first_token_p50_s=None,
        first_token_p99_s=None, mean_s=mean_s,
    )  # fmt: skip


async def nothing():
    return {}


def test_hours_are_those_of_the_timezone():
    assert week_h(MONDAY, UTC) == 0.0
    assert week_h(MONDAY, BERLIN) == 1.0
    assert week_h(MONDAY - 1800, BERLIN) == 0.5
    assert week_h(MONDAY - 7200, BERLIN) == 167.0


def test_a_timezone_that_does_not_exist_is_told_with_its_place():
    with pytest.raises(CannotRun, match=r"models\[0\].autoscale.timezone: .*Europe/Berlin"):
        zone_of("Mars/Olympus", "models[0].autoscale.timezone")


def test_calls_in_flight_follow_from_requests_and_their_seconds():
    assert by_hour([used(MONDAY, 1800, 4.0)]) == {"m": {MONDAY: 2.0}}


async def test_what_the_audit_log_knows_is_expected_again():
    now = MONDAY + 7 * 86_400 + 7.9 * 3600
    past = [used(MONDAY + day * 86_400 + 8 * 3600, 3600, 20.0) for day in range(5)]
    asked = []

    def history(since, until):
        asked.append((since, until))
        return past

    foresight = Foresight(nothing, lambda: now, history)
    spec = AutoscaleSpec(most=4, timezone="Europe/London")
    await foresight.see("m", spec, [engine()], Seen(replicas=1), 0.0)
    await asyncio.wait_for(foresight._past, 10)
    found = await foresight.see("m", spec, [engine()], Seen(replicas=1), 2.0)
    assert found.forecast_calls == 0.0, "a minute and a half ahead it is not yet eight"
    now += 0.08 * 3600
    found = await foresight.see("m", spec, [engine()], Seen(replicas=1), 290.0)
    assert found.forecast_calls == pytest.approx(20.0, rel=0.15)
    quiet = AutoscaleSpec(most=4, timezone="Europe/London", forecast=False)
    assert (await foresight.see("m", quiet, [engine()], Seen(replicas=1), 292.0)).forecast_calls == 0.0
    assert len(asked) == 1


async def test_replicas_are_begun_ahead_by_what_a_start_was_measured_to_take():
    now = MONDAY + 7.5 * 3600
    foresight = Foresight(nothing, lambda: now)
    office = AutoscaleHoursSpec(least=3)
    spec = AutoscaleSpec(most=4, timezone="UTC", hours=(office,))
    see = Seen(replicas=1)
    assert (await foresight.see("m", spec, [engine(ready=False)], see, 100.0)).forecast_replicas == 0
    found = await foresight.see("m", spec, [engine()], see, 100.0 + 1500.0)  # it took 25 minutes
    assert found.forecast_replicas == 3


async def test_latencies_are_those_of_the_last_minute():
    counts = [0] * (len(BOUNDS) + 1)

    async def figures():
        label = render_labels(names.ENDPOINT_FIRST_TOKEN.labels, ("m-0",))
        return {names.ENDPOINT_FIRST_TOKEN.name: {label: [0.0, *map(float, counts)]}}

    foresight, spec = Foresight(figures, lambda: MONDAY), AutoscaleSpec(most=4, first_token_s=1.0)
    place = next(number for number, bound in enumerate(BOUNDS) if bound >= 1.0)
    counts[place] = 500  # long ago
    assert (await foresight.see("m", spec, [engine()], Seen(replicas=1), 0.0)).ttft_s == 0.0
    counts[place + 2] = 30
    found = await foresight.see("m", spec, [engine()], Seen(replicas=1), 30.0)
    assert found.ttft_s == BOUNDS[place + 2]
    for now in range(40, 140, 10):
        found = await foresight.see("m", spec, [engine()], Seen(replicas=1), float(now))
    assert found.ttft_s == 0.0, "nothing was answered since"


async def test_a_log_that_cannot_be_read_foresees_nothing():
    def history(since, until):
        raise OSError("away")

    foresight = Foresight(nothing, lambda: MONDAY, history)
    assert (await foresight.see("m", None, [engine()], Seen(replicas=1), 0.0)).forecast_calls == 0.0
    await asyncio.wait_for(foresight._past, 10)
    assert (await foresight.see("m", None, [engine()], Seen(replicas=1), 2.0)).forecast_calls == 0.0
