"""RLlib's PPO on the AEC face through its own PettingZoo wrapper."""

from __future__ import annotations

import numpy as np
import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("ray.rllib")

import rllib_ppo as example
from ledger import chance, significance
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.env.wrappers.pettingzoo_env import PettingZooEnv

import coevo_env
from coevo_agents.adapters import require

pytestmark = pytest.mark.adapter
AGENTS = ("llm1", "llm2")
SEEN: list[dict[str, np.ndarray]] = []
"""Of each episode that reached the learner: the rewards of each agent, one for each of its
actions."""


class RecordingLearner(PPOTorchLearner):
    def update(self, *args, **kwargs):
        for episode in kwargs["training_data"].episodes:
            SEEN.append({agent: np.array(single.get_rewards()) for agent, single in episode.agent_episodes.items()})
            for single in episode.agent_episodes.values():
                assert len(single.get_rewards()) == len(single.get_actions())
        return super().update(*args, **kwargs)


@pytest.fixture(scope="module")
def trained(ledger):
    require("rllib")
    SEEN.clear()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        config = example.make_config(task="toy", kl="reference").training(learner_class=RecordingLearner)
        history = example.train(config, iterations=10)
    finally:
        ray.shutdown()
    return history, ledger.episodes(), ledger.entries


def test_rewards_are_conserved(trained):
    _, paid, _ = trained
    assert len(SEEN) > 1000
    for index, agent in enumerate(AGENTS):
        sums = np.array([episode[agent].sum() for episode in SEEN])
        assert sums == pytest.approx(paid[:, index], abs=1e-4)


def test_every_reward_stands_at_the_action_it_came_after(trained):
    """KL shaping at its own token; what was paid while another agent acted at the last token
    before."""
    _, _, entries = trained
    expected, playing = [], {}
    for entry in entries:  # RLlib tries a step when it makes the environment: that episode never ends
        rows = playing.setdefault((entry.game, entry.number), {agent: [] for agent in AGENTS})
        rows[AGENTS[entry.actor]].append(0.0)
        for agent, reward in zip(AGENTS, entry.rewards, strict=True):
            if reward:
                rows[agent][-1] += reward
        if entry.last:
            expected.append(playing.pop((entry.game, entry.number)))
    assert len(expected) == len(SEEN)
    for episode, wanted in zip(SEEN, expected, strict=True):
        for agent in AGENTS:
            assert episode[agent] == pytest.approx(wanted[agent], abs=1e-5)


def test_it_improves(trained):
    history, paid, _ = trained
    assert significance(chance(500, task="toy", kl="reference").mean(1), paid[-200:].mean(1)) > 10
    assert significance(paid[:100].mean(1), paid[-200:].mean(1)) > 10
    assert all(history[-1][agent] > history[0][agent] for agent in AGENTS)


def test_the_wrapper_takes_the_environment_as_it_is():
    env = PettingZooEnv(coevo_env.env(task="toy", seed=0))
    observations, _ = env.reset(seed=0)
    (agent,) = observations
    assert env.observation_space[agent].contains(observations[agent])
    assert env.action_space[agent].n == 5
