"""What can be said about a difference that was seen in a few runs.

One idea: the seed is the unit. Every number here is made from one value for each seed; agents are
averaged within a run before, and prompts and draws only ever widen an interval. Tests, intervals
and power come from scipy and statsmodels; what is ours is how they are put together, and a verdict
in words.

Sources: BCa intervals, Efron (1987); widened for few values, Hesterberg (2015), arXiv 1411.5279,
section 5.3; interquartile mean and probability of improvement, Agarwal et al. (2021), arXiv
2108.13264; Holm (1979); two one-sided tests, Schuirmann (1987).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coevo_env.errors import ConfigError, MissingExtraError

__all__ = [
    "FEWEST",
    "LEVEL",
    "Interval",
    "Verdict",
    "band",
    "chance_of_improvement",
    "equivalence",
    "holm",
    "interquartile_mean",
    "interval",
    "least_pvalue",
    "power",
    "seeds_needed",
    "sign_flip",
    "two_way",
    "verdict",
]

Values = Sequence[float] | np.ndarray
"""One number for each seed, (S,)."""
FEWEST = 5
"""Seeds below which differences are shown and no verdict is given."""
LEVEL = 0.05
"""Of verdicts: an adjusted p up to it counts."""
RESAMPLES = 9_999
FLIPS = 1 << 16


@dataclass(frozen=True)
class Interval:
    """An estimate, and the ends of its interval; None where there are too few values for one."""

    estimate: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.estimate:+.3f}"
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def interquartile_mean(values: Any, axis: int = -1) -> Any:
    """The mean of the middle half, along an axis."""
    return _scipy().trim_mean(np.asarray(values, float), 0.25, axis=axis)


def interval(values: Values, statistic: Callable[..., Any] = np.mean, level: float = 0.95, seed: int = 0) -> Interval:
    """BCa interval of a statistic of one value for each seed, such as a paired difference.

    Bootstrap intervals of few values are too narrow: they resample from a spread that is too small
    by (n - 1) / n, and by normal quantiles where those of t belong. Hesterberg's remedy, taken
    here, is to ask for the level at which a percentile interval of a normal mean is the t-interval.
    Of 95 % intervals of 10 or 20 values 95 to 97 % cover then, of a Laplace or an exponential
    distribution 93 to 95 %; of 5 values 89 to 93 %.

    Args:
        values: (S,).
        statistic: A function of an array and an `axis`.
        level: Of the interval.
        seed: Of the resampling.
    """
    values = _finite(values)
    estimate = float(statistic(values))
    count = len(values)
    if count < 2:
        return Interval(estimate)
    if np.ptp(values) == 0:
        return Interval(estimate, estimate, estimate)
    stats = _scipy()
    quantile = stats.t.ppf(0.5 + level / 2, count - 1) * math.sqrt(count / (count - 1))
    widened = min(1 - 2 * stats.norm.sf(quantile), 1 - 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a statistic that no jackknife sample moves; told by NaN
        found = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=widened,
            method="BCa",
            rng=np.random.default_rng(seed),
            vectorized=True,
        ).confidence_interval
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return Interval(estimate)
    return Interval(estimate, float(found.low), float(found.high))


def band(table: Any, level: float = 0.95) -> tuple[list[float], list[float], list[float]]:
    """Means of columns over seeds, and the ends of their t-intervals, for a picture.

    Args:
        table: (S, I).
        level: Of the intervals.
    """
    values = _finite(table)
    mean, count = values.mean(0), len(values)
    if count < 3:  # of two seeds it would only show that they are two
        return mean.tolist(), mean.tolist(), mean.tolist()
    half = _scipy().t.ppf(0.5 + level / 2, count - 1) * values.std(0, ddof=1) / math.sqrt(count)
    return mean.tolist(), (mean - half).tolist(), (mean + half).tolist()


def two_way(differences: Any, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of a mean difference over seeds and prompts, both resampled: what to expect of other
    seeds on other prompts.

    Args:
        differences: (S, P), of the same prompts in every run; draws averaged.
        level, seed: As in `interval`.
    """
    table = _finite(differences)
    if table.ndim != 2:
        raise ConfigError(f"differences of shape {table.shape}; expected (seeds, prompts).")
    estimate = float(table.mean())
    if min(table.shape) < 2:
        return Interval(estimate)
    draw = np.random.default_rng(seed)
    seeds, prompts = table.shape
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):  # weights, so that no (S, P) table is copied for each
        rows = np.bincount(draw.integers(0, seeds, seeds), minlength=seeds)
        columns = np.bincount(draw.integers(0, prompts, prompts), minlength=prompts)
        means[number] = rows @ table @ columns / (seeds * prompts)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    wider = _scipy().t.ppf(0.5 + level / 2, seeds - 1) / _scipy().norm.ppf(0.5 + level / 2)
    wider *= math.sqrt(seeds / (seeds - 1))  # as in `interval`
    return Interval(estimate, estimate + wider * float(low - estimate), estimate + wider * float(high - estimate))


def sign_flip(differences: Values) -> float:
    """Two-sided p-value of paired differences: how often random signs give a mean as far from 0.
    All 2^S signs up to 16 seeds, else 65,536 random ones. With S seeds it is at least 2^(1 - S)."""
    values = _finite(differences)
    if len(values) < 2 or not values.any():
        return 1.0
    found = _scipy().permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=FLIPS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def least_pvalue(seeds: int) -> float:
    """What `sign_flip` gives where all of so many differences have one sign and the same size: of
    2^S signs two are as far from 0.

    >>> least_pvalue(6)
    0.03125
    """
    return 2.0 ** (1 - seeds) if seeds > 1 else 1.0


def chance_of_improvement(ours: Values, theirs: Values) -> Interval:
    """How likely a run of ours is better than one of theirs, ties counted half; the interval
    resamples the seeds of each."""
    a, b = _finite(ours), _finite(theirs)

    def chance(x: np.ndarray, y: np.ndarray) -> float:
        wins = (x[:, None] > y[None, :]).mean()
        return float(wins + 0.5 * (x[:, None] == y[None, :]).mean())

    if min(len(a), len(b)) < 2:
        return Interval(chance(a, b))
    draw = np.random.default_rng(0)
    found = [chance(draw.choice(a, len(a)), draw.choice(b, len(b))) for _ in range(2_000)]
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(chance(a, b), float(low), float(high))


def holm(pvalues: Values) -> list[float]:
    """P-values adjusted so that the chance of any false claim of a family stays below the level."""
    return [float(p) for p in _statsmodels("stats.multitest").multipletests(list(pvalues), method="holm")[1]]


def equivalence(differences: Values, margin: float) -> float:
    """P-value of two one-sided t-tests: small where the mean difference lies within the margin."""
    values = _finite(differences)
    if not margin > 0:
        raise ConfigError(f"margin={margin!r}; expected a number > 0: the smallest difference that matters.")
    if len(values) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return 0.0 if abs(values[0]) < margin else 1.0
    described = _statsmodels("stats.weightstats").DescrStatsW(values)
    return float(described.ttost_mean(-margin, margin)[0])


def power(deviation: float, effect: float, seeds: int, level: float = LEVEL) -> float:
    """How likely `seeds` paired differences with that standard deviation show a true mean of
    `effect`, by the t-test; 0 where they are so few that `sign_flip` cannot reach the level."""
    if seeds < 2 or least_pvalue(seeds) > level:
        return 0.0
    if deviation == 0:
        return 1.0
    tests = _statsmodels("stats.power").TTestPower()
    found = float(tests.power(abs(effect) / deviation, seeds, level))
    if math.isnan(found) and abs(effect) * math.sqrt(seeds) > 10 * deviation:
        return 1.0  # the non-central distribution has no numbers that far out
    return found


def seeds_needed(deviation: float, effect: float, wanted: float = 0.8, level: float = LEVEL) -> int:
    """The fewest seeds with that power, at least 2 and at most 100,000."""
    low, high = 1, 100_000  # too few, and enough or as many as are looked at
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(deviation, effect, middle, level) >= wanted else (middle, high)
    return high


@dataclass(frozen=True)
class Verdict:
    """What can be said of one claim.

    Attributes:
        kind: "supported", "contradicted", "equivalent", "undecided", or "" under `FEWEST` seeds.
        sentence: The same in words.
        seen: What was seen, whatever was claimed: "better", "worse", "equal", "undecided" or "few".
        needed: Seeds that would show a difference of the margin, where it is undecided.
    """

    kind: str
    sentence: str
    seen: str = ""
    needed: int | None = None


def verdict(
    differences: Values, margin: float, adjusted: float, *, ours: str, theirs: str, measure: str, family: int = 1
) -> Verdict:
    """The verdict on "`ours` is better than `theirs`".

    "Equivalent" comes first: a difference that is surely smaller than what matters is no support,
    however sure it is.

    Args:
        differences: Ours minus theirs, for each seed; higher is better.
        margin: The smallest difference that matters.
        adjusted: The p-value of `sign_flip` after `holm`.
        ours, theirs, measure: Names for the sentence.
        family: How many claims `holm` was told of, for the seeds that would be needed.
    """
    values = _finite(differences)
    found, count = interval(values), len(values)
    seen = f"{measure} differs by {found} over {count} seed{'s' * (count != 1)}"
    if count < FEWEST:
        return Verdict("", f"{ours} against {theirs}: {seen}; no verdict under {FEWEST} seeds.", "few")
    if equivalence(values, margin) <= LEVEL:
        sentence = f"{ours} and {theirs} are about equal: {seen}, less than the margin of {margin:g}."
        return Verdict("equivalent", sentence, "equal")
    if adjusted <= LEVEL and found.estimate > 0:
        return Verdict("supported", f"{ours} is better than {theirs}: {seen} (p = {adjusted:.3g}).", "better")
    if adjusted <= LEVEL:
        return Verdict("contradicted", f"{ours} is worse than {theirs}: {seen} (p = {adjusted:.3g}).", "worse")
    needed = seeds_needed(float(values.std(ddof=1)), margin, level=LEVEL / family)
    sentence = f"{ours} against {theirs} is undecided: {seen} (p = {adjusted:.3g})."
    if needed > count:
        sentence += f" To see a difference of {margin:g}, about {needed} seeds are needed."
    return Verdict("undecided", sentence, "undecided", needed)


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    if array.size == 0 or not np.isfinite(array).all():
        finite = int(np.isfinite(array).sum())
        raise ConfigError(f"{array.size} values, of which {finite} are finite; expected some, all of them finite.")
    return array


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("comparing runs", "scipy", "referee") from None
    return stats


def _statsmodels(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"statsmodels.{module}")
    except ImportError:
        raise MissingExtraError("comparing runs", "statsmodels", "referee") from None
