"""AgileRL's IPPO on the parallel face, and why its own training loop is not used."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("agilerl")

import agilerl_ippo as example
from agilerl.algorithms import IPPO
from agilerl.networks import StochasticActor
from agilerl.training.train_multi_agent_on_policy import train_multi_agent_on_policy
from ledger import chance, significance

import coevo_env
from coevo_agents.adapters.agilerl import parallel_env

pytestmark = pytest.mark.adapter
AGENTS = ("llm1", "llm2")


@pytest.fixture(scope="module")
def trained(ledger):
    """What IPPO.learn was given, (steps, envs) for each agent, and what was paid meanwhile."""
    batches = []
    learn = IPPO.learn

    def recording(self, experiences):
        batches.append({agent: np.stack(experiences[3][agent]) for agent in AGENTS})
        return learn(self, experiences)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IPPO, "learn", recording)
        ippo, history = example.train(iterations=15, envs=8, task="toy")
    return ippo, history, batches, list(ledger.entries), ledger.episodes()


def test_rewards_are_conserved(trained):
    """Token by token and environment by environment."""
    _, _, batches, entries, _ = trained
    seen = {agent: np.concatenate([batch[agent] for batch in batches]) for agent in AGENTS}
    for row, game in enumerate(sorted({entry.game for entry in entries})):
        paid = np.array([entry.rewards for entry in entries if entry.game == game])
        for index, agent in enumerate(AGENTS):
            assert np.abs(paid[:, index]).sum() > 0
            assert seen[agent][:, row] == pytest.approx(paid[:, index], abs=1e-6)


def test_it_improves(trained):
    _, history, _, _, paid = trained
    assert significance(chance(500, task="toy", min_new_tokens=0).mean(1), paid[-200:].mean(1)) > 10
    assert significance(paid[:100].mean(1), paid[-200:].mean(1)) > 10
    assert history[-1] > history[0]


def test_each_agent_has_a_policy_of_its_own(trained):
    ippo = trained[0]
    assert set(ippo.actors) == set(AGENTS)
    one, two = (next(ippo.actors[agent].parameters()).detach() for agent in AGENTS)
    assert not np.allclose(one.numpy(), two.numpy())


def test_agents_named_with_an_underscore_and_a_number_would_share_one():
    env = parallel_env(task="toy", seed=0)
    spaces = [env.observation_space(agent) for agent in AGENTS]
    actions = [env.action_space(agent) for agent in AGENTS]
    shared = IPPO(observation_spaces=spaces, action_spaces=actions, agent_ids=["llm_1", "llm_2"])
    assert set(shared.actors) == {"llm"}


def test_its_training_loop_forgets_where_episodes_end(monkeypatch):
    """Why the example writes the loop out: of all the ends that happened, `dones` holds none."""
    given = []
    monkeypatch.setattr(IPPO, "learn", lambda self, experiences: given.append(experiences) or {})
    env = parallel_env(task="toy", seed=0)
    ippo = example.make_ippo(env, learn_step=64)
    train_multi_agent_on_policy(env, "coevo", "IPPO", [ippo], max_steps=64, evo_steps=64, eval_loop=1, verbose=False)
    dones, rewards = (
        np.concatenate([np.ravel(row) for row in given[0][4]["llm1"]]),
        np.concatenate([np.ravel(row) for row in given[0][3]["llm1"]]),
    )
    assert (rewards > 0).sum() > 3  # episodes ended
    assert dones.sum() == 0


def test_its_learning_forgets_masks(monkeypatch):
    """Why masks are refused: the network gets one when it acts, and none when it learns from the
    same actions."""
    given = []
    forward = StochasticActor.forward
    monkeypatch.setattr(
        StochasticActor,
        "forward",
        lambda self, obs, action_mask=None: given.append(action_mask) or forward(self, obs, action_mask=action_mask),
    )
    env = parallel_env(task="toy", seed=0)
    ippo = example.make_ippo(env)
    first, mask = env.reset()[0], [1, 0, 0, 0, 0]
    obs = {agent: first[agent][None] for agent in AGENTS}
    action, logprob, _, value = ippo.get_action(obs=obs, infos={agent: {"action_mask": mask} for agent in AGENTS})
    assert all(mask is not None for mask in given) and len(given) == 2
    assert [float(logprob[agent][0]) for agent in AGENTS] == pytest.approx([0.0, 0.0], abs=1e-5)  # there was no choice
    given.clear()
    rows = [{agent: [part[agent]] * 4 for agent in AGENTS} for part in (obs, action, logprob)]
    zeros = {agent: [np.zeros(1)] * 4 for agent in AGENTS}
    ippo.learn(
        (
            *rows,
            zeros,
            zeros,
            {agent: [value[agent]] * 4 for agent in AGENTS},
            obs,
            {agent: np.zeros(1) for agent in AGENTS},
        )
    )
    assert given and all(mask is None for mask in given)


def test_the_one_hot_observation_is_the_same_one():
    env, plain = parallel_env(task="toy", seed=1), coevo_env.parallel_env(task="toy", seed=1, mask="none")
    seen, tokens = env.reset()[0], plain.reset()[0]
    for _ in range(4):
        for agent in AGENTS:
            assert env.observation_space(agent).contains(seen[agent])
            assert seen[agent].reshape(len(tokens[agent]), -1).argmax(1) == pytest.approx(tokens[agent])
        action = dict.fromkeys(AGENTS, 1)
        seen, tokens = env.step(action)[0], plain.step(action)[0]


def test_errors():
    with pytest.raises(coevo_env.ConfigError, match="forgets masks"):
        parallel_env(task="toy", mask="info")
    with pytest.raises(coevo_env.ConfigError, match="one-hot inputs"):
        parallel_env(task=coevo_env.make_task("toy", vocab_size=100_000))
