"""The models, games and prompts that several items measure with.

One idea: every comparison plays the same task: the embedded model on its own task, SmolLM2-135M on openers of real IMDB reviews.
"""

from __future__ import annotations

from coevo_agents.config import Config, apply
from coevo_env.errors import CoevoError
from coevo_env.models import resolve

__all__ = ["BATCH", "TOKENS", "config", "label", "missing"]

BATCH, TOKENS = 32, 16

_TASKS = {
    "embedded": {"task": "sentiment", "model": "embedded"},
    "smollm2": {"task": "imdb", "model": "smollm2", "task_options.source": "package", "task_options.reward": "tfidf"},
}
_LABELS = {"embedded": "embedded model", "smollm2": "SmolLM2-135M"}


def config(model: str, **overrides: object) -> Config:
    """Settings of a run on `model` in which every response has the full length, so that work can be compared."""
    base = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "batch_size": BATCH, "eval_prompts": 1, "eval_every": 0, "save_every": 0}
    return apply(Config(), {**base, **_TASKS[model], **overrides})


def label(model: str) -> str:
    return _LABELS[model]


def missing(model: str) -> str:
    """Why a model cannot be measured here, or ""."""
    try:
        resolve(model)
    except CoevoError as error:
        return f"{label(model)}: {error}"
    return ""
