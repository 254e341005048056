"""Rewards of what the agents of an episode say together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import coevo_env
from coevo_env.errors import CheckFailed, ConfigError, NonFiniteError, RewardError
from coevo_env.game.task import Task
from coevo_env.tasks import toy
from coevo_env.testing import check_joint_reward, check_task


def longer(prompts, said):
    """How many more words than the mean of the others; 0 alone."""
    result = []
    for texts in said:
        words = [len(text.split()) for text in texts]
        result.append([float(w - (sum(words) - w) / max(1, len(words) - 1)) if len(words) > 1 else 0.0 for w in words])
    return result


def play(task, agents=2, batch=3, **options):
    """Seat k says k + 1 times the token 1, then EOS."""
    game = coevo_env.BatchEnv(
        batch, task, num_agents=agents, kl=coevo_env.KLConfig(mode="off"), roles="never", **options
    )
    while (turn := game.begin_turn()) is not None:
        tokens = np.tile([1] * (turn.seat + 1) + [0], (batch, 1))[:, : turn.max_new_tokens]
        game.submit_turn(tokens, np.full(batch, tokens.shape[1]))
    return game


def test_terms_are_added_to_the_task_reward_before_mixing():
    task = replace(
        toy.task(max_new_tokens=4),
        rewards={"one": lambda p, r: [1.0] * len(r)},
        joint_rewards={"longer": (0.5, longer)},
    )
    game = play(task, agents=3, mixing=[[1, 0, 2], [0, 1, 0], [0, 0, 1]])
    assert list(game.rules.term_names) == list(game.scores.terms) == ["one", "longer"]
    assert game.scores.terms["longer"].tolist() == [[-1.5, 0.0, 1.5]] * 3  # words 1, 2, 3; raw, before the weight
    assert game.scores.task.tolist() == [[0.25, 1.0, 1.75]] * 3
    assert game.scores.team.tolist() == [[0.25 + 2 * 1.75, 1.0, 1.75]] * 3
    assert game.rollouts()[2].task_reward.tolist() == [1.75] * 3
    assert game.transcripts()[0]["turns"][0]["terms"] == {"one": 1.0, "longer": -1.5}


def test_a_task_may_have_joint_rewards_alone():
    task = replace(toy.task(), rewards={}, joint_rewards={"longer": longer})
    assert play(task).scores.task.tolist() == [[-1.0, 1.0]] * 3
    assert play(task, agents=1).scores.task.tolist() == [[0.0]] * 3


def test_it_sees_one_prompt_and_all_responses_of_each_episode_in_one_call():
    calls = []

    def spy(prompts, said):
        calls.append((list(prompts), list(said)))
        return np.zeros((len(said), 2))

    game = play(replace(toy.task(), joint_rewards={"spy": spy}))
    assert calls == [([episode.prompt for episode in game.episodes], [("1", "1 1")] * 3)]


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda p, r: [1.0], RewardError, "returned 1 values for 3 episodes"),
        (lambda p, r: 3.0, RewardError, "returned float for 3 episodes"),
        (lambda p, r: "abc", RewardError, "returned str for 3 episodes"),
        (
            lambda p, r: [1.0] * 3,
            RewardError,
            r"returned 1.0, a float, for the responses \('1', '1 1'\) to prompt .*expected 2 floats",
        ),
        (lambda p, r: ["12"] * 3, RewardError, "returned '12', a str,"),
        (lambda p, r: [[1.0]] * 3, RewardError, "returned 1 values for the responses"),
        (
            lambda p, r: [[1.0, "2"]] * 3,
            RewardError,
            r"'2', a str, among the values, for seat 1 of the responses \('1', '1 1'\)",
        ),
        (lambda p, r: [[1.0, None]] * 3, RewardError, "None, a NoneType"),
        (lambda p, r: [[1.0, float("nan")]] * 3, NonFiniteError, "returned nan for seat 1 of the responses"),
        (
            lambda p, r: 1 / 0,
            RewardError,
            r"raised ZeroDivisionError.*on the responses \('1', '1 1'\).*check_joint_reward",
        ),
    ],
)
def test_bad_joint_rewards_are_named(function, error, words):
    with pytest.raises(error, match=words) as caught:
        play(replace(toy.task(), joint_rewards={"mine": function}))
    assert "task 'toy', joint reward 'mine'" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rewards": {}, "joint_rewards": {}}, "`rewards` is empty, and so is `joint_rewards`"),
        ({"joint_rewards": {"same": longer}}, "both have a term 'same'"),
        ({"joint_rewards": {"team": longer}}, "cannot be called 'team'"),
        ({"joint_rewards": {"mine": 3}}, "for each episode a list of one float per seat"),
        ({"joint_rewards": {"mine": (1.0, "longer")}}, "is 'longer'; expected a function|'mine'"),
    ],
)
def test_tasks_refuse(fields, words):
    with pytest.raises(ConfigError, match=words):
        Task(**{"name": "t", "train": ["1"], "test": ["2"], "rewards": {"same": lambda p, r: [0.0] * len(r)}, **fields})


# ---------------------------------------------------------------- the kit
def test_the_check_passes_what_is_right():
    promises = check_joint_reward(longer, 3)
    assert promises[0] == "one finite float per seat" and promises[-1] == "an agent alone" and len(promises) == 6
    assert check_joint_reward(longer, 2, ["a"], [("b", "c d")]) == promises


def only_pairs(prompts, said):
    return [[float(len(a)), float(len(b))] for a, b in said]


def by_position(prompts, said):
    return [[float(i)] * len(texts) for i, texts in enumerate(said)]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (only_pairs, "alone"),
        (by_position, "another order"),
        (lambda p, r: [1.0] * len(r), "a float|floats"),
        (lambda p, r: [[0.0]] * len(r), "1 values"),
        (lambda p, r: [[float("inf")] * len(t) for t in r], "inf"),
        (lambda p, r: r.reverse() or longer(p, r), "arguments changed"),
    ],
)
def test_the_check_finds_what_is_wrong(function, words):
    with pytest.raises(CheckFailed, match=words):
        check_joint_reward(function)


def test_check_joint_reward_refuses_bad_arguments():
    with pytest.raises(ConfigError, match="only one of"):
        check_joint_reward(longer, 2, ["a"])
    with pytest.raises(ConfigError, match="2 responses in each"):
        check_joint_reward(longer, 2, ["a"], [("b",)])
    with pytest.raises(ConfigError, match="num_agents=0"):
        check_joint_reward(longer, 0)


def test_check_task_tries_joint_terms_and_the_scripted_policy_on_them():
    task = replace(toy.task(), rewards={}, joint_rewards={"longer": longer})
    assert "scripted policy" in check_task(task)  # it fills its budget, which nobody can beat
    with pytest.raises(CheckFailed, match="joint term 'mine'"):
        check_task(replace(task, joint_rewards={"mine": only_pairs}))
    with pytest.raises(CheckFailed, match="the scripted policy"):
        check_task(replace(task, scripted=lambda prompt, seen: ""))
