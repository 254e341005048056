"""Intervals of rewards that are right or wrong hold the true mean as often as they say."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from coevo_agents.training import intervals
from coevo_agents.training.intervals import beta_probability, beta_quantile, half_width, t_quantile


@pytest.fixture(autouse=True)
def quantiles_once(monkeypatch):
    monkeypatch.setattr(intervals, "t_quantile", functools.cache(t_quantile))


def student(values: np.ndarray) -> float | None:
    """What is too narrow for rare successes."""
    means = values.mean(1)
    spread = means.std(ddof=1) / math.sqrt(len(means))
    return intervals.t_quantile(0.95, len(means) - 1) * spread if spread else None


# prompts, draws, probability of success, and how alike prompts are (of a beta distribution; None
# where all have one probability)
CASES = [(64, 1, 0.05, None), (64, 8, 0.01, None), (64, 8, 0.01, 1.0), (64, 8, 0.05, 0.2), (64, 8, 0.3, 1.0)]


@pytest.mark.parametrize("case", CASES)
def test_intervals_of_right_and_wrong_hold_the_mean(case):
    prompts, draws, p, alike = case
    draw, times = np.random.default_rng(1), 300
    held = naive = 0
    for _ in range(times):
        own = np.full((prompts, 1), p) if alike is None else draw.beta(p * alike, (1 - p) * alike, (prompts, 1))
        values = (draw.uniform(size=(prompts, draws)) < own).astype(float)
        held += (width := half_width(values)) is None or abs(values.mean() - p) <= width
        naive += (width := student(values)) is None or abs(values.mean() - p) <= width
    assert held / times > 0.95 - 3 * math.sqrt(0.95 * 0.05 / times)
    assert p > 0.1 or naive / times < 0.95 - 2 * math.sqrt(0.95 * 0.05 / times)  # the mutant is seen


def test_the_interval_of_one_value_for_each_prompt_is_that_of_clopper_and_pearson():
    # 1 of 64: the ends solve P(X >= 1) = 0.025 and P(X <= 1) = 0.025 of a binomial distribution
    low = 1 - 0.975 ** (1 / 64)
    assert beta_quantile(0.025, 1, 64) == pytest.approx(low, rel=1e-9)
    width = half_width(np.eye(64)[:1].T)
    assert width is not None
    high = 1 / 64 + width
    assert (1 - high) ** 64 + 64 * high * (1 - high) ** 63 == pytest.approx(0.025, rel=1e-9)
    # 63 of 64 is the same seen from the other side
    assert half_width(1 - np.eye(64)[:1].T) == pytest.approx(width)


def test_two_values_are_right_and_wrong_whatever_they_pay():
    values = (np.random.default_rng(0).uniform(size=(32, 2)) < 0.2).astype(float)
    assert half_width(3 * values - 1) == pytest.approx(3 * half_width(values))


def test_values_of_other_kinds_keep_the_t_interval():
    values = np.random.default_rng(0).normal(size=(12, 3))
    assert half_width(values) == pytest.approx(student(values))
    assert half_width(np.array([[1.0], [3.0]])) == pytest.approx(student(np.array([[1.0], [3.0]])))  # two, by accident


@pytest.mark.parametrize(("a", "b"), [(0.3, 2.5), (1.0, 1.0), (2.0, 63.0), (40.5, 900.0), (300.0, 0.2)])
def test_the_beta_distribution_is_its_integral(a, b):
    # by Gauss-Legendre after x = t**8, which takes the pole at 0 away; at 1 the mirror image does
    for x in (0.01, 0.2, 0.5):
        nodes, weights = np.polynomial.legendre.leggauss(400)
        t = (nodes + 1) / 2 * x ** (1 / 8)
        logs = (
            math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + (8 * a - 1) * np.log(t) + (b - 1) * np.log1p(-(t**8))
        )
        total = float(np.sum(8 * np.exp(logs) * weights) * x ** (1 / 8) / 2)
        assert beta_probability(x, a, b) == pytest.approx(total, abs=1e-10)
        assert beta_probability(1 - x, b, a) == pytest.approx(1 - total, abs=1e-10)
