"""The enumerated N-agent game that learners are judged by: against the two-agent one, against
ascent, and against a hand-made case."""

from __future__ import annotations

import numpy as np
import pytest
from closed_forms import TeamGame
from oracles import CooperativePair

from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.testing import tiny_lm

BETA = 0.3


def game(agents=2, budget=2, vocab=5, seed=0, **options):
    reference = tiny_lm(vocab, seed=seed, eos_id=0)
    options = {"min_new_tokens": 0, "task_options": {"max_new_tokens": budget, "vocab_size": vocab}, **options}
    rules, _ = build("toy", reference, num_agents=agents, kl=KLConfig(beta=BETA), **options)
    return rules, reference


@pytest.mark.parametrize("minimum", [0, 1])
def test_two_cooperating_agents_are_the_pair(minimum):
    rules, reference = game(min_new_tokens=minimum)
    team, pair, other = (
        TeamGame(rules, reference, BETA),
        CooperativePair(rules, reference, BETA),
        tiny_lm(5, seed=9, eos_id=0),
    )
    assert team.optimum() == pytest.approx(
        [pair.optimum().pioneer, pair.optimum().observer], abs=1e-6
    )  # float32 scores, batched differently
    reached = pair.reached(other)
    assert team.reached(other, 0) == pytest.approx(reached.pioneer, abs=1e-6)
    assert team.reached([reference, other], 1) == pytest.approx(reached.observer, abs=1e-6)
    assert team.reached(other, 1) < team.optimum()[1] - 0.05


@pytest.mark.parametrize(
    ("agents", "context", "mixing"),
    [
        (1, "all", "own"),
        (2, "none", "competitive"),
        (3, "all", "competitive"),
        (3, "previous", [[1, 2, -1], [0.5, 1, 1], [-3, 2, 0.5]]),
    ],
)
def test_no_seat_gains_by_another_policy(agents, context, mixing):
    """Random departures of any size, at every history at once: the optimum is the best answer of
    each seat to the other seats."""
    rules, reference = game(agents, context=context, mixing=mixing, vocab=4 if agents == 3 else 5)
    team, draw = TeamGame(rules, reference, BETA), np.random.default_rng(0)
    best = team.optimum()
    for seat in range(agents):
        for size in (0.01, 0.1, 1.0, 5.0):
            for _ in range(3):
                logits = team.best[seat] + size * draw.standard_normal(team.best[seat].shape)
                tables = list(team.best)
                tables[seat] = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
                assert team.values(tables)[seat] < best[seat]


def test_the_value_of_a_profile_is_the_mean_over_every_outcome():
    """J of three different policies, outcome by outcome in plain Python."""
    rules, reference = game(3, budget=1, vocab=3, mixing=[[1, 2, 3], [0, 1, 0], [-1, 0.5, 1]])
    policies = [tiny_lm(3, seed=k + 1, eos_id=0) for k in range(3)]
    team = TeamGame(rules, reference, BETA)
    got = team.values([team.table(policy, seat) for seat, policy in enumerate(policies)])
    expected, prompts = np.zeros(3), len(rules.prompts)

    def walk(i, prompt, texts, weight):
        seat = len(texts)
        if seat == 3:
            earned = np.array([sum(w * f([prompt], [text])[0] for w, f in rules.terms.values()) for text in texts])
            expected[:] += weight * (rules.mixing @ earned) / prompts
            return
        context = rules.turn_context(i, prompt, texts)
        for token in range(3):
            ask = ([context], np.array([[token]]), np.array([1]), rules.sampling)
            log, ref = policies[seat].score(*ask)[0, 0], reference.score(*ask)[0, 0]
            expected[seat] -= BETA * weight * np.exp(log) * (log - ref) / prompts
            walk(i, prompt, [*texts, rules.text([token])], weight * np.exp(log))

    for i in range(prompts):
        walk(i, rules.task.prompt(rules.split, i), [], 1.0)
    assert got == pytest.approx(expected.tolist(), abs=1e-6)


def test_own_reward_without_context_is_the_single_agent_optimum():
    alone = TeamGame(*game(1), BETA).optimum()
    together = TeamGame(*game(3, context="none", mixing="own"), BETA).optimum()
    assert together == pytest.approx(alone * 3, abs=1e-6)


@pytest.mark.parametrize("agents", [2, 3])
def test_the_last_seat_wants_the_same_from_a_sum_as_from_its_own_reward(agents):
    """So halving the sum doubles the price of KL for it, and only for it."""

    def best(mixing, beta):
        rules, reference = game(agents, mixing=mixing, vocab=4 if agents == 3 else 5)
        return TeamGame(rules, reference, beta).best

    halved = np.full((agents, agents), 0.5)
    shared, own, half, dear = best("cooperative", 0.3), best("own", 0.3), best(halved, 0.3), best("own", 0.6)
    assert np.allclose(shared[-1], own[-1], atol=1e-12)
    assert np.allclose(half[-1], dear[-1], atol=1e-12)
    assert not np.allclose(half[-1], own[-1], atol=0.1)
    assert not np.allclose(shared[0], own[0], atol=0.1)  # the pioneer does care for what comes after it
