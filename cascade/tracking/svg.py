"""Line charts as inline SVG, coloured by the page's CSS: small multiples of one metric over the steps of a stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from statistics import fmean

WIDTH, HEIGHT = 300, 160
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
MAX_POINTS = 240

Points = Sequence[tuple[float, float | None]]
"""(step, value); None breaks the line."""


def chart(points: Points, metric: str, stage: str) -> str:
    """An SVG of one metric over steps, with axes, ticks and a title for screen readers; "" when there is no value."""
    values = [value for _, value in points if value is not None]
    if not values:
        return ""
    steps = [step for step, _ in points]
    x_ticks, y_ticks = ticks(min(steps), max(steps), 4, whole=True), ticks(min(values), max(values), 5)
    x_low, x_high = min(steps), max(max(steps), min(steps) + 1)
    y_low, y_high = min(y_ticks[0], *values), max(y_ticks[-1], *values)

    def x(step: float) -> float:
        return LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    title = (
        f"{metric} of {stage}, steps {steps[0]:g} to {steps[-1]:g}: from {number(values[0])} to {number(values[-1])}, "
        f"lowest {number(min(values))}, highest {number(max(values))}"
    )
    base = HEIGHT - BOTTOM
    parts = [f"<title>{escape(title)}</title>"]
    for tick in y_ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in x_ticks:
        parts.append(f'<path class="axis" d="M{x(tick):.1f} {base}v4"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{base + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 3}" text-anchor="middle">step</text>')
    parts += [_line([(x(step), y(value)) for step, value in run]) for run in _unbroken(thinned(points))]
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """About `count` round numbers from within `low` to `high`; around a single value when they are equal."""
    if high <= low:
        if whole:
            return [low]
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    size = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (size * factor) <= count)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)] or [low]


def thinned(points: Points) -> Points:
    """At most `MAX_POINTS` points; each the mean of its neighbours where there are more."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    pieces = [points[i : i + size] for i in range(0, len(points), size)]
    return [(piece[-1][0], _mean([value for _, value in piece if value is not None])) for piece in pieces]


def number(value: float) -> str:
    """Three digits that matter: 0.53, 11.2, 132, 1.2e-05."""
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.2g}"


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _unbroken(points: Points) -> list[list[tuple[float, float]]]:
    runs = [list(run) for present, run in groupby(points, key=lambda p: p[1] is not None) if present]
    return [[(step, value) for step, value in run if value is not None] for run in runs]


def _line(places: Sequence[tuple[float, float]]) -> str:
    if len(places) == 1:
        return f'<circle class="dot" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2.5"/>'
    return f'<path class="curve" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'
