"""PPO for causal language models: clipped objective, value head, GAE over tokens.

One idea: sampling already knew the log-probs and the values, so an update is only its gradient
passes. Dropout is off; log-probs of sampling and update are defined by the same code
(`LanguageModel`).

Source: Schulman et al. (2017), arXiv 1707.06347, eq. 7 and 9; GAE: Schulman et al. (2016), arXiv
1506.02438, eq. 16; token-level reward with KL shaping: Ziegler et al. (2019), arXiv 1909.08593;
settings of CORY: Ma et al. (2024), arXiv 2410.06101, table 3.

Differs from the paper in:

1. An episode of the learner is one response: advantages are never bootstrapped, and the value
   behind the last token is 0, also where the budget cut the response.
2. The value loss is clipped as well, as in common implementations, and halved.
3. There is no entropy bonus. What keeps the policy broad is KL to the initial model, in the reward
   (Ziegler et al.) or, with `kl.mode=loss`, exact and in the loss.
4. Advantages are whitened over the tokens of the rollout, and gradient norms are clipped.
5. A minibatch is the whole rollout unless `minibatch_size` says otherwise, so by default an update
   is four steps on the same data.
6. The value head starts at 0 and shares all of the network with the policy.
7. Moments and statistics of the reward survive a role exchange; the code of CORY begins them anew,
   as `reset_at_exchange` does.
8. With `ratio_threshold` a minibatch is left out whole; TRL, whose setting it is, multiplies its
   loss by 0 and still moves the weights by the moments of Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import LanguageModel

from .gradient import Batch, GradientLearner, per_token
from .objectives import clipped_policy_loss, clipped_value_loss, gae, whiten
from .policy import ActorCritic

__all__ = ["PPO"]


class PPO(GradientLearner):
    """The learner; arguments as in `GradientLearner`."""

    @dataclass(frozen=True)
    class Settings(GradientLearner.Settings):
        """Settings of PPO. Defaults are the paper's where it names one, but for the learning rate,
        which fits small models. Those of `GradientLearner.Settings`, and:

        Attributes:
            gamma, gae_lambda: Discount per token, and lambda of GAE.
            clip: Range of the probability ratio.
            value_clip: Range in which the value may move in one update; 0 switches it off.
            value_coef: Weight of the value loss.
            whiten: Whether advantages are given zero mean and unit variance over the tokens of the
                rollout.
            normalize_reward: Divide the team reward by a running standard deviation, kept per
                agent.
            centre_reward: Subtract its running mean from the team reward before that, kept
                likewise: what TRL does with `use_score_norm`.
            ratio_threshold: A minibatch whose mean probability ratio is larger is left out: no
                optimiser step is made for it. 10 is the default of TRL; 0 switches it off.
        """

        epochs: int = 4
        gamma: float = 1.0
        gae_lambda: float = 0.95
        clip: float = 0.2
        value_clip: float = 0.2
        value_coef: float = 0.1
        whiten: bool = True
        normalize_reward: bool = False
        centre_reward: bool = False
        ratio_threshold: float = 0.0

        ranges: ClassVar[dict[str, float]] = {
            **GradientLearner.Settings.ranges,
            "gamma": 1,
            "gae_lambda": 1,
            "clip": 1,
            "value_clip": 1e9,
            "ratio_threshold": 1e9,
            "value_coef": 1e9,
        }

    critic = True

    def __init__(
        self,
        policy: ActorCritic,
        reference: LanguageModel | None,
        settings: Settings,
        sampling: Sampling,
        seed: int = 0,
    ):
        super().__init__(policy, reference, settings, sampling, seed)
        self.moments = np.zeros(3)  # count, mean, sum of squared deviations of the team reward

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Advantages, and targets for the value head."""
        settings, mask = self.settings, rollout.mask
        logprobs, values, mismatch = self.behaviour(rollout)
        assert values is not None
        rewards = rollout.shaping.copy()
        rewards[np.arange(len(rollout)), rollout.lengths - 1] += self._normalized(rollout.team_reward)
        advantages = gae(rewards, values, rollout.lengths, settings.gamma, settings.gae_lambda)
        returns = advantages + values
        scale = 1.0
        if settings.whiten:
            advantages, scale = whiten(advantages, mask)
        advantages = rollout.weighted(advantages)
        variance = returns[mask].var()
        metrics = {
            "explained_variance": float(1.0 - (returns - values)[mask].var() / variance) if variance > 0 else 0.0,
            "return": float(returns[:, 0].mean()),
            "logprob_mismatch": mismatch,
        }
        scales = np.full(len(rollout), scale)
        return Batch(rollout, logprobs, advantages, scales, values, returns, self.reference_hidden(rollout)), metrics

    def loss(self, batch: Batch, rows: np.ndarray, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The PPO loss of some rows, as a sum over their tokens divided by `tokens`, with its
        parts."""
        settings = self.settings
        assert batch.values is not None and batch.returns is not None
        seen = self.forward(batch, rows)
        policy, stats = clipped_policy_loss(
            seen.logprobs, self.old_logprobs(batch, seen), seen.select(batch.advantages), settings.clip
        )
        value = clipped_value_loss(
            self.policy.values(seen.hidden), seen.select(batch.values), seen.select(batch.returns), settings.value_clip
        )
        kl, kl_part = self.kl_loss(batch, rows, seen)
        if settings.ratio_threshold:
            stats["ratio_mean"] = (seen.logprobs.detach() - self.old_logprobs(batch, seen)).exp().sum()
        loss = (policy + settings.value_coef * value + kl) / tokens
        return loss, per_token({"loss/policy": policy, "loss/value": value, **kl_part, **stats}, tokens)

    def skips(self, stats: Mapping[str, float]) -> bool | None:
        """Whether the policy has left the one that sampled so far behind that a minibatch says
        nothing about it."""
        threshold = self.settings.ratio_threshold
        return stats["ratio_mean"] > threshold if threshold else None

    def _normalized(self, reward: np.ndarray) -> np.ndarray:
        """The team reward less its running mean, and over its running standard deviation (Chan et
        al. 1979), where either is asked for; while there is no deviation it is not divided."""
        settings = self.settings
        if not (settings.normalize_reward or settings.centre_reward):
            return reward
        count, mean, squares = self.moments
        total, delta = count + len(reward), reward.mean() - mean
        squares += ((reward - reward.mean()) ** 2).sum() + delta**2 * count * len(reward) / total
        self.moments = np.array([total, mean + delta * len(reward) / total, squares])
        if settings.centre_reward:
            reward = reward - self.moments[1]
        spread = np.sqrt(squares / total) if settings.normalize_reward else 0.0
        return reward / (spread + 1e-8) if spread > 1e-6 else reward

    # ---------------------------------------------------------------- state
    def forget(self) -> None:
        """Clears the optimiser's moments and the reward statistics; weights and counters stay."""
        super().forget()
        self.moments = np.zeros(3)

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments of the optimiser, counters, statistics of the reward."""
        return {**super().state_dict(), "moments": torch.from_numpy(self.moments.copy())}

    def load_state_dict(self, state: Any) -> None:
        """Restores `state_dict` bit for bit."""
        super().load_state_dict(state)
        self.moments = state["moments"].cpu().numpy().copy()
