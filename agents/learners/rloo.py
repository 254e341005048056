"""RLOO: REINFORCE on whole responses, each compared with the mean of the other responses to its
prompt.

One idea: several responses to one prompt are each other's baseline; leaving the response itself out
keeps the gradient unbiased without a critic or a moving average. The whole response is one action,
so all its tokens share one advantage.

Source: Kool et al. (2019), "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al.
(2024), arXiv 2402.14740.

Differs from the paper in:

1. The sum over tokens is divided by the number of tokens in the minibatch, not by the number of
   responses: another step size, the same direction.
2. In a game of several agents the responses to one prompt are joint, and by default each is
   compared with those of the same agent in the same role (`over`); with one agent that is the
   paper's.
3. KL to the initial model may stand in the loss instead of the reward (`kl.mode=loss`), exact over
   the vocabulary.
4. Gradient norms are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from coevo_env.errors import ConfigError
from coevo_env.game.rollout import Rollout

from .gradient import Batch, GradientLearner, per_token
from .objectives import CELLS, cells, leave_one_out

__all__ = ["RLOO"]


class RLOO(GradientLearner):
    """The learner; arguments as in `GradientLearner`. It compares responses to one prompt."""

    @dataclass(frozen=True)
    class Settings(GradientLearner.Settings):
        """Settings of RLOO. Those of `GradientLearner.Settings`, and:

        Attributes:
            over: Which responses to a prompt are compared: "prompt", "agent", "role" or
                "agent+role"; see `coevo_agents.learners.objectives.cells`.
        """

        over: str = "agent+role"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.over not in CELLS:
                raise ConfigError(f"over={self.over!r}; expected one of {', '.join(CELLS)}.")
            if self.epochs != 1:
                raise ConfigError(
                    f"epochs={self.epochs}; expected 1: a second pass needs a probability ratio, as PPO and GRPO have."
                )
            if self.target_kl:
                raise ConfigError(
                    f"target_kl={self.target_kl}; expected 0: an update of one step has no later ones to leave out."
                )

    compares = True
    ratio = False

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Every token of a response has the advantage of the response."""
        logprobs, _, mismatch = self.behaviour(rollout)
        baseline = leave_one_out(rollout.returns, cells(rollout, self.settings.over))  # (B,)
        advantages = np.where(rollout.mask, (rollout.returns - baseline)[:, None], 0.0)
        metrics = {"return": float(rollout.returns.mean()), "logprob_mismatch": mismatch}
        batch = Batch(
            rollout,
            logprobs,
            rollout.weighted(advantages),
            np.ones(len(rollout)),
            reference=self.reference_hidden(rollout),
        )
        return batch, metrics

    def loss(self, batch: Batch, rows: np.ndarray, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """-sum over responses of advantage * log pi(response), divided by the tokens of the
        minibatch."""
        seen = self.forward(batch, rows)
        policy = -(seen.select(batch.advantages) * seen.logprobs).sum()
        kl, kl_part = self.kl_loss(batch, rows, seen)
        return (policy + kl) / tokens, per_token({"loss/policy": policy, **kl_part}, tokens)
