"""How fast engines are, what they find of prompts, and how long answers get: learned from calls that have ended.

A `Line` is y = base + slope * x, fitted by least squares with forgetting: each new observation takes away
`FORGET` of the weight of all before it, so about the last 200 count. Four things keep it sane:

- it begins as a guess that weighs as much as `GUESS_WEIGHT` observations, so the first ones bend it gently
  and a handful of equal ones cannot make it vertical;
- errors are relative. Latencies spread over three decades, and an error of 0.1 s matters at 0.1 s and not at
  30 s, so an observation weighs 1 over the square of what was predicted;
- while it is young (`SETTLED`), all of it is scaled by what an observation says, less each time, because a guess that
  is wrong is wrong everywhere;
- one observation never counts as more than `MOST_RATIO` times what was predicted, nor as less than its
  inverse: a call that waited for something the line does not know (a preemption, a full cache, a pause)
  pulls, and does not tear.

Base and slope are never negative, and never further than `MOST_DRIFT` from the first guess.

Replicas of one plan are alike, and what looks like a difference between two of them is mostly chance: a picker that
believes it sends calls the wrong way. So engines that are foreseen to be alike share their `Rates`, and each has a
`Pace` beside them: how much slower than its like it is, which stays exactly 1 until it is twice as slow (or as fast) on
average. Less than that is within what different calls do: prompts deep in a conversation take longer for each token.

A kind that has not answered yet is hoped to be a little better than the best that is known of its pool (`Rates.hope`).
With a guess of its own it would look slow beside a kind that has shown to be faster than the guess, would get no call
while that one is idle, and so would never be known. Hope ends with `TRIED` answers: one may have been the call that
loaded the model, and a line needs some to leave a guess that was far off. A plan is no guess, and is scaled only as
another plan of the pool has shown to be too cautious.

`Lengths` keeps the mean answer of each (model, tenant), in bounded memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log
from typing import Final

FORGET: Final = 0.995
GUESS_WEIGHT: Final = 4.0
MOST_RATIO: Final = 4.0
MOST_DRIFT: Final = 1000.0
PACE_STEP: Final = 0.03  # up or down: 24 calls in a row that are all slow show an engine to be twice as slow
PACE_CHANCE: Final = 0.7  # of the logarithm: an engine is taken for slower, or faster, from twice on,
PACE_BACK: Final = 0.4  # and for like the others again below one and a half times
SETTLED: Final = 50  # calls after which a line is good enough to hold single engines against it
MOVED: Final = 0.02
TRIED: Final = 3  # first tokens from a kind of engine after which it is taken for what they say
HOPE: Final = (
    0.95  # of the best that is known: ahead of it by more than it moves untold (`MOVED`), either way
)
USUAL_STEP: Final = 0.01  # up or down, towards the median, which a few slow engines do not move
LENGTHS_FORGET: Final = 0.05  # about the last 20 to 40 answers of a tenant
MOST_TENANTS: Final = 4096  # about 600 KB
MIDWAY_STEP: Final = 0.1  # about the last ten prompts of which an engine could find something midway
# Before anything is known: the mean answer of Azure's chat trace of 2023 is 211 tokens (Patel et al.,
# "Splitwise", ISCA 2024), of Mooncake's conversations 343.
FIRST_OUTPUT_TOKENS: Final = 256.0


class Line:
    """y = base + slope * x, learned. Begins as (base, slope), which are taken for good around x = 0 .. span.

    `planned`: that beginning is what a plan foresees for this engine, and not a guess for any.
    """

    __slots__ = (
        "_first_base",
        "_first_slope",
        "_planned",
        "_span",
        "_sw",
        "_sx",
        "_sxx",
        "_sxy",
        "_sy",
        "base",
        "count",
        "slope",
    )

    def __init__(self, base: float, slope: float, span: float, planned: bool = False) -> None:
        self._first_base = self.base = base
        self._first_slope = self.slope = slope
        self._span = span
        self._planned = planned
        self.count = 0  # of observations
        top = base + slope * span
        w0, w1 = GUESS_WEIGHT / (base * base), GUESS_WEIGHT / (top * top)
        self._sw = w0 + w1
        self._sx = w1 * span
        self._sy = w0 * base + w1 * top
        self._sxx = w1 * span * span
        self._sxy = w1 * span * top

    def at(self, x: float) -> float:
        """The y that is expected at x."""
        return self.base + self.slope * x

    def hoped(self, others: Sequence[Line]) -> Line:
        """A line that begins as this did, or a little better than the best that is known of the others."""
        base, slope, known = self._first_base, self._first_slope, self._planned
        for other in others:
            if self._planned:
                times = HOPE * other.slope / other._first_slope if other._planned and other.count else 1.0
                if times * self._first_slope < slope:
                    base, slope = times * self._first_base, times * self._first_slope
            elif (other._planned or other.count) and (not known or HOPE * other.slope < slope):
                base, slope, known = HOPE * other.base, HOPE * other.slope, True
        line = Line(base, slope, self._span, self._planned)
        line._first_base, line._first_slope = self._first_base, self._first_slope
        return line

    def learn(self, x: float, y: float) -> None:
        """Take in one observation."""
        if self.count < SETTLED:
            self._scale((y / (self.base + self.slope * x)) ** (1.0 / (self.count + 2)))
        foreseen = self.base + self.slope * x
        y = min(max(y, foreseen / MOST_RATIO), foreseen * MOST_RATIO)
        weight = 1.0 / (foreseen * foreseen)
        self.count += 1
        self._sw = sw = self._sw * FORGET + weight
        self._sx = sx = self._sx * FORGET + weight * x
        self._sy = sy = self._sy * FORGET + weight * y
        self._sxx = sxx = self._sxx * FORGET + weight * x * x
        self._sxy = sxy = self._sxy * FORGET + weight * x * y
        spread = sw * sxx - sx * sx
        slope = (sw * sxy - sx * sy) / spread if spread > 1e-9 * sw * sxx else self.slope
        slope = min(max(slope, self._first_slope / MOST_DRIFT), self._first_slope * MOST_DRIFT)
        base = (sy - slope * sx) / sw
        lowest = self._first_base / MOST_DRIFT
        if base < lowest:  # the line through the least base that fits best
            base = lowest
            slope = max((sxy - base * sx) / sxx, self._first_slope / MOST_DRIFT) if sxx > 0.0 else slope
        self.base, self.slope = min(base, self._first_base * MOST_DRIFT), slope

    def _scale(self, times: float) -> None:
        """Make all of it so many times slower: a guess may be a hundred times off, and be so in every point."""
        least, most = 1.0 / MOST_DRIFT, MOST_DRIFT
        times = max(least * self._first_slope / self.slope, min(times, most * self._first_slope / self.slope))
        times = max(least * self._first_base / self.base, min(times, most * self._first_base / self.base))
        self.base *= times
        self.slope *= times
        self._sy /= times
        self._sxy /= times
        times *= times
        self._sw /= times
        self._sx /= times
        self._sxx /= times


class Pace:
    """How many times slower than its like an engine is: 1 unless it clearly differs."""

    __slots__ = ("_median", "count", "times")

    def __init__(self) -> None:
        self.times = 1.0
        self.count = 0
        self._median = (
            0.0  # of the logarithm of observed over usual; medians, because some calls wait very long
        )

    def learn(self, beside: float) -> None:
        """Take in how much longer than its like it took for one call: a logarithm, see `Rates.beside`."""
        self.count += 1
        self._median += PACE_STEP if beside > self._median else -PACE_STEP
        bound = PACE_BACK if self.times != 1.0 else PACE_CHANCE
        self.times = exp(self._median) if abs(self._median) > bound else 1.0


class Rates:
    """How fast a kind of engine is: `prefill` seconds by prompt tokens, `decode` seconds a token by requests."""

    __slots__ = ("_hope_s", "_told", "_usual", "decode", "midway", "prefill")

    def __init__(self, prefill: Line, decode: Line) -> None:
        self.prefill = prefill
        self.decode = decode
        self._told = prefill.slope
        self._hope_s = inf  # for a prompt token, while few were answered
        # Of what engines have of a prompt beyond where an older one ended: the share that they find. Layers with a
        # sliding window keep the ends of prompts, so on Gemma 4 it comes near 0; elsewhere it stays near 1.
        self.midway = 1.0
        self._usual = 0.0  # the median of that logarithm: a line fits means

    @property
    def token_s(self) -> float:
        """What a prompt token takes that is not cached, without what every prompt takes; at first, at best."""
        return min(self.prefill.slope, self._hope_s)

    def moved(self) -> bool:
        """Whether prefill is so much faster or slower than when this last said so that it should be told."""
        if self.prefill.count >= TRIED:
            self._hope_s = inf
        if abs(self.token_s - self._told) <= MOVED * self._told:
            return False
        self._told = self.token_s
        return True

    def hope(self, others: Sequence[Rates]) -> None:
        """Begin anew what was never observed, by what is known of the others, which serve the same pool.

        What has hardly been observed is taken to be as good all the same.
        """
        if self.prefill.count < TRIED:
            line = self.prefill.hoped([other.prefill for other in others if other is not self])
            if not self.prefill.count:
                self.prefill = line
            self._hope_s = (
                line.slope if line.slope != line._first_slope else inf
            )  # of the others something is known
            self._told = self.token_s
        if not self.decode.count:
            self.decode = self.decode.hoped([other.decode for other in others])

    def learn_midway(self, found: float) -> None:
        """An engine has said what share it found of what it has of a prompt beyond where an older one ended."""
        self.midway += MIDWAY_STEP * (min(max(found, 0.0), 1.0) - self.midway)

    def beside(self, ahead_tokens: float, seconds: float, pace: float, alone: bool) -> float:
        """Take in one time to a first token, from an engine of this pace.

        Returns the logarithm of how many times longer it was than is usual of calls that found nothing waiting.
        """
        ratio = log(min(max(seconds / self.prefill.at(ahead_tokens), 1 / MOST_DRIFT), MOST_DRIFT))
        settled = self.prefill.count >= SETTLED
        by = USUAL_STEP if settled else 1.0 / (self.prefill.count + 1)
        if alone:
            self._usual += by if ratio > self._usual else -by
        self.prefill.learn(ahead_tokens, seconds / pace)
        return ratio - self._usual if settled else 0.0


class Lengths:
    """Mean tokens of an answer, by model and tenant; of the model while a tenant is new."""

    def __init__(self, most: int = MOST_TENANTS) -> None:
        self._most = most
        self._means: dict[tuple[str, str], float] = {}
        self._models: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._means)

    def expect(self, model: str, tenant: str) -> float:
        """The tokens that the next answer will have, on average."""
        mean = self._means.get((model, tenant))
        return self._models.get(model, FIRST_OUTPUT_TOKENS) if mean is None else mean

    def learn(self, model: str, tenant: str, tokens: int) -> None:
        """An answer has ended."""
        key = (model, tenant)
        mean = self._means.get(key)
        if mean is None:
            if len(self._means) >= self._most:
                for old in list(self._means)[: max(1, self._most // 16)]:  # the first known of them
                    del self._means[old]
            mean = self._models.get(model, FIRST_OUTPUT_TOKENS)
        self._means[key] = mean + LENGTHS_FORGET * (tokens - mean)
        if model in self._models or len(self._models) < self._most:
            mean = self._models.get(model, FIRST_OUTPUT_TOKENS)
            self._models[model] = mean + LENGTHS_FORGET * (tokens - mean)
