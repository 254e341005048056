"""Tianshou's PPO on the gymnasium face: first llm1 learns beside a partner that plays by chance,
then llm2 beside what llm1 has become.

    pip install -c constraints.txt -e '.[tianshou]'
    python docs/examples/tianshou_ppo.py

One idea: to a single-agent library a partner is part of the world, so several learners take turns
by handing their policies to `set_partner`. Nothing has to be translated; only token ids need an
embedding and the mask has to reach the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gymnasium.spaces import Dict
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import AbstractDiscreteActor
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn

from coevo_env import GymEnv


class Reader(nn.Module):
    """Token ids are names and not magnitudes: an embedding of each, then an MLP. (B, L) -> (B,
    outputs)."""

    def __init__(self, vocab_size: int, length: int, outputs: int, width: int = 64):
        super().__init__()
        self.embed = nn.Embedding(vocab_size + 1, 16)  # V is padding
        self.body = nn.Sequential(nn.Linear(16 * length, width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, obs: Batch) -> torch.Tensor:
        return self.body(self.embed(torch.as_tensor(obs.observation)).flatten(-2))


class MaskedActor(AbstractDiscreteActor):
    """Logits of the legal tokens; the others are never sampled."""

    def __init__(self, vocab_size: int, length: int):
        super().__init__(vocab_size)
        self.reader = Reader(vocab_size, length, vocab_size)

    def get_preprocess_net(self) -> nn.Module:
        return self.reader

    def forward(self, obs: Batch, state=None, info=None) -> tuple[torch.Tensor, None]:
        return self.reader(obs).masked_fill(torch.as_tensor(obs.action_mask) == 0, -1e9), None


def make_ppo(space: Dict, n_actions) -> PPO:
    length, vocab = space["observation"].shape[0], int(n_actions.n)
    policy = DiscreteActorPolicy(actor=MaskedActor(vocab, length), action_space=n_actions, observation_space=space)
    critic = Reader(vocab, length, 1)
    return PPO(
        policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=3e-3), gamma=1.0, ent_coef=0.01, max_grad_norm=1.0
    )


def as_partner(algorithm: PPO) -> Callable:
    """A trained learner as a partner: it samples from its policy."""
    actor = algorithm.policy.actor

    def play(context: list[int], tokens: list[int], mask: np.ndarray, rng: np.random.Generator) -> int:
        length = actor.reader.body[0].in_features // 16
        row = np.full((1, length), len(mask), np.int64)
        row[0, : len(context) + len(tokens)] = [*context, *tokens]
        with torch.no_grad():
            logits, _ = actor(Batch(observation=row, action_mask=mask[None]))
        return int(rng.choice(len(mask), p=logits[0].double().softmax(0).numpy()))

    return play


def train(
    learner: str = "llm1",
    partner: Callable | None = None,
    iterations: int = 15,
    episodes: int = 128,
    seed: int = 0,
    **options,
) -> tuple[PPO, list[float]]:
    """Trains one agent.

    Args:
        partner: Who plays the others; None means chance (with KL, the reference policy).
        episodes: Episodes per iteration.

    Returns:
        The algorithm, and the mean return of each iteration.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # Tianshou shuffles its minibatches with NumPy's global generator
    env = GymEnv(learner=learner, seed=seed, **options)
    if partner is not None:
        env.set_partner(partner)
    algorithm = make_ppo(env.observation_space, env.action_space)
    collector = Collector(algorithm, DummyVectorEnv([lambda: env]), VectorReplayBuffer(100 * episodes, 1))
    collector.reset()
    history = []
    for _ in range(iterations):
        with policy_within_training_step(algorithm.policy):
            history.append(float(collector.collect(n_episode=episodes).returns.mean()))
            algorithm.update(buffer=collector.buffer, batch_size=128, repeat=6)
        collector.reset_buffer()
    return algorithm, history


def main() -> None:
    torch.set_num_threads(1)
    first, history = train("llm1", task="toy")
    print(f"llm1 beside chance: mean return {history[0]:.2f} -> {history[-1]:.2f}")
    _, history = train("llm2", as_partner(first), task="toy")
    print(f"llm2 beside llm1:   mean return {history[0]:.2f} -> {history[-1]:.2f}")


if __name__ == "__main__":
    main()
