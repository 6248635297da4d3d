"""Charts as SVG text: speed and cost against load, and a forecast against its limits.

Plain text from plain numbers, so that the same plan gives the same bytes, nothing is drawn by a library, and the file
opens in any browser. Colours are told apart by brightness too, and every line is named at its end. A band is the
range; the line in it is what is likely. Text is escaped; nothing is loaded from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gemstead.plan.forecast import Month
from gemstead.plan.throughput import Estimate, Range

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 84, 150, 52, 62  # margins in pixels
BLUE, ORANGE, RED, GREY, MARK, INK = "#1f5fbf", "#c25a00", "#b3261e", "#d9dde3", "#666666", "#222222"
LINES = 5  # of the grid above 0
APART = 34  # pixels between two ticks on the horizontal axis, so that their numbers stay apart


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel: points of x and range."""

    name: str  # written at its end; empty: its last value
    points: tuple[tuple[float, Range], ...]
    colour: str = BLUE


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes. The vertical one starts at 0."""

    title: str
    across: str  # what x is, with its unit
    up: str
    curves: tuple[Curve, ...]
    levels: tuple[tuple[str, float], ...] = ()  # horizontal lines with their names
    marks: tuple[tuple[str, float], ...] = ()  # vertical lines with theirs
    doubling: bool = False  # x by doublings instead of evenly
    names: Mapping[float, str] = field(default_factory=dict)  # of ticks on x; empty: their numbers


def load_chart(estimates: Sequence[Estimate], usd_hour: float | None = None, title: str = "") -> str:
    """Throughput, time per token and, with a price, cost against the number of requests at once, as SVG.

    Args:
        estimates: of one setup, by rising concurrency; at least two.
        usd_hour: of all cards of the replica; None: no cost is drawn.
        title: what is shown, such as the model and its cards.

    Raises:
        ValueError: fewer than two estimates.
    """
    if len(estimates) < 2:
        raise ValueError("a chart needs estimates at two concurrencies or more")
    rates = [one.tokens_per_s for one in estimates]
    times = [one.tpot_s.times(1000) for one in estimates]
    panels = [
        _load_panel(
            f"{title}: throughput" if title else "Throughput", "output tokens/s", estimates, rates, BLUE
        ),
        _load_panel("Time per token", "ms", estimates, times, ORANGE),
    ]
    if usd_hour is not None:
        costs = [_per_million(rate, usd_hour) for rate in rates]
        name = f"Cost at ${usd_hour:.2f} an hour, at that load day and night"
        panels.append(_load_panel(name, "$ per million output tokens", estimates, costs, RED))
    return svg(panels)


def forecast_chart(
    now: float, months: Sequence[Month], limits: Mapping[str, float], unit: str, title: str = "Forecast"
) -> str:
    """The busiest day of the coming months against the limits, as SVG.

    Args:
        now: today's busiest day.
        months: of `forecast.forecast`.
        limits: by name, in the unit of the forecast.
        unit: such as "tokens a day".
    """
    points = [(0.0, Range(now, now, now)), *((month.number - 0.5, month.busiest_day) for month in months)]
    every = 1 + len(months) // 13
    names = {float(n): "now" if n == 0 else f"+{n}" for n in range(0, len(months) + 1, every)}
    curve = Curve("busiest day", tuple(points))
    return svg([Panel(title, "months from now", unit, (curve,), tuple(limits.items()), names=names)])


def _per_million(tokens_per_s: Range, usd_hour: float) -> Range:
    def cost(rate: float) -> float:
        return usd_hour / 3600 / rate * 1e6

    return Range(cost(tokens_per_s.high), cost(tokens_per_s.likely), cost(tokens_per_s.low))


def _load_panel(
    title: str, up: str, estimates: Sequence[Estimate], values: Sequence[Range], colour: str
) -> Panel:
    full = next((one.running for one in estimates if one.saturated), None)
    return Panel(
        title,
        "requests at once",
        up,
        (
            Curve(
                "",
                tuple((float(one.concurrency), v) for one, v in zip(estimates, values, strict=True)),
                colour,
            ),
        ),
        marks=(("full", float(full)),) if full else (),
        doubling=True,
    )


def svg(panels: Sequence[Panel]) -> str:
    """Panels below each other as one SVG document."""
    tall = HEIGHT * len(panels)
    body = "\n".join(_panel(panel, HEIGHT * place) for place, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{tall}" viewBox="0 0 {WIDTH} {tall}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">\n'
        f'<rect width="{WIDTH}" height="{tall}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


@dataclass(frozen=True, slots=True)
class _Axes:
    """From values to pixels."""

    left: float
    right: float
    top_value: float
    doubling: bool

    def x(self, value: float) -> float:
        low, high, here = (self._across(one) for one in (self.left, self.right, value))
        return LEFT + (here - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - min(value, self.top_value) / self.top_value * (HEIGHT - TOP - BOTTOM)

    def _across(self, value: float) -> float:
        return math.log2(max(value, 1e-9)) if self.doubling else value


def _panel(panel: Panel, down: int) -> str:
    xs = sorted({x for curve in panel.curves for x, _ in curve.points})
    step = _step(_highest(panel) / LINES)
    axes = _Axes(xs[0], xs[-1], step * LINES, panel.doubling)
    parts = [f'<g transform="translate(0 {down})">', _text(LEFT, 26, panel.title, size=15, weight="600")]
    parts += _grid(panel, axes, step, xs)
    for curve in panel.curves:
        parts += _curve(curve, axes)
    parts += [_level(name, value, axes) for name, value in panel.levels]
    parts += [_mark(name, value, axes) for name, value in panel.marks if axes.left <= value <= axes.right]
    return "\n".join([*parts, "</g>"])


def _highest(panel: Panel) -> float:
    """The value at the top: a bound far above the line would flatten it, so it is cut at twice what is likely."""
    values = [value for curve in panel.curves for _, value in curve.points]
    likely = max(1e-12, *(value.likely for value in values), *(level for _, level in panel.levels))
    return max(likely * 1.05, min(max(value.high for value in values), 2 * likely))


def _grid(panel: Panel, axes: _Axes, step: float, xs: Sequence[float]) -> list[str]:
    parts = []
    for count in range(LINES + 1):
        y = axes.y(step * count)
        parts += [
            _line(LEFT, y, WIDTH - RIGHT, y, GREY),
            _text(LEFT - 8, y + 4, short(step * count), anchor="end"),
        ]
    for value, name in (panel.names or {x: short(x) for x in _thinned(xs, axes)}).items():
        if axes.left <= value <= axes.right:
            parts.append(_line(axes.x(value), HEIGHT - BOTTOM, axes.x(value), HEIGHT - BOTTOM + 5, INK))
            parts.append(_text(axes.x(value), HEIGHT - BOTTOM + 20, name, anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18, panel.across, anchor="middle"))
    middle = f"{(TOP + HEIGHT - BOTTOM) / 2:.1f}"
    turned = f'<text x="20" y="{middle}" text-anchor="middle" transform="rotate(-90 20 {middle})">'
    return [*parts, f"{turned}{_escaped(panel.up)}</text>"]


def _thinned(xs: Sequence[float], axes: _Axes) -> list[float]:
    """Ticks that do not run into each other."""
    kept: list[float] = []
    for x in xs:
        if not kept or axes.x(x) - axes.x(kept[-1]) >= APART:
            kept.append(x)
    return kept


def _curve(curve: Curve, axes: _Axes) -> list[str]:
    def at(x: float, value: float) -> str:
        return f"{axes.x(x):.1f},{axes.y(value):.1f}"

    above = [at(x, value.high) for x, value in curve.points]
    below = [at(x, value.low) for x, value in reversed(curve.points)]
    line = [at(x, value.likely) for x, value in curve.points]
    x, value = curve.points[-1]
    name = curve.name or short(value.likely)
    return [
        f'<polygon points="{" ".join(above + below)}" fill="{curve.colour}" fill-opacity="0.15"/>',
        f'<polyline points="{" ".join(line)}" fill="none" stroke="{curve.colour}" stroke-width="2.5"/>',
        *(_dot(x, value, curve.colour, axes) for x, value in curve.points),
        _text(axes.x(x) + 8, axes.y(value.likely) + 4, name, colour=curve.colour),
    ]


def _dot(x: float, value: Range, colour: str, axes: _Axes) -> str:
    said = f"{short(x)}: {short(value.likely)} ({short(value.low)} to {short(value.high)})"
    place = f'cx="{axes.x(x):.1f}" cy="{axes.y(value.likely):.1f}"'
    return f'<circle {place} r="3" fill="{colour}"><title>{said}</title></circle>'


def _level(name: str, value: float, axes: _Axes) -> str:
    y = axes.y(value)
    label = _text(LEFT + 6, y - 5, f"{name}: {short(value)}", colour=RED)
    return _line(LEFT, y, WIDTH - RIGHT, y, RED, dash="6 4") + label


def _mark(name: str, value: float, axes: _Axes) -> str:
    x = axes.x(value)
    label = _text(x - 5, TOP + 12, name, anchor="end", colour=MARK)
    return _line(x, TOP, x, HEIGHT - BOTTOM, MARK, dash="3 4") + label


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "400",
    colour: str = INK,
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" font-weight="{weight}" fill="{colour}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _step(least: float) -> float:
    """The next round number: 1, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-12)))
    digits = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(power * digit for digit in digits if power * digit >= least * (1 - 1e-9))


def short(value: float) -> str:
    """A number as short as a tick needs: 0.15, 64, 12.5k, 3.4M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
