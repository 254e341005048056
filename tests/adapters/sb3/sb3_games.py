"""Learners of Stable-Baselines3 on small games, for the tests of the adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor

from coevo_agents.adapters.sb3 import (
    CausalLMPolicy,
    TokenExtractor,
    language_model_kwargs,
)

EXTRACTOR = {
    "features_extractor_class": TokenExtractor,
    "features_extractor_kwargs": {"features_dim": 32, "embedding_dim": 16},
}
V = 5


def ppo(env, n_steps=16, **options) -> PPO:
    steps = n_steps * env.num_envs  # of a rollout; in two minibatches, or in one where the number is odd
    batch = steps // (1 + (steps % 2 == 0))
    settings = {
        "n_steps": n_steps,
        "batch_size": batch,
        "n_epochs": 4,
        "learning_rate": 3e-3,
        "seed": 0,
        "policy_kwargs": EXTRACTOR,
    }
    return PPO("MultiInputPolicy", env, **{**settings, **options})


def a2c(env, n_steps=6, **options) -> A2C:
    return A2C(
        "MultiInputPolicy",
        env,
        **{"n_steps": n_steps, "learning_rate": 3e-3, "seed": 0, "policy_kwargs": EXTRACTOR, **options},
    )


def same(a, b) -> bool:
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


def lm_ppo(env, **options) -> PPO:
    settings = {
        "n_steps": 16,
        "batch_size": 8 * env.num_envs,
        "n_epochs": 4,
        "learning_rate": 2e-3,
        "seed": 0,
        "policy_kwargs": language_model_kwargs(env),
    }
    return PPO(CausalLMPolicy, env, **{**settings, **options})


class Ledger(BaseCallback):
    """What SB3 is about to learn from, step by step, over all rollouts."""

    def __init__(self):
        super().__init__()
        self.steps: list[tuple] = []  # (rewards, log_probs, actions, dones, infos) of each step, each over rows
        self.wrong = 0.0

    def _on_rollout_start(self):
        self.rollout = []

    def _on_step(self):
        self.rollout.append((np.array(self.locals["dones"]), self.locals["infos"]))
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        for t, (dones, infos) in enumerate(self.rollout):
            self.steps.append(
                (buffer.rewards[t].copy(), buffer.log_probs[t].copy(), buffer.actions[t, :, 0].copy(), dones, infos)
            )
        # returns and advantages must be those that SB3 would have computed from the rewards
        advantages, returns = buffer.advantages.copy(), buffer.returns.copy()
        with torch.no_grad():
            last = self.model.policy.predict_values(obs_as_tensor(self.locals["new_obs"], self.model.device))
        buffer.compute_returns_and_advantage(last_values=last, dones=self.rollout[-1][0])
        self.wrong = max(self.wrong, abs(advantages - buffer.advantages).max(), abs(returns - buffer.returns).max())

    def episodes(self):
        """(info of the last step, rewards, log-probs, tokens) of each finished episode."""
        for row in range(len(self.steps[0][0])):
            series = []
            for rewards, logprobs, tokens, dones, infos in self.steps:
                series.append((rewards[row], logprobs[row], tokens[row]))
                if dones[row]:
                    yield infos[row], *(np.array(column) for column in zip(*series, strict=True))
                    series = []
