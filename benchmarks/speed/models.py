"""The models, games and prompts that several items measure with.

One idea: every comparison plays the same task: the embedded model on its own task, SmolLM2-135M on
openers of real IMDB reviews. Where the length of prompts matters, SmolLM2-135M also adds, after
three examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_env.errors import CoevoError
from coevo_env.game.task import Task
from coevo_env.lm.names import resolve

if TYPE_CHECKING:
    from coevo_env.lm.model import LanguageModel

__all__ = ["BATCH", "TOKENS", "config", "label", "missing", "random_gpt2", "words_task"]

BATCH, TOKENS = 32, 16

_TASKS = {
    "embedded": {"task": "sentiment", "model": "embedded"},
    "smollm2": {"task": "imdb", "model": "smollm2", "task_options.source": "package", "task_options.reward": "tfidf"},
    "additions": {"task": "arithmetic", "model": "smollm2", "task_options.shots": 3},
}
_LABELS = {
    "embedded": "embedded model",
    "smollm2": "SmolLM2-135M",
    "additions": "SmolLM2-135M, additions after three examples",
}


def config(game: str, **overrides: object) -> Config:
    """Settings of a run on one of the games in which every response has the full length, so that
    work can be compared."""
    base = {
        "max_new_tokens": TOKENS,
        "min_new_tokens": TOKENS,
        "batch_size": BATCH,
        "eval_prompts": 1,
        "eval_every": 0,
        "save_every": 0,
    }
    return apply(Config(), {**base, **_TASKS[game], **overrides})


def label(game: str) -> str:
    return _LABELS[game]


def missing(game: str) -> str:
    """Why a game cannot be measured here, or ""."""
    try:
        resolve(str(_TASKS[game]["model"]))
    except CoevoError as error:
        return f"{label(game)}: {error}"
    return ""


def random_gpt2(vocab: int, width: int, layers: int, positions: int) -> LanguageModel:
    """A GPT-2 of any size with random weights, whose words are numbers: time does not depend on
    what a model knows."""
    from coevo_env.testing import tiny_lm

    return tiny_lm(vocab, width=width, layers=layers, heads=width // 64, positions=positions, scale=0.02)


def words_task(vocab: int, lengths: tuple[int, int]) -> Task:
    """Prompts of as many random words of `random_gpt2` as `lengths` say, and a cheap reward."""
    draw = np.random.default_rng(0)
    prompts = [" ".join(map(str, draw.integers(1, vocab, draw.integers(*lengths)))) for _ in range(256)]

    def variety(prompts: Any, responses: list[str]) -> list[float]:
        return [len(set(text.split())) / 16 for text in responses]

    templates = {"pioneer": "{prompt}", "observer": "{prompt} {responses}"}
    return Task(name="words", train=prompts, test=["7"], rewards={"variety": variety}, templates=templates)
