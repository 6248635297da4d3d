"""One cell of a comparison: a workload at a share of the fleet's capacity, under one policy.

*Capacity* of a fleet for a workload is the most that it gets done when more comes than it can do: requests a second
that end in the middle of a run, picked by the oracle, first far above what can be done and then at 1.3 times what was
done before, until that brings no more. So a load of 0.8 means the same for every policy, and a policy that wastes
work meets it with less to spare. Of sessions that wait for their answers (a closed loop) too many would only push
each other out of the caches: there the number of sessions is doubled until it brings no more. Of more than eight
equal engines eight are measured, and their share is taken for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gemstead.simulate.engine import Engine
from gemstead.simulate.fleet import Conditions, Fleet
from gemstead.simulate.oracle import Oracle
from gemstead.simulate.outcome import SERVED, Run
from gemstead.simulate.replica import Replica
from gemstead.simulate.workload import Workload, scaled
from gemstead.traffic.picker import Picker
from gemstead.traffic.policies import POLICIES
from gemstead.traffic.policies.score_blend import SCRAPE_S as BLEND_SCRAPE_S
from gemstead.traffic.policy import Policy
from gemstead.traffic.prefix import PrefixIndex

OURS, ORACLE = "ours", "oracle"
NAMES = (OURS, *POLICIES, ORACLE)
PER_ENGINE = 250  # requests in a run
OVERLOAD = 1.3  # times what was done in the round before
GROWS = 1.05
MEASURED = 8  # engines that are measured of a larger fleet of equals
ROUNDS = 5
FULL_TIMES = 3  # times what fits at once, so that long answers are seen to end
FLOODED = 8.0  # times what reading all prompts without any hit would allow
SCRAPE_S = {"score-blend": BLEND_SCRAPE_S}  # where a policy publishes its own

Choose = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried. `engines` are all of the fleet's, alike or not."""

    load: Workload
    engines: tuple[Engine, ...]
    policy: str = OURS
    gateways: int = 1
    conditions: Conditions = field(default_factory=Conditions)


def policies(name: str, choose: Choose, gateways: int = 1) -> Callable[[Sequence[Replica]], list[Policy]]:
    """For `Fleet`: makes each gateway's policy once the engines are there.

    Raises:
        KeyError: nobody is called that.
    """
    if name not in NAMES:
        raise KeyError(name)

    def made(replicas: Sequence[Replica]) -> list[Policy]:
        if name == ORACLE:
            return [Oracle(replicas)] * gateways  # it sees everything, so it is the same everywhere
        if name == OURS:
            return [Picker(PrefixIndex(), choose) for _ in range(gateways)]
        return [POLICIES[name](choose) for _ in range(gateways)]

    return made


def run(trial: Trial, choose: Choose) -> Run:
    """Play it."""
    return Fleet(
        trial.load, trial.engines, policies(trial.policy, choose, trial.gateways), trial.conditions
    ).run()


def capacity(load: Workload, engines: Sequence[Engine], requests: int = 0) -> float:
    """Requests a second that the fleet gets done of this workload; see above.

    Args:
        requests: how many to play; 0: enough.
    """
    if len(engines) > MEASURED and len(set(engines)) == 1:
        return capacity(load, engines[:MEASURED], requests) * len(engines) / MEASURED
    if load.is_closed:
        return _closed_capacity(load, engines, requests or PER_ENGINE * len(engines))
    count = requests or sum(max(PER_ENGINE, FULL_TIMES * engine.most_running) for engine in engines)
    best = 0.0
    rate = FLOODED * _rough(load, engines)
    for _ in range(ROUNDS):
        played = Fleet(scaled(load, rate, count), engines, policies(ORACLE, int)).run()
        done = _middle_rate(played)
        if done < GROWS * best:
            break
        best, rate = done, OVERLOAD * done
    return max(best, done)


def _closed_capacity(load: Workload, engines: Sequence[Engine], count: int) -> float:
    best, rate = 0.0, len(engines) / 8
    while True:
        played = Fleet(scaled(load, rate, count), engines, policies(ORACLE, int)).run()
        done = _middle_rate(played)
        if done < GROWS * best:
            return best
        best, rate = done, rate * 2


def _rough(load: Workload, engines: Sequence[Engine]) -> float:
    """Requests a second without any hit and without waiting for tokens to be written."""
    per_s = 0.0
    for engine in engines:
        seconds = sum(
            engine.prompt_s(one.prompt_tokens, 0) + one.output_tokens * engine.each_s for one in load.requests
        )
        per_s += len(load.requests) / seconds
    return per_s


def _middle_rate(played: Run) -> float:
    ends = sorted(one.end_s for one in played.outcomes if one.status == SERVED)
    low, high = len(ends) // 10, len(ends) * 8 // 10
    return (high - low) / max(ends[high] - ends[low], 1e-9)
