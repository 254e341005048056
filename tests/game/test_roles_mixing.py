"""Who sits where, and who is paid for whose response."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_env.errors import ConfigError
from coevo_env.game.mixing import mixing_matrix
from coevo_env.game.roles import make_schedule
from coevo_env.game.task import Task

NAMES = ("periodic", "rotation", "random", "never")


@given(st.sampled_from(NAMES), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**40), st.integers(0, 10**9))
def test_an_assignment_is_a_permutation_and_a_pure_function(name, agents, every, seed, episode):
    schedule = make_schedule(name, agents, every, seed)
    first = schedule.assignment(episode)
    assert sorted(first) == list(range(agents))
    assert all(type(agent) is int for agent in first)
    schedule.assignment(episode + 1)
    schedule.assignment(0)
    assert schedule.assignment(episode) == first == make_schedule(name, agents, every, seed).assignment(episode)
    assert schedule.assignment(episode // every * every) == first  # constant within a period


@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 1000))
def test_rotation_gives_every_agent_every_seat_equally(agents, every, start):
    schedule = make_schedule("rotation", agents, every)
    seen = np.zeros((agents, agents), int)
    for period in range(start, start + agents):
        for seat, agent in enumerate(schedule.assignment(period * every)):
            seen[agent, seat] += 1
    assert (seen == 1).all()


def test_periodic_by_hand():
    schedule = make_schedule("periodic", 3, every=2)
    assert [schedule.assignment(e) for e in range(5)] == [(0, 1, 2), (0, 1, 2), (2, 1, 0), (2, 1, 0), (0, 1, 2)]
    assert make_schedule("never", 2).assignment(12345) == (0, 1)


def test_random_roles_depend_on_the_seed_and_are_fair():
    schedule = make_schedule("random", 3, 1, seed=5)
    orders = [schedule.assignment(e) for e in range(600)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 6
    assert min(counts.values()) > 60  # 100 expected, standard deviation 9
    assert orders != [make_schedule("random", 3, 1, seed=6).assignment(e) for e in range(600)]


def test_own_schedule_objects_are_taken():
    class Mine:
        def assignment(self, episode):
            return (1, 0)

    mine = Mine()
    assert make_schedule(mine, 2) is mine


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cooperative", [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
        ("own", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("weighted", [[1, 0.25, 0.25], [0.25, 1, 0.25], [0.25, 0.25, 1]]),
        ("competitive", [[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]]),
    ],
)
def test_matrices_by_hand(mode, expected):
    assert mixing_matrix(mode, 3, 0.25).tolist() == expected


@given(st.integers(1, 5), st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=5))
def test_totals(agents, values):
    task = np.array(values[:agents])
    assert mixing_matrix("own", agents) @ task == pytest.approx(task)
    assert (mixing_matrix("cooperative", agents) @ task).sum() == pytest.approx(agents * task.sum(), abs=1e-9)
    if agents > 1:
        assert (mixing_matrix("competitive", agents) @ task).sum() == pytest.approx(0.0, abs=1e-9)
    assert mixing_matrix("weighted", agents, 1.0).tolist() == mixing_matrix("cooperative", agents).tolist()
    assert mixing_matrix("weighted", agents, 0.0).tolist() == mixing_matrix("own", agents).tolist()


def test_one_agent_is_plain_fine_tuning():
    assert mixing_matrix("cooperative", 1).tolist() == mixing_matrix("own", 1).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_schedule("perodic", 2), "Did you mean 'periodic'"),
        (lambda: make_schedule("periodic", 2, 0), "expected a whole number >= 1"),
        (lambda: make_schedule("rotation", 2, 1.5), "1.5"),
        (lambda: make_schedule(object(), 2), "no method assignment"),
        (lambda: mixing_matrix("coperative", 2), "Did you mean 'cooperative'"),
        (lambda: mixing_matrix(np.eye(3), 2), r"shape \(3, 3\)"),
        (lambda: mixing_matrix(np.full((2, 2), np.nan), 2), "finite"),
        (lambda: mixing_matrix("weighted", 2, float("inf")), "inf"),
        (lambda: mixing_matrix("competitive", 1), "at least 2 agents"),
    ],
)
def test_clear_errors(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


@pytest.mark.parametrize("name", ["task", "team", "shaped", "a/b", ""])
def test_reward_terms_do_not_shadow_metrics(name):
    with pytest.raises(ConfigError, match="cannot be called"):
        Task(name="t", train=["a"], test=["b"], rewards={name: lambda prompts, responses: [0.0] * len(responses)})
