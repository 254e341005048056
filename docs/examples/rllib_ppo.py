"""RLlib's PPO on the AEC face, one RLModule for each agent.

    pip install -c constraints.txt -e '.[rllib]'
    python docs/examples/rllib_ppo.py

One idea: RLlib's own wrapper takes the environment as it is; what is needed is a module that embeds
token ids and masks the logits, because RLlib's default networks take float vectors. (With those,
`coevo_env.env(mask="none", token_dtype="float32")` runs too, but reads ids as magnitudes.)
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.env.wrappers.pettingzoo_env import PettingZooEnv
from ray.tune.registry import register_env
from torch import nn

import coevo_env


class Reader(TorchRLModule, ValueFunctionAPI):
    """Token ids are names and not magnitudes: an embedding of each, then an MLP with a policy head
    and a value head."""

    def setup(self) -> None:
        tokens = self.observation_space["observation"]
        vocab, width = int(self.action_space.n), 64
        self.embed = nn.Embedding(vocab + 1, 16)  # V is padding
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16 * tokens.shape[0], width), nn.Tanh())
        self.policy, self.value = nn.Linear(width, vocab), nn.Linear(width, 1)

    def _forward(self, batch: dict, **kwargs) -> dict:
        seen = batch[Columns.OBS]
        logits = self.policy(self.body(self.embed(seen["observation"].long())))
        return {Columns.ACTION_DIST_INPUTS: logits.masked_fill(seen["action_mask"] == 0, -1e9)}

    def compute_values(self, batch: dict, embeddings=None) -> torch.Tensor:
        return self.value(self.body(self.embed(batch[Columns.OBS]["observation"].long()))).squeeze(-1)


def make_config(frames: int = 768, seed: int = 0, **options) -> PPOConfig:
    """The configuration; `options` go to `coevo_env.env`."""
    register_env("coevo_text", lambda _: PettingZooEnv(coevo_env.env(seed=seed, **options)))
    agents = coevo_env.env(seed=seed, **options).possible_agents
    return (
        PPOConfig()
        .environment("coevo_text")
        .env_runners(num_env_runners=0, batch_mode="complete_episodes", rollout_fragment_length="auto")
        .learners(num_learners=0)
        .multi_agent(policies=set(agents), policy_mapping_fn=lambda agent, *_, **__: agent)
        .rl_module(
            rl_module_spec=MultiRLModuleSpec(
                rl_module_specs={agent: RLModuleSpec(module_class=Reader) for agent in agents}
            )
        )
        .training(
            gamma=1.0, lambda_=0.95, lr=3e-3, entropy_coeff=0.01, use_kl_loss=False, clip_param=0.2, vf_clip_param=10.0
        )
        .training(train_batch_size=frames, minibatch_size=128, num_epochs=6, grad_clip=1.0)
        .debugging(seed=seed, log_level="ERROR")
    )


def train(config: PPOConfig, iterations: int = 12) -> list[dict[str, float]]:
    """Trains; returns the mean return of each agent in each iteration."""
    algorithm = config.build_algo()
    history = []
    for _ in range(iterations):
        result = algorithm.train()
        returns = result["env_runners"]["agent_episode_returns_mean"]
        history.append({agent: float(returns[agent]) for agent in sorted(returns)})
    algorithm.stop()
    return history


def main() -> None:
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    history = train(make_config(task="toy"))
    for agent in history[0]:
        print(f"{agent}: mean return {history[0][agent]:.2f} -> {history[-1][agent]:.2f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
