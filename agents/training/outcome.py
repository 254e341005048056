"""What a run leaves behind: its agents as plain models, and a summary.

One idea: both are written when training is over, from what is in memory; a run that is interrupted
here writes them again when it is resumed.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs.checkpoint import CheckpointError, hint, replacing, write_json
from .assemble import Parts
from .evaluate import Evaluation, evaluate

__all__ = ["evaluate_agents", "portrait", "save_agents", "transcripts", "write_summary"]


TOKENIZER = "tokenizer_config.json"


def evaluate_agents(parts: Parts) -> dict[str, Evaluation]:
    """Each agent alone; one policy of several agents is evaluated once."""
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


def portrait(evaluation: Evaluation) -> dict[str, Any]:
    """What the summary keeps of an evaluation."""
    samples = [
        {"prompt": t["prompt"], "text": t["turns"][0]["text"], "reward": t["turns"][0]["task_reward"]}
        for t in evaluation.transcripts[:5]
    ]
    return {"metrics": evaluation.metrics, "samples": samples}


def save_agents(directory: Path, parts: Parts) -> None:
    """Writes each agent as a directory that `AutoModelForCausalLM.from_pretrained` loads.

    Raises:
        CheckpointError: One could not be written.
    """
    for number, name in enumerate(parts.agents):
        folder = directory / "agents" / name
        try:
            with replacing(folder) as partial:
                parts.learner(number).policy.save_pretrained(partial)
                # transformers adds where it was loaded from, which is another place after a resume
                if (warm := directory / "initial" / TOKENIZER).is_file() and (partial / TOKENIZER).is_file():
                    shutil.copyfile(warm, partial / TOKENIZER)
        except Exception as error:  # safetensors and transformers have errors of their own
            raise CheckpointError(
                f"agent {name} could not be saved in {folder}: {error}. {hint(error)}, then continue with: coevo train "
                f"--resume {directory}"
            ) from error


def write_summary(
    directory: Path, iteration: int, task: str, before: Mapping[str, Any], evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """Writes and returns `summary.json`: every agent before and after, with the same prompts side
    by side."""
    summary: dict[str, Any] = {"iterations": iteration, "task": task, "agents": {}}
    for name, evaluation in evaluations.items():
        old, new = before[name], portrait(evaluation)
        samples = [
            {"prompt": b["prompt"], "before": b["text"], "after": a["text"], "reward": [b["reward"], a["reward"]]}
            for b, a in zip(old["samples"], new["samples"], strict=True)
        ]
        summary["agents"][name] = {"before": old["metrics"], "after": new["metrics"], "samples": samples}
    write_json(directory / "summary.json", summary)
    return summary
