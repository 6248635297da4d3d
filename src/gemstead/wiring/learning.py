"""What a start-up log teaches: how much cache the engine really got beside what was planned, kept for the next plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from gemstead.operate.calibration import remember
from gemstead.plan.from_log import compare, read
from gemstead.plan.values import Launch, Replica
from gemstead.refused import Refused

APART = 0.1  # a share by which plan and engine may differ without a word
READ = frozenset({"vllm", "sglang", "llamacpp"})
log = logging.getLogger("gemstead")


def learning(
    planned: Replica, folder: Path, say: Callable[[str], None]
) -> Callable[[Launch, Sequence[str]], None]:
    """What to call with the log of a start that ended well. `say`: a sentence when plan and engine are far apart."""

    def learned(launch: Launch, lines: Sequence[str]) -> None:
        placement = planned.placement
        if placement is None or launch.engine not in READ:
            return
        try:
            found = compare(read("\n".join(lines), launch.engine), placement.setup)
            if found.correction is not None:
                remember(folder, found.correction)
        except Refused as reason:
            log.info("nothing learnt from the start of %s: %s", launch.name, reason)
            return
        for row in found.rows:
            log.info(
                "%s: %s planned %.4g, reported %.4g %s", launch.name, row.name, row.ours, row.log, row.unit
            )
            if row.name.startswith("tokens of") and abs(row.error) > APART:
                say(
                    f"{launch.name}: its cache holds {row.log:,.0f} tokens where {row.ours:,.0f} were planned; "
                    "the next plan knows"
                )

    return learned
