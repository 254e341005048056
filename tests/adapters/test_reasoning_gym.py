"""A task as a data set of reasoning-gym, and there and back again. reasoning-gym has no learner to
train."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("reasoning_gym")

import reasoning_gym
from closed_forms import Unigram
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test, seed_test, state_test

import coevo_env
from coevo_agents.adapters.reasoning_gym import dataset, register
from coevo_env.testing import tiny_lm

pytestmark = pytest.mark.adapter


def test_rewards_are_conserved():
    """A score is what the environment pays a single agent for the same text."""
    data = dataset("toy", seed=0, size=4)
    task = coevo_env.make_task("toy")
    for entry in data:
        index = entry["metadata"]["prompt_index"]
        for reply in ("1 1 1", "2 3 1", "4", "", "1 2 3"):
            env = coevo_env.raw_env(task="toy", num_agents=1, seed=0)
            env.reset()
            while env.game.episode.prompt_index != index:
                env.reset()
            tokens = [int(word) for word in reply.split()]
            for token in [*tokens, 0][:3]:
                env.step(token)
            assert data.score_answer(reply, entry) == pytest.approx(env.rewards["llm1"])
        assert entry["question"] == task.render(task.prompt("train", index))


def test_there_and_back_again():
    """A data set of reasoning-gym as a task, and the task as a data set: questions, answers and
    scores survive."""
    task = coevo_env.make_task("reasoning-gym/chain_sum", size=20, test_size=5, seed=3)
    original = reasoning_gym.create_dataset("chain_sum", size=25, seed=3)
    data = dataset(task, size=20)
    for index in range(20):
        entry, first = data[index], original[index]
        assert first["question"] in entry["question"]
        assert entry["answer"] == first["answer"]
        assert data.score_answer(first["answer"], entry) == original.score_answer(first["answer"], first) == 1.0
        assert data.score_answer("no number", entry) == original.score_answer("no number", first) == 0.0


def test_registered_tasks_are_made_by_name():
    name = register("toy")
    assert name == "coevo/toy"
    one, two = (reasoning_gym.create_dataset(name, seed=seed, size=6, split="test") for seed in (0, 0))
    assert list(one) == list(two) and len(one) == 6
    assert {entry["metadata"]["split"] for entry in one} == {"test"}
    with pytest.raises(IndexError, match="expected 0 to 5"):
        one[6]
    with pytest.raises(coevo_env.ConfigError, match="split='tests'"):
        reasoning_gym.create_dataset(name, split="tests")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("ids", ["agent", "role"])
@pytest.mark.parametrize("agents", [1, 2, 3])
def test_a_data_set_passes_the_suites_of_pettingzoo(agents, ids, capsys):
    """As every task does in tests/faces/test_conformance.py, where reasoning-gym is seldom
    installed."""
    tokenizer = tiny_lm(None).tokenizer
    options = {
        "task": coevo_env.make_task("reasoning-gym/chain_sum", size=12),
        "model": Unigram(tokenizer.vocab_size, tokenizer=tokenizer),
        "num_agents": agents,
        "agent_ids": ids,
        "kl": "reference",
        "max_context": 600,
        "max_new_tokens": 9,
    }
    api_test(coevo_env.env(**options), num_cycles=60)
    seed_test(lambda: coevo_env.env(**options), num_cycles=60)
    parallel_api_test(coevo_env.parallel_env(**options), num_cycles=60)
    parallel_seed_test(lambda: coevo_env.parallel_env(**options), num_cycles=60)
    state_test(coevo_env.env(**options), coevo_env.parallel_env(**options))
    render_test(lambda render_mode=None: coevo_env.env(**options, render_mode=render_mode))


BROKEN = {
    "nan": (lambda prompts, responses: [float("nan")] * len(responses), coevo_env.NonFiniteError, "returned nan"),
    "length": (lambda prompts, responses: [0.0] * (len(responses) + 1), coevo_env.RewardError, "returned . values"),
    "type": (lambda prompts, responses: ["1"] * len(responses), coevo_env.RewardError, "'1', a str"),
    "mapping": (lambda prompts, responses: dict.fromkeys(responses, 1.0), coevo_env.RewardError, "returned dict"),
    "raises": (lambda prompts, responses: 1 / 0, coevo_env.RewardError, "raised ZeroDivisionError"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_reward_is_refused_as_the_environment_refuses_it(how):
    function, error, message = BROKEN[how]
    data = dataset(replace(coevo_env.make_task("toy"), rewards={"odd": function}), size=1)
    with pytest.raises(error, match=f"task 'toy', reward 'odd': .*{message}"):
        data.score_answer("1 2 3", data[0])
