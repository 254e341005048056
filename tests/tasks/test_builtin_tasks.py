"""What every built-in task owes, over the registry: a task that is added is tried without a word
here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builtin import made

import coevo_env
from coevo_env.tasks import BUILTIN_TASKS, FAMILIES
from coevo_env.testing import check_task

FOLDER = Path(coevo_env.__file__).parent / "tasks"
every_task = pytest.mark.parametrize("name", [*BUILTIN_TASKS, "reasoning-gym/chain_sum"])


def test_every_file_of_a_task_has_a_line_and_every_line_a_file():
    files = {f"coevo_env.tasks.{file.stem}" for file in FOLDER.glob("*.py")} - {"coevo_env.tasks.__init__"}
    lines = [*BUILTIN_TASKS.values(), *FAMILIES.values()]
    assert not files - set(lines), f"{files - set(lines)}: no line in BUILTIN_TASKS of coevo_env/tasks/__init__.py"
    assert not set(lines) - files, f"{set(lines) - files}: a line of coevo_env/tasks/__init__.py without a file"
    assert len(lines) == len(set(lines))


@every_task
def test_task_says_what_it_is(name, tmp_path):
    task, _ = made(name, tmp_path)
    assert task.name == name, f"the task {name!r} calls itself {task.name!r}"
    assert task.description, f"the task {name!r} has no description"
    file = FOLDER / f"{name.partition('/')[0].replace('-', '_')}.py"
    assert "Version history:" in file.read_text(encoding="utf-8"), f"{file.name} has no version history"


@every_task
def test_task_is_made_the_same_twice(name, tmp_path):
    first, second = made(name, tmp_path)[0], made(name, tmp_path)[0]
    for split in ("train", "test"):
        assert list(first.prompts(split)) == list(second.prompts(split)), f"the {split} split of {name!r}"


@every_task
def test_the_scripted_policy_beats_silence(name, tmp_path):
    task, _ = made(name, tmp_path)
    assert task.scripted is not None, f"the task {name!r} has no scripted policy"
    for split in ("train", "test"):
        prompts = [task.prompt(split, i) for i in range(len(task.prompts(split)))]
        means = {}
        for what, texts in (
            ("scripted", [task.clean(task.scripted(prompt, [])) for prompt in prompts]),
            ("silence", [""] * len(prompts)),
        ):
            alone = [term(prompts, texts) for _, term in map(weighed, task.rewards.values())]
            together = [
                np.ravel(term(prompts, [(text,) for text in texts]))
                for _, term in map(weighed, task.joint_rewards.values())
            ]
            weights = [weighed(term)[0] for term in (*task.rewards.values(), *task.joint_rewards.values())]
            means[what] = sum(w * np.mean(values) for w, values in zip(weights, [*alone, *together], strict=True))
        assert means["scripted"] > means["silence"], f"the scripted policy of {name!r}, {split} split: {means}"


@every_task
def test_task_keeps_its_promises(name, tmp_path):
    task, model = made(name, tmp_path)
    assert {"contexts fit", "rewards", "plays", "PettingZoo api_test"} <= set(check_task(task, model))


def weighed(term):
    """(weight, function) of a term in either form."""
    return term if isinstance(term, tuple) else (1.0, term)
