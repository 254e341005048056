"""Reward mixing: who is paid for whose response. team = M @ task, with both vectors in order of
play.

One idea: cooperation, independence and competition are three matrices. CORY is `cooperative` with
two agents, and plain single-agent fine-tuning is the one-by-one matrix. A mode is a function and
one line of `MODES`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import ConfigError, real, unknown_name

__all__ = ["MODES", "mixing_matrix"]


def cooperative(num_agents: int, weight: float) -> np.ndarray:
    """Everyone gets the sum: all ones."""
    return np.ones((num_agents, num_agents))


def own(num_agents: int, weight: float) -> np.ndarray:
    """Everyone for oneself: the identity."""
    return np.eye(num_agents)


def weighted(num_agents: int, weight: float) -> np.ndarray:
    """Own plus `weight` times the sum of the others' (the paper's lambda)."""
    identity = np.eye(num_agents)
    return identity + real("reward mixing weight", weight) * (np.ones_like(identity) - identity)


def competitive(num_agents: int, weight: float) -> np.ndarray:
    """Own minus the mean of the others', which sums to zero.

    Raises:
        ConfigError: There are no others.
    """
    if num_agents < 2:
        raise ConfigError("reward mixing 'competitive' with 1 agent; expected at least 2 agents, or mixing='own'.")
    identity = np.eye(num_agents)
    return identity - (np.ones_like(identity) - identity) / (num_agents - 1)


MODES: dict[str, Callable[[int, float], np.ndarray]] = {
    "cooperative": cooperative,
    "own": own,
    "weighted": weighted,
    "competitive": competitive,
}
"""Name -> function `(num_agents, weight) -> M`. M is float64 of shape (N, N); rows and columns are
seats in order of play. docs/rewards_and_kl.md has a row for each."""


def mixing_matrix(mode: str | np.ndarray, num_agents: int, weight: float = 1.0) -> np.ndarray:
    """The matrix M of a named mode, or one's own matrix checked.

    Args:
        mode: A name of `MODES`, or an (N, N) array.
        num_agents: N.
        weight: For the modes that weigh, such as "weighted".

    Returns:
        float64 array of shape (N, N).

    Raises:
        ConfigError: Unknown mode, a matrix of another shape or with non-finite entries, or
            competition of one.

    >>> mixing_matrix("weighted", 2, 0.5).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    if not isinstance(mode, str):
        try:
            matrix = np.asarray(mode, np.float64)
        except (TypeError, ValueError):
            raise ConfigError(
                f"reward mixing {mode!r}; expected one of {', '.join(MODES)}, or a matrix of numbers."
            ) from None
        if matrix.shape != (num_agents, num_agents) or not np.isfinite(matrix).all():
            raise ConfigError(
                f"reward mixing matrix of shape {matrix.shape}; expected finite numbers of shape "
                f"{(num_agents, num_agents)}."
            )
        return matrix
    if mode not in MODES:
        raise unknown_name("reward mixing", mode, MODES)
    return MODES[mode](num_agents, weight)
