"""Token budgets that are drawn: within their bounds, uniformly, a function of the episode."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_env import BatchEnv, raw_env
from coevo_env.errors import ConfigError
from coevo_env.game.budgets import Budgets
from coevo_env.game.rules import Rules
from coevo_env.tasks import toy

DRAWN = {"max_new_tokens": 4, "max_new_tokens_low": 2, "min_new_tokens": 1, "budget_every": 6}


def rules(**options) -> Rules:
    task = toy.task()
    assert task.tokenizer is not None
    return Rules(task, task.tokenizer, **{**DRAWN, **options})


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 9), st.integers(0, 2**32), st.integers(0, 3))
def test_a_budget_is_within_its_bounds_and_that_of_its_block_and_seat(least, more, every, seed, seat):
    budgets = Budgets(least + more, least, every)
    drawn = [budgets.of(seed, episode, seat) for episode in range(3 * every)]
    assert all(least <= budget <= least + more for budget in drawn)
    assert all(len(set(drawn[start : start + every])) == 1 for start in (0, every, 2 * every))


def test_every_length_from_4_to_15_is_drawn_equally_often():
    budgets = Budgets(15, 4, shortest=4)
    counts = Counter(budgets.of(0, episode, 0) for episode in range(2400))
    assert sorted(counts) == list(range(4, 16))
    assert all(abs(count - 200) < 5 * (2400 / 12 * 11 / 12) ** 0.5 for count in counts.values())  # 5 sigma
    other = [budgets.of(0, episode, 1) for episode in range(100)]
    assert other != [budgets.of(0, episode, 0) for episode in range(100)]  # a seat has its own
    assert other != [budgets.of(1, episode, 1) for episode in range(100)]  # and so has a seed


def test_a_turn_ends_where_its_budget_does():
    game = rules(num_agents=2)
    budgets = {game.budgets.of(0, 6 * block, 0) for block in range(20)}
    assert budgets == {2, 3, 4}
    for number in range(0, 60, 6):
        budget = game.budgets.of(0, number, 0)
        episode = game.start(number)
        with pytest.raises(ConfigError, match=f"expected 1 to {budget} tokens"):
            episode.take([1] * (budget - 1))
        with pytest.raises(ConfigError, match=f"expected 1 to {budget} tokens"):
            episode.take([1] * (budget + 1))
        one_by_one = game.start(number)
        assert [one_by_one.append(1) for _ in range(budget)] == [False] * (budget - 1) + [True]
        episode.take([1] * budget)
        for played in (episode, one_by_one):
            first, second = played.turns
            assert first.cut and len(first.tokens) == budget and second.budget == game.budgets.of(0, number, 1)
        episode.take([1] * episode.turn.budget)
        episode.rewind(1)
        assert (episode.turn.budget, episode.turn.tokens) == (game.budgets.of(0, number, 1), [])


def test_all_faces_give_an_episode_the_same_budgets():
    game = BatchEnv(6, task="toy", kl="off", **DRAWN)
    env = raw_env(task="toy", kl="off", **DRAWN)
    seen = set()
    for batch in range(8):
        game.reset(6 * batch)
        lengths = []
        while (turn := game.begin_turn()) is not None:
            size = turn.max_new_tokens
            assert turn.uniforms().shape == (6, size)
            game.submit_turn(np.ones((6, size), int), np.full(6, size))
            lengths.append(size)
        seen.add(tuple(lengths))
        for row in (0, 5):
            env.reset(seed=0, options={"episode": 6 * batch + row})
            while env.agents:
                env.step(None if env.terminations[env.agent_selection] else 1)
            assert [len(turn["tokens"]) for turn in env.transcript()["turns"]] == lengths
    assert len(seen) > 3


def test_what_would_have_been_said_is_cut_like_the_pioneers_turn():
    game = BatchEnv(6, task="toy", kl="off", context="own", **DRAWN)
    for _ in range(8):
        first = game.begin_turn()
        assert first is not None
        game.submit_turn(np.ones((6, first.max_new_tokens), int), np.full(6, first.max_new_tokens))
        alone = game.begin_rehearsal()
        assert alone is not None and alone.max_new_tokens == first.max_new_tokens
        game.submit_rehearsal(np.full((6, first.max_new_tokens), 2), np.full(6, first.max_new_tokens))
        assert all(episode.turns[1].context.count(2) >= first.max_new_tokens for episode in game.episodes)
        game.reset()


def test_without_a_low_end_nothing_is_drawn(monkeypatch):
    import coevo_env.game.budgets as module

    monkeypatch.setattr(module, "rng", None)  # would be called
    for options in ({"max_new_tokens_low": None}, {"max_new_tokens_low": 4}):
        assert {rules(**options).start(number).turn.budget for number in range(20)} == {4}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_new_tokens_low": 5}, "expected 1 to 4"),
        ({"max_new_tokens_low": 0}, "max_new_tokens_low"),
        ({"max_new_tokens_low": 2, "min_new_tokens": 3}, "expected 3 to 4"),
        ({"max_new_tokens_low": 2.5}, "max_new_tokens_low"),
        ({"budget_every": 0}, "budget_every"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        rules(**options)


@pytest.mark.parametrize("every", [1, 5, 7, 13])
def test_a_batch_with_several_budgets_is_refused_before_it_is_played(every):
    with pytest.raises(ConfigError, match="budget_every=6"):
        BatchEnv(6, task="toy", kl="off", **{**DRAWN, "budget_every": every})
    game = BatchEnv(6, task="toy", kl="off", **{**DRAWN, "budget_every": 12})
    with pytest.raises(ConfigError, match="begin at a multiple of it"):
        game.reset(9)
    assert game.episode == 0
    assert game.begin_turn() is not None  # and the batch that was there is there


def test_what_counts_all_responses_refuses_a_drawn_budget():
    with pytest.raises(ConfigError, match="is drawn"):
        toy.responses(rules())
