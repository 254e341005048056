"""Saved agents evaluated again: those of a run, or any model beside the one that it was trained
from.

One idea: a saved agent is a plain model, and it is asked exactly what the run asked the live one,
so that the numbers of a run can be had again from what it left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.game.task import Task
from coevo_env.lm.load import load_language_model
from coevo_env.lm.model import LanguageModel
from coevo_env.tasks import make_task

from ..runs.config import Config
from ..runs.folder import read_saved
from ..runs.inputs import compare, libraries, model_digests, task_digests
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
        notes: Lines that a user should read.
    """

    task: str
    prompts: int
    results: dict[str, Evaluation]
    alone: bool
    notes: tuple[str, ...] = ()

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
        ConfigError: A model cannot be loaded, or belongs to another tokenizer than the reference;
            or the run that the models belong to was made with something else than is there now.
    """
    task = make_task(config.task, **config.task_options)

    def load(spec: str) -> LanguageModel:
        return load_language_model(spec, task, device=config.device, dtype=config.dtype)

    base = load(reference or config.model)
    notes = _compared(config, task, models, None if reference else base)
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
    return Assessment(task.name, game.batch_size, results, alone, notes)


def _compared(config: Config, task: Task, models: Mapping[str, str], base: LanguageModel | None) -> tuple[str, ...]:
    """Compares what is there now with what the runs rest on whose saved agents are asked: the task,
    where it is the run's own, and the initial model, unless another reference was given. Returns
    what is to be said."""
    notes = []
    for run in dict.fromkeys(
        Path(path).parent.parent for path in models.values() if Path(path).parent.name == "agents"
    ):
        if not (run / "config.json").is_file():
            continue
        saved = read_saved(run / "config.json")
        if saved.get("inputs") is None:
            notes.append(
                f"{run} has no digests of its model and task, as earlier runs have none: whether they are still "
                "those of the run was not checked."
            )
            continue
        own, now = saved["config"], {}
        if (own.get("task"), own.get("task_options")) == (config.task, dict(config.task_options)):
            now |= {"task": task_digests(task), "libraries": libraries(task)}
        if base is not None:
            now["model"] = model_digests(base)
        compare(saved["inputs"], now, f"the run in {run}")
    return tuple(notes)
