"""What reading one more prompt does to the answers that an engine is writing.

While an engine reads a prompt, a step takes ten times as long, and every answer that it writes all but stands still.
Whether that matters depends on the answer. With `AIM_S` for a token, and `step_s` for one while nothing is read, an
answer of n tokens may stand still for n (AIM_S - step_s) seconds in all. So one that has stood still for r seconds, and
will for as long as what has been sent there takes to read, keeps to the aim if it gets at least

    least = (r + AIM_S) / (AIM_S - step_s)

tokens. How many it will get nobody knows. Taking lengths to be exponential around what is expected of them (m), an
answer that has w tokens will get as many with chance exp(-(least - w) / m). Another second of reading makes `least`
larger by 1 / (AIM_S - step_s), and so costs each answer about

    exp(-|least - w| / m) / (m (AIM_S - step_s))

of its chance. What an engine's answers lose together is small where they have hardly stood still, and small where they
have stood still for so long that they are lost. So a prompt goes where there is least to lose, the same engines are
disturbed again, others are left alone, and some answers are good where otherwise all would be a little too slow. Where
an engine takes longer than the aim for a token all by itself, nothing can be lost.

Answers that have not begun count as well: those of prompts that wait there will stand still for what is read behind
them, unless their first token comes too late anyway (`FIRST_AIM_S`), so that they are lost already. So an engine whose
last prompts can still become good answers is left to finish them, and what comes next goes behind those that have
nothing to lose.

The sums are made anew when something is sent there, else when they are older than `FRESH_S`; a pick only reads them.
Nothing here decides how much an answer is worth: `picker.py` does (`LOST_S`).
"""

from __future__ import annotations

from math import exp, inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gemstead.traffic.call import Call

AIM_S: Final = 0.05  # for each further token: the goodput that routers are compared by counts up to 50 ms
FIRST_AIM_S: Final = 2.0  # and first tokens up to this
FRESH_S: Final = 0.025
MOST: Final = 64  # answers that are looked at, the oldest first
FAR: Final = 4.0  # so many mean lengths from the brink there is nothing to lose any more, or not yet


class Writing:
    """The answers that one engine writes, as one gateway worker knows them."""

    __slots__ = ("at_risk", "calls", "fresh_until", "risk_per_s")

    def __init__(self) -> None:
        self.calls: dict[Call, None] = {}  # those that stream and have their first token, the oldest first
        self.at_risk = 0.0  # answers, begun or not, that more reading could cost their aim
        self.risk_per_s = 0.0  # of these, how fast
        self.fresh_until = -inf

    def look(
        self,
        now: float,
        token_s: float,
        step_s: float,
        read_tokens: int,
        coming_tokens: float,
        waiting: dict[Call, None],
        done_s: float,
    ) -> None:
        """Make the sums anew.

        Args:
            token_s: seconds to read a prompt token.
            step_s: seconds for a token of each answer while nothing is read.
            read_tokens: prompt tokens that the engine has read, since ever.
            coming_tokens: those that have been sent there and are not read yet.
            waiting: the calls that have no first token yet, the oldest first.
            done_s: seconds that the oldest of them has been read for.
        """
        self.fresh_until = now + FRESH_S
        self.at_risk = self.risk_per_s = 0.0
        spare_s = AIM_S - step_s
        if spare_s <= 0.0:
            return
        coming_s = coming_tokens * token_s + AIM_S
        at_risk = per_s = 0.0
        left = MOST
        for call in self.calls:
            still_s = (read_tokens - call.first_read) * token_s
            written = (now - call.first_at - still_s) / step_s
            mean = call.expected_output + 1.0
            apart = ((still_s + coming_s) / spare_s - written) / mean
            if -FAR < apart < FAR:
                chance = exp(-abs(apart))
                at_risk += chance
                per_s += chance / mean
            left -= 1
            if not left:
                break
        behind_s, left_s = 0.0, coming_s - AIM_S - done_s
        left = MOST
        for call in reversed(waiting):
            mean = call.expected_output + 1.0
            apart = (behind_s + AIM_S) / (spare_s * mean)
            late = now - call.charged_at + max(left_s - behind_s, 0.0) >= FIRST_AIM_S
            if call.streams and not late and apart < FAR:
                chance = exp(-apart)
                at_risk += chance
                per_s += chance / mean
            behind_s += call.charged_tokens * token_s
            left -= 1
            if not left:
                break
        if at_risk:
            self.at_risk, self.risk_per_s = at_risk, per_s / (spare_s * at_risk)

    def lost(self, read_s: float) -> float:
        """How many answers miss their aim by another `read_s` seconds of reading, on average."""
        return self.at_risk * (1.0 - exp(-read_s * self.risk_per_s)) if self.at_risk else 0.0
