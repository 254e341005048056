"""The final numbers: agents on the test split, with several draws for each prompt. Those of a run
at its end, and of saved agents at any time after.

One idea: a saved agent is a plain model, and it is asked exactly what the run asked, so that the
numbers of a run can be had again from what it left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.task import Task
from coevo_env.lm.load import load_language_model
from coevo_env.lm.model import LanguageModel
from coevo_env.tasks import make_task

from ..learners.learner import LEARNERS, Actor, find_learner
from ..runs.config import Config
from ..runs.folder import check_settings, initial_model, read_saved
from ..runs.inputs import compare, libraries, model_digests, task_digests
from ..runs.saved import check_saved, run_of
from .assemble import Parts, use_threads
from .evaluate import Evaluation, evaluate, evaluation_game

__all__ = ["Assessment", "assess", "assess_run", "compared"]


@dataclass(frozen=True)
class Assessment:
    """Several models on the same prompts.

    Attributes:
        task: Name of the task.
        split: Of which the prompts are.
        prompts, asked: How many were answered, and how many were asked for: there may be fewer.
        draws: How many answers to each.
        results: Of each model by name; the first is the reference, unless `alone`.
        alone: Whether there is no reference but the models themselves, so that KL says nothing.
        notes: Lines that a user should read.
        reward: What the responses are paid by: the reward that the task was given, or its terms.
    """

    task: str
    split: str
    prompts: int
    asked: int
    draws: int
    results: dict[str, Evaluation]
    alone: bool = False
    notes: tuple[str, ...] = ()
    reward: str = ""

    def metrics(self) -> dict[str, dict[str, float]]:
        """Model -> metric -> value."""
        return {name: self._known(result.metrics) for name, result in self.results.items()}

    def ci95(self) -> dict[str, dict[str, float]]:
        """Model -> metric -> half width of its 95 % interval over prompts."""
        return {name: self._known(result.ci95) for name, result in self.results.items()}

    def measured(self) -> dict[str, Any]:
        """What was asked, as plain data."""
        return {"split": self.split, "prompts": self.prompts, "asked": self.asked, "draws": self.draws}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "task": self.task,
            "reward": self.reward,
            **self.measured(),
            "models": self.metrics(),
            "ci95": self.ci95(),
        }

    def _known(self, values: Mapping[str, float]) -> dict[str, float]:
        return {key: value for key, value in values.items() if not (self.alone and key == "kl")}


def assess(
    config: Config, models: Mapping[str, str], reference: str | None = None, run: Path | None = None
) -> Assessment:
    """Evaluates saved models on the test split, each alone.

    Args:
        config: Of the run that they belong to; its task, lengths, device and numbers of prompts and
            draws count, and whether its learner plays a model otherwise than by sampling.
        models: Name -> directory or hub name.
        reference: The model to measure KL against; by default that of `config`.
        run: The run folder that the models come from, where they do not lie in it.

    Raises:
        ConfigError: A model cannot be loaded, or belongs to another tokenizer than the reference;
            or the run that the models belong to was made with something else than is there now, or
            saved others.
    """
    return _measured(config, models, reference, run, check=True)


def _measured(
    config: Config, models: Mapping[str, str], reference: str | None, run: Path | None, check: bool
) -> Assessment:
    task = make_task(config.task, **config.task_options)

    def load(spec: str, dtype: str = config.dtype) -> LanguageModel:
        return load_language_model(
            spec, task, device=config.device, dtype=dtype, trust_remote_code=config.trust_remote_code
        )

    base = load(reference or config.model)
    use_threads(config, base)
    notes = compared(config, task, models.values(), None if reference else base, run) if check else ()
    game = evaluation_game(config, task, base, split=config.final_split, draws=config.eval_draws)
    alone = reference is None and config.model in models.values()  # a KL of a model to itself says nothing
    results = {} if alone else {"reference": evaluate(game, base, "reference")}
    for name, spec in models.items():
        # one at a time: they may be large; adapters are merged in float32, see `merged`
        model = base if alone else load(spec, "float32" if "lora" in config.weights else config.dtype)
        if model.vocab_size != base.vocab_size:
            raise ConfigError(
                f"{name} has a vocabulary of {model.vocab_size} tokens and the reference one of {base.vocab_size}; KL "
                "needs the same tokenizer. Give --reference, the model that it was trained from."
            )
        results[name] = evaluate(game, _player(config, model, name), name)
    return replace(_assessment(config, game, results, alone), notes=notes)


def assess_run(config: Config, directory: Path, parts: Parts) -> Assessment:
    """Evaluates the agents of a run whose training is over and that have been saved: as they were
    saved, since what is in memory rounds otherwise (an adapter beside its model, weights that
    another place in memory holds). A policy of one's own that is no language model is evaluated as
    it is.

    Raises:
        ConfigError: A saved model cannot be loaded.
    """
    policies = {name: learner.policy for name, learner in parts.named_learners()}  # by their first agents
    same = {parts.agents[member]: parts.agents[members[0]] for members in parts.members for member in members}
    if all(isinstance(getattr(policy, "lm", None), LanguageModel) for policy in policies.values()):
        saved = {name: str(directory / "agents" / name) for name in policies}
        initial = replace(config, model=initial_model(directory, config))
        results = _measured(initial, saved, None, None, check=False).results  # nobody had time to exchange them
    else:
        results = {"reference": evaluate(parts.final, parts.reference, "reference")}
        results.update({name: evaluate(parts.final, policy, name) for name, policy in policies.items()})
    results = {"reference": results["reference"], **{name: results[same[name]] for name in parts.agents}}
    return _assessment(config, parts.final, results)


def _player(config: Config, model: LanguageModel, agent: str) -> Actor:
    """Who plays the model of an agent: itself, or what the learner makes of it."""
    if config.agents.get(agent, {}).get("learner", config.learner) not in LEARNERS:
        return model
    learner, settings = config.learner_of(agent)
    plays = getattr(find_learner(learner), "plays", None)
    return model if plays is None else plays(model, settings)


def _assessment(config: Config, game: BatchEnv, results: dict[str, Evaluation], alone: bool = False) -> Assessment:
    rules = game.rules
    paid = str(config.task_options.get("reward") or ", ".join(rules.term_names))
    size, draws = game.batch_size, rules.group_size
    return Assessment(rules.task.name, rules.split, size, config.eval_prompts, draws, results, alone=alone, reward=paid)


def compared(
    config: Config, task: Task, models: Collection[str], base: LanguageModel | None, run: Path | None = None
) -> tuple[str, ...]:
    """Compares what is there now with the runs whose saved agents are asked: the agents with those
    that the runs saved, and what the runs rest on; of that the task, where it is the run's own, and
    the initial model, unless another reference was given.

    Args:
        config: Of the run.
        task: The task on which they are asked.
        models: Their folders.
        base: The initial model; None where there is another reference.
        run: One more run folder.

    Returns:
        What is to be said.

    Raises:
        ConfigError: Something differs.
    """
    notes: list[str] = []
    unknown = check_saved(models)
    for folder in dict.fromkeys([run, *map(run_of, models)]):
        if folder is None:
            continue
        saved = read_saved(folder / "config.json")
        if saved.get("inputs") is None:
            unknown = []
            notes.append(
                f"{folder} has no digests of its model, task and agents, as earlier runs have none: whether they are "
                "still those of the run was not checked."
            )
            continue
        check_settings(folder, saved)
        own, now = saved["config"], {}
        if (own.get("task"), own.get("task_options")) == (config.task, dict(config.task_options)):
            now |= {"task": task_digests(task), "libraries": libraries(task)}
        if base is not None:
            now["model"] = model_digests(base)
        notes += compare(saved["inputs"], now, f"the run in {folder}")
    return (*notes, *unknown)
