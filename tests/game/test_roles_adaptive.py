"""Roles that follow from held-out scores: by merit, and by a bandit."""

from __future__ import annotations

import json
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.kl import KLConfig
from coevo_env.game.roles import AdaptiveRoles, Bandit, ScoreDriven, make_schedule
from coevo_env.game.rules import Rules
from coevo_env.tasks import toy

make_adaptive = pytest.mark.parametrize(
    "make", [Bandit, ScoreDriven, lambda n: ScoreDriven(n, "worst"), lambda n: Bandit(n, 3, 0.8, 1.0)]
)


# ---------------------------------------------------------------- both
@make_adaptive
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 50), st.lists(st.floats(-10, 10), min_size=5, max_size=5)), max_size=12),
)
def test_past_episodes_keep_their_assignment(make, agents, story):
    """Whatever was answered about an episode before the decision that came later is answered for
    ever, also after a restore."""
    schedule, now, said = make(agents), 0, {}
    for length, scores in story:
        schedule.observe(now, scores[:agents])
        before = schedule.state_dict()
        for episode in {now, now + length // 2, now + max(0, length - 1)} if length else ():
            said[episode] = schedule.assignment(episode)
            assert sorted(said[episode]) == list(range(agents))
        assert schedule.state_dict() == before  # asking changes nothing
        now += length
    again = make(agents)
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert (
        {episode: schedule.assignment(episode) for episode in said}
        == said
        == {episode: again.assignment(episode) for episode in said}
    )
    assert again.state_dict() == schedule.state_dict()
    for step in range(4):  # and goes on in the same way
        for one in (schedule, again):
            one.observe(now + step, [float(math.sin(step + agent)) for agent in range(agents)])
        assert schedule.assignment(now + step) == again.assignment(now + step)
    assert again.state_dict() == schedule.state_dict()


@make_adaptive
def test_it_is_a_schedule_like_any_other(make):
    schedule = make(2)
    assert isinstance(schedule, AdaptiveRoles) and not isinstance(make_schedule("periodic", 2), AdaptiveRoles)
    assert make_schedule(schedule, 2) is schedule
    one = make(1)
    for episode in (0, 5, 9):
        one.observe(episode, [float(episode)])
        assert one.assignment(episode) == (0,)


def test_games_ask_and_do_not_tell():
    """The same object in a training game, in an evaluation on other prompts and in a reseeded game:
    none of them moves it."""
    schedule = make_schedule("score", 2)
    schedule.observe(0, [0.1, 0.9])
    rules = Rules(toy.task(), toy.task().tokenizer, roles=schedule, kl=KLConfig(mode="off"))
    state = schedule.state_dict()
    for each in (
        rules,
        rules.reseeded(7),
        Rules(toy.task(), toy.task().tokenizer, roles=schedule, split="test", kl=KLConfig(mode="off")),
    ):
        game = BatchEnv(3, rules=each)
        game.reset(40)
        assert game.begin_turn().agents.tolist() == [1, 1, 1]
        while game.begin_turn() is not None:
            game.submit_turn(np.zeros((3, 1), int), np.ones(3, int))
    assert schedule.state_dict() == state and rules.reseeded(7).roles is schedule
    by_name = Rules(toy.task(), toy.task().tokenizer, roles="score", kl=KLConfig(mode="off"))
    by_name.roles.observe(0, [0.1, 0.9])
    assert by_name.reseeded(7).roles.assignment(0) == (0, 1)  # begins anew


# ---------------------------------------------------------------- by merit
@pytest.mark.parametrize(("leader", "seats"), [("best", (2, 0, 1, 3)), ("worst", (1, 3, 0, 2))])
def test_seats_in_the_order_of_scores(leader, seats):
    schedule = ScoreDriven(4, leader)
    assert schedule.assignment(0) == (0, 1, 2, 3)
    schedule.observe(8, [0.5, 0.1, 0.9, 0.1])  # 1 and 3 are equal: by index
    assert [schedule.assignment(episode) for episode in (0, 7, 8, 1000)] == [(0, 1, 2, 3)] * 2 + [seats] * 2
    schedule.observe(8, [4, 3, 2, 1])  # decided again before anything was played
    assert schedule.assignment(8) == ((0, 1, 2, 3) if leader == "best" else (3, 2, 1, 0))
    assert make_schedule("score", 4).leader == "best"


# ---------------------------------------------------------------- by trial
def simulate(schedule, best, decisions, seed, noise=0.05):
    """Each decision a gain of 0.1 if the best assignment is in force, else 0, and noise; returns
    how often it was."""
    draw, level, hits, agents = np.random.default_rng(seed), 0.0, 0, schedule.num_agents
    schedule.observe(0, [level] * agents)
    for t in range(decisions):
        hit = schedule.assignment(t * 10) == best(t)
        level += 0.1 * hit + noise * draw.standard_normal()
        hits += hit
        schedule.observe((t + 1) * 10, [level] * agents)
    return hits


def chance(hits, games, share):
    """How many standard deviations above what uniform choices would hit."""
    return (hits - games * share) / math.sqrt(games * share * (1 - share))


@pytest.mark.parametrize(("agents", "decisions"), [(2, 40), (3, 80), (4, 60)])
@pytest.mark.parametrize("seed", range(5))
def test_a_bandit_finds_the_best_assignment(agents, decisions, seed):
    arms = Bandit(agents, seed).arms
    assert len(arms) == len(set(arms)) == {2: 2, 3: 6, 4: 4}[agents]
    target = sorted(arms)[seed % len(arms)]
    assert chance(simulate(Bandit(agents, seed), lambda t: target, decisions, seed), decisions, 1 / len(arms)) > 3


@pytest.mark.parametrize("seed", range(5))
def test_a_bandit_follows_a_switch(seed):
    """The best of two assignments changes in the middle: found before it, and again after it."""

    def best(t):
        return (1, 0) if t < 60 else (0, 1)

    hits = simulate(Bandit(2, seed), best, 120, seed)
    half = simulate(Bandit(2, seed), best, 60, seed)  # the same draws, so the same first half
    assert chance(half, 60, 0.5) > 3 and chance(hits - half, 60, 0.5) > 3


def test_discounted_ucb_by_hand():
    """gamma = 1/2, xi = 1. Payoffs 0.4 for arm 0, 0.1 for arm 1: counts 1/2 and 1, n = 3/2, means
    0.4 and 0.1, spread 0.3, so the indices are 0.4 + 0.3 sqrt(ln 1.5 / 0.5) = 0.670 and 0.1 + 0.3
    sqrt(ln 1.5) = 0.291: arm 0. It then pays -0.5: counts 5/4 and 1/2, means (0.1 - 0.5) / 1.25 =
    -0.32 and 0.1, spread 0.9: -0.32 + 0.602 = 0.282 against 0.1 + 0.952 = 1.052: arm 1."""
    bandit = Bandit(2, 0, discount=0.5, exploration=1.0)
    arms, levels = bandit.arms, [0.0, 0.4, 0.5, 0.0]
    for number, level in enumerate(levels):
        bandit.observe(10 * number, [level - 1, level + 1])
    assert [bandit.assignment(episode) for episode in (0, 10, 20, 30)] == [arms[0], arms[1], arms[0], arms[1]]
    assert [arm for arm, _ in bandit.payoffs] == [0, 1, 0] and [p for _, p in bandit.payoffs] == pytest.approx(
        [0.4, 0.1, -0.5]
    )


def test_arms_are_orders_of_play_or_rotations():
    assert sorted(Bandit(3).arms) == list(permutations(range(3)))
    assert sorted(Bandit(4).arms) == [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]
    assert len({tuple(Bandit(3, seed).arms) for seed in range(20)}) > 10  # the order of first trials is drawn


def test_a_level_is_needed_before_there_is_a_gain():
    bandit = Bandit(2)
    bandit.observe(50, [3.0, 3.0])  # no level before: nothing is known of the first 50 episodes
    assert bandit.payoffs == []
    bandit.observe(50, [4.0, 4.0])  # nothing was played
    assert bandit.payoffs == []
    bandit.observe(60, [4.5, 4.0])
    assert bandit.payoffs == [(0, 0.25)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ScoreDriven(2, "bst"), "Did you mean 'best'"),
        (lambda: ScoreDriven(0), "num_agents=0"),
        (lambda: Bandit(1.5), "num_agents=1.5"),
        (lambda: Bandit(2, discount=0.0), "discount=0.0"),
        (lambda: Bandit(2, discount=1.1), "discount=1.1"),
        (lambda: Bandit(2, exploration=0.0), "exploration=0.0"),
        (lambda: Bandit(2).observe(0, [1.0]), "expected 2 finite numbers"),
        (lambda: ScoreDriven(2).observe(0, [1.0, float("nan")]), "finite"),
        (
            lambda: [s := ScoreDriven(2), s.observe(8, [0, 1]), s.observe(7, [1, 0])],
            "decide from episode 7 on; expected at least 8",
        ),
        (lambda: ScoreDriven(2).load_state_dict(ScoreDriven(3).state_dict()), "that seat 2 agents"),
        (lambda: make_schedule("bandits", 2), "Did you mean 'bandit'"),
    ],
)
def test_clear_errors(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
