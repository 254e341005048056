"""The one-file PPO of docs/examples: it runs, learns from everything that the engine paid, and
improves on chance."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import coevo_env
from coevo_env.errors import ConfigError

FILE = Path(__file__).parents[2] / "docs" / "examples" / "cleanrl_ppo.py"
TINY = {"iterations": 3, "batch_size": 8, "hidden": 16, "log_every": 0, "exchange_every": 4}


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("cleanrl_ppo", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cleanrl_ppo", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("agents", "roles"), [(1, "never"), (2, "never"), (2, "periodic"), (3, "rotation"), (3, "random")]
)
def test_what_the_engine_paid_is_what_was_learned_from(example, monkeypatch, agents, roles):
    """The engine's account: the rewards that `submit_turn` returns, and the team rewards of the
    seats that were not the last."""
    paid: list[np.ndarray] = []  # per batch (N,)
    lengths: set[int] = set()

    class Recorded(coevo_env.BatchEnv):
        def reset(self, episode=None):
            super().reset(episode)
            self.turns = []
            paid.append(np.zeros(agents))

        def submit_turn(self, tokens, given, *rest, **named):
            turn = self.begin_turn()
            rewards = super().submit_turn(tokens, given, *rest, **named)
            lengths.update(given.tolist())
            np.add.at(paid[-1], turn.agents, rewards.sum(1))
            self.turns.append(turn.agents)
            if self.done:
                for seat, seated in enumerate(self.turns[:-1]):  # the last seat's is in what submit_turn returned
                    np.add.at(paid[-1], seated, self.scores.team[:, seat])
            return rewards

    monkeypatch.setattr(coevo_env, "BatchEnv", Recorded)
    gae, used = example.advantages_of, []  # what the advantages were made of, agent by agent

    def record(rewards, *rest):
        used.append(rewards.sum())
        return gae(rewards, *rest)

    monkeypatch.setattr(example, "advantages_of", record)
    _, history = example.train(example.Args(num_agents=agents, roles=roles, **TINY))
    assert len(history) == 3 and lengths == {1, 2, 3} - ({1} if min(lengths) > 1 else set())
    for iteration, metrics in enumerate(history):
        learned = np.array([row["return"] for row in metrics]) * TINY["batch_size"]
        assert learned == pytest.approx(paid[iteration], rel=1e-12, abs=1e-12)
        assert used[agents * iteration : agents * (iteration + 1)] == pytest.approx(
            paid[iteration].tolist(), rel=1e-12, abs=1e-12
        )
        assert all(math.isfinite(value) for row in metrics for value in row.values())


def test_it_improves_on_chance(example):
    args = example.Args(iterations=25, batch_size=64, log_every=0, learning_rate=5e-3)
    torch.manual_seed(0)
    before = example.evaluate(example.Agent(5, args.hidden), args)  # its first policy is nearly uniform
    agents, _ = example.train(args)
    for agent in agents:
        after = example.evaluate(agent, args)
        assert after.mean() - before.mean() > 5 * math.hypot(before.std(), after.std()) / math.sqrt(len(before))


def test_same_seed_same_run(example):
    first, second = (example.train(example.Args(**TINY))[1] for _ in range(2))
    assert first == second != example.train(example.Args(seed=2, **TINY))[1]


def test_advantages_by_hand(example):
    rewards, values = np.array([[1.0, 2.0, 4.0], [3.0, 9.0, 9.0]]), np.array([[0.5, 1.0, 2.0], [1.0, 7.0, 7.0]])
    mask = np.array([[True, True, True], [True, False, False]])
    got = example.advantages_of(rewards, values, mask, gamma=0.5, lam=0.5)
    third = 4.0 - 2.0
    second = 2.0 + 0.5 * 2.0 - 1.0 + 0.25 * third
    first = 1.0 + 0.5 * 1.0 - 0.5 + 0.25 * second
    assert got == pytest.approx(np.array([[first, second, third], [2.0, 0.0, 0.0]]))


def test_log_probs_are_the_same_while_sampling_and_learning(example):
    """Position by position with growing turns, or the whole turn at once."""
    torch.manual_seed(0)
    agent = example.Agent(5, 16)
    game = coevo_env.BatchEnv(16, "toy", seed=0, num_agents=1)
    example.play(game, [agent], torch.Generator().manual_seed(0))
    (rollout,) = game.rollouts()
    policy, values = agent(
        rollout.contexts, torch.tensor(rollout.tokens), example.legal_tokens(game)[: rollout.tokens.shape[1]]
    )
    assert policy.log_prob(torch.tensor(rollout.tokens)).detach().numpy()[rollout.mask] == pytest.approx(
        rollout.logprobs[rollout.mask], abs=1e-5
    )
    assert values.detach().numpy()[rollout.mask] == pytest.approx(rollout.values[rollout.mask], abs=1e-5)
    assert (rollout.lengths < 3).any() and not (rollout.tokens[:, 0] == 0).any()  # EOS is not legal at once


def test_command_line(example, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cleanrl_ppo.py", "--num-agents", "3", "--anneal", "false", "--kl-beta", "0.5"])
    args = example.parse()
    assert (args.num_agents, args.anneal, args.kl_beta, args.seed) == (3, False, 0.5, 1)
    with pytest.raises(ConfigError, match="rotation"):
        example.train(example.Args(roles="rotations", **TINY))
