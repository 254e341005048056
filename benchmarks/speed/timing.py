"""Time measured so that a busy machine does not lie: the sides of a comparison take turns (A B A B
...), and only their ratio is compared.

One idea: whatever slows the machine down for a while slows both sides of a pair, so the ratio
within a pair is what can be trusted. Nothing here decides whether a number is good.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "clock_for", "interleave", "median_of", "ratio_of"]

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A median with its 95 % interval: percentiles of the bootstrapped median, or the range where
    there are fewer than 6 values."""

    value: float
    low: float
    high: float
    repeats: int

    def scaled(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.repeats)


def clock_for(threads: int) -> Callable[[], float]:
    """With one thread the processor time of this process, which other programs do not change; with
    more, wall-clock time."""
    return time.process_time if threads == 1 else time.perf_counter


def interleave(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Runs every side once per repeat, in turn.

    Args:
        sides: Name -> what to time.
        repeats: Timed rounds.
        warmup: Rounds before them that are not timed.
        clock: Wall-clock time, or `time.process_time`: the processor time of this process, which
            for single-threaded code is the wall-clock time of an idle machine.

    Returns:
        Seconds of each side, shape (repeats,).
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmup + repeats):
        for name, side in sides.items():
            gc.collect()  # nobody pays for the other side's garbage
            started = clock()
            side()
            elapsed = clock() - started
            if number >= warmup:
                seconds[name].append(elapsed)
    return {name: np.array(values) for name, values in seconds.items()}


def median_of(values: np.ndarray) -> Estimate:
    """The median of repeated measurements."""
    values = np.asarray(values, np.float64)
    if len(values) < 6:
        return Estimate(float(np.median(values)), float(values.min()), float(values.max()), len(values))
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    return Estimate(float(np.median(values)), float(low), float(high), len(values))


def ratio_of(top: np.ndarray, bottom: np.ndarray) -> Estimate:
    """The median of the ratios within pairs."""
    return median_of(np.asarray(top) / np.asarray(bottom))
