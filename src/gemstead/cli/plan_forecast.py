"""`gemstead plan --forecast`: today's plan carried months ahead, and when each of its limits is met.

Today's use is what `--users` or `--rps` say, or what this service's ledger has seen. Growth is what `--growth` says, or
what the ledger's days show.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gemstead.cli.trouble import USAGE, Trouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemstead.operate.demand import Seen
    from gemstead.plan.forecast import Trend
    from gemstead.plan.outlook import Ahead, Limit, Outlook

MOST_MONTHS = 36
LEDGER_DAYS = 180  # how far back the ledger is read
FAR = 4.0  # a limit this many times above the curve's highest point is not drawn


@dataclass(frozen=True, slots=True)
class Use:
    """Today's use and its growth, with a sentence on where both are from."""

    trend: Trend
    asked: dict[str, Any]  # for `plan`
    said: str


def add(parser: argparse.ArgumentParser) -> None:
    """The options of a forecast."""
    ahead = parser.add_argument_group("forecast")
    ahead.add_argument(
        "--forecast",
        nargs="?",
        type=int,
        const=12,
        metavar="MONTHS",
        help="carry the plan this many months ahead (12), and say when each limit is met; use and growth are this "
        "service's own, from its ledger, unless --users or --rps and --growth say them",
    )
    ahead.add_argument(
        "--growth", type=_share, metavar="SHARE", help="growth a month, such as 0.08 or 8%% (from the ledger)"
    )
    ahead.add_argument(
        "--season",
        type=_season,
        metavar="F,F,...",
        help="twelve factors from January, such as 1,1,1,1,1,1,0.7,0.6,1,1,1.1,1.2 (none)",
    )


def show(args: argparse.Namespace) -> int:
    """Exit code 0 when no limit is met within the months, else 1."""
    from gemstead.cli import picture
    from gemstead.cli.plan import propose
    from gemstead.plan.outlook import FLAT, outlook

    if not 1 <= args.forecast <= MOST_MONTHS:
        raise Trouble(f"--forecast {args.forecast}: from 1 to {MOST_MONTHS} months", code=USAGE)
    if args.plot:
        picture.check(args.plot)
    use = _use(args)
    # A budget decides which plan is chosen today; here it is a limit that growth meets.
    proposal = propose(args, use.asked | {"usd_month": None})
    today = datetime.datetime.now(datetime.UTC).date()
    found = outlook(
        proposal,
        use.trend,
        args.forecast,
        args.season or FLAT,
        first_month=today.month % 12,
        usd_month=args.budget,
    )
    if args.plot:
        picture.write(args.plot, drawn(found))
    if args.json:
        print(json.dumps(_json(found, use, today), indent=2, ensure_ascii=False))
    else:
        _show(found, use, today)
    return 1 if any(limit.reached.month is not None for limit in found.limits) else 0


def _use(args: argparse.Namespace) -> Use:
    """Today's use and its growth.

    Raises:
        Trouble: neither is said, and the ledger does not have it.
    """
    from gemstead.plan.forecast import Trend

    if args.users or args.rps:
        if args.growth is None:
            raise Trouble(
                "--forecast: say how use grows with `--growth 8%` (a month), or leave out --users and --rps, so that "
                "use and growth are read from this service's ledger",
                code=USAGE,
            )
        return Use(
            Trend(1.0, args.growth), {}, f"use as said, growing {args.growth:+.1%} a month, also as said"
        )
    return _of_ledger(args)


def _of_ledger(args: argparse.Namespace) -> Use:
    from gemstead.cli.options import read_spec
    from gemstead.operate.demand import seen
    from gemstead.plan.api import model_named
    from gemstead.plan.forecast import LEAST_DAYS, Trend, trend_of
    from gemstead.wiring.files import state_dir
    from gemstead.wiring.ledger import audit_log

    log = audit_log(state_dir(read_spec(args), os.environ))
    model = model_named(args.model).name if args.model else ""
    found = seen(log, time.time(), LEDGER_DAYS, model)
    whose = f" of {model}" if model else ""
    if found is None:
        raise Trouble(
            f"--forecast: the ledger has no answered call{whose} of a whole day ({log.name}): say today's use with "
            "`--users N` or `--rps N`, and its growth with `--growth 8%`",
            code=USAGE,
        )
    if args.growth is None and len(found.daily) < LEAST_DAYS:
        raise Trouble(
            f"--forecast: the ledger has {len(found.daily)} whole day(s){whose}, and growth shows in {LEAST_DAYS} or "
            "more: say it with `--growth 8%` (a month)",
            code=USAGE,
        )
    if len(found.daily) >= LEAST_DAYS:
        trend = trend_of(found.daily)
        trend = trend if args.growth is None else replace(trend, monthly_growth=args.growth, growth_error=0.0)
    else:
        trend = Trend(max(found.daily), args.growth, days_seen=len(found.daily))
    return Use(trend, _asked(found, trend), _said(found, trend, args.growth is not None))


def _asked(found: Seen, trend: Trend) -> dict[str, Any]:
    """Today's demand for `plan`: the busiest day's busiest hour, and requests as long as they were."""
    busiest_day = trend.level * max(trend.weekdays)
    return {
        "requests_per_s": max(busiest_day * max(found.hours) / 3600, 1e-6),
        "prompt_tokens": max(1.0, found.prompt_tokens),
        "output_tokens": max(1.0, found.output_tokens),
        "day": found.hours,
    }


def _said(found: Seen, trend: Trend, told: bool) -> str:
    days = f"{found.requests:,} requests in {len(found.daily)} whole days"
    growth = f"{trend.monthly_growth:+.1%} a month"
    sure = "as said" if told else f"give or take {trend.growth_error:.1%}"
    cached = f" ({found.cached_share:.0%} of it found in a cache)" if found.cached_share >= 0.01 else ""
    return (
        f"the ledger's {days}: {found.prompt_tokens:,.0f} tokens in{cached}, {found.output_tokens:,.0f} out; growing "
        f"{growth}, {sure}"
    )


def drawn(found: Outlook) -> str:
    """The forecast as SVG: requests, tokens, cache and cards against their limits."""
    from gemstead.plan.chart import Curve, Panel, svg
    from gemstead.plan.throughput import Range

    rows, most = found.months, {limit.name.partition(" (")[0]: limit.most for limit in found.limits}

    def panel(title: str, up: str, name: str, values: Sequence[Range], levels: dict[str, float]) -> Panel:
        across = [max(0.0, row.number - 0.5) for row in rows]
        top = max(value.likely for value in values)
        near = tuple((level, at) for level, at in levels.items() if at <= FAR * top)
        every = 1 + len(rows) // 13
        ticks = {
            float(n): "now" if n == 0 else f"+{n}" for n in range(0, len(rows), every) if n <= across[-1]
        }
        return Panel(
            title,
            "months from now",
            up,
            (Curve(name, tuple(zip(across, values, strict=True))),),
            near,
            names=ticks,
        )

    setup = found.layout.setup
    title = f"{setup.model.title} {setup.checkpoint.bits}, {found.layout.replicas} x {setup.tp} {setup.accelerator.id}"
    flat = [Range(row.cards, row.cards, max(row.cards, row.cards_high)) for row in rows]
    full = most["cache"] * 1.05  # drawn above its limit, for as long as it stays there
    air = [Range(n, n, n) for n in (full if row.in_air is None else row.in_air for row in rows)]
    return svg(
        [
            panel(
                f"{title}: requests in the busiest hour",
                "requests/s",
                "requests",
                [row.requests_per_s for row in rows],
                {"planned load": most["planned load"], "most": most["requests"]},
            ),
            panel(
                "Output tokens",
                "tokens/s",
                "tokens",
                [row.output_tokens_per_s for row in rows],
                {"most": most["output tokens"]},
            ),
            panel(
                "Requests at once, with today's replicas",
                "requests at once",
                "in the air",
                air,
                {"cache full": most["cache"]},
            ),
            panel(
                "Cards needed, with headroom and spares", "cards", "cards", flat, {"at hand": most["cards"]}
            ),
        ]
    )


def _show(found: Outlook, use: Use, today: datetime.date) -> None:
    from gemstead.cli.tables import show as table

    layout = found.layout
    setup = layout.setup
    print(
        f"{setup.model.title} ({setup.checkpoint.repo}): {layout.replicas} x {setup.tp} x {setup.accelerator.name}, "
        f"{setup.engine}"
    )
    print(f"  {use.said}\n")
    table(
        (
            "busiest hour",
            "requests/s",
            "(range)",
            "tokens/s",
            "at once",
            "cache",
            "memory",
            "cards",
            "$/month",
        ),
        [_row(row, today) for row in found.months],
    )
    print()
    table(
        ("limit", "now", "most", "unit", "met", "at the earliest"),
        [_limit_row(limit, today) for limit in found.limits],
    )
    for note in found.notes:
        print(f"- {note}")


def _row(row: Ahead, today: datetime.date) -> tuple[object, ...]:
    low, high = row.requests_per_s.low, row.requests_per_s.high
    cards = f"{row.cards}" if row.cards_high <= row.cards else f"{row.cards} to {row.cards_high}"
    return (
        "today" if row.number == 0 else _month(today, row.number),
        _short(row.requests_per_s.likely),
        f"{_short(low)} to {_short(high)}" if high > low * 1.005 else None,
        f"{row.output_tokens_per_s.likely:,.0f}",
        "too many" if row.in_air is None else _short(row.in_air),
        _filled(row.cache_share),
        _filled(row.memory_share),
        cards,
        None if row.usd_month is None else f"{row.usd_month:,.0f}",
    )


def _limit_row(limit: Limit, today: datetime.date) -> tuple[object, ...]:
    met, early = limit.reached.month, limit.reached.earliest
    return (
        limit.name,
        _short(limit.now),
        _short(limit.most),
        limit.unit,
        _when(met, today) if met is not None else "not in these months",
        _when(early, today) if early is not None else "-",
    )


def _filled(share: float | None) -> str:
    return "full" if share is None else f"{share:.0%}"


def _when(month: float, today: datetime.date) -> str:
    """A point in time in months from now, as a month of the calendar."""
    if month <= 0:
        return "already"
    if month < 0.5:
        return "within days"
    there = today + datetime.timedelta(days=month * 365.25 / 12)
    return f"{there:%B %Y} (in {month:.1f} months)"


def _month(today: datetime.date, number: int) -> str:
    """The calendar's month in whose middle a month of the forecast lies, counted from today."""
    there = today + datetime.timedelta(days=(number - 0.5) * 365.25 / 12)
    return f"{there:%Y-%m-%d}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _json(found: Outlook, use: Use, today: datetime.date) -> dict[str, Any]:
    setup = found.layout.setup
    limits = []
    for limit in found.limits:
        month, early = limit.reached.month, limit.reached.earliest
        limits.append(
            {
                "name": limit.name,
                "unit": limit.unit,
                "now": limit.now,
                "most": limit.most,
                "months": month,
                "months_at_the_earliest": early,
                "on": None if month is None else str(_day(today, month)),
            }
        )
    return {
        "model": setup.model.name,
        "accelerator": setup.accelerator.id,
        "replicas": found.layout.replicas,
        "tensor_parallel": setup.tp,
        "from": use.said,
        "monthly_growth": found.trend.monthly_growth,
        "growth_error": found.trend.growth_error,
        "months": [asdict(row) for row in found.months],
        "limits": limits,
        "notes": list(found.notes),
    }


def _day(today: datetime.date, month: float) -> datetime.date:
    return today + datetime.timedelta(days=month * 365.25 / 12)


def _share(text: str) -> float:
    """A share: 0.08, 8%, -3%."""
    try:
        value = float(text.strip().rstrip("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no share; write 0.08 or 8%") from None
    if not -0.9 <= value <= 3:
        raise argparse.ArgumentTypeError(
            f"`{text}` a month is {value:.0%}: write 8% or 0.08 (from -90% to 300%)"
        )
    return value


def _season(text: str) -> tuple[float, ...]:
    """Twelve factors, made to have a mean of 1."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 12 or not all(0 < value < 100 for value in values):
        raise argparse.ArgumentTypeError("write twelve factors above 0 from January, with commas: 1,1,1,...")
    mean = sum(values) / 12
    return tuple(value / mean for value in values)
