"""Saved agents evaluated again: those of a run, or any model beside the one that it was trained
from.

One idea: a saved agent is a plain model, and it is asked exactly what the run asked the live one,
so that the numbers of a run can be had again from what it left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.lm.load import load_language_model
from coevo_env.lm.model import LanguageModel
from coevo_env.tasks import make_task

from ..runs.config import Config
from .evaluate import Evaluation, evaluate, evaluation_game

__all__ = ["Assessment", "assess"]


@dataclass(frozen=True)
class Assessment:
    """Several models on the same held-out prompts.

    Attributes:
        task: Name of the task.
        prompts: How many held-out prompts were answered, once each.
        results: Of each model by name; the first is the reference, unless `alone`.
        alone: Whether there is no reference but the models themselves, so that KL says nothing.
    """

    task: str
    prompts: int
    results: dict[str, Evaluation]
    alone: bool

    def metrics(self) -> dict[str, dict[str, float]]:
        """Model -> metric -> value."""
        return {
            name: {key: value for key, value in result.metrics.items() if not (self.alone and key == "kl")}
            for name, result in self.results.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"task": self.task, "prompts": self.prompts, "models": self.metrics()}


def assess(config: Config, models: Mapping[str, str], reference: str | None = None) -> Assessment:
    """Evaluates models, each alone.

    Args:
        config: Of the run that they belong to; its task, lengths, device and number of prompts
            count.
        models: Name -> directory or hub name.
        reference: The model to measure KL against; by default that of `config`.

    Raises:
        ConfigError: A model cannot be loaded, or belongs to another tokenizer than the reference.
    """
    task = make_task(config.task, **config.task_options)

    def load(spec: str) -> LanguageModel:
        return load_language_model(spec, task, device=config.device, dtype=config.dtype)

    base = load(reference or config.model)
    game = evaluation_game(config, task, base)
    alone = reference is None and config.model in models.values()  # a KL of a model to itself says nothing
    loaded = (
        dict.fromkeys(models, base) if alone else {"reference": base, **{n: load(path) for n, path in models.items()}}
    )
    for name, model in loaded.items():
        if model.vocab_size != base.vocab_size:
            raise ConfigError(
                f"{name} has a vocabulary of {model.vocab_size} tokens and the reference one of {base.vocab_size}; KL "
                "needs the same tokenizer. Give --reference, the model that it was trained from."
            )
    results = {name: evaluate(game, model, name) for name, model in loaded.items()}
    return Assessment(task.name, game.batch_size, results, alone)
