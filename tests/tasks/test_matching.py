"""The zero-sum token game: its equilibrium against hand, linear programming and another solver, and
two learners that find it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coevo_agents.learners.policy import make_policies
from coevo_agents.learners.ppo import PPO
from coevo_agents.training.play import play
from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.tasks.matching import BIASED, equilibrium, exploitability, move_probabilities, task
from coevo_env.tasks.toy import optimum
from coevo_env.testing import check_task, tiny_lm


# ---------------------------------------------------------------- the equilibrium
def random_game(seed):
    draw = np.random.default_rng(seed)
    rows, columns = draw.integers(1, 6, 2)
    p, q = (draw.dirichlet(np.ones(size)) * 0.9 + 0.1 / size for size in (rows, columns))
    return draw.normal(size=(rows, columns)), (p, q), draw


def test_known_games_by_hand():
    """Paper wins 1, rock and scissors 1/4: indifference gives (1/4, 1/4, 1) / 1.5. With a dominant
    move the equilibrium is pure, and in the regularised game against a single column the row player
    is a Boltzmann distribution."""
    nash = equilibrium(BIASED, 0.0)
    assert (
        nash.row == pytest.approx([1 / 6, 1 / 6, 2 / 3])
        and nash.column == pytest.approx(nash.row)
        and nash.value == pytest.approx(0.0)
    )
    assert equilibrium([[1, -1], [-1, 1]], 0.0).row == pytest.approx([0.5, 0.5])
    saddle = equilibrium([[3, 2], [1, 0]], 0.0)
    assert (saddle.row.tolist(), saddle.column.tolist(), saddle.value) == ([1, 0], [0, 1], 2)
    boltzmann = np.array([0.2 * np.exp(2.0), 0.8 * np.exp(1.0)])
    assert equilibrium([[1.0], [0.5]], 0.5, ([0.2, 0.8], [1.0])).row == pytest.approx(boltzmann / boltzmann.sum())


@pytest.mark.parametrize("seed", range(40))
def test_nash_value_against_linear_programming(seed):
    linprog = pytest.importorskip("scipy.optimize").linprog
    matrix, _, _ = random_game(seed)
    rows, columns = matrix.shape
    # max v subject to (x'A)_j >= v, sum x = 1
    found = linprog(
        [0.0] * rows + [-1.0],
        A_ub=np.hstack([-matrix.T, np.ones((columns, 1))]),
        b_ub=np.zeros(columns),
        A_eq=[[1.0] * rows + [0.0]],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
    )
    nash = equilibrium(matrix, 0.0)
    assert nash.value == pytest.approx(-found.fun, abs=1e-8)
    assert exploitability(nash.row, nash.column, matrix) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_the_regularised_equilibrium_against_another_solver(seed):
    """Magnetic mirror descent, which converges for steps up to beta / L^2 (Sokota et al., ICLR
    2023, theorem 3.4)."""
    matrix, (p, q), _ = random_game(seed)
    beta = 0.5
    rate = beta / np.abs(matrix).max() ** 2
    x, y = np.log(p), np.log(q)
    for _ in range(2000):
        gain, cost = matrix @ np.exp(y), np.exp(x) @ matrix
        x = (x + rate * (beta * np.log(p) + gain)) / (1 + rate * beta)
        y = (y + rate * (beta * np.log(q) - cost)) / (1 + rate * beta)
        x, y = x - np.logaddexp.reduce(x), y - np.logaddexp.reduce(y)
    found = equilibrium(matrix, beta, (p, q))
    assert found.row == pytest.approx(np.exp(x), abs=1e-9) and found.column == pytest.approx(np.exp(y), abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.02, 0.3, 3.0]))
@example(27674, 0.02)  # where a move that belongs to the equilibrium vanishes on the way
def test_no_deviation_gains_at_the_equilibrium(seed, beta):
    matrix, (p, q), draw = random_game(seed)
    found = equilibrium(matrix, beta, (p, q))
    assert exploitability(found.row, found.column, matrix, beta, (p, q)) == pytest.approx(0.0, abs=1e-9)

    def worth(x, y):
        kl = (x * np.log(np.maximum(x, 1e-300) / p)).sum() - (y * np.log(np.maximum(y, 1e-300) / q)).sum()
        return x @ matrix @ y - beta * kl

    here = worth(found.row, found.column)
    for _ in range(5):
        assert worth(draw.dirichlet(np.ones(len(p))), found.column) <= here + 1e-9
        assert worth(found.row, draw.dirichlet(np.ones(len(q)))) >= here - 1e-9


def test_exploitability_is_the_sum_of_what_both_could_gain():
    """By a fine grid of the other mixed strategies of two moves."""
    matrix, x, y, p, beta = (
        np.array([[1.0, -0.5], [0.0, 0.75]]),
        np.array([0.3, 0.7]),
        np.array([0.6, 0.4]),
        np.array([0.4, 0.6]),
        0.2,
    )

    def kl(z):
        return (z * np.log(z / p)).sum()

    grid = [np.array([a, 1 - a]) for a in np.linspace(1e-6, 1 - 1e-6, 20_001)]
    row = max(z @ matrix @ y - beta * kl(z) for z in grid) - (x @ matrix @ y - beta * kl(x))
    column = max(-(x @ matrix @ z) - beta * kl(z) for z in grid) - (-(x @ matrix @ y) - beta * kl(y))
    assert exploitability(x, y, matrix, beta, p) == pytest.approx(row + column, abs=1e-7)
    assert exploitability(x, y, matrix) == pytest.approx((matrix @ y).max() - (x @ matrix).min())  # without KL


def test_the_regularised_equilibrium_goes_to_nash_as_beta_falls():
    apart = [
        np.abs(equilibrium(BIASED, beta).row - equilibrium(BIASED, 0.0).row).max() for beta in (0.3, 0.1, 0.03, 0.01)
    ]
    assert apart == sorted(apart, reverse=True) and apart[-1] < 0.02
    assert equilibrium(BIASED, 1e6).row == pytest.approx([1 / 3] * 3, abs=1e-5)  # and to the reference as it grows


# ---------------------------------------------------------------- the task
def test_payoffs_by_hand():
    pay = task().joint_rewards["payoff"]
    said = [("1", "2"), ("2", "1"), ("3", "3"), ("3", "2"), ("", "1"), ("2", "7"), ("x", "")]
    assert pay(["0"] * 7, said) == [[-1, 1], [1, -1], [0, 0], [0.25, -0.25], [-1, 1], [1, -1], [0, 0]]
    assert pay(["0"], [("1", "2", "3")]) == [[(-1 + 0.25) / 2, (1 - 0.25) / 2, 0.0]]  # each against each, halved
    assert np.array(pay(["0"] * 2, [("2",), ("",)])) == pytest.approx(
        np.array([[0.25], [-1.0]])
    )  # alone: against uniform moves


def test_the_task_keeps_its_promises():
    assert {"scripted policy", "plays", "PettingZoo api_test"} <= set(check_task("matching"))
    assert {"scripted policy", "plays"} <= set(check_task("matching", tiny_lm(4, eos_id=0)))
    best = task().scripted
    assert [best("0", []), best("0", ["1"]), best("0", ["2"]), best("0", ["3"])] == ["2", "2", "3", "1"]


def test_seeing_the_first_move_wins():
    """The scripted policy in both seats, context "all": the observer always answers with the
    winning move."""
    game = BatchEnv(2, "matching", kl=KLConfig(mode="off"), roles="never")
    while (turn := game.begin_turn()) is not None:
        seen = [[episode.turns[0].text] if turn.seat else [] for episode in game.episodes]
        tokens = np.array([[int(game.rules.task.scripted("0", moves))] for moves in seen])
        game.submit_turn(tokens, np.ones(2, int))
    assert game.scores.task.tolist() == [[-0.25, 0.25]] * 2  # paper, then scissors
    assert game.scores.terms["payoff"].tolist() == game.scores.task.tolist()
    assert game.scores.team.tolist() == [[0.0, 0.0]] * 2  # cooperation in a zero-sum game is about nothing


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: task([[1, 2, 3], [4, 5, 6]]), r"shape \(2, 3\); expected a square matrix"),
        (lambda: task([[0.0]]), "at least 2 moves"),
        (lambda: task([[0, float("nan")], [0, 0]]), "finite numbers"),
        (lambda: task([[0, 1], [2]]), "matrix of numbers"),
        (lambda: equilibrium(BIASED, -0.1), "beta=-0.1"),
        (lambda: equilibrium(BIASED, float("nan")), "beta=nan"),
        (lambda: equilibrium(BIASED, 0.1, [0.5, 0.5]), "3 probabilities"),
        (lambda: equilibrium(BIASED, 0.1, [0.5, 0.5, 0.0]), "all moves to be possible"),
        (lambda: equilibrium(np.zeros((9, 9)), 0.0), "at most 8 moves"),
        (lambda: exploitability([0.5, 0.6, 0.1], [1, 0, 0], BIASED), "row"),
        (lambda: optimum(BatchEnv(1, "matching", kl=KLConfig(mode="off")).rules, None, 0.1), "joint rewards"),
    ],
)
def test_clear_errors(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


# ---------------------------------------------------------------- learning
@pytest.mark.parametrize("roles", ["never", "periodic"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_learners_find_the_equilibrium(seed, roles):
    """Two PPO learners who choose unseen: both end within 0.06 (total variation) of the regularised
    equilibrium, which is more than 0.1 away from where they start, and together they could gain at
    most a fifth of what they could at the start."""
    beta, batch, iterations = 0.3, 256, 100
    policies, reference = make_policies(tiny_lm(4, seed=seed, eos_id=0), ["llm1", "llm2"], None, seed)
    options = {"context": "none", "mixing": "own", "roles": roles, "exchange_every": 2 * batch}
    rules, _ = build("matching", reference, kl=KLConfig(beta=beta), seed=seed, **options)
    game = BatchEnv(batch, rules=rules, reference=reference)
    # gains in a zero-sum game are relative: steps as small as this, or the two chase each other
    # around the equilibrium
    config = PPO.Settings(learning_rate=3e-4, epochs=1, whiten=False, decay_updates=iterations)
    learners = [PPO(policy, None, config, rules.sampling, 10 * seed + i) for i, policy in enumerate(policies)]
    for iteration in range(iterations):
        game.reset(iteration * batch)
        play(game, policies)
        assert np.abs(game.scores.team.sum(1)).max() == 0.0
        for learner, rollout in zip(learners, game.rollouts(), strict=True):
            learner.update(rollout)
    start, (row, column) = (
        move_probabilities(reference, rules),
        (move_probabilities(policy.lm, rules) for policy in policies),
    )
    goal = equilibrium(BIASED, beta, start)
    assert np.abs(goal.row - start).sum() / 2 > 0.1
    for moves in (row, column):
        assert np.abs(moves - goal.row).sum() / 2 < 0.06
    before = exploitability(start, start, BIASED, beta, start)
    assert exploitability(row, column, BIASED, beta, start) < before / 5
