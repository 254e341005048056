"""The models, games and prompts that several items measure with.

One idea: every comparison plays the same task: the embedded model on its own task, SmolLM2-135M on
openers of real IMDB reviews. Where the length of prompts matters, SmolLM2-135M also adds, after
three examples.
"""

from __future__ import annotations

from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_env.errors import CoevoError
from coevo_env.lm.names import resolve

__all__ = ["BATCH", "TOKENS", "config", "label", "missing"]

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
