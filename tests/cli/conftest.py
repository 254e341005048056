"""Fixtures of what users get wrong: a folder of theirs with a module in it, and the command, which
has to refuse in one message."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import runs

from coevo_agents import cli

FUNCTIONS = """
from dataclasses import replace
from coevo_env.game.task import Task
from coevo_env.tasks import toy

def with_reward(function):
    return replace(toy.task(), name="mine", rewards={"mine": function})

def short():
    return with_reward(lambda prompts, responses: [0.0] * (len(responses) - 1))

def nan():
    return with_reward(lambda prompts, responses: [float("nan")] * len(responses))

def text():
    return with_reward(lambda prompts, responses: ["good"] * len(responses))

def raising():
    return with_reward(lambda prompts, responses: [1 / len("") for _ in responses])

def number():
    return with_reward(lambda prompts, responses: 1.0)

def no_function():
    return replace(toy.task(), rewards={"mine": 3})

def no_placeholder():
    return replace(toy.task(), templates={"pioneer": "hello", "observer": "{responses} {prompt}"})

def other_placeholder():
    return replace(toy.task(), templates={"pioneer": "{prompt}", "observer": "{responses} {prompt} {partner}"})

def no_prompts():
    return replace(toy.task(), train=[])

def long_prompts():
    return replace(toy.task(), train=["1 2 3 4 " * 20])

def one_long_prompt_in_many():
    return replace(toy.task(), train=["1"] * 200 + ["1 2 3 4 " * 20])

def one_long_prompt_held_out():
    return replace(toy.task(), test=["1 1"] * 200 + ["1 2 3 4 " * 20])

def noting():
    open("called", "w").close()
    return toy.task()

class Noting:
    def __init__(self, *arguments):
        open("called", "w").close()

class Narrow:
    def __init__(self, policy, config):
        self.policy = policy

class Early:
    def __init__(self, policy, reference, config, sampling, seed):
        self.rate = config.learner_options["rate"]

class Idle:
    def __init__(self, policy, reference, settings, sampling, seed):
        self.policy = self

    def generate(self, contexts, max_new_tokens, sampling, uniforms):
        return None

class Mute(Idle):
    def update(self, rollout):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

def no_task():
    return {"prompts": []}

def failing():
    raise KeyError("reviews")

constant = 3
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder of the user's with a module of his own in it, which is the current directory."""
    (tmp_path / "my_tasks.py").write_text(FUNCTIONS)
    (tmp_path / "broken_module.py").write_text("def task(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_tasks", "broken_module"):
        sys.modules.pop(name, None)


@pytest.fixture
def refused(here, monkeypatch, capsys):
    """Calls the command, and returns its error message after checking its manners."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object, code: int = 1) -> str:
        monkeypatch.setattr(sys, "argv", ["coevo", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert left.value.code == code, err
        assert "Traceback" not in out + err
        if code == 1:
            assert err.startswith("error: ") and err.count("\nerror: ") == 0
        return err

    return call


@pytest.fixture
def refused_run(refused, model, here):
    """Starts a tiny run with settings that cannot work; nothing may be left of it."""

    def call(*words: str, **settings: object) -> str:
        given = {name.replace("__", "."): value for name, value in settings.items()}
        named = {**runs.tiny(str(given.get("learner", "ppo"))), "model": model, **given}
        err = refused(
            "train", *(f"--set={name}={value}" for name, value in named.items()), "--out", here / "run", *words
        )
        assert not (here / "run" / "config.json").exists() or (here / "run" / "checkpoints").exists()
        return err

    return call
