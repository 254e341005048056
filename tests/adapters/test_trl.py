"""TRL's GRPOTrainer on a task: what it sees is what the environment would have paid for the same
tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("trl")

import torch
import trl_grpo as example
from ledger import significance

import coevo_env
from coevo_agents.adapters.trl import dataset, reward_functions, settings
from coevo_env.rewards import length_reward, lexicon_sentiment

pytestmark = pytest.mark.adapter


def make_task() -> coevo_env.Task:
    """Two terms of different weight, so that their order and weights matter."""
    sentiment = coevo_env.make_task("sentiment")
    return replace(sentiment, rewards={"mood": lexicon_sentiment, "length": (0.25, length_reward(6))})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    task = make_task()
    trainer = example.make_trainer(task, str(tmp_path_factory.mktemp("grpo")), steps=30)
    torch.set_num_threads(1)
    seen = []
    calculate = trainer._calculate_rewards

    def recording(inputs, prompts, completions, completion_ids):
        rewards = calculate(inputs, prompts, completions, completion_ids)
        seen.append(
            ([row["prompt_index"] for row in inputs], [list(ids) for ids in completion_ids], rewards.numpy().copy())
        )
        return rewards

    trainer._calculate_rewards = recording
    trainer.train()
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    return task, seen, logged


def paid(task: coevo_env.Task, index: int, tokens: list[int]) -> tuple[float, dict[str, float]]:
    """What the AEC face pays a single agent for these tokens, and the raw terms."""
    env = coevo_env.raw_env(task=replace(task, train=[task.prompt("train", index)]), num_agents=1, seed=0)
    env.reset()
    for token in tokens:
        env.step(token)
    assert all(env.terminations.values())
    info = env.infos["llm1"]
    return env.rewards["llm1"], {name: info[f"reward/{name}"] for name in task.rewards}


def test_rewards_are_conserved(trained):
    """Term by term for each completion, and with the weights in what TRL averaged into its log."""
    task, seen, logged = trained
    weights = np.array(settings(task)["reward_weights"])
    assert weights == pytest.approx([1.0, 0.25])
    assert len(seen) == len(logged) == 30
    for (prompts, completions, rewards), mean in zip(seen, logged, strict=True):
        assert float((rewards @ weights).mean()) == pytest.approx(mean, abs=1e-3)
        for row in range(0, len(prompts), 16):
            total, terms = paid(task, prompts[row], completions[row])
            assert rewards[row] == pytest.approx([terms["mood"], terms["length"]], abs=1e-6)
            assert rewards[row] @ weights == pytest.approx(total, abs=1e-6)


def test_it_improves(trained):
    """The untrained model is the reference: GRPO starts from it."""
    task, seen, _ = trained
    weights = np.array(settings(task)["reward_weights"])
    first, last = (np.concatenate([rewards @ weights for _, _, rewards in part]) for part in (seen[:4], seen[-4:]))
    assert significance(first, last) > 8


def test_dataset_leads_back_to_the_prompts():
    task = make_task()
    for split in ("train", "test"):
        rows = dataset(task, split)
        assert len(rows) == len(task.prompts(split))
        row = rows[3]
        assert (
            row["prompt"] == task.render(task.prompt(split, 3)) and row["prompt_index"] == 3 and row["split"] == split
        )


def test_prompts_are_read_as_the_environment_reads_them():
    """TRL tokenizes the text of the data set as the game tokenizes its context."""
    from transformers import AutoTokenizer

    from coevo_env.lm.names import embedded_path

    task = make_task()
    ids = AutoTokenizer.from_pretrained(embedded_path())(dataset(task)[0]["prompt"])["input_ids"]
    env = coevo_env.raw_env(task=replace(task, train=[task.prompt("train", 0)]), num_agents=1, seed=0)
    env.reset()
    assert env.game.episode.turn.context == ids


def test_rewards_may_use_the_answer_of_a_prompt():
    task = coevo_env.Task(
        name="sum",
        train=[coevo_env.Prompt("2 3", answer="happy"), coevo_env.Prompt("1 1", answer="sad")],
        test=["9"],
        rewards={
            "right": lambda prompts, responses: [float(p.answer in r) for p, r in zip(prompts, responses, strict=True)]
        },
        tokenizer=coevo_env.TextTokenizer.from_pretrained(str(example.embedded_path())),
    )
    (right,) = reward_functions(task)
    assert right.__name__ == "right"
    ids = task.tokenizer.encode("happy")
    scores = right(
        completion_ids=[ids, ids], prompt_index=[0, 1], split=["train", "train"], prompts=None, completions=None
    )
    assert scores == [1.0, 0.0]


def test_a_chat_keeps_its_earlier_messages():
    earlier = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    )
    prompt = coevo_env.Prompt("and now ?", earlier=earlier)
    task = replace(make_task(), train=[prompt], templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"})
    chat = [*earlier, {"role": "user", "content": "and now ?"}]
    assert dataset(task)["prompt"][0] == chat
    with pytest.raises(coevo_env.ConfigError, match="1 of the 2 prompts of 'train' are chats"):
        dataset(replace(task, train=[prompt, "no chat"]))


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
    task = replace(make_task(), rewards={"odd": function})
    (odd,) = reward_functions(task)
    ids = [[5, 6], [7]]
    with pytest.raises(error, match=f"task 'sentiment', reward 'odd': .*{message}"):
        odd(completion_ids=ids, prompt_index=[0, 1], split=["train", "train"])
