"""TorchRL's ClipPPOLoss on the AEC face (its own wrapper) and on the batched engine (native
environment)."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchrl")

import torch
import torchrl_ppo as example
from ledger import chance, significance
from tensordict.nn import TensorDictSequential
from torchrl.envs.utils import check_env_specs

import coevo_env
from coevo_agents.adapters.torchrl import batch_env

pytestmark = pytest.mark.adapter
AGENTS = ("llm1", "llm2")


def seen(batches, agent: str) -> np.ndarray:
    """(..., S): the rewards in the learner's batches, one batch behind the other."""
    return torch.cat([batch["next", agent, "reward"].squeeze((-1, -2)) for batch in batches], -1).numpy()


# ---------------------------------------------------------------- the wrapped AEC face
@pytest.fixture(scope="module")
def aec(ledger):
    batches = []
    env = example.aec_env(task="toy", seed=0)
    example.train(env, iterations=12, on_batch=lambda data: batches.append(data.clone()))
    return batches, ledger.paid(), ledger.episodes()


def test_aec_specs():
    check_env_specs(example.aec_env(task="toy", seed=0))


def test_aec_rewards_are_conserved(aec):
    """Token by token: what the environment paid each agent is what stands in the batch."""
    batches, paid, _ = aec
    for index, agent in enumerate(AGENTS):
        rewards = seen(batches, agent)
        assert np.abs(rewards).sum() > 0
        assert rewards == pytest.approx(paid[: len(rewards), index], abs=1e-6)
        assert len(rewards) == len(paid)


def test_aec_idle_steps_hold_the_pioneers_reward(aec):
    """Why advantages must be computed before the mask is applied."""
    batches, _, _ = aec
    data = torch.cat(list(batches))
    idle = {agent: float(data["next", agent, "reward"][~data[agent, "mask"]].sum()) for agent in AGENTS}
    assert all(value > 0 for value in idle.values())
    assert (data["llm1", "mask"] ^ data["llm2", "mask"]).all()  # one acts at each step


def test_aec_improves(aec):
    _, _, episodes = aec
    assert significance(chance(500, task="toy").mean(1), episodes[-200:].mean(1)) > 10
    assert significance(episodes[:100].mean(1), episodes[-200:].mean(1)) > 10


# ---------------------------------------------------------------- the batched engine
@pytest.fixture(scope="module")
def batched():
    env = batch_env(16, task="toy", seed=0)
    game, paid, batches = env.game, [], []
    step = game.step

    def recording_step(*args, **kwargs):
        rewards = step(*args, **kwargs)
        if game.done:
            paid.append([rollout.rewards.sum(1) for rollout in game.rollouts()])  # (N rows) for each agent
        return rewards

    game.step = recording_step
    example.train(env, iterations=12, on_batch=lambda data: batches.append(data.clone()))
    return batches, np.array(paid)  # (episodes of the batch, A, N)


def episode_sums(batches, agent: str) -> np.ndarray:
    """(E, N): the learner's rewards, summed between one end and the next."""
    done = torch.cat([batch["next", "done"] for batch in batches], 1)[0, :, 0].numpy()  # all rows end together
    ends = np.flatnonzero(done) + 1
    return np.array([part.sum(-1) for part in np.split(seen(batches, agent), ends, axis=-1)[: len(ends)]])


@pytest.mark.parametrize(
    "options", [{}, {"num_agents": 3, "roles": "random"}, {"kl": "reference"}, {"min_new_tokens": 2}]
)
def test_batched_specs(options):
    check_env_specs(batch_env(4, task="toy", seed=0, **options))


def test_batched_rewards_are_conserved(batched):
    """Episode by episode and row by row, whatever the collector cut in two."""
    batches, paid = batched
    for index, agent in enumerate(AGENTS):
        sums = episode_sums(batches, agent)
        assert len(sums) == len(paid) > 50
        assert sums == pytest.approx(paid[:, index], abs=1e-5)


def test_batched_improves(batched):
    _, paid = batched
    first, last = paid[:5].mean(1).ravel(), paid[-10:].mean(1).ravel()
    assert significance(chance(500, task="toy").mean(1), last) > 10
    assert significance(first, last) > 10


@pytest.mark.parametrize(
    "options", [{}, {"num_agents": 3, "roles": "random"}, {"kl": "reference"}, {"min_new_tokens": 2}]
)
def test_batched_plays_the_same_game_as_the_aec_face(options):
    """The same tokens bring the same observations, masks and payments."""
    env = batch_env(5, task="toy", seed=3, **options)
    env.set_seed(3)
    torch.manual_seed(0)
    data = env.rollout(100)
    for row in range(5):
        face = coevo_env.raw_env(task="toy", seed=3, **options)
        face.reset(options={"episode": row})
        total, rewards = dict.fromkeys(face.possible_agents, 0.0), dict.fromkeys(face.possible_agents, 0.0)
        for t in range(data.shape[1]):
            step = data[row, t]
            acting = [agent for agent in face.possible_agents if step[agent, "mask"].item()]
            waits = not acting and face.game.actor >= 0  # its turn is over, and other rows still play theirs
            for agent in face.possible_agents:
                rewards[agent] += step["next", agent, "reward"].item()
                if not waits:
                    expected = face.observe(agent)
                    assert np.array_equal(
                        step[agent, "observation", "observation"][0].numpy(), expected["observation"]
                    ), (row, t, agent)
                    assert np.array_equal(
                        step[agent, "action_mask"][0].numpy(), expected["action_mask"].astype(bool)
                    ), (row, t, agent)
            if acting:
                assert acting == [face.agent_selection]
                face.step(step[acting[0], "action"].item())
                for agent in face.possible_agents:
                    total[agent] += face.rewards[agent]
        assert face.game.actor < 0
        assert rewards == pytest.approx(total, abs=1e-5)


def test_batched_reports_log_probs():
    """KL mode "reported": the environment reads what the policy wrote, and pays -beta (log pi - log
    pi_ref)."""
    env = batch_env(8, task="toy", seed=0, kl="reported")
    torch.manual_seed(0)
    data = env.rollout(100, TensorDictSequential(*(example.make_agent(env, agent)[0] for agent in AGENTS)))
    for agent, rollout in zip(AGENTS, env.game.rollouts(), strict=True):
        sums = data["next", agent, "reward"].sum((1, 2, 3)).detach().numpy()
        assert np.abs(rollout.shaping).sum() > 0
        assert sums == pytest.approx(rollout.rewards.sum(1), abs=1e-5)
        written = (data[agent, "action_log_prob"] * data[agent, "mask"]).sum((1, 2)).detach().numpy()
        assert written == pytest.approx(rollout.logprobs.sum(1), abs=1e-5)


def test_batched_errors_say_what_is_missing():
    env = batch_env(2, task="toy", seed=0, kl="reported")
    with pytest.raises(coevo_env.ConfigError, match="return_log_prob=True"):
        env.rand_step(env.reset())
    env = batch_env(2, task="toy", seed=0)
    data = env.reset()
    data["_reset"] = torch.tensor([[True], [False]])
    with pytest.raises(coevo_env.ConfigError, match="reset of 1 of 2 rows"):
        env._reset(data)
