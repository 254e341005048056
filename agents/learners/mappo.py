"""MAPPO: PPO whose critic reads the joint state, all that every seat has read and written so far.

One idea: decentralised policies, centralised value. The policy acts on its own context; the critic
is a network of its own that reads what the seats before have read and written, then the agent's
context and tokens. It is used in training only. It matters where agents see less than everything
(`context="previous"` or `"none"`); what a later seat will say is never part of the state, or the
baseline would depend on the action.

Each agent has its own critic, so that a learner still owns all it needs and nothing is stored
twice.

Source: Yu et al. (2022), arXiv 2103.01955; clipped losses: Schulman et al. (2017), arXiv
1707.06347.

Differs from the paper in:

1. Every agent has a critic of its own, a language model that starts as the initial one; the paper
   shares one critic, and often one policy, among like agents (`weights=shared` shares both here).
2. The joint state ends with what the agent itself has written. What later seats will say is not in
   it, because it depends on the action.
3. A state that is too long for the critic loses its oldest part; nothing is recurrent.
4. Values are not normalised by running statistics.
5. The value loss is a clipped squared error, not a Huber loss.
6. There is no entropy bonus.
7. Policy and critic share one Adam, one learning rate and one bound on the gradient norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import LanguageModel

from .gradient import Batch, GradientLearner, per_token
from .objectives import clipped_policy_loss, clipped_value_loss, gae, whiten
from .policy import ActorCritic, spare

__all__ = ["MAPPO"]


class MAPPO(GradientLearner):
    """The learner; arguments as in `GradientLearner`, with a reference: the critic starts as it.

    Attributes:
        centre: The critic: a language model with a value head that nobody else trains.
    """

    @dataclass(frozen=True)
    class Settings(GradientLearner.Settings):
        """Settings of MAPPO. Those of `GradientLearner.Settings`, and:

        Attributes:
            gamma, gae_lambda: Discount per token, and lambda of GAE.
            clip: Range of the probability ratio.
            value_clip: Range in which the value may move in one update; 0 switches it off.
            value_coef: Weight of the value loss.
            whiten: Whether advantages are given zero mean and unit variance over the tokens of the
                rollout.
        """

        epochs: int = 4
        gamma: float = 1.0
        gae_lambda: float = 0.95
        clip: float = 0.2
        value_clip: float = 0.2
        value_coef: float = 0.5
        whiten: bool = True

        ranges: ClassVar[dict[str, float]] = {
            **GradientLearner.Settings.ranges,
            "gamma": 1,
            "gae_lambda": 1,
            "clip": 1,
            "value_clip": 1e9,
            "value_coef": 1e9,
        }

    def __init__(
        self,
        policy: ActorCritic,
        reference: LanguageModel | None,
        settings: Settings,
        sampling: Sampling,
        seed: int = 0,
    ):
        assert reference is not None, "the critic starts as the reference"
        self.centre = spare(policy, reference, seed, "critic")
        self.centre.check_critic(self.name)
        self.critics = (self.centre.lm,)
        super().__init__(policy, reference, settings, sampling, seed)

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The policy's tensors, and the critic's under "critic."."""
        own = {
            name: parameter
            for name, parameter in self.policy.named_parameters().items()
            if not name.startswith("value_head.")
        }
        return {**own, **{f"critic.{name}": parameter for name, parameter in self.centre.named_parameters().items()}}

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Advantages over the critic's values, and targets for it."""
        settings, mask = self.settings, rollout.mask
        logprobs, _, mismatch = self.behaviour(rollout)
        values = np.zeros(rollout.tokens.shape)
        for rows in self.slices(len(rollout)):
            part = np.zeros(rollout.tokens.shape, bool)
            part[rows] = mask[rows]
            with torch.no_grad():
                values[part] = self.values(rollout, rows).double().cpu().numpy()
        advantages = gae(rollout.rewards, values, rollout.lengths, settings.gamma, settings.gae_lambda)
        returns = advantages + values
        scale = 1.0
        if settings.whiten:
            advantages, scale = whiten(advantages, mask)
        variance = returns[mask].var()
        metrics = {
            "explained_variance": float(1.0 - (returns - values)[mask].var() / variance) if variance > 0 else 0.0,
            "return": float(returns[:, 0].mean()),
            "logprob_mismatch": mismatch,
        }
        scales = np.full(len(rollout), scale)
        return Batch(
            rollout, logprobs, rollout.weighted(advantages), scales, values, returns, self.reference_hidden(rollout)
        ), metrics

    def values(self, rollout: Rollout, rows: np.ndarray) -> torch.Tensor:
        """What the critic says of every state of some rows, (M,), flat over their tokens."""
        lengths = rollout.lengths[rows]
        longest = self.centre.lm.max_positions or 1 << 30
        joint = [rollout.states[row] + rollout.contexts[row] for row in rows]
        joint = [
            ids[-(longest - int(lengths.max())) :] for ids in joint
        ]  # of a state that is too long for the critic the oldest part goes
        hidden, _, _ = self.centre.lm.hidden_states(joint, rollout.tokens[rows], lengths)
        return self.centre.values(hidden)

    def loss(self, batch: Batch, rows: np.ndarray, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The policy and value losses of some rows, as a sum over their tokens divided by `tokens`,
        with their parts."""
        settings = self.settings
        assert batch.values is not None and batch.returns is not None
        seen = self.forward(batch, rows)
        policy, stats = clipped_policy_loss(
            seen.logprobs, self.old_logprobs(batch, seen), seen.select(batch.advantages), settings.clip
        )
        now = self.values(batch.rollout, rows)
        value = clipped_value_loss(now, seen.select(batch.values), seen.select(batch.returns), settings.value_clip)
        kl, kl_part = self.kl_loss(batch, rows, seen)
        loss = (policy + settings.value_coef * value + kl) / tokens
        return loss, per_token({"loss/policy": policy, "loss/value": value, **kl_part, **stats}, tokens)
