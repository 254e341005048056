"""How far a mean over prompts can be trusted: the half width of its 95 % interval.

One idea: prompts are what was drawn, so their means are the sample; several draws for one prompt
make its own mean better known, and are no further prompts, nor are rows that repeat one. Where a
value is one of two, such as right and wrong, the t-interval is too narrow for rare ones and the
exact binomial interval takes its place. Quantiles are exact and need no statistics library.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

__all__ = ["beta_probability", "beta_quantile", "half_width", "t_probability", "t_quantile"]

FEWEST = 10
"""Fewer values than these that take two values only may take others."""


def half_width(values: np.ndarray, prompts: Sequence[Hashable] | None = None, level: float = 0.95) -> float | None:
    """Half the width of an interval of the mean over rows, of which those of one prompt count as
    one draw of a prompt.

    It is Student's; for values that are all 0 or 1, or at least 10 of two values, that of Clopper
    and Pearson for as many independent values as have the variance that was found between prompts
    (Korn and Graubard), at most as many as there are: its end that lies farther from the mean. With
    fewer than 30 prompts that differ much in difficulty it may hold the mean less often than said.

    Args:
        values: float (P, D), D draws for each of P rows.
        prompts: What the rows are about; None means P different prompts.
        level: Share of such intervals that hold the true mean.

    Returns:
        None where the spread is not known: for fewer than two prompts, and where their means are
        all equal, for a rare success that was not drawn looks like none (an interval of ±0).

    Source: the linearised variance of a mean of clusters; Cochran, "Sampling Techniques", 1977;
    Korn and Graubard, "Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", Survey Methodology 24, 1998.

    >>> round(half_width(np.array([[1.0, 1.0], [2.0, 4.0], [5.0, 1.0]])), 4)  # means 1, 3, 3
    2.8684
    >>> round(half_width(np.eye(64)[:1].T), 4)  # 1 of 64 right: between 0.0004 and 0.0840
    0.0684
    """
    prompts = range(len(values)) if prompts is None else prompts
    number = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    keys = [number[prompt] for prompt in prompts]
    sizes = np.bincount(keys)
    means, count = np.bincount(keys, values.mean(1)) / sizes, len(sizes)
    if count < 2 or np.ptp(means) <= 1e-12 * np.abs(means).max():  # equal but for the rounding of sums
        return None
    parts = sizes / sizes.sum() * (means - values.mean())
    variance = count / (count - 1) * float(np.sum(parts**2))
    low, high = float(values.min()), float(values.max())
    if np.isin(values, (low, high)).all() and ((low, high) == (0, 1) or values.size >= FEWEST):
        share = (float(values.mean()) - low) / (high - low)
        return (high - low) * _of_share(share, variance / (high - low) ** 2, values.size, count, level)
    return t_quantile(level, count - 1) * math.sqrt(variance)


def _of_share(share: float, variance: float, size: int, count: int, level: float) -> float:
    """The distance of a share of `size` values to the farther end of its interval; `variance` is
    that of the share, by `count` prompts."""
    independent = min(1.0, share * (1 - share) / (size - 1) / variance) * size
    independent *= (t_quantile(level, size - 1) / t_quantile(level, count - 1)) ** 2  # few prompts know it badly
    hits, tail = share * independent, (1 - level) / 2
    low = beta_quantile(tail, hits, independent - hits + 1)
    high = beta_quantile(1 - tail, hits + 1, independent - hits)
    return max(share - low, high - share)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x below which a share `probability` of a beta distribution lies.

    >>> round(beta_quantile(0.975, 2, 63), 4)
    0.084
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_probability(middle, a, b) < probability else (low, middle)
    return (low + high) / 2


def beta_probability(x: float, a: float, b: float) -> float:
    """P(X < x) of a beta distribution, the regularised incomplete beta function.

    Source: NIST Digital Library of Mathematical Functions, 8.17.22, evaluated by the method of
    Lentz.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast
        return 1 - beta_probability(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(10_000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        fraction *= c * d
        if step and abs(c * d - 1) < 1e-14:
            break
    return front * (fraction - 1) / a


def t_quantile(level: float, freedom: int) -> float:
    """The t below which a share `level` of |T| lies.

    >>> round(t_quantile(0.95, 1), 3), round(t_quantile(0.95, 10), 3)
    (12.706, 2.228)
    """
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < level else (low, middle)
    return high


def t_probability(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's distribution.

    Source: Abramowitz & Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    square, odd = math.cos(angle) ** 2, freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
