"""Who learns when: all at once, one agent at a time over iterations, or one after the other within
an iteration.

One idea: with several learners each is part of the others' world. Updating all from the same batch
is simple and lets everybody chase a moving target; "alternating" freezes all but one; "sequential"
updates them one after the other from one batch and tells each how much likelier its partners' turns
have become through the updates before its own.

Source: sequential updates with compound ratios: Kuba et al. (2022, HATRPO and HAPPO), arXiv
2109.11251, lemma 1 and section 4; for language models Liao et al. (2025, MARFT), arXiv 2504.16129.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coevo_env.errors import unknown_name
from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.rng import rng

__all__ = ["SCHEMES", "check_scheme", "drift", "importance", "order"]

SCHEMES = ("simultaneous", "alternating", "sequential")

MAX_RATIO = 2.0
"""An importance weight is cut here: a product over the turns of several agents has no bound of its
own."""


def check_scheme(name: str) -> None:
    """Raises ConfigError for a name that is not in `SCHEMES`."""
    if name not in SCHEMES:
        raise unknown_name("update scheme", name, SCHEMES)


def order(scheme: str, iteration: int, learners: int, every: int, seed: int) -> list[int]:
    """Which learners are updated in an iteration, in which order.

    Args:
        scheme: One of `SCHEMES`.
        iteration: From 0.
        learners: How many there are.
        every: Iterations that one learner has to itself under "alternating".
        seed: "sequential" draws a new order for each iteration from it.

    >>> [order("alternating", i, 2, 2, 0) for i in range(5)]
    [[0], [0], [1], [1], [0]]
    """
    check_scheme(scheme)
    if scheme == "alternating":
        return [iteration // every % learners]
    if scheme == "sequential":
        return rng(seed, iteration, stream="schemes").permutation(learners).tolist()
    return list(range(learners))


def drift(policy: Any, rollout: Rollout, sampling: Sampling, episodes: np.ndarray) -> np.ndarray:
    """How much likelier an agent's turns have become since they were sampled, for each episode.

    Args:
        policy: Has the language model `lm` that was just updated.
        rollout: The agent's turns, with the log-probs of the policy that sampled them.
        sampling: Warp of both.
        episodes: int (B,), the episodes of the batch in order.

    Returns:
        float64 (B,): the sum of log pi_new - log pi_old over the agent's tokens, in nats; 0 where
        it had no turn. Those of several agents add up, and `importance` makes a weight of the sum.
    """
    new = policy.lm.score(rollout.contexts, rollout.tokens, rollout.lengths, sampling)
    change = (new - rollout.logprobs).sum(1)
    total = np.zeros(len(episodes))
    np.add.at(total, np.searchsorted(episodes, rollout.episodes), change)
    return total


def importance(total: np.ndarray) -> np.ndarray:
    """The weights of episodes whose turns have drifted by `total` nats altogether, at most
    `MAX_RATIO` each.

    Only the whole product is cut: ten times as likely and then a tenth as likely is as likely as
    before.

    >>> importance(np.log([0.5, 1.5, 10.0, 10.0 * 0.1])).round(6).tolist()
    [0.5, 1.5, 2.0, 1.0]
    """
    return np.exp(np.minimum(total, np.log(MAX_RATIO)))
