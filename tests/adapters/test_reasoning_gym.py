"""A task as a data set of reasoning-gym, and there and back again. reasoning-gym has no learner to train."""

from __future__ import annotations

import pytest

pytest.importorskip("reasoning_gym")

import reasoning_gym

import coevo_env
from coevo_agents.adapters.reasoning_gym import dataset, register

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
    """A data set of reasoning-gym as a task, and the task as a data set: questions, answers and scores survive."""
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
