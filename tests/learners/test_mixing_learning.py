"""Cooperation, competition and everything between: two PPO learners on the toy against the exact
equilibrium of the game they play.

The observer reads the pioneer, so the solution is the subgame-perfect equilibrium of the
KL-regularised game, which `TeamGame` enumerates.
"""

from __future__ import annotations

import numpy as np
import pytest
from closed_forms import TeamGame

from coevo_agents.learners.policy import make_policies
from coevo_agents.learners.ppo import PPO
from coevo_agents.training.play import play
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.testing import tiny_lm

BETA, BATCH, ITERATIONS = 0.3, 512, 160
LAMBDAS = (-5, -3, -1, 1, 3, 5)
"""The weights of the paper's ablation of reward mixing."""


def toy(mixing, weight=1.0, seed=0, **options):
    policies, reference = make_policies(tiny_lm(5, seed=seed, eos_id=0), ["llm1", "llm2"], None, seed)
    options = {
        "mixing": mixing,
        "mixing_weight": weight,
        "exchange_every": BATCH,
        "task_options": {"max_new_tokens": 2},
        **options,
    }
    rules, _ = build("toy", reference, kl=KLConfig(beta=BETA), seed=seed, **options)
    return policies, reference, rules


@pytest.mark.parametrize("weight", LAMBDAS)
def test_the_optimum_of_every_lambda_in_closed_form(weight):
    """A response changes nothing of what its author earns but its own reward, and what it makes the
    observer earn. The observer cannot change the pioneer's reward: it tilts the reference by its
    own, whatever lambda is. The pioneer also gets lambda times what the observer will."""
    _, reference, rules = toy("weighted", weight)
    team, own = TeamGame(rules, reference, BETA), TeamGame(toy("own")[2], reference, BETA)
    assert team.best[1] == pytest.approx(own.best[1], abs=1e-9)
    following = (np.exp(own.best[1]) * own.team[1]).sum(-1)  # (P, R): what the observer earns after each response
    tilted = team.reference[0] + (own.team[0][:, :, 0] + weight * following) / BETA
    value = BETA * np.logaddexp.reduce(tilted, -1).mean()
    assert team.optimum()[0] == pytest.approx(value, abs=1e-9)


def test_competition_is_lambda_minus_one_and_sums_to_zero_but_for_kl():
    """J_1 + J_2 = - beta (KL_1 + KL_2)."""
    _, reference, rules = toy("competitive")
    team = TeamGame(rules, reference, BETA)
    assert team.optimum() == pytest.approx(TeamGame(toy("weighted", -1)[2], reference, BETA).optimum(), abs=1e-9)
    first, second = (np.exp(table) for table in team.best)
    kl = (first * (team.best[0] - team.reference[0])).sum(-1) + (
        first * (second * (team.best[1] - team.reference[1])).sum(-1)
    ).sum(-1)
    assert sum(team.optimum()) == pytest.approx(-BETA * kl.mean(), abs=1e-9)
    assert sum(team.optimum()) < -0.1


@pytest.mark.parametrize(
    ("mixing", "weight"),
    [
        ("competitive", 1.0),
        ("weighted", 3.0),
        *(pytest.param("weighted", float(weight), marks=pytest.mark.slow) for weight in LAMBDAS if weight != 3),
    ],
)
def test_two_learners_reach_the_equilibrium(mixing, weight):
    """Both, in both roles, within 2 % of J*, and of what there was to gain where J* is near zero;
    they start at least twice as far away."""
    policies, reference, rules = toy(mixing, weight)
    game = BatchEnv(BATCH, rules=rules, reference=reference)
    config = PPO.Settings(
        learning_rate=3e-3, epochs=2, decay_updates=ITERATIONS, value_clip=0.0, value_coef=0.5
    )  # the value has much to learn
    learners = [PPO(policy, None, config, rules.sampling, i) for i, policy in enumerate(policies)]
    for iteration in range(ITERATIONS):
        game.reset(iteration * BATCH)
        play(game, policies)
        for learner, rollout in zip(learners, game.rollouts(), strict=True):
            learner.update(rollout)
    team = TeamGame(rules, reference, BETA)
    for seat, best in enumerate(team.optimum()):
        start = best - team.reached(reference, seat)
        near = 0.02 * max(abs(best), start)
        assert start > 2 * near
        for policy in policies:
            assert -1e-6 <= best - team.reached(policy.lm, seat) <= near
