"""The published runs of tests/data/plan/speed.yaml as values that the planner takes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gemstead.catalog.accelerators import accelerator
from gemstead.catalog.checkpoints import checkpoints
from gemstead.catalog.models import models
from gemstead.plan.calibrate import Run
from gemstead.plan.setup import Setup

DATA = Path(__file__).parent.parent / "data" / "plan"
SIZES = {one.size: one for one in models()}


@cache
def document() -> dict[str, Any]:
    return yaml.safe_load((DATA / "speed.yaml").read_text())


def setup(size: str, checkpoint: str, gpu: str, tp: int = 1, engine: str = "vllm", **more: Any) -> Setup:
    (form, *_) = [one for one in checkpoints(size) if checkpoint in (one.repo, one.format)]
    return Setup(SIZES[size], form, accelerator(gpu), tp, engine, **more)


def setup_of(case: dict[str, Any]) -> Setup:
    read = case["read_as"]
    return setup(
        case["model"],
        read["checkpoint"],
        case["gpu"],
        case.get("tp", 1),
        read.get("engine_kind", "vllm"),
        kv_dtype=case.get("kv_dtype", "bf16"),
        drafter=bool(read.get("drafts")),
        drafter_kind=read.get("drafter", "assistant"),
        draft_tokens=read.get("drafts", 0),
    )


def said(case: dict[str, Any], name: str) -> Any:
    """What the source says, else what we read it as."""
    return case.get(name, case["read_as"].get(name))


@cache
def runs() -> dict[str, Run]:
    """Every published time per token without a drafter of ours, by the case's id."""
    found = {}
    for case in document()["throughput_cases"]:
        if said(case, "tpot_ms") and case["id"] != "t44":
            running = said(case, "running") or case.get("concurrency") or 1
            found[case["id"]] = Run(
                setup_of(case),
                running,
                said(case, "isl"),
                said(case, "osl"),
                said(case, "tpot_ms") / 1000,
                case["read_as"].get("text", "mixed"),
            )
    for case in document()["mtp_cases"]:  # their plain runs, where no throughput case says the same
        if case["id"] in ("s10", "s12", "s16"):
            found[case["id"]] = Run(setup_of(case), 1, 500, 500, 1 / case["base_tput"])
    return found


@cache
def later_runs() -> dict[str, Run]:
    """Runs that were found when the coefficients stood, by the case's id."""
    return {
        case["id"]: Run(
            setup(
                case["model"],
                case["checkpoint"],
                case["gpu"],
                case.get("tp", 1),
                kv_dtype=case.get("kv_dtype", "bf16"),
                drafter="drafter" in case,
                drafter_kind=case.get("drafter", "assistant"),
                draft_tokens=case.get("drafts", 0),
            ),
            case["concurrency"],
            case["isl"],
            case["osl"],
            case["tpot_ms"] / 1000,
            case.get("text", "mixed"),
        )
        for case in document()["later_cases"]
    }


def halves() -> tuple[list[str], list[str]]:
    """Two halves of the runs, the same every time: by turns, in the order of ids, within each vendor and load.

    Single streams and batches, and each vendor, have their own coefficients, so both halves must know them.
    """
    kinds: dict[tuple[str, bool], list[str]] = {}
    for name, run in sorted((runs() | later_runs()).items()):
        kinds.setdefault((run.setup.accelerator.vendor, run.running > 1), []).append(name)
    one = [name for names in kinds.values() for name in names[::2]]
    return one, [name for names in kinds.values() for name in names[1::2]]
