"""Curves of reward against KL, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rows_made import row

from coevo_agents.referee.compare import judge
from coevo_agents.referee.frontier import Frontier, area, at, dominated, frontier_rows, hull
from coevo_agents.referee.suite import Claim


def test_the_hull_is_the_best_mixture():
    """Against the definition: the most reward of any two points mixed so that the KL is the
    level."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        kl, reward = draw.uniform(0, 5, 6), draw.normal(0, 1, 6)
        points = [(0.0, 0.2), *zip(kl, reward, strict=True)]
        curve = hull(kl, reward, 0.2)
        for level in draw.uniform(0, 6, 5):
            best = -np.inf
            for a, x in points:
                for b, y in points:
                    if a <= level:
                        best = max(best, x)
                    if a <= level < b:
                        share = (level - a) / (b - a)
                        best = max(best, (1 - share) * x + share * y)
            assert at(*curve, level) == pytest.approx(best)


def test_the_area_by_hand():
    curve = hull([1.0, 2.0], [1.0, 1.5], 0.0)
    assert area(*curve, 2.0, 0.0) == pytest.approx((0.5 + 1.25) / 2)
    assert area(*curve, 4.0, 0.0) == pytest.approx((0.5 + 1.25 + 3.0) / 4)
    assert area(*curve, 1.0, 0.0) == pytest.approx(0.5)


def points(better: float, seeds: int = 7):
    draw = np.random.default_rng(0)
    return [
        row(
            f"{method} @ {beta:g}", seed, float(1 - np.exp(-1 / beta / 4) * 0.9 + lift + draw.normal(0, 0.01)), 1 / beta
        )
        for method, lift in (("ours", better), ("theirs", 0.0))
        for beta in (0.1, 0.2, 0.5)
        for seed in range(seeds)
    ]


def test_a_planted_curve_is_found_and_none_is_not():
    frontier = Frontier(values=(0.1, 0.2, 0.5), kl=(3.0,))
    claims = [Claim("ours", "theirs", "hypervolume", 0.02), Claim("ours", "theirs", "reward_at_kl/3", 0.02)]
    found = judge(frontier_rows(points(0.2), frontier), claims)
    assert {one.verdict.kind for one in found.judged} == {"supported"}
    assert dominated(points(0.2), "ours", "theirs", "toy") == 1.0
    same = judge(frontier_rows(points(0.0), frontier), claims)
    assert {one.verdict.kind for one in same.judged} == {"equivalent"}
    assert dominated(points(0.0), "ours", "theirs", "toy") < 1.0


def test_a_curve_that_lacks_a_point_is_no_curve():
    rows = [one for one in points(0.2) if (one.arm, one.seed) != ("ours @ 0.2", 3)]
    curves = frontier_rows(rows, Frontier(values=(0.1, 0.2, 0.5)))
    (broken,) = [one for one in curves if one.error]
    assert (broken.arm, broken.seed) == ("ours", 3) and "1 of 3 points" in str(broken.error)
