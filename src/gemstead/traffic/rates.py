"""How fast engines are and how long answers get: learned from calls that have ended, one at a time.

A `Line` is y = base + slope * x, fitted by least squares with forgetting: each new observation takes away
`FORGET` of the weight of all before it, so about the last 200 count. Three things keep it sane:

- it begins as a guess that weighs as much as `GUESS_WEIGHT` observations, so the first ones bend it gently
  and a handful of equal ones cannot make it vertical;
- errors are relative. Latencies spread over three decades, and an error of 0.1 s matters at 0.1 s and not at
  30 s, so an observation weighs 1 over the square of what was predicted;
- one observation never counts as more than `MOST_RATIO` times what was predicted, nor as less than its
  inverse: a call that waited for something the line does not know (a preemption, a full cache, a pause)
  pulls, and does not tear.

Base and slope are never negative, and never further than `MOST_DRIFT` from the first guess.

Replicas of one plan are alike, and what looks like a difference between two of them is mostly chance: a picker that
believes it sends calls the wrong way. So engines that are foreseen to be alike share their `Rates`, and each has a
`Pace` beside them: how much slower than its like it is, which stays exactly 1 until the difference is more than chance
would explain, and is then as much as is left above that.

`Lengths` keeps the mean answer of each (model, tenant), in bounded memory.
"""

from __future__ import annotations

from math import exp, log
from typing import Final

FORGET: Final = 0.995
GUESS_WEIGHT: Final = 4.0
MOST_RATIO: Final = 4.0
MOST_DRIFT: Final = 1000.0
PACE_FORGET: Final = 0.03  # about the last 30 to 60 calls
PACE_CHANCE: Final = (
    0.25  # of the logarithm: the mean of so many calls of one engine scatters by half of that
)
USUAL_FORGET: Final = 0.01
LENGTHS_FORGET: Final = 0.05  # about the last 20 to 40 answers of a tenant
MOST_TENANTS: Final = 4096  # about 600 KB
# Before anything is known: the mean answer of Azure's chat trace of 2023 is 211 tokens (Patel et al.,
# "Splitwise", ISCA 2024), of Mooncake's conversations 343.
FIRST_OUTPUT_TOKENS: Final = 256.0


class Line:
    """y = base + slope * x, learned. Begins as (base, slope), which are taken for good around x = 0 .. span."""

    __slots__ = ("_first_base", "_first_slope", "_sw", "_sx", "_sxx", "_sxy", "_sy", "base", "count", "slope")

    def __init__(self, base: float, slope: float, span: float) -> None:
        self._first_base = self.base = base
        self._first_slope = self.slope = slope
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

    def learn(self, x: float, y: float) -> None:
        """Take in one observation."""
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


class Pace:
    """How many times slower than its like an engine is: 1 unless it clearly differs."""

    __slots__ = ("_mean", "count", "times")

    def __init__(self) -> None:
        self.times = 1.0
        self.count = 0
        self._mean = 0.0  # of the logarithm of observed over expected

    def learn(self, beside: float) -> None:
        """Take in how much longer than its like it took for one call: a logarithm, see `Rates.beside`."""
        self.count += 1
        self._mean += max(PACE_FORGET, 1.0 / (self.count + 8)) * (beside - self._mean)
        beyond = abs(self._mean) - PACE_CHANCE
        if beyond <= 0.0:
            self.times = 1.0
        else:
            self.times = exp(beyond if self._mean > 0.0 else -beyond)


class Rates:
    """How fast a kind of engine is: `prefill` seconds by prompt tokens, `decode` seconds a token by requests."""

    __slots__ = ("_usual", "decode", "prefill")

    def __init__(self, prefill: Line, decode: Line) -> None:
        self.prefill = prefill
        self.decode = decode
        self._usual = 0.0  # logarithm of observed over expected, of all alike: a line fits means, not medians

    def beside(self, ahead_tokens: float, seconds: float) -> float:
        """Take in one time to a first token; the logarithm of how much longer it was than is usual."""
        ratio = log(min(max(seconds / self.prefill.at(ahead_tokens), 1 / MOST_DRIFT), MOST_DRIFT))
        self._usual += USUAL_FORGET * (ratio - self._usual)
        self.prefill.learn(ahead_tokens, seconds)
        return ratio - self._usual


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
