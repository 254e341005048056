"""GRPO and its multi-agent form: responses to one prompt are scored against each other, with PPO's
clipped ratio and no critic.

One idea: in a game of several agents the group is joint. G episodes on one prompt are G joint
responses, and each agent's response is compared with its own in the other episodes (MAGRPO);
comparing it with other agents' or other roles' responses mixes rewards of different scale (Dr.
MAS). `over` says which responses make up a group; with one agent all choices are GRPO.

The classical form divides by the standard deviation of the group and averages each response over
its own length. Both are options here: the length average weighs tokens of short responses more,
which moves the optimum (docs/learners.md), so it is off by default.

Source: Shao et al. (2024), arXiv 2402.03300, eq. 3; Liu et al. (2025, Dr. GRPO), arXiv 2503.20783;
Liu et al. (2025, MAGRPO), arXiv 2508.04652; Dr. MAS (2026), arXiv 2602.08847.

Differs from the paper in:

1. All tokens of a minibatch weigh alike; the paper averages each response first, which is
   `average=response`.
2. KL to the initial model is paid token by token in the reward by default. With `kl.mode=loss` it
   is in the loss as in the paper, but exact over the vocabulary in place of the k3 estimate, and
   scaled with the advantages, so that dividing by the spread of a group does not change beta.
3. In a game of several agents a response is compared with those of the same agent in the same role
   (`over`), after MAGRPO and Dr. MAS; `over=prompt` compares all, as the paper would.
4. A group without spread has advantages 0, and nothing is added to the spread of the others.
5. Rewards come when a response is complete. There is no reward for steps of reasoning, and neither
   the reward nor the reference is renewed while training goes on.
6. By default an update is one step on the whole rollout, in which the ratio is 1 and nothing is
   clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from coevo_env.errors import ConfigError
from coevo_env.game.rollout import Rollout

from .gradient import Batch, GradientLearner, per_token
from .objectives import CELLS, cells, clipped_policy_loss, flat, normalized

__all__ = ["GRPO"]

SCALES = ("cell", "batch", "none")


class GRPO(GradientLearner):
    """The learner; arguments as in `GradientLearner`. It compares responses to one prompt."""

    @dataclass(frozen=True)
    class Settings(GradientLearner.Settings):
        """Settings of GRPO. Those of `GradientLearner.Settings`, and:

        Attributes:
            clip: Range of the probability ratio.
            over: Which responses to a prompt are compared: "prompt", "agent", "role" or
                "agent+role"; see `coevo_agents.learners.objectives.cells`.
            scale: What centred returns are divided by: the standard deviation of their "cell"
                (GRPO) or of the "batch", or "none" (Dr. GRPO).
            average: "token" weighs all tokens of a minibatch alike; "response" averages within each
                response first, then over responses (GRPO).
        """

        clip: float = 0.2
        over: str = "agent+role"
        scale: str = "cell"
        average: str = "token"

        ranges: ClassVar[dict[str, float]] = {**GradientLearner.Settings.ranges, "clip": 1}

        def __post_init__(self) -> None:
            super().__post_init__()
            for name, options in (("over", CELLS), ("scale", SCALES), ("average", ("token", "response"))):
                if getattr(self, name) not in options:
                    raise ConfigError(f"{name}={getattr(self, name)!r}; expected one of {', '.join(options)}.")

    compares = True

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Every token of a response has the advantage of the response within its group."""
        logprobs, _, mismatch = self.behaviour(rollout)
        cell = cells(rollout, self.settings.over)
        advantage, factor = normalized(rollout.returns, cell, self.settings.scale)  # (B,)
        if (
            self.settings.average == "response"
        ):  # the mean length keeps advantages in their units; `loss` takes it out again
            share = rollout.lengths.mean() / rollout.lengths
            advantage, factor = advantage * share, factor * share
        advantages = np.where(rollout.mask, advantage[:, None], 0.0)
        metrics = {
            "return": float(rollout.returns.mean()),
            "flat": float(flat(rollout.returns, cell).mean()),
            "logprob_mismatch": mismatch,
        }
        batch = Batch(rollout, logprobs, rollout.weighted(advantages), factor, reference=self.reference_hidden(rollout))
        return batch, metrics

    def loss(self, batch: Batch, rows: np.ndarray, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The clipped policy loss of some rows, divided by the tokens or by the responses of the
        minibatch."""
        seen = self.forward(batch, rows)
        policy, stats = clipped_policy_loss(
            seen.logprobs, self.old_logprobs(batch, seen), seen.select(batch.advantages), self.settings.clip
        )
        kl, kl_part = self.kl_loss(batch, rows, seen)
        divisor = float(tokens)
        if self.settings.average == "response":  # the tokens of a minibatch would be another mean length in each
            divisor = (self.settings.minibatch_size or len(batch.rollout)) * float(batch.rollout.lengths.mean())
        return (policy + kl) / divisor, {"loss/policy": policy / divisor, **per_token({**kl_part, **stats}, tokens)}
