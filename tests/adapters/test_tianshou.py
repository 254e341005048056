"""Tianshou's PPO on the gymnasium face, and what its own multi-agent path loses on the AEC face."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tianshou")

import tianshou_ppo as example
import torch
from ledger import Ledger, chance, significance
from tianshou.algorithm import PPO
from tianshou.algorithm.multiagent.marl import MultiAgentOnPolicyAlgorithm
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, PettingZooEnv
from tianshou.utils.torch_utils import policy_within_training_step

import coevo_env
from coevo_agents.adapters import require

pytestmark = pytest.mark.adapter


@pytest.fixture
def learned_from(monkeypatch):
    """Rewards and ends of every batch that a PPO of Tianshou turned into advantages."""
    batches = []
    preprocess = PPO._preprocess_batch

    def recording(self, batch, buffer, indices):
        batches.append((self, np.array(batch.rew), np.array(batch.terminated)))
        return preprocess(self, batch, buffer, indices)

    monkeypatch.setattr(PPO, "_preprocess_batch", recording)
    return batches


def sums(batches) -> np.ndarray:
    """(E,): rewards between one end and the next."""
    rewards, ends = (np.concatenate([batch[part] for batch in batches]) for part in (1, 2))
    return np.array([part.sum() for part in np.split(rewards, np.flatnonzero(ends) + 1)[:-1]])


@pytest.mark.parametrize("learner", ["llm1", "llm2"])
def test_rewards_are_conserved_and_it_improves(learner, learned_from, monkeypatch):
    require("tianshou")
    ledger = Ledger().install(monkeypatch)
    _, history = example.train(learner, iterations=12, task="toy", kl="reference" if learner == "llm2" else "off")
    own = int(learner[-1]) - 1
    paid, seen = ledger.episodes()[:, own], sums(learned_from)
    assert len(seen) == 12 * 128
    assert seen == pytest.approx(paid, abs=1e-6)
    assert seen.sum() == pytest.approx(
        ledger.paid()[:, own].sum()
    )  # the episodes that its collector abandons paid nothing yet
    if learner == "llm1":
        assert significance(chance(500, task="toy")[:, 0], seen[-256:]) > 8
    assert significance(seen[:128], seen[-256:]) > 8
    assert history[-1] > history[0]


def test_a_learner_becomes_a_partner():
    algorithm, _ = example.train("llm1", iterations=1, episodes=16, task="toy")
    env = coevo_env.GymEnv(task="toy", learner="llm2", seed=0)
    env.set_partner(example.as_partner(algorithm))
    env.reset(options={"episode": 1})
    mask = env.action_masks()
    assert env.action_space.contains(np.int64(mask.argmax()))


def test_its_own_multi_agent_path_drops_what_is_paid_while_another_acts(learned_from, monkeypatch):
    """Why the AEC face is refused: the pioneer is paid at the last token of the observer, and its
    learner never hears of it."""
    ledger = Ledger().install(monkeypatch)
    torch.manual_seed(0)
    env = PettingZooEnv(coevo_env.env(task="toy", seed=0, agent_ids="role"))
    space = coevo_env.GymEnv(task="toy", seed=0)

    class Actor(example.MaskedActor):  # the wrapper calls the parts of an observation by other names
        def forward(self, obs, state=None, info=None):
            return super().forward(example.Batch(observation=obs.obs, action_mask=np.asarray(obs.mask)))

    class Critic(example.Reader):
        def forward(self, obs):
            return super().forward(example.Batch(observation=obs.obs))

    def make() -> PPO:
        length = space.game.length
        actor = Actor(5, length)
        policy = example.DiscreteActorPolicy(actor=actor, action_space=space.action_space)
        return PPO(policy=policy, critic=Critic(5, length, 1), optim=example.AdamOptimizerFactory(lr=1e-3))

    pioneer, observer = make(), make()
    both = MultiAgentOnPolicyAlgorithm(algorithms=[pioneer, observer], env=env)
    collector = Collector(both, DummyVectorEnv([lambda: env]), VectorReplayBuffer(4000, 1))
    collector.reset()
    with policy_within_training_step(both.policy):
        collector.collect(n_episode=64)
        both.update(buffer=collector.buffer, batch_size=64, repeat=1)
    paid = ledger.paid().sum(0)
    assert paid[0] == pytest.approx(paid[1]) and paid[0] > 10
    seen = {
        owner: sum(rew.sum() for algorithm, rew, _ in learned_from if algorithm is owner)
        for owner in (pioneer, observer)
    }
    assert seen[observer] == pytest.approx(paid[1], abs=1e-4)
    assert seen[pioneer] == 0.0
