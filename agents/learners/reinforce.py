"""REINFORCE: raise the log-prob of each token by what followed it, minus what usually follows.

One idea: the gradient of E[reward] is E[sum_t grad log pi(a_t|s_t) * (reward from t on - b)],
whatever the baseline b, as long as b does not depend on a_t. This is the smallest learner here and
the one to read first: `prepare` makes the weights of the tokens, `loss` is one line of algebra. One
optimiser step per rollout; there is no critic, no ratio and no clipping.

Source: Williams (1992), Machine Learning 8, 229-256.

Differs from the paper in:

1. A token is weighed by what was earned from it on, not by what the whole response earned.
2. The baseline is a moving average for each position of a response, corrected for its start as Adam
   corrects its own; Williams's is one average of the whole reinforcement.
3. A step is taken for a batch of responses, by Adam and with a bound on the gradient norm, not for
   each episode with rates of its own.
4. The sum over tokens is divided by the number of tokens in the minibatch, so the size of a step
   does not grow with the length of responses.
5. With KL in the loss, an exact KL to the initial model is added, which the paper does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from coevo_env.errors import ConfigError
from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import LanguageModel

from .gradient import Batch, GradientLearner, per_token
from .objectives import returns_to_go
from .policy import ActorCritic

__all__ = ["Reinforce"]


class Reinforce(GradientLearner):
    """The learner; arguments as in `GradientLearner`.

    Attributes:
        usual: float64 (T,), moving averages of the return from each position on.
        seen: float64 (T,), how far each average is from its start (for the correction that Adam
            makes too).
    """

    @dataclass(frozen=True)
    class Settings(GradientLearner.Settings):
        """Settings of REINFORCE. Those of `GradientLearner.Settings`, and:

        Attributes:
            gamma: Discount per token.
            baseline: Share of the old value that the baseline keeps in each update: it is a moving
                average of the mean return at each position. 1 keeps it at 0: no baseline.
        """

        gamma: float = 1.0
        baseline: float = 0.9

        ranges: ClassVar[dict[str, float]] = {**GradientLearner.Settings.ranges, "gamma": 1, "baseline": 1}

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.epochs != 1:
                raise ConfigError(
                    f"epochs={self.epochs}; expected 1: a second pass needs a probability ratio, as PPO and GRPO have."
                )
            if self.target_kl:
                raise ConfigError(
                    f"target_kl={self.target_kl}; expected 0: an update of one step has no later ones to leave out."
                )

    ratio = False

    def __init__(
        self,
        policy: ActorCritic,
        reference: LanguageModel | None,
        settings: Settings,
        sampling: Sampling,
        seed: int = 0,
    ):
        super().__init__(policy, reference, settings, sampling, seed)
        self.usual, self.seen = np.zeros(0), np.zeros(0)

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """The weight of a token is the return from it on, minus the usual one."""
        logprobs, _, mismatch = self.behaviour(rollout)
        returns = returns_to_go(rollout.rewards, self.settings.gamma)  # (B, T)
        baseline = self._expected(rollout.tokens.shape[1])
        advantages = np.where(rollout.mask, returns - baseline, 0.0)
        self._remember(returns, rollout.mask)
        metrics = {"return": float(returns[:, 0].mean()), "baseline": float(baseline[0]), "logprob_mismatch": mismatch}
        batch = Batch(
            rollout,
            logprobs,
            rollout.weighted(advantages),
            np.ones(len(rollout)),
            reference=self.reference_hidden(rollout),
        )
        return batch, metrics

    def loss(self, batch: Batch, rows: np.ndarray, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """-sum over tokens of advantage * log pi, divided by the tokens of the minibatch."""
        seen = self.forward(batch, rows)
        policy = -(seen.select(batch.advantages) * seen.logprobs).sum()
        kl, kl_part = self.kl_loss(batch, rows, seen)
        return (policy + kl) / tokens, per_token({"loss/policy": policy, **kl_part}, tokens)

    # ---------------------------------------------------------------- the baseline
    def _expected(self, length: int) -> np.ndarray:
        """The usual return from each position on, (length,); 0 where nothing has been seen yet."""
        grown = max(0, length - len(self.usual))
        self.usual, self.seen = np.pad(self.usual, (0, grown)), np.pad(self.seen, (0, grown))
        return np.where(self.seen > 0, self.usual / np.maximum(self.seen, 1e-12), 0.0)[:length]

    def _remember(self, returns: np.ndarray, mask: np.ndarray) -> None:
        """Moves the averages after use, so that a baseline never depends on the tokens that it is
        subtracted from."""
        keep, reached = self.settings.baseline, np.nonzero(mask.any(0))[0]
        means = (returns * mask).sum(0)[reached] / mask.sum(0)[reached]
        self.usual[reached] = keep * self.usual[reached] + (1 - keep) * means
        self.seen[reached] = keep * self.seen[reached] + (1 - keep)

    # ---------------------------------------------------------------- state
    def state_dict(self) -> dict[str, Any]:
        """Weights, moments of the optimiser, counters, the baseline."""
        return {
            **super().state_dict(),
            "usual": torch.from_numpy(self.usual.copy()),
            "seen": torch.from_numpy(self.seen.copy()),
        }

    def load_state_dict(self, state: Any) -> None:
        """Restores `state_dict` bit for bit."""
        super().load_state_dict(state)
        self.usual, self.seen = state["usual"].cpu().numpy().copy(), state["seen"].cpu().numpy().copy()
