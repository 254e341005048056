"""Counter-based randomness: every draw is a function of (seed, counters, stream) and of nothing
else.

No global generator is read or seeded, so the order in which things are computed never matters and
any episode can be replayed alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["STREAMS", "rng", "uniforms"]

STREAMS = {
    "prompts": 1,
    "roles": 2,
    "tokens": 3,
    "minibatches": 4,
    "init": 5,
    "evaluation": 6,
    "task": 7,
    "model": 8,
    "warm_start": 9,
    "schemes": 10,
    "matchmaking": 11,
    "role_bandit": 12,
    "strangers": 13,
    "budgets": 14,
}
"""Purposes that draw random numbers. A number, once given, is never given to another purpose:
replays depend on it."""


def rng(seed: int, *counters: int, stream: str) -> np.random.Generator:
    """A generator that depends only on its arguments.

    >>> float(rng(0, 7, stream="tokens").random()) == float(rng(0, 7, stream="tokens").random())
    True
    """
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([int(seed), STREAMS[stream], *map(int, counters)]))
    )


def uniforms(
    seed: int, episodes: Sequence[int], seat: int, length: int, *, draw: int = 0, stream: str = "tokens"
) -> np.ndarray:
    """Uniform numbers in [0, 1) that pick the tokens of one turn: one row per episode, independent
    of the batch it is in.

    Returns:
        float64 array of shape (B, length).
    """
    more = (draw,) if draw else ()
    return np.stack([rng(seed, episode, seat, *more, stream=stream).random(length) for episode in episodes])  # (B, T)
