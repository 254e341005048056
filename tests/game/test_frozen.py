"""What a prompt carries is the same in every episode, whatever a reward does with it."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from coevo_env.errors import RewardError
from coevo_env.game.scoring import rate_alone
from coevo_env.game.task import Prompt, Task
from coevo_env.testing import check_task, tiny_lm

INFO = {"words": ["b", "a"], "deep": {"inner": [{"x": [1]}]}, "pair": ([1], 2), "kinds": {"a"}, "table": np.zeros(2)}

CHANGES = {
    "append": lambda info: info["words"].append("c"),
    "sort": lambda info: info["words"].sort(),
    "item": lambda info: info["words"].__setitem__(0, "c"),
    "add in place": lambda info: info["words"].__iadd__(["c"]),
    "pop": lambda info: info.pop("words"),
    "new key": lambda info: info.update(new=1),
    "or in place": lambda info: info.__ior__({"new": 1}),
    "deep": lambda info: info["deep"]["inner"][0]["x"].append(2),
    "in a tuple": lambda info: info["pair"][0].append(2),
    "set": lambda info: info["kinds"].add("b"),
    "array": lambda info: info["table"].__setitem__(0, 1.0),
}


def task(reward) -> Task:
    prompts = [Prompt(f"{i}", info=INFO) for i in range(3)]
    return Task(name="t", train=prompts[:1], validation=prompts[1:2], test=prompts[2:], rewards={"mine": reward})


@pytest.mark.parametrize("how", CHANGES)
def test_a_reward_that_changes_what_a_prompt_carries_is_told(how):
    def reward(prompts, responses):
        for prompt in prompts:
            CHANGES[how](prompt.info)
        return [0.0 for _ in responses]

    mine = task(reward)
    before = json.dumps(mine.prompt("train", 0).info, default=list)
    with pytest.raises(RewardError, match=r"raised (TypeError|AttributeError|ValueError): "):
        rate_alone(mine, [mine.prompt("train", 0)], ["yes"])
    assert json.dumps(mine.prompt("train", 0).info, default=list) == before


def test_a_column_that_a_reward_asks_for_by_name_cannot_be_changed():
    def reward(completions, words):
        words[0].append("c")
        return [float(len(w)) for w in words]

    mine = task(reward)
    with pytest.raises(RewardError, match=r"is the same in all episodes; copy it before you change it"):
        rate_alone(mine, [mine.prompt("train", 0)], ["yes"])


def test_what_was_given_may_change_afterwards():
    words = ["a"]
    prompt = Prompt("p", info={"words": words}, earlier=[message := {"role": "user", "content": "a"}])
    words.append("b")
    message["content"] = "b"
    assert prompt.info["words"] == ["a"] and prompt.earlier[0]["content"] == "a"


def test_it_reads_and_copies_as_what_it_was():
    info = Prompt("p", info=INFO).info
    assert isinstance(info, dict) and isinstance(info["words"], list)
    assert info["words"] == ["b", "a"] and sorted(info["words"]) == ["a", "b"] and info["deep"] == INFO["deep"]
    assert json.loads(json.dumps(info["deep"])) == INFO["deep"]
    for copied in (copy.deepcopy(info), copy.copy(info), info.copy(), dict(info)):
        copied["new"] = 1
    copy.deepcopy(info)["deep"]["inner"][0]["x"].append(2)
    info["words"][:].append("c")
    assert info["deep"] == INFO["deep"] and info["words"] == ["b", "a"]
    again = pickle.loads(pickle.dumps(Prompt("p", info=INFO)))
    assert again.info["words"] == ["b", "a"]
    with pytest.raises(TypeError, match="copy it before"):
        again.info["words"].append("c")


def test_a_task_with_columns_is_played():
    mine = task(lambda prompts, responses: [float(len(p.info["words"])) for p in prompts])
    check_task(mine, model=tiny_lm(None))
