"""Is a new release worse than the old one? Two releases side by side, judged by what callers got from each.

*Everything is one kind of question.* A call failed or it did not; its first token was later than a line or it was
not; its tokens came slower than a line or they did not. Each is a coin whose share of heads is to be no more than
`share0`, and each is put to the same test. For times the line is drawn from the old release: the smallest bucket bound
that is at least `slower` times its median (and again its 9th decile), and `share0` is what the old release itself has
beyond that line.

*A test that may be looked at every second.* An ordinary test that is repeated until it fails will fail at last: after
enough looks chance alone rolls back a good release. We bet instead. The wealth of a gambler who bets on "more than
`share0`" is the likelihood ratio, averaged over a few alternatives:

    wealth = mean over p1 of (p1 / share0)^heads * ((1 - p1) / (1 - share0))^tails

If the share is truly `share0` or less, wealth has expectation at most 1 at every moment, and by Ville's inequality the
chance that it *ever* reaches 1 / a is at most a (Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform confidence
sequences"; Grünwald, de Heide, Koolen 2024, "Safe testing"). So we may look as often as we like and stop at once. The
five tests share `false_alarm` between them.

*What is approximate.* `share0` itself is measured: we take the upper end of its 99 % interval (Wilson 1927) and add a
tolerance, so a young baseline makes us slow to judge and not quick to blame. Calls of one caller are not independent.
Where callers stay with one release (`sticky`), a few heavy ones can differ from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import exp, inf, log, log1p, sqrt

QUANTILES = (0.5, 0.9)
TESTS = 1 + 2 * len(QUANTILES)
LEAST_BASELINE = 20  # calls of the old release before its times are a yardstick
SLOW_TOLERANCE = 0.05  # of calls beyond the line, over what the old release has there
STEPS = (0.05, 0.1, 0.2, 0.4, 0.7, 0.95)  # how far from `share0` to 1 the alternatives lie
Z = 2.326  # one-sided 99 %
FLOOR_FIRST_S = 0.020  # differences below this are a machine's breathing, and no caller sees them
FLOOR_TOKEN_S = 0.004


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one release did. Times as counts in the buckets of `bounds`, the last beyond all."""

    served: int = 0
    failed: int = 0
    first_token: tuple[int, ...] = ()
    per_token: tuple[int, ...] = ()

    @property
    def calls(self) -> int:
        return self.served + self.failed


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse a release may be."""

    errors: float = 0.02  # share of failing calls beyond the old release's
    slower: float = 1.5  # times
    false_alarm: float = 0.001  # chance that a release which is no worse is ever called bad
    least_calls: int = 20  # before it can be called good


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known so far. `bad` says in words what is worse; `enough`: it had the calls to be called good."""

    bad: str = ""
    enough: bool = False
    calls: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    """A time that few calls should exceed, in the baseline's own measure."""

    seconds: float
    bucket: int  # the first beyond it
    share0: float = field(default=0.0)


def judge(new: Outcome, old: Outcome, bounds: Sequence[float], tolerance: Tolerance) -> Verdict:
    """Whether the new release is worse than the old one. `bounds` are the buckets' upper ends, in seconds."""
    need = log(TESTS / tolerance.false_alarm)
    usual = upper(old.failed, old.calls) if old.calls else 0.0
    if wealth(new.failed, new.calls, usual + tolerance.errors) >= need:
        return Verdict(_errors(new, old), calls=new.calls)
    times = (
        ("first token", new.first_token, old.first_token, FLOOR_FIRST_S),
        ("time per token", new.per_token, old.per_token, FLOOR_TOKEN_S),
    )
    for name, ours, theirs, floor_s in times:
        for quantile in QUANTILES:
            line = _line(theirs, bounds, quantile, tolerance.slower, floor_s)
            if line is None:
                continue
            over = sum(ours[line.bucket :])
            if wealth(over, sum(ours), line.share0) >= need:
                return Verdict(_slow(name, over, sum(ours), line, theirs), calls=new.calls)
    return Verdict(enough=new.calls >= tolerance.least_calls, calls=new.calls)


def wealth(heads: int, tosses: int, share0: float) -> float:
    """The logarithm of what betting against "at most `share0` heads" has made of 1."""
    if share0 >= 1.0 or tosses <= 0:
        return -inf
    logs = []
    for step in STEPS:
        share1 = share0 + (1.0 - share0) * step
        won = heads * (log(share1) - log(share0)) if share0 > 0 else (inf if heads else 0.0)
        logs.append(
            won + (tosses - heads) * log1p(-step)
        )  # (1 - share1) / (1 - share0), also where both round to 0
    best = max(logs)
    if best == inf:
        return inf
    return best + log(sum(exp(one - best) for one in logs) / len(logs))


def upper(heads: int, tosses: int) -> float:
    """The upper end of Wilson's one-sided 99 % interval for a share; 1 when nothing was seen."""
    if tosses <= 0:
        return 1.0
    share, square = heads / tosses, Z * Z
    middle = share + square / (2 * tosses)
    spread = Z * sqrt(share * (1 - share) / tosses + square / (4 * tosses * tosses))
    return min((middle + spread) / (1 + square / tosses), 1.0)


def _line(
    counts: Sequence[int], bounds: Sequence[float], quantile: float, slower: float, floor_s: float
) -> _Line | None:
    """The line that the old release draws; None when it has too few calls, or its slowest are beyond all buckets."""
    total = sum(counts)
    if total < LEAST_BASELINE:
        return None
    upto = list(accumulate(counts))
    bucket = next(n for n, seen in enumerate(upto) if seen >= quantile * total)
    if bucket >= len(bounds):
        return None
    wanted = max(bounds[bucket] * slower, bounds[bucket] + floor_s)
    place = next((n for n, bound in enumerate(bounds) if bound >= wanted), None)
    if place is None:
        return None
    share0 = upper(sum(counts[place + 1 :]), total) + SLOW_TOLERANCE
    return _Line(bounds[place], place + 1, share0)


def _errors(new: Outcome, old: Outcome) -> str:
    beside = f"{old.failed} of {old.calls}" if old.calls else "none"
    return f"{new.failed} of {new.calls} calls failed (the old release: {beside})"


def _slow(name: str, over: int, calls: int, line: _Line, theirs: Sequence[int]) -> str:
    had = sum(theirs[line.bucket :])
    return (
        f"{name}: {over} of {calls} calls took more than {line.seconds:.3g} s "
        f"(the old release: {had} of {sum(theirs)})"
    )
