"""Best-of-n: draw n responses from the initial model and keep the one with the highest task reward.
It does not learn.

One idea: what n samples buy without any training is the price that a fine-tuned model has to beat.
The policy says how many responses it wants to choose from (`draws`), and the game, which knows the
reward, lets it choose: so it works in training games, in evaluations and as a partner.

The response it keeps is not a sample of the model it was drawn from. The KL of the best of n to
that model is at most log n - (n - 1) / n, which is reported as `kl_bound` and counted in the `kl`
of evaluations; the log-probs in rollouts and the `kl` of training are those of the model itself.

Source: Stiennon et al. (2020), arXiv 2009.01325, appendix G.3; that it is a bound: Beirami et al.
(2024), arXiv 2401.01879.

Differs from the paper in:

1. The choice is made by the task reward of the game, the very number that is reported, and not by a
   reward model that stands for people's judgement.
2. Responses are drawn from the initial model, after a warm start where there is one, not from a
   model that was supervised on references.
3. In a game of several agents each turn is chosen when it is played, by its own task reward; joint
   rewards, and what later seats will make of it, are not known then.
4. The formula for the KL is called a bound, which it is (Beirami et al.); the paper takes it for
   the KL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coevo_env.errors import ConfigError
from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import Generation

from .learner import State
from .policy import ActorCritic

__all__ = ["BestOfN", "Choosing", "choice_bound"]


def choice_bound(n: int) -> float:
    """The most that choosing among n can cost in KL, nats per response.

    >>> choice_bound(1), round(choice_bound(4), 2)
    (0.0, 0.64)
    """
    return math.log(n) - (n - 1) / n


class Choosing:
    """A policy that is played `draws` times for each turn, after which the best response counts
    (see `coevo_agents.training.play`)."""

    def __init__(self, policy: Any, draws: int):
        self.policy, self.draws, self.lm = policy, draws, getattr(policy, "lm", policy)

    def generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, uniforms: np.ndarray
    ) -> Generation:
        """Samples one response for each context."""
        return self.policy.generate(contexts, max_new_tokens, sampling, uniforms)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the model, which is the initial one: the choice is made by whoever plays it."""
        self.policy.save_pretrained(directory)


class BestOfN:
    """The learner, which does not learn."""

    @dataclass(frozen=True)
    class Settings:
        """Settings of best-of-n.

        Attributes:
            n: Responses drawn for each turn.
        """

        n: int = 4

        def __post_init__(self) -> None:
            if self.n < 2:
                raise ConfigError(
                    f"n={self.n!r}; expected a whole number >= 2 (the best of one is the model itself: use "
                    "learner='frozen')."
                )

    learns = False

    @staticmethod
    def plays(model: Any, settings: Settings) -> Choosing:
        """Who plays a saved model: the choice is no part of it."""
        return Choosing(model, settings.n)

    def __init__(self, policy: ActorCritic, reference: Any, settings: Settings, sampling: Any, seed: int = 0):
        policy.valued = False
        self.policy = Choosing(policy, settings.n)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Does nothing; reports what was earned, and the most that choosing can cost in KL, nats
        per response."""
        return {"return": float(rollout.returns.mean()), "kl_bound": choice_bound(self.policy.draws)}

    def state_dict(self) -> State:
        """The weights, which may be those of a warm start."""
        return {name: parameter.detach() for name, parameter in self.policy.policy.named_parameters().items()}

    def load_state_dict(self, state: State) -> None:
        """Restores `state_dict`."""
        self.policy.policy.load_state_dict(state)

    def forget(self) -> None:
        """There is nothing to forget."""
