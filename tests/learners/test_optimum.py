"""Every learner that learns finds the known optimum of a game, whatever its weights and the order
of updates."""

from __future__ import annotations

import numpy as np
import pytest
from closed_forms import TeamGame
from toy_runs import BETA, LEARNING, make, train


@pytest.mark.parametrize("learner", LEARNING)
def test_two_agents_with_role_exchange_reach_the_optimum(learner):
    assert near_the_optimum(learner, 2, True, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("num_agents", "exchange"), [(1, False), (2, False), (2, True), (3, False), (3, True)])
@pytest.mark.parametrize("learner", LEARNING)
def test_every_learner_reaches_the_optimum(learner, num_agents, exchange, seed):
    assert near_the_optimum(learner, num_agents, exchange, seed)


@pytest.mark.parametrize("scheme", ["alternating", "sequential"])
def test_update_schemes_reach_the_optimum(scheme):
    assert near_the_optimum("grpo", 2, True, seed=0, updates=scheme, iterations=240 if scheme == "alternating" else 120)


@pytest.mark.parametrize("weights", ["shared", "lora"])
def test_weight_modes_reach_the_optimum(weights):
    rank = {"lora.rank": 16, "lora.alpha": 32} if weights == "lora" else {}
    assert near_the_optimum("grpo", 2, True, seed=0, weights=weights, **rank)


def near_the_optimum(learner, num_agents, exchange, seed, iterations=120, **settings) -> bool:
    """Every agent is within 2 % of its best J in every seat it has played, and has made at least 80
    % of the way there.

    The rewards of the partners are part of J and are there from the start, so the more agents, the
    less 2 % of it says alone.
    """
    settings = {f"{learner}.learning_rate": 3e-3, **settings}
    game, _ = make(learner, num_agents, exchange, seed)
    team = TeamGame(game.rules, game.reference, BETA)
    start = np.array([team.reached(game.reference, seat) / best for seat, best in enumerate(team.optimum())])
    assert max(start) < 0.93  # there is something to learn
    shares = train(learner, num_agents, exchange, seed, iterations, **settings)
    everywhere = exchange or "shared" in settings.get("weights", "")
    start = np.tile(start, num_agents) if everywhere else start
    assert shares.shape == start.shape
    assert shares.min() >= 0.98, shares.round(4)
    assert shares.max() <= 1 + 1e-6
    assert ((shares - start) / (1 - start)).min() >= 0.8
    return True


@pytest.mark.parametrize("learner", ["reinforce", "rloo", "grpo", "mappo"])
def test_kl_in_the_loss_reaches_the_optimum_of_the_same_problem(learner):
    """Mode "loss" adds the exact KL, in the units in which the learner counts advantages; it is
    near the optimum that the reward reaches."""
    shares = train(learner, 1, False, 0, 120, **{f"{learner}.learning_rate": 3e-3, "kl.mode": "loss"})
    assert 0.97 <= shares.min() <= 1 + 1e-6
