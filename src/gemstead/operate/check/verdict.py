"""What a check found, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding. `sentence` says what was seen, `remedy` what to do about it; a pass needs none."""

    outcome: Outcome
    sentence: str
    remedy: str = ""


def passed(sentence: str) -> Verdict:
    return Verdict("pass", sentence)


def failed(sentence: str, remedy: str) -> Verdict:
    return Verdict("fail", sentence, remedy)


def skipped(sentence: str, remedy: str = "") -> Verdict:
    return Verdict("skipped", sentence, remedy)
