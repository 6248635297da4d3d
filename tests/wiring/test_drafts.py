"""A drafter that does not pay is rolled out shorter or left out, unless the file names its depth."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gemstead.engines.drafting_watch import Verdict, Watch
from gemstead.observe import names
from gemstead.observe.metrics import Registry, Snapshot
from gemstead.spec.model import ModelSpec, Spec
from gemstead.wiring.drafts import Advice, Drafts, advised, percentile, redrafted, with_depth
from gemstead.wiring.rollouts import BOUNDS
from gemstead.wiring.scale import Scaled

MODEL = "gemma-4-31b"


@dataclass
class Engine:
    """What is looked at of an engine of ours."""

    name: str
    drafts: Watch
    slowest_s: float | None = None
    facts: Any = field(init=False)

    def __post_init__(self) -> None:
        self.facts = SimpleNamespace(name=self.name, ready=True)


def live(name: str, depth: int = 4, verdict: Verdict = Verdict.KEEP, to: int = 4) -> Any:
    watched = Engine(name, Watch(depth, verdict=verdict, to=to, why="40% of the drafted tokens are kept"))
    return SimpleNamespace(watched=watched, seat=SimpleNamespace(pool=MODEL))


def external(name: str) -> Any:
    return SimpleNamespace(
        watched=SimpleNamespace(facts=SimpleNamespace(name=name)), seat=SimpleNamespace(pool=MODEL)
    )


def counted(name: str, per_token_s: float, calls: int) -> Snapshot:
    registry = Registry()
    family = registry.histograms(names.ENDPOINT_PER_OUTPUT_TOKEN).labels(name)
    for _ in range(calls):
        family.observe(per_token_s)
    return registry.snapshot()


def test_the_most_cautious_advice_counts() -> None:
    lives = [
        live("a"),
        live("b", verdict=Verdict.LOWER, to=2),
        live("c", verdict=Verdict.OFF, to=0),
        external("d"),
    ]
    (advice,) = advised(lives)
    assert (advice.pool, advice.depth) == (MODEL, 0)
    assert advice.why.startswith("c: ")
    assert not list(advised([live("a"), external("d")]))


async def test_a_watch_is_told_how_slow_the_slowest_answers_were_since_its_window_began() -> None:
    one, figures = live("a"), counted("a", 0.02, 10)

    async def seen() -> Snapshot:
        return figures

    async def never(_: Advice) -> str:
        raise AssertionError("nothing is to be changed")

    drafts = Drafts(lambda: [one], seen, never)
    await drafts.look(0.0)
    assert one.watched.slowest_s is None, "too few answers say nothing"
    figures = counted("a", 0.02, 1010)
    await drafts.look(10.0)
    assert one.watched.slowest_s == next(bound for bound in BOUNDS if bound >= 0.02)


async def test_what_a_watch_asks_for_is_done_once_and_tried_again_when_it_could_not_be() -> None:
    asked: list[Advice] = []
    busy = True

    async def nothing() -> Snapshot:
        return {}

    async def redraft(advice: Advice) -> str:
        asked.append(advice)
        if busy:
            raise RuntimeError("the model is being changed")
        return "done"

    drafts = Drafts(lambda: [live("a", verdict=Verdict.LOWER, to=2)], nothing, redraft)
    await drafts.look(0.0)
    busy = False
    await drafts.look(15.0)
    await drafts.look(30.0)
    assert [one.depth for one in asked] == [2, 2]


def test_a_depth_that_the_file_names_stays() -> None:
    spec = Spec(models=(ModelSpec(name=MODEL, engine="vllm", draft_tokens=4),))
    with pytest.raises(ValueError, match="the file says `draft_tokens: 4`; better is `draft_tokens: 2`"):
        redrafted(spec, Advice(MODEL, 2, "why"), None)


def test_the_replicas_that_it_was_scaled_to_stay() -> None:
    entry = ModelSpec(name=MODEL, engine="vllm")
    spec = Spec(models=(entry,))
    before = Scaled(entry, entry.model_copy(update={"replicas": 3}))
    assert redrafted(spec, Advice(MODEL, 2, "why"), before).instead == entry.model_copy(
        update={"replicas": 3, "draft_tokens": 2}
    )
    assert redrafted(spec, Advice(MODEL, 0, "why"), None).instead.draft == "off"
    assert with_depth(entry, 3).draft_tokens == 3


def test_a_percentile_of_few_is_none() -> None:
    assert percentile([0] * (len(BOUNDS) + 1), 0.99) is None
    counts = [0] * (len(BOUNDS) + 1)
    counts[3], counts[9] = 980, 20
    assert percentile(counts, 0.5) == BOUNDS[3]
    assert percentile(counts, 0.99) == BOUNDS[9]
