"""Reward against KL: what a method reaches at each distance from the initial model.

One idea: a method with a coefficient beta is a curve, not a point. Each seed draws a curve through
the betas; its numbers (the area under it, the reward at a stated KL) are measures of that seed like
any other, so that everything said of claims holds for curves.

The curve of a seed is the upper concave hull of the initial model and its runs: a mixture of two
policies earns the mean of their rewards at no more than the mean of their KLs, so that every point
on the hull can be had.

Source: hypervolume, Zitzler & Thiele (1999), here over (reward, -KL); the picture is Figure 2c of
Ma et al. (2024), arXiv 2410.06101.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coevo_env.errors import ConfigError, real, unknown_name

from .rows import Row

__all__ = ["MARK", "Frontier", "dominated", "frontier_rows", "hull", "method_of", "read_frontier"]

MARK = " @ "
"""Between the name of a method and the value of the setting that draws its curve."""


@dataclass(frozen=True)
class Frontier:
    """What the curves are drawn by.

    Attributes:
        setting: Its values make the points of a curve.
        values: At least two.
        kl_max: To where the area is taken, nats per response; 0 is the largest KL of any run.
        kl: Where curves are compared, nats per response.
    """

    setting: str = "kl.beta"
    values: tuple[float, ...] = ()
    kl_max: float = 0.0
    kl: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.values)) < 2:
            raise ConfigError(f"frontier.values = {list(self.values)}; expected at least two different ones.")
        for value in (self.kl_max, *self.kl):
            real("frontier.kl_max and frontier.kl", value, 0)


def read_frontier(given: Mapping[str, Any]) -> Frontier | None:
    """What the `[frontier]` of a suite says, or None without one."""
    for key in given:
        if key not in Frontier.__dataclass_fields__:
            raise unknown_name("entry of [frontier]", key, Frontier.__dataclass_fields__)
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return Frontier(**lists) if given else None


def method_of(arm: str) -> str:
    """The method of an arm of a frontier; of any other arm its name."""
    return arm.partition(MARK)[0]


def hull(kl: Sequence[float], reward: Sequence[float], start: float) -> tuple[np.ndarray, np.ndarray]:
    """The upper concave hull of (0, start) and points, up to its highest one: KLs and rewards, both
    rising.

    >>> [part.tolist() for part in hull([1, 2, 3], [0.5, 0.6, 0.9], 0.0)]
    [[0.0, 1.0, 3.0], [0.0, 0.5, 0.9]]
    """
    points = sorted([(0.0, float(start)), *((max(0.0, float(k)), float(r)) for k, r in zip(kl, reward, strict=True))])
    kept: list[tuple[float, float]] = []
    for point in points:
        if kept and point[0] == kept[-1][0]:
            if point[1] <= kept[-1][1]:
                continue
            kept.pop()
        while len(kept) > 1 and _turns_up(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    top = int(np.argmax([r for _, r in kept]))
    kept = kept[: top + 1]
    return np.array([k for k, _ in kept]), np.array([r for _, r in kept])


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def at(kl: np.ndarray, reward: np.ndarray, level: float) -> float:
    """The reward of a hull at a KL; beyond its end, that of its end."""
    return float(np.interp(level, kl, reward))


def area(kl: np.ndarray, reward: np.ndarray, limit: float, start: float) -> float:
    """Mean over KLs from 0 to a limit of what the hull earns above the start: the hypervolume
    divided by the limit, so in reward."""
    if limit <= 0:
        return 0.0
    inside = kl < limit
    x = np.concatenate([kl[inside], [limit]])
    y = np.concatenate([reward[inside], [at(kl, reward, limit)]]) - start
    return float(np.trapezoid(y, x)) / limit


def frontier_rows(rows: Sequence[Row], frontier: Frontier) -> list[Row]:
    """A row for each method, task and seed, whose measures are `hypervolume` and `reward_at_kl/K`.
    A seed that lacks a point is a failed row: its curve would be another."""
    limit = frontier.kl_max or max((row.measures.get("kl", 0.0) for row in rows if row.error is None), default=0.0)
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((method_of(row.arm), row.task, row.seed), []).append(row)
    return [_curve(key, group, frontier, limit) for key, group in groups.items()]


def _curve(key: tuple[str, str, int], group: Sequence[Row], frontier: Frontier, limit: float) -> Row:
    method, task, seed = key
    fine = [row for row in group if row.error is None]
    if len(fine) < len(frontier.values):
        why = next((row.error for row in group if row.error), "they are not there")
        lacking = len(frontier.values) - len(fine)
        return Row(method, task, seed, error=f"{lacking} of {len(frontier.values)} points of its curve lack: {why}")
    start = fine[0].before.get("reward", 0.0)
    kl, reward = hull([row.measures["kl"] for row in fine], [row.measures["reward"] for row in fine], start)
    measures = {"hypervolume": area(kl, reward, limit, start)}
    measures.update({f"reward_at_kl/{level:g}": at(kl, reward, level) for level in frontier.kl})
    measures["collapsed"] = float(np.mean([row.measures.get("collapsed", 0.0) for row in fine]))
    return replace(fine[0], arm=method, measures=measures, by_prompt={}, samples=[], curves={}, chosen={})


def dominated(rows: Sequence[Row], ours: str, theirs: str, task: str) -> float:
    """The share of the mean points of `theirs` that some mean point of `ours` beats in both: no
    less reward at no more KL, and better in one."""
    mine, its = (_means(rows, method, task) for method in (ours, theirs))
    beaten = [any(r >= b and k <= a and (r > b or k < a) for k, r in mine) for a, b in its]
    return float(np.mean(beaten)) if beaten else 0.0


def _means(rows: Sequence[Row], method: str, task: str) -> list[tuple[float, float]]:
    points: dict[str, list[Mapping[str, float]]] = {}
    for row in rows:
        if method_of(row.arm) == method and row.task == task and row.error is None:
            points.setdefault(row.arm, []).append(row.measures)
    return [
        (float(np.mean([m["kl"] for m in one])), float(np.mean([m["reward"] for m in one]))) for one in points.values()
    ]
