"""What a run leaves behind: its agents as plain models, and a summary.

One idea: both are written when training is over, from what is in memory; a run that is interrupted
here writes them again when it is resumed.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError, short_of_memory

from ..methods.warm_start import WarmStartConfig
from ..runs.checkpoint import CheckpointError, checkpoints, hint, manifest, replacing, write_json
from ..runs.config import Config
from ..runs.folder import repeated
from .assemble import Parts, assemble
from .assess import Assessment
from .evaluate import Evaluation, evaluate
from .state import restore

__all__ = ["evaluate_agents", "save_agents", "save_stopped", "transcripts", "write_summary"]


TOKENIZER = "tokenizer_config.json"


def evaluate_agents(parts: Parts) -> dict[str, Evaluation]:
    """Each agent alone on the validation split; one policy of several agents is evaluated once."""
    results: dict[str, Evaluation] = {}
    for learner, members in zip(parts.learners, parts.members, strict=True):
        result = evaluate(parts.held_out, learner.policy, parts.agents[members[0]])
        results.update({parts.agents[member]: result for member in members})
    return results


def transcripts(parts: Parts, rows: Sequence[int], updated: Collection[int], iteration: int) -> list[dict[str, Any]]:
    """Episodes of the batch just played, with the iteration of the weights that spoke, and what the
    learners of the agents `updated` by it let people see."""
    result = parts.game.transcripts(rows)
    for row, transcript in zip(rows, result, strict=True):
        for turn in transcript["turns"]:
            agent = parts.agents.index(turn["agent"])
            turn["weights"] = parts.opponents.spoke(agent, iteration) if parts.opponents else iteration
            seen = getattr(parts.learner(agent), "inspection", {}) if agent in updated else {}
            # row b of a learner's rollout is episode b of the batch, as each agent has one turn in
            # each
            turn.update({key: array[row, : len(turn["tokens"])].tolist() for key, array in seen.items()})
    return result


def save_agents(directory: Path, parts: Parts) -> dict[str, dict[str, Any]]:
    """Writes each agent as a directory that `AutoModelForCausalLM.from_pretrained` loads; returns
    the digests of the files of each.

    Raises:
        CheckpointError: One could not be written.
    """
    files = {}
    for number, name in enumerate(parts.agents):
        folder = directory / "agents" / name
        try:
            with replacing(folder) as partial:
                parts.learner(number).policy.save_pretrained(partial)
                # transformers adds where it was loaded from, which is another place after a resume
                if (warm := directory / "initial" / TOKENIZER).is_file() and (partial / TOKENIZER).is_file():
                    shutil.copyfile(warm, partial / TOKENIZER)
                files[name] = manifest(partial)
        except Exception as error:  # safetensors and transformers have errors of their own
            if short_of_memory(error):
                raise
            raise CheckpointError(
                f"agent {name} could not be saved in {folder}: {error}. {hint(error)}, then continue with: coevo train "
                f"--resume {directory}"
            ) from error
    return files


def save_stopped(directory: Path, config: Config, out: Path) -> int:
    """Writes the agents of a run that has not finished, as its newest checkpoint has them, to
    another folder; returns the iteration. Nothing in the run folder is touched.

    Raises:
        ConfigError: The run has no checkpoint yet, or a learner of one's own, which a run folder
            alone cannot ask for.
        CheckpointError: No checkpoint is whole.
    """
    resume = f"Continue the run with: coevo train --resume {directory}{repeated(config, 'task', 'learner')}"
    if not checkpoints(directory / "checkpoints"):
        raise ConfigError(f"{directory} has no saved agents and no checkpoint yet. {resume}")
    if ":" in config.learner:
        raise ConfigError(
            f"{directory} has not finished, and its checkpoints are read by {config.learner}, code that a run folder "
            f"cannot ask for. {resume}"
        )
    parts = assemble(replace(config, warm_start=WarmStartConfig()), directory, lambda line: None)
    state = restore(directory, parts, lambda line: None, tidy=False)
    save_agents(out, parts)
    return state.iteration


def write_summary(
    directory: Path, iteration: int, task: str, assessed: Assessment, files: Mapping[str, Any], run: str
) -> dict[str, Any]:
    """Writes and returns `summary.json`: every agent beside the model that it started from, with
    the same prompts side by side.

    Args:
        directory: The run folder.
        iteration: Of the agents.
        task: Name of the task.
        assessed: The agents on the test split.
        files: What `save_agents` returned.
        run: The digest of what the run rests on.
    """
    metrics, ci95 = assessed.metrics(), assessed.ci95()
    before, *names = assessed.results
    agents = {
        name: {
            "before": metrics[before],
            "after": metrics[name],
            "ci95": {"before": ci95[before], "after": ci95[name]},
            "samples": _samples(assessed.results[before], assessed.results[name]),
            "files": files[name],
        }
        for name in names
    }
    by_prompt = {name: result.by_prompt for name, result in assessed.results.items()}
    summary = {
        "iterations": iteration,
        "task": task,
        "measured": assessed.measured(),
        "agents": agents,
        "by_prompt": by_prompt,
        "run": run,
    }
    write_json(directory / "summary.json", summary)
    return summary


def _samples(before: Evaluation, after: Evaluation, count: int = 5) -> list[dict[str, Any]]:
    """The first answers to some prompts."""
    return [
        {
            "prompt": old["prompt"],
            "before": old["turns"][0]["text"],
            "after": new["turns"][0]["text"],
            "reward": [old["turns"][0]["task_reward"], new["turns"][0]["task_reward"]],
        }
        for old, new in zip(before.transcripts[:count], after.transcripts[:count], strict=True)
    ]
