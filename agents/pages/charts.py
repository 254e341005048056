"""Line charts as numbers: ticks, scaled points, and the two drawings made of them, SVG for pages
and braille for terminals.

One idea: a chart is small enough to be drawn by hand, so no plotting library is needed, and a page
needs no script to show its curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from coevo_env.view.render import number

__all__ = ["braille", "svg", "thin", "ticks"]

WIDTH, HEIGHT = 340, 184
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 8, 22
BOX = {
    "width": WIDTH,
    "height": HEIGHT,
    "left": LEFT,
    "right": WIDTH - RIGHT,
    "top": TOP,
    "bottom": HEIGHT - BOTTOM,
}
MAX_POINTS = 400

Points = tuple[Sequence[float], Sequence[float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in [low, high].

    >>> ticks(0.13, 0.87)
    [0.2, 0.4, 0.6, 0.8]
    """
    raw = (high - low) / count
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def thin(points: Points, limit: int = MAX_POINTS) -> Points:
    """At most `limit` points: means of neighbours where there are more."""
    xs, ys = points
    if len(xs) <= limit:
        return points
    edges = [len(xs) * i // limit for i in range(limit + 1)]
    parts = list(pairwise(edges))
    return [math.fsum(xs[a:b]) / (b - a) for a, b in parts], [math.fsum(ys[a:b]) / (b - a) for a, b in parts]


def svg(
    lines: Mapping[str, Points],
    marked: Mapping[str, Points],
    span: tuple[float, float],
    bands: Sequence[tuple[float, float]] = (),
    areas: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]] | None = None,
    dots: Mapping[str, Points] | None = None,
) -> dict[str, Any] | None:
    """What a template needs to draw a chart.

    Args:
        lines: Name -> points of a thin line.
        marked: Name -> points of a line with a dot on each.
        span: First and last x.
        bands: Stretches of x to be shaded.
        areas: Name -> x, lower and upper edge of a shaded band around a line.
        dots: Name -> points without a line. Where there are any, x need not be a whole number.

    Returns:
        Plain data (coordinates in a view box), or None if there is nothing to draw.
    """
    lines = {name: thin(points) for name, points in lines.items() if points[0]}
    marked = {name: thin(points) for name, points in marked.items() if points[0]}
    areas, dots = {n: a for n, a in (areas or {}).items() if a[0]}, {n: d for n, d in (dots or {}).items() if d[0]}
    values = [y for points in (*lines.values(), *marked.values(), *dots.values()) for y in points[1]]
    values += [y for _, low, high in areas.values() for y in (*low, *high)]
    if not values:
        return None
    low, high = _padded(min(values), max(values))
    ys = ticks(low, high)
    x0, x1 = span if span[1] > span[0] else (span[0] - 0.5, span[0] + 0.5)
    inner_x, inner_y = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return round(LEFT + inner_x * (min(max(value, x0), x1) - x0) / (x1 - x0), 2)

    def y(value: float) -> float:
        return round(TOP + inner_y * (high - value) / (high - low), 2)

    def path(points: Points) -> str:
        return "M" + "L".join(f"{x(a)} {y(b)}" for a, b in zip(*points, strict=True))

    def spots(points: Points) -> list[tuple[float, float]]:
        return [(x(a), y(b)) for a, b in zip(*points, strict=True)]

    decimals = max((len(f"{tick:.10f}".rstrip("0").split(".")[1]) for tick in ys), default=0)
    x_ticks = [tick for tick in ticks(x0, x1, 5) if x0 <= tick <= x1 and (dots or tick == int(tick))]
    return {
        "box": BOX,
        "lines": [(name, path(points), len(points[0]) == 1) for name, points in lines.items()],
        "marked": [(name, path(points), spots(points)) for name, points in marked.items()],
        "y_ticks": [(y(tick), _label(tick, decimals)) for tick in ys],
        "areas": [(n, path(([*xs, *xs[::-1]], [*tops, *lows[::-1]])) + "Z") for n, (xs, lows, tops) in areas.items()],
        "dots": [(name, list(zip(spots(points), map(_told, *points), strict=True))) for name, points in dots.items()],
        "x_ticks": [(x(tick), f"{tick:,g}" if dots else f"{tick:,.0f}") for tick in x_ticks],
        "bands": [(x(a), round(x(b) - x(a), 2)) for a, b in bands if x(b) > x(a)],
        "hover": [[_round(a), x(a), rows] for a, rows in sorted(_hover(dots or lines, marked, y).items())],
    }


def _padded(low: float, high: float) -> tuple[float, float]:
    """A little more than from low to high."""
    pad = 0.06 * (high - low) if high - low > 1e-9 * abs(high) else 0.1 * abs(high) or 0.5
    return low - pad, high + pad


def _hover(
    lines: Mapping[str, Points], marked: Mapping[str, Points], y: Callable[[float], float]
) -> dict[float, list[Any]]:
    """What is shown under the pointer: for each x the name, kind, value and height of every point
    there."""
    rows: dict[float, list[Any]] = {}
    for kind, drawn in (("", lines), ("held out", marked)):
        for name, points in drawn.items():
            for a, b in zip(*points, strict=True):
                rows.setdefault(a, []).append([name, kind, number(b, sign=False), y(b)])
    return rows


def _label(value: float, decimals: int) -> str:
    if value and (abs(value) >= 1e5 or decimals > 3):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    return f"{value:,.{min(decimals, 6)}f}".replace("-", "−")


def _round(value: float) -> float | int:
    return int(value) if value == int(value) else round(value, 1) if abs(value) >= 10 else float(f"{value:.3g}")


def _told(x: float, y: float) -> str:
    """A point in words."""
    return f"{number(x, sign=False)}, {number(y, sign=False)}"


DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of the braille dots: column, then row."""


def braille(series: Mapping[str, Points], width: int = 44, height: int = 5) -> list[list[tuple[str, str | None]]]:
    """A chart of braille dots.

    Args:
        series: Name -> points.
        width, height: In characters; each has 2 x 4 dots.

    Returns:
        `height` rows of `width` pairs (character, name of the series that drew it last or None).
    """
    series = {name: points for name, points in series.items() if points[0]}
    cells: list[list[int]] = [[0] * width for _ in range(height)]
    owner: list[list[str | None]] = [[None] * width for _ in range(height)]
    if series:
        xs = [a for points in series.values() for a in points[0]]
        ys = [b for points in series.values() for b in points[1]]
        x0, x1, low, high = min(xs), max(xs), min(ys), max(ys)
        columns, rows = 2 * width - 1, 4 * height - 1

        def dot(a: float, b: float, name: str) -> None:
            column = round(columns * (a - x0) / (x1 - x0)) if x1 > x0 else 0
            row = round(rows * (high - b) / (high - low)) if high > low else rows // 2
            cells[row // 4][column // 2] |= DOTS[column % 2][row % 4]
            owner[row // 4][column // 2] = name

        for name, (px, py) in series.items():
            dot(px[0], py[0], name)
            for a, b, c, d in zip(px, py, px[1:], py[1:], strict=False):
                steps = max(1, math.ceil(columns * (c - a) / (x1 - x0)) if x1 > x0 else 1)
                steps = max(steps, math.ceil(rows * abs(d - b) / (high - low)) if high > low else 1)
                for i in range(1, steps + 1):
                    dot(a + (c - a) * i / steps, b + (d - b) * i / steps, name)
    return [
        [(chr(0x2800 + bits) if bits else " ", who) for bits, who in zip(*pair, strict=True)]
        for pair in zip(cells, owner, strict=True)
    ]
