"""How far a mean over prompts can be trusted: the half width of its 95 % t-interval.

One idea: prompts are what was drawn, so their means are the sample; several draws for one prompt
make its own mean better known, and are no further prompts, nor are rows that repeat one. The
quantile is exact and needs no statistics library.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

__all__ = ["half_width", "t_probability", "t_quantile"]


def half_width(values: np.ndarray, prompts: Sequence[Hashable] | None = None, level: float = 0.95) -> float | None:
    """Half the width of the t-interval of the mean over rows, of which those of one prompt count as
    one draw of a prompt.

    Args:
        values: float (P, D), D draws for each of P rows.
        prompts: What the rows are about; None means P different prompts.
        level: Share of such intervals that hold the true mean.

    Returns:
        None where the spread is not known: for fewer than two prompts, and where their means are
        all equal, for a rare success that was not drawn looks like none (an interval of ±0).

    Source: the linearised variance of a mean of clusters; Cochran, "Sampling Techniques", 1977.

    >>> round(half_width(np.array([[1.0, 1.0], [2.0, 4.0], [5.0, 1.0]])), 4)  # means 1, 3, 3
    2.8684
    """
    prompts = range(len(values)) if prompts is None else prompts
    number = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    keys = [number[prompt] for prompt in prompts]
    sizes = np.bincount(keys)
    means, count = np.bincount(keys, values.mean(1)) / sizes, len(sizes)
    if count < 2 or np.ptp(means) <= 1e-12 * np.abs(means).max():  # equal but for the rounding of sums
        return None
    parts = sizes / sizes.sum() * (means - values.mean())
    return t_quantile(level, count - 1) * math.sqrt(count / (count - 1) * float(np.sum(parts**2)))


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
