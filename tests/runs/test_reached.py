"""The digest of a reward follows what it does and not how it is written, its libraries are those
that it calls, and the digest of a tokenizer follows all that it does."""

from __future__ import annotations

import importlib
import importlib.metadata
import linecache
import sys
from dataclasses import replace

import pytest

from coevo_agents.runs.inputs import REWARDS, TOKENIZER, libraries, model_digests, task_digests
from coevo_agents.runs.reached import source
from coevo_env.rewards import exact_answer
from coevo_env.tasks import make_task
from coevo_env.testing import tiny_lm

MINE = '''
import helpers_of_a_reward
import helpers_of_a_reward as other
FACTOR = 2.0

class Base:
    def shared(self, text):
        return len(text) * 1.0

class Object(Base):
    def scaled(self, text):
        return self.shared(text) * FACTOR

    @staticmethod
    def bonus():
        return other.BONUS

    def score(self, prompts, responses):
        """Says something."""
        from helpers_of_a_reward import late
        return [self.scaled(r) + helpers_of_a_reward.early(r) + late(r) + self.bonus() for r in responses]

def fn(prompts, responses):
    """Says something."""
    return [1.0 for _ in responses]  # a comment

REWARDS = {"object": Object().score, "function": fn}
'''
HELPERS = """
BONUS = 1.0
def early(text):
    return 0.0
def late(text):
    return 0.0
"""
SAME = {
    "a comment": ("1.0 for _ in responses]  # a comment", "1.0 for _ in responses]"),
    "a docstring": ("Says something.", "Says\n\n        something else."),
    "no docstring": ('    """Says something."""\n    return [1.0', "    return [1.0"),
    "line breaks": ("[1.0 for _ in responses]", "[\n        1.0 for _ in responses\n    ]"),
    "quotes": ('"""Says something."""', "'Says something.'"),
    "a comment of a helper": ("BONUS = 1.0\n", "BONUS = 1.0  # more\n"),
}
OTHER = {
    "a value": ("1.0 for _", "1.5 for _"),
    "a global of a method": ("FACTOR = 2.0", "FACTOR = 3.0"),
    "a method of a base": ("len(text) * 1.0", "len(text) * 1.5"),
    "a function by its module": ("early(text):\n    return 0.0", "early(text):\n    return 1.0"),
    "what is imported inside": ("late(text):\n    return 0.0", "late(text):\n    return 1.0"),
    "what a static method reads": ("BONUS = 1.0", "BONUS = 2.0"),
    "a docstring that is read": ("[1.0 for _ in responses]", "[float(len(fn.__doc__)) for _ in responses]"),
}


@pytest.fixture
def digest(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def of(*changes: tuple[str, str]) -> str:
        for name, text in (("helpers_of_a_reward", HELPERS), ("mine_of_a_reward", MINE)):
            for old, new in changes:
                assert old in MINE + HELPERS
                text = text.replace(old, new)
            (tmp_path / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        linecache.clearcache()
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        rewards = importlib.import_module("mine_of_a_reward").REWARDS
        return task_digests(replace(make_task("toy"), rewards=rewards))[REWARDS]

    return of


@pytest.mark.parametrize("what", SAME)
def test_how_a_reward_is_written_does_not_count(what, digest):
    assert digest(SAME[what]) == digest()


@pytest.mark.parametrize("what", OTHER)
def test_what_a_reward_does_counts_wherever_it_stands(what, digest):
    assert digest(OTHER[what]) != digest()


def test_a_docstring_that_is_read_counts(digest):
    reads = OTHER["a docstring that is read"]
    assert digest(reads, ("Says something.", "Says.")) != digest(reads)


def test_code_that_was_typed_in_counts():
    def typed(value: str):
        space: dict = {}
        exec(f"def fn(prompts, responses): return [{value} for r in responses]", space)
        return space["fn"]

    assert source(typed("1.0")) == source(typed("1.0")) != source(typed("len(r)"))


# ---------------------------------------------------------------- libraries
def with_numpy(prompts, responses):
    import numpy as np

    return [float(np.mean([len(r)])) for r in responses]


def helper(text):
    from jinja2 import Template

    return float(len(Template(text).render()))


def with_a_helper(prompts, responses):
    return [helper(r) for r in responses]


def alone(prompts, responses):
    return [float(len(r)) for r in responses]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(with_numpy, {"numpy"}), (with_a_helper, {"Jinja2"}), (alone, set()), (exact_answer(), set())],
)
def test_the_libraries_are_those_that_the_code_of_a_reward_calls(reward, expected):
    found = libraries(replace(make_task("toy"), rewards={"one": reward, "two": alone}))
    assert {name.lower() for name in found} == {name.lower() for name in expected}
    assert all(version == importlib.metadata.version(name) for name, version in found.items())


# ---------------------------------------------------------------- tokenizers
def normalised(hf):
    from tokenizers import normalizers

    hf.backend_tokenizer.normalizer = normalizers.Lowercase()


def decoded(hf):
    from tokenizers import decoders

    hf.backend_tokenizer.decoder = decoders.Replace("zz", "y")


def cleaned(hf):
    hf.clean_up_tokenization_spaces = not hf.clean_up_tokenization_spaces


def used(hf):
    hf(["1", "1 1 1"], truncation=True, max_length=2)


@pytest.mark.parametrize(("change", "same"), [(normalised, False), (decoded, False), (cleaned, False), (used, True)])
def test_all_that_a_tokenizer_does_counts(change, same):
    model = tiny_lm(None)
    before = model_digests(model)
    change(model.tokenizer.hf)
    assert (model_digests(model)[TOKENIZER] == before[TOKENIZER]) == same
