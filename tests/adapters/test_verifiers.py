"""A task as a taskset of verifiers: what it records is what the environment pays for the same text.
verifiers has no learner to train."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

pytest.importorskip("verifiers")

import verifiers.v1 as vf

import coevo_env
from coevo_agents.adapters.verifiers import taskset
from coevo_env.lm.names import embedded_path
from coevo_env.rewards import length_reward, lexicon_sentiment

pytestmark = pytest.mark.adapter
REPLIES = ("wonderful and delightful .", "awful .", "", "a chair in the garden .")


def make_task() -> coevo_env.Task:
    rewards = {"mood": lexicon_sentiment, "length": (0.25, length_reward(6))}
    return replace(coevo_env.make_task("sentiment"), rewards=rewards, separator=" ")


def scored(item, reply: str):
    data = vf.TraceTask(type=type(item).__name__, data=item.data)
    trace = vf.Trace(task=data, agent=vf.AgentInfo(config=vf.AgentConfig()), root_reply=reply)
    asyncio.run(item.score(trace))
    return trace


@pytest.mark.parametrize("split", ["train", "test"])
def test_rewards_are_conserved(split):
    task = make_task()
    tokenizer = coevo_env.TextTokenizer.from_pretrained(str(embedded_path()))
    items = list(taskset(task, split))
    assert len(items) == len(task.prompts(split))
    for index in (0, len(items) // 2):
        one = replace(task, **{split: [task.prompt(split, index)]})
        for reply in REPLIES:
            env = coevo_env.raw_env(task=one, num_agents=1, split=split, seed=0, min_new_tokens=0)
            env.reset()
            for token in [*tokenizer.encode(reply), tokenizer.eos_id]:
                env.step(token)
            trace = scored(items[index], reply)
            assert trace.reward == pytest.approx(env.rewards["llm1"], abs=1e-6)
            assert {name: trace.rewards[name].score for name in task.rewards} == pytest.approx(
                {name: env.infos["llm1"][f"reward/{name}"] for name in task.rewards}
            )


def test_prompts_are_what_the_pioneer_reads():
    task = make_task()
    item = list(taskset(task).take(3))[2]
    assert item.data.prompt == task.render(task.prompt("train", 2)) and item.data.idx == 2


def test_unknown_splits_are_errors():
    with pytest.raises(coevo_env.ConfigError, match="unknown split"):
        taskset("sentiment", "tests")


def test_a_chat_keeps_its_earlier_messages():
    earlier = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    )
    prompt = coevo_env.Prompt("and now ?", earlier=earlier)
    task = replace(make_task(), train=[prompt], templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"})
    chat = [*earlier, {"role": "user", "content": "and now ?"}]
    [item] = taskset(task)
    assert [(message.role, message.content) for message in item.data.prompt] == [tuple(one.values()) for one in chat]


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
    item = next(iter(taskset(replace(make_task(), rewards={"odd": function}))))
    with pytest.raises(vf.errors.TaskError, match=f"task 'sentiment', reward 'odd': .*{message}") as caught:
        scored(item, "good")  # verifiers says it in an error of its own
    assert isinstance(caught.value.__cause__, error)
