"""Reward mixing: who is paid for whose response. team = M @ task, with both vectors in order of
play.

One idea: cooperation, independence and competition are three matrices. CORY is `cooperative` with
two agents, and plain single-agent fine-tuning is the one-by-one matrix.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError, real, unknown_name

__all__ = ["MODES", "mixing_matrix"]

MODES = ("cooperative", "own", "weighted", "competitive")


def mixing_matrix(mode: str | np.ndarray, num_agents: int, weight: float = 1.0) -> np.ndarray:
    """The matrix M of a named mode, or one's own matrix checked.

    Args:
        mode: "cooperative": everyone gets the sum (all ones); "own": the identity; "weighted": own
            + `weight` * sum of the others' (the paper's lambda); "competitive": own - mean of the
            others', which sums to zero. Or an (N, N) array.
        num_agents: N.
        weight: lambda of "weighted".

    Returns:
        float64 array of shape (N, N).

    Raises:
        ConfigError: Unknown mode, a matrix of another shape or with non-finite entries, or
            competition of one.

    >>> mixing_matrix("weighted", 2, 0.5).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    identity, ones = np.eye(num_agents), np.ones((num_agents, num_agents))
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
    if mode == "cooperative":
        return ones
    if mode == "own":
        return identity
    if mode == "weighted":
        return identity + real("reward mixing weight", weight) * (ones - identity)
    if mode == "competitive":
        if num_agents < 2:
            raise ConfigError("reward mixing 'competitive' with 1 agent; expected at least 2 agents, or mixing='own'.")
        return identity - (ones - identity) / (num_agents - 1)
    raise unknown_name("reward mixing", mode, MODES)
