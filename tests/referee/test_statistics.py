"""The statistics of the referee: worked examples by hand, second implementations, coverage and
error rates by simulation. A difference that is not there is called at most at the stated rate, and
one that is planted is found with the power that was promised."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from coevo_agents.referee import statistics
from coevo_agents.referee.statistics import (
    Interval,
    chance_of_improvement,
    equivalence,
    holm,
    interquartile_mean,
    interval,
    power,
    seeds_needed,
    sign_flip,
    two_way,
    verdict,
)
from coevo_env.errors import ConfigError

WORDS = {"ours": "A", "theirs": "B", "measure": "reward"}


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    monkeypatch.setattr(statistics, "FLIPS", 1 << 10)


# ---------------------------------------------------------------- by hand
def test_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -50]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([[1, 2, 3, 4], [0, 10, 20, 99]]).tolist() == [2.5, 15.0]


@pytest.mark.parametrize(
    "values", [[0.1, 0.2, -0.05, 0.3], [1, 1, 1, 1, 1, 1], [3, -3, 2, -2, 1], [0.5, 0.1, 0.0, 0.2]]
)
def test_sign_flip_counts_all_signs(values):
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    means = np.abs((signs * values).mean(1))
    assert sign_flip(values) == pytest.approx((means >= abs(np.mean(values)) - 1e-12).mean())


def test_sign_flip_of_five_seeds_can_not_be_below_one_in_sixteen():
    assert sign_flip([1, 1.1, 1.2, 0.9, 1]) == 2 / 32
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_chance_of_improvement_is_that_of_mann_whitney():
    a, b = [1, 2, 3, 3, 5], [0, 2, 3, 4]
    assert chance_of_improvement(a, b).estimate == stats.mannwhitneyu(a, b).statistic / 20
    assert chance_of_improvement([1, 1], [1, 1]).estimate == 0.5
    assert chance_of_improvement([2, 3], [0, 1]) == Interval(1.0, 1.0, 1.0)


def test_equivalence_is_two_t_tests():
    values = np.array([0.02, -0.01, 0.03, 0.0, 0.01, -0.02])
    error = values.std(ddof=1) / math.sqrt(6)
    above = stats.t.sf((values.mean() + 0.05) / error, 5)
    below = stats.t.cdf((values.mean() - 0.05) / error, 5)
    assert equivalence(values, 0.05) == pytest.approx(max(above, below))
    assert equivalence(values + 1, 0.05) > 0.99
    assert equivalence([0.0, 0.0], 0.1) == 0.0 and equivalence([0.2, 0.2], 0.1) == 1.0


def test_power_is_that_of_a_simulated_t_test():
    draw = np.random.default_rng(0)
    samples = draw.normal(0.4, 0.5, (20_000, 12))
    assert power(0.5, 0.4, 12) == pytest.approx((stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean(), abs=0.01)
    needed = seeds_needed(0.5, 0.4)
    assert power(0.5, 0.4, needed) >= 0.8 > power(0.5, 0.4, needed - 1)
    assert (power(0.5, 0.4, 1), power(0.0, 0.4, 6)) == (0.0, 1.0)


def test_seeds_that_cannot_reach_the_level_have_no_power():
    """Five signs have 32 orders: no p-value is below 2 / 32, however large a difference is."""
    assert sign_flip([9.0, 9.1, 9.2, 9.3, 9.4]) == 2 / 32
    assert (power(0.1, 9.0, 5), power(0.1, 9.0, 6)) == (0.0, pytest.approx(1.0))
    assert (seeds_needed(0.1, 9.0), seeds_needed(0.1, 9.0, level=0.05 / 7)) == (6, 9)  # 2^-8 < 0.05 / 7 < 2^-7
    assert seeds_needed(1.0, 1e-9) == 100_000  # and not after as many steps


# ---------------------------------------------------------------- by simulation
def covered(draw, size, rounds=400) -> float:
    found = (interval(draw(size), seed=number) for number in range(rounds))
    return float(np.mean([one.low <= 0 <= one.high for one in found]))


@pytest.mark.parametrize("size", [10, 20])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_intervals_cover_as_often_as_they_say(kind, size):
    """Of 400 intervals 93 to 97 % cover, give or take two standard errors of that count."""
    draw = np.random.default_rng(size)
    make = {"normal": draw.normal, "uniform": lambda size: draw.random(size) - 0.5}[kind]
    assert 0.93 - 0.022 <= covered(lambda n: make(size=n), size) <= 0.97 + 0.022


def test_an_interval_without_the_widening_would_not(monkeypatch):
    draw = np.random.default_rng(0)
    plain = [
        stats.bootstrap((draw.normal(size=5),), np.mean, n_resamples=999, rng=draw).confidence_interval
        for _ in range(300)
    ]
    assert np.mean([one.low <= 0 <= one.high for one in plain]) < 0.9


def test_two_way_intervals_cover_over_seeds_and_prompts():
    draw, hits = np.random.default_rng(0), []
    for number in range(200):
        table = draw.normal(size=(8, 1)) + 0.5 * draw.normal(size=(1, 40)) + draw.normal(size=(8, 40))
        found = two_way(table, seed=number)
        hits.append(found.low <= 0 <= found.high)
    assert 0.92 <= np.mean(hits) <= 1.0


def kinds(effect: float, seeds: int, rounds: int, margin: float = 0.3) -> list[str]:
    draw = np.random.default_rng(seeds)
    out = []
    for _ in range(rounds):
        values = draw.normal(effect, 1.0, seeds)
        out.append(verdict(values, margin, sign_flip(values), **WORDS).kind)
    return out


@pytest.mark.parametrize("seeds", [8, 20])
def test_the_same_arm_twice_is_called_different_at_most_at_the_stated_rate(seeds):
    """200 suites in which nothing differs: wrong calls are at most what 5 % gives, 19 of 200 being
    three standard errors above it."""
    wrong = sum(kind in ("supported", "contradicted") for kind in kinds(0.0, seeds, 200))
    assert wrong <= 19


def test_an_effect_that_was_planted_is_found_with_the_power_that_was_promised():
    effect, seeds = 1.0, 10
    found = np.mean([kind == "supported" for kind in kinds(effect, seeds, 200)])
    assert found >= power(1.0, effect, seeds) - 3 * math.sqrt(0.25 / 200)
    assert not any(kind == "contradicted" for kind in kinds(effect, seeds, 200))


def test_equal_arms_with_little_noise_are_called_equivalent():
    draw = np.random.default_rng(0)
    found = [verdict(draw.normal(0, 0.05, 10), 0.1, 0.5, **WORDS).kind for _ in range(100)]
    assert np.mean([kind == "equivalent" for kind in found]) > 0.95
    apart = [verdict(draw.normal(0.1, 0.05, 10), 0.1, 0.5, **WORDS).kind for _ in range(200)]
    assert np.mean([kind == "equivalent" for kind in apart]) <= 0.05 + 0.05  # on the margin itself


# ---------------------------------------------------------------- words
def test_a_verdict_says_what_was_seen():
    values = [0.5, 0.6, 0.4, 0.5, 0.55, 0.45]
    said = verdict(values, 0.1, sign_flip(values), **WORDS)
    assert said.kind == "supported"
    assert (
        said.sentence.startswith("A is better than B: reward differs by +0.500 [") and "over 6 seeds" in said.sentence
    )
    assert verdict([-v for v in values], 0.1, 0.03, **WORDS).kind == "contradicted"
    open_ = verdict([0.5, -0.4, 0.3, 0.2, -0.1, 0.1], 0.1, 0.6, **WORDS)
    assert open_.kind == "undecided" and "seeds are needed" in open_.sentence
    few = verdict([0.5, 0.6, 0.4], 0.1, 0.001, **WORDS)
    assert few.kind == "" and "no verdict under 5 seeds" in few.sentence


def test_a_sure_but_small_difference_is_no_support():
    values = [0.010, 0.011, 0.009, 0.010, 0.012, 0.008]
    assert sign_flip(values) < 0.05
    assert verdict(values, 0.1, sign_flip(values), **WORDS).kind == "equivalent"


def test_what_is_no_number_is_refused():
    for bad in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(ConfigError, match="expected some, all of them finite"):
            interval(bad)
    with pytest.raises(ConfigError, match="smallest difference that matters"):
        equivalence([1.0, 2.0], 0.0)
    with pytest.raises(ConfigError, match=r"expected \(seeds, prompts\)"):
        two_way([1.0, 2.0])
    assert interval([0.3]) == Interval(0.3) and str(interval([0.3])) == "+0.300"
    assert interval([0.3, 0.3]) == Interval(0.3, 0.3, 0.3)
