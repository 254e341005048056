"""Runs that choose settings, and what any run leaves as a row.

One idea: a trial is a run like any other, on seeds of its own, and its final numbers are of the
validation split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coevo_env.errors import CoevoError, ConfigError

from ..launch.executor import Job, Outcome
from ..runs.budget import KINDS
from ..runs.record import Record, read_record
from .measures import find_measure
from .rows import Row, row_of
from .suite import TUNING_SEEDS, Arm, Suite

__all__ = ["SPENT", "best", "row_from", "score", "trial_job", "trial_row"]

SPENT = "spent"
"""Measures of a row that say what the run spent, of each kind by which arms can be matched."""


def row_from(outcome: Outcome, arm: str, task: str, seed: int, chosen: Mapping[str, Any]) -> Row:
    """The row of a run that ended, in one way or the other."""
    if outcome.error is not None:
        return Row(arm, task, seed, error=outcome.error, chosen=dict(chosen))
    try:
        record = read_record(outcome.job.folder)
        row = replace(row_of(record, arm, task, chosen), seed=seed)
    except CoevoError as error:
        return Row(arm, task, seed, error=str(error), chosen=dict(chosen))
    spent = {f"{SPENT}/{kind}": _spent(record, kind) for kind in KINDS}
    return replace(row, measures={**row.measures, **spent})


def _spent(record: Record, kind: str) -> float:
    return float(sum(sum(row.get(tag, 0.0) for tag in KINDS[kind]) for row in record.metrics))


def trial_job(suite: Suite, arm: Arm, task: str, number: int, seed: int, tried: Mapping[str, Any], out: Path) -> Job:
    """One run that tries a configuration."""
    more = {**tried, **suite.tuning.settings, "final_split": "validation"}
    config = suite.config(arm, task, TUNING_SEEDS + seed, **more)
    folder = out / "tuning" / task.replace(":", "-") / arm.name / f"{number}-{seed}"
    return Job(f"{task}/{arm.name}/trial {number}, seed {seed}", config, folder)


def trial_row(
    suite: Suite, outcome: Outcome, arm: Arm, task: str, number: int, seed: int, tried: Mapping[str, Any]
) -> Row:
    """What came of it; a row's arm is the arm and the number of the configuration."""
    row = row_from(outcome, f"{arm.name} #{number}", task, TUNING_SEEDS + seed, tried)
    value = row.measures.get(suite.tuning.measure)
    if row.error is None and value is None:
        return replace(row, error=f"it has no measure {suite.tuning.measure}")
    return row


def score(suite: Suite, rows: Sequence[Row]) -> float:
    """What a configuration is worth: the mean over its seeds, higher is better; one whose runs
    failed is worth nothing."""
    if not rows or any(row.error for row in rows):
        return -np.inf
    sign = 1 if find_measure(suite.tuning.measure).higher else -1
    return sign * float(np.mean([row.measures[suite.tuning.measure] for row in rows]))


def best(suite: Suite, trials: Sequence[Row], arm: str, task: str) -> dict[str, Any]:
    """The configuration with the best score; the first of equals.

    Raises:
        ConfigError: None of them could be run.
    """
    groups: dict[str, list[Row]] = {}
    for row in trials:
        if row.task == task and row.arm.rpartition(" #")[0] == arm:
            groups.setdefault(row.arm, []).append(row)
    scores = {name: score(suite, rows) for name, rows in groups.items()}
    name = max(scores, key=lambda one: scores[one])
    if scores[name] == -np.inf:
        raise ConfigError(f"no configuration of arm {arm!r} could be run on {task}: {groups[name][0].error}")
    return groups[name][0].chosen
