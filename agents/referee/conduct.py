"""A suite carried out: tuned, run, and turned into rows.

One idea: a run's folder is named by arm, task and seed, and whatever is there is not made again. So
a suite that was stopped at any moment is continued by the same words, and one command both makes
and rebuilds everything.

    OUT/suites.jsonl                what the suite said, each time that it said something new
    OUT/tuning/TASK/ARM/K-SEED/     runs that choose settings; they leave the test split unread
    OUT/runs/TASK/ARM/SEED/         runs that are judged
    OUT/trials.jsonl, rows.jsonl    the same as rows
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError

from ..launch.executor import Job, Outcome, run_all
from ..runs.config import Config
from ..runs.record import read_record
from .frontier import method_of
from .notes import Note
from .rows import Row, row_of, write_rows
from .suite import Arm, Suite
from .trials import SPENT, best, row_from, trial_job, trial_row

__all__ = ["Conducted", "conduct", "earlier", "plan", "rows_of"]

Runner = Callable[..., list[Outcome]]

MANY = 10**6
"""Iterations of a run that its budget ends."""


@dataclass(frozen=True)
class Conducted:
    """What came of a suite.

    Attributes:
        rows: Of the runs that are judged.
        trials: Of those that chose settings; `Row.chosen` is what each tried.
        notes: What a report has to say of how it was done.
    """

    rows: list[Row]
    trials: list[Row]
    notes: list[str]


def plan(suite: Suite) -> list[tuple[str, str, int, Config]]:
    """Every run that is judged: arm, task, seed, settings before tuning and matching."""
    return [
        (arm.name, task, seed, suite.config(arm, task, seed))
        for task in suite.tasks
        for seed in suite.seeds
        for arm in suite.arms
    ]


def conduct(
    suite: Suite,
    out: Path,
    workers: int = 1,
    report: Callable[[Outcome, int, int], None] = lambda outcome, done, total: None,
    run: Runner = run_all,
) -> Conducted:
    """Runs whatever of a suite is not there yet; returns everything as rows.

    Args:
        suite: What to do.
        out: Where.
        workers: How many runs at a time.
        report: Called with each outcome, how many there were, and how many there will be.
        run: What runs jobs, as `coevo_agents.launch.executor.run_all` does.

    Raises:
        ConfigError: A folder holds something else than a run of this suite.
    """
    notes = _note_suite(suite, out)
    total = len(suite.tasks) * len(suite.arms) * (len(suite.seeds) + suite.tuning.trials * suite.tuning.seeds)
    done = 0

    def told(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        report(outcome, done, total)

    trials: list[Row] = []
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    if suite.tuning.trials:
        for task in suite.tasks:
            trials += _tuned(suite, task, out, workers, told, run)
            write_rows(out / "trials.jsonl", trials)
        chosen = {(arm.name, task): best(suite, trials, arm.name, task) for arm in suite.arms for task in suite.tasks}
    rows: dict[tuple[str, str, int], Row] = {}
    try:
        for arms in _phases(suite):
            jobs: dict[tuple[str, str, int], Job] = {}
            for task in suite.tasks:
                for seed in suite.seeds:
                    for arm in arms:
                        found = _config(suite, arm, task, seed, chosen.get((arm.name, task), {}), rows)
                        if isinstance(found, Config):
                            folder = out / "runs" / task.replace(":", "-") / arm.name / str(seed)
                            jobs[arm.name, task, seed] = Job(f"{task}/{arm.name}/{seed}", found, folder)
                        else:
                            rows[arm.name, task, seed] = Row(arm.name, task, seed, error=found)
            outcomes = run(list(jobs.values()), workers, told)
            for key, outcome in zip(jobs, outcomes, strict=True):
                rows[key] = row_from(outcome, *key, chosen.get(key[:2], {}))
    finally:  # also what an interrupted suite has
        order = [(arm.name, task, seed) for task in suite.tasks for arm in suite.arms for seed in suite.seeds]
        kept = [rows[key] for key in order if key in rows]
        if kept:
            write_rows(out / "rows.jsonl", kept)
    return Conducted(kept, trials, notes)


def _phases(suite: Suite) -> Iterator[list[Arm]]:
    """The arm whose cost the others get comes first."""
    first = [arm for arm in suite.arms if method_of(arm.name) == suite.match.like]
    yield from ([first, [arm for arm in suite.arms if arm not in first]] if first else [list(suite.arms)])


def _config(
    suite: Suite, arm: Arm, task: str, seed: int, chosen: Mapping[str, Any], rows: Mapping[tuple[str, str, int], Row]
) -> Config | str:
    """The settings of a run, or why it cannot be run."""
    match = suite.match
    if match.by == "iterations":
        return suite.config(arm, task, seed, **chosen)
    if match.amount:
        return suite.config(arm, task, seed, iterations=MANY, **chosen)
    if method_of(arm.name) == match.like:
        config = suite.config(arm, task, seed, **chosen)
        return replace(config, count_flops=True) if match.by == "flops" else config
    point = arm.name.removeprefix(method_of(arm.name))  # the same point of its curve, where there are curves
    model = rows[match.like + point, task, seed]
    if model.error is not None:
        return f"the run of {match.like} whose cost it was to have failed"
    return suite.config(arm, task, seed, model.measures[f"{SPENT}/{match.by}"], iterations=MANY, **chosen)


# ---------------------------------------------------------------- tuning
def _tuned(suite: Suite, task: str, out: Path, workers: int, told: Callable[[Outcome], None], run: Runner) -> list[Row]:
    """Every configuration of every arm on the tuning seeds of a task."""
    if suite.tuning.sampler == "optuna":
        from .search import proposed

        return proposed(suite, task, out, workers, told, run)
    tries = {arm.name: suite.trials(arm) for arm in suite.arms}
    keys, jobs = [], []
    for number in range(suite.tuning.trials):
        for arm in suite.arms:
            for seed in range(suite.tuning.seeds):
                keys.append((arm, number, seed, tries[arm.name][number]))
                jobs.append(trial_job(suite, arm, task, number, seed, tries[arm.name][number], out))
    return [
        trial_row(suite, outcome, arm, task, number, seed, tried)
        for outcome, (arm, number, seed, tried) in zip(run(jobs, workers, told), keys, strict=True)
    ]


# ---------------------------------------------------------------- what a suite said
def _note_suite(suite: Suite, out: Path) -> list[str]:
    """Writes down what the suite says, before anything is run; tells whether it said something else
    before."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        said = earlier(out)
        if not said or said[-1]["digest"] != suite.digest:
            line = {"digest": suite.digest, "time": int(time.time()), "claim": suite.claim, "name": suite.name}
            line["claims"] = [str(claim) for claim in suite.claims]
            with (out / SUITES).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            said.append(line)
    except OSError as error:
        raise ConfigError(f"{out} could not be written: {error}. Choose another folder with --out.") from error
    if len(said) == 1:
        return []
    digests = ", ".join(line["digest"][:12] for line in said)
    text = (
        "THE SUITE WAS CHANGED after its first run: it has said {count} different things ({digests}). What was claimed "
        "first: {claim} {claims}"
    )
    first = {"claim": said[0]["claim"], "claims": "; ".join(map(str, said[0]["claims"]))}
    return [Note("changed", text, grave=True, count=len(said), digests=digests, **first)]


SUITES = "suites.jsonl"


def earlier(out: Path) -> list[dict[str, Any]]:
    """What suites in this folder have said, the first one first.

    Raises:
        ConfigError: The file holds something else.
    """
    path = out / SUITES
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [{key: line[key] for key in ("digest", "time", "claim", "claims")} for line in lines]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError(f"{path} is no list of suites ({error}); remove it, or choose another folder.") from error


# ---------------------------------------------------------------- folders that exist
def rows_of(folders: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """Rows of finished runs of any origin. Runs whose settings differ in nothing but the seed are
    one arm, named by what tells it from the others.

    Returns:
        The rows, and what is to be said of them.

    Raises:
        ConfigError: A folder holds no finished run, or two hold the same one.
    """
    records = [read_record(folder) for folder in folders]
    settings = [_flat({k: v for k, v in record.config.items() if k not in IGNORED}) for record in records]
    tasks = [str(record.config.get("task", "task")) for record in records]
    kinds: list[dict[str, Any]] = []
    for one in settings:
        if one not in kinds:
            kinds.append(one)
    names = {number: _difference(kinds, number) for number in range(len(kinds))}
    rows = [
        row_of(record, names[kinds.index(one)], task)
        for record, one, task in zip(records, settings, tasks, strict=True)
    ]
    return rows, [f"{row.arm}, seed {row.seed}: {note}" for row in rows for note in row.notes]


IGNORED = ("seed", "device", "threads", "save_every", "keep", "trust_remote_code", "task")


def _flat(data: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{under}{name}.")
        else:
            found[under + name] = value
    return found


def _difference(kinds: Sequence[Mapping[str, Any]], number: int) -> str:
    """What tells settings from the others, in words; the learner first."""
    own = kinds[number]
    told = {name for kind in kinds for name in kind if any(one.get(name) != kind[name] for one in kinds)}
    told -= {name for name in told if name.startswith("learner_settings.") and len({k["learner"] for k in kinds}) > 1}
    words = [str(own["learner"])] if "learner" in told else []
    words += [f"{name}={own[name]}" for name in sorted(told - {"learner"}) if name in own]
    return ", ".join(words) or str(own.get("learner", "run"))
