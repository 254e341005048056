"""What learners compute with: returns, baselines, advantages and clipped losses, as functions of
arrays.

One idea: each formula stands here once, says where it comes from, and is compared with a slow
version of itself in tests/learners/test_objectives.py; a learner is then a choice among them.
Responses are rows; behind `lengths` everything is 0.
"""

from __future__ import annotations

import numpy as np
import torch

from coevo_env.errors import ConfigError, unknown_name
from coevo_env.game.rollout import Rollout

__all__ = [
    "CELLS",
    "cells",
    "clipped_policy_loss",
    "clipped_value_loss",
    "gae",
    "leave_one_out",
    "flat",
    "normalized",
    "returns_to_go",
    "whiten",
]

CELLS = ("prompt", "agent", "role", "agent+role")


def returns_to_go(rewards: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Discounted sums of the rewards from each token on.

    Args:
        rewards: float (B, T), 0 behind the end of a response.
        gamma: Discount per token.

    Returns:
        float64 (B, T).

    >>> returns_to_go(np.array([[1.0, 2.0, 4.0]]), 0.5).tolist()
    [[3.0, 4.0, 4.0]]
    """
    sums = np.zeros_like(rewards)
    running = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        sums[:, t] = running
    return sums


def gae(rewards: np.ndarray, values: np.ndarray, lengths: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """Generalised advantage estimates of finished responses: the value behind the last token is 0.

    Args:
        rewards, values: float (B, T), 0 behind `lengths`.
        lengths: int (B,).

    Returns:
        float64 (B, T), 0 behind `lengths`.

    Source: Schulman et al. (2016), arXiv 1506.02438, eq. 16.
    """
    mask = np.arange(rewards.shape[1]) < lengths[:, None]
    rewards, values = np.where(mask, rewards, 0.0), np.where(mask, values, 0.0)
    following = np.pad(values, ((0, 0), (0, 1)))[:, 1:]
    return np.where(mask, returns_to_go(np.where(mask, rewards + gamma * following - values, 0.0), gamma * lam), 0.0)


FLAT = 1e-6
"""Spread of rewards or advantages that is taken for rounding."""


def whiten(advantages: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Advantages (B, T) with mean 0 and variance 1 over the tokens of `mask`, and what they were
    multiplied by: 1 where they differ by rounding only, as long as a sparse reward has not been
    seen."""
    valid = advantages[mask]
    spread = float(valid.std())
    scale = 1.0 / (spread + 1e-8) if spread > FLAT else 1.0
    return np.where(mask, (advantages - valid.mean()) * scale, 0.0), scale


def cells(rollout: Rollout, by: str) -> np.ndarray:
    """Which responses are compared with one another: those about one prompt, split further by
    agent, role, or both.

    Args:
        rollout: B responses.
        by: "prompt" (as GRPO), "agent" (as Dr. MAS), "role" or "agent+role". Where every agent has
            a learner of its own, a rollout has one agent only, and with role exchange between
            iterations one role.

    Returns:
        int64 (B,), numbers of the cells from 0.
    """
    if by not in CELLS:
        raise unknown_name("normalisation", by, CELLS)
    columns = [rollout.groups]
    if by.startswith("agent"):
        columns.append(rollout.agents)
    if by.endswith("role"):
        columns.append(rollout.seats)
    return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].reshape(-1)


def leave_one_out(returns: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """For each response the mean return of the others in its cell: a baseline that does not depend
    on the response.

    Args:
        returns: float (B,).
        cell: int (B,), see `cells`.

    Returns:
        float64 (B,).

    Raises:
        ConfigError: A cell of one has no others.

    Source: Kool et al. (2019); Ahmadian et al. (2024), arXiv 2402.14740, eq. 8.

    >>> leave_one_out(np.array([1.0, 2.0, 6.0]), np.array([0, 0, 0])).tolist()
    [4.0, 3.5, 1.5]
    """
    count = _counts(cell)[cell]
    total = np.bincount(cell, returns)[cell]
    return (total - returns) / (count - 1)


def normalized(returns: np.ndarray, cell: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns relative to the mean of their cell, and what they were multiplied by.

    Args:
        returns: float (B,).
        cell: int (B,), see `cells`.
        scale: "cell" divides by the standard deviation of the cell (GRPO), "batch" by that of all
            deviations, "none" by nothing (Dr. GRPO).

    Returns:
        Advantages and factors, float64 (B,) each. Where there is no spread but rounding, advantages
        are 0 and factors 1: such a response teaches nothing by its reward, and what a factor scales
        beside it, the KL in the loss, counts as it is.

    Raises:
        ConfigError: A cell of one has no mean to compare with.

    Source: Shao et al. (2024), arXiv 2402.03300, section 4.1; Liu et al. (2025), arXiv 2503.20783.
    """
    count = _counts(cell)
    centred = returns - (np.bincount(cell, returns) / count)[cell]
    if scale == "none":
        return centred, np.ones_like(centred)
    if scale == "batch":
        spread = np.full_like(centred, np.sqrt((centred**2).mean()))
    elif scale == "cell":
        spread = np.sqrt(np.bincount(cell, centred**2) / count)[cell]
    else:
        raise unknown_name("scale of advantages", scale, ["cell", "batch", "none"])
    flat = spread <= FLAT
    factor = np.where(flat, 1.0, 1.0 / np.where(flat, 1.0, spread))
    return np.where(flat, 0.0, centred * factor), factor


def flat(returns: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Which of the returns (B,) are of a cell without spread, bool (B,)."""
    mean = (np.bincount(cell, returns) / _counts(cell))[cell]
    return np.sqrt(np.bincount(cell, (returns - mean) ** 2) / _counts(cell))[cell] <= FLAT


def clipped_policy_loss(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """PPO's policy loss of M tokens.

    Args:
        logprobs, old: float (M,), under the policy that learns and the one that sampled.
        advantages: float (M,).
        clip: Range of the probability ratio.

    Returns:
        The loss summed over tokens, and sums of `clip_fraction` and `approx_kl` (k3, of the old
        policy from the new), and `ratio_max`.

    Source: Schulman et al. (2017), arXiv 1707.06347, eq. 7; k3: Schulman (2020),
    http://joschu.net/blog/kl-approx.html.
    """
    log_ratio = logprobs - old
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).sum()
    return loss, {
        "clip_fraction": ((ratio - 1).abs() > clip).float().sum(),
        "approx_kl": (ratio - 1 - log_ratio).sum(),
        "ratio_max": ratio.max(),
    }


def clipped_value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of values (M,), summed; a value that has moved further than `clip`
    from the old one is no better for it (0: no clip)."""
    error = (values - returns).square()
    if clip > 0:
        near = old + (values - old).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * error.sum()


def _counts(cell: np.ndarray) -> np.ndarray:
    """Responses in each cell."""
    count = np.bincount(cell)
    if (count < 2).any():
        raise ConfigError(
            f"{int((count < 2).sum())} of {len(count)} groups of comparable responses have a single member; expected "
            "at least 2 in each. Raise "
            "group_size, compare over 'prompt', or exchange roles between iterations only (exchange_every >= 1)."
        )
    return count
