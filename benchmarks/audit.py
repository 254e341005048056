"""How often the collapse audit is wrong, and how early it is right: replays it on finished runs.

One idea: the audit sees nothing but numbers that a run has written down, so any limit can be tried
on runs that exist. A null run is one that nobody would call collapsed; an alarm in it is a false
one. Half of the null runs say where limits could lie, the other half how often those are wrong, and
all of them how often the limits in force are, with a Clopper-Pearson interval; the unit is a run.

    python -m benchmarks.audit --toys runs/toys --seeds 10
    python -m benchmarks.audit --null RUNS... --collapsed RUNS... --out FILE.json

The first trains null runs on the toy, which take seconds each; the second replays runs.
RUNS are run folders, or folders of run folders. Those that the audit cannot have seen (begun by an
earlier version, or with too few answers) are counted and left out.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from coevo_agents.methods.audit import SIGNALS, AuditConfig, observe
from coevo_agents.referee.measures import MEASURES
from coevo_agents.runs.board import board_settings
from coevo_agents.runs.record import Record, read_record
from coevo_agents.runs.settings import apply, from_dict

LEVEL = 0.01
"""False alarms per run that are aimed at."""

LEAST = {
    "kl_per_token": 2.0,
    "cross_entropy": 2.0,
    "eos": math.pi / 2,
    "length": math.log(3),
    "repeat": math.pi / 3,
    "distinct_2": math.log(3),
    "unique": math.log(5),
    "ratio_max": math.log(50),
}
"""What limits are at least, wherever null runs end: less is no collapse, whatever is usual on one
task. In this order: 2 nats (7 times as likely, or unlikely, at every token); half of the answers
that ended do not any more; a third or three times the length; a quarter of the bigrams repeated; a
third of the distinct bigrams; a fifth of the different answers; an update that makes a token 50
times as likely."""

SAME = ("seed", "model", "stop_on", "iterations", "eval_draws", "save_every", "keep")
"""Settings by which runs are not grouped."""

TOYS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "own": {"mixing": "own"},
    "every": {"exchange_every": 0},
    "random": {"roles": "random"},
    "three": {"num_agents": 3, "roles": "rotation"},
    "one": {"num_agents": 1},
    "grpo": {"learner": "grpo", "group_size": 4},
    "rloo": {"learner": "rloo", "group_size": 4},
    "reinforce": {"learner": "reinforce"},
    "mappo": {"learner": "mappo"},
}
"""Null runs on the toy, whose optimum at beta 0.3 is no collapse: what differs from PPO with two
agents that exchange roles."""

MARGIN = 1.25
"""Fitted limits over the largest excess that lasted in a null run."""


@dataclass(frozen=True)
class Replayed:
    """What the audit says of a run.

    Attributes:
        name, group: The folder, and its settings but for the seed.
        peaks: Signal -> the largest excess that lasted, on the scale of its limit, over agents and
            places.
        alarms: (iteration, agent, place, signals) with the limits in force.
        by_rule: The first evaluation at which the run has collapsed by the fixed rule of
            `coevo_agents.referee.measures`; None where it has not.
        last: Iterations of the run.
    """

    name: str
    group: str
    peaks: dict[str, float]
    alarms: list[tuple[int, str, str, list[str]]]
    by_rule: int | None
    last: int


def replay(record: Record, limits: AuditConfig) -> Replayed | None:
    """The audit of a run that has been written down; None where it had nothing to see.

    Args:
        record: The run.
        limits: Limits; which observations there are is up to the settings of the run.
    """
    config = from_dict(record.config)
    limits = replace(limits, responses=config.audit.responses)
    state: dict[str, Any] = {}
    excesses: dict[tuple[str, str, str], list[float]] = {}
    alarms = []
    for row in record.metrics:
        verdict = observe(limits, state, int(row["iteration"]), row)
        state = verdict.state
        for key, value in verdict.excesses.items():
            excesses.setdefault(key, []).append(value)
        alarms += [(one.iteration, one.agent, one.place, [f.signal for f in one.findings]) for one in verdict.alarms]
    if not excesses:
        return None
    peaks: dict[str, float] = {}
    for (_, _, signal), values in excesses.items():
        peaks[signal] = max(peaks.get(signal, -math.inf), lasting(values, limits.lasting))
    rule = MEASURES["collapse_at"].of(record)
    last = record.iteration
    return Replayed(
        record.directory.name,
        _group(config),
        {name: peaks[name] for name in SIGNALS if math.isfinite(peaks.get(name, -math.inf))},
        alarms,
        None if rule is None or rule > last else int(rule),
        last,
    )


def lasting(values: Sequence[float], count: int) -> float:
    """The largest number that `count` values in a row reach; -inf where there are fewer.

    >>> lasting([0.1, 3.0, 0.2, 1.0, 2.0], 2)
    1.0
    """
    windows = [min(values[at : at + count]) for at in range(len(values) - count + 1)]
    return max(windows, default=-math.inf)


def fit(runs: Iterable[Replayed]) -> dict[str, float]:
    """Limits above everything that lasted in these null runs, by `MARGIN`, and at least `LEAST`."""
    seen = [run.peaks for run in runs]
    return {
        name: max(least, *(MARGIN * peaks.get(name, 0.0) for peaks in [{}, *seen])) for name, least in LEAST.items()
    }


def rate(runs: Sequence[Replayed], limits: dict[str, float]) -> dict[str, Any]:
    """False alarms of null runs with these limits, and the 95 % Clopper-Pearson interval."""
    wrong = [run.name for run in runs if any(run.peaks[name] >= limits[name] for name in run.peaks if limits[name])]
    if not runs:
        return {"runs": 0, "alarmed": 0}
    interval = binomtest(len(wrong), len(runs)).proportion_ci(0.95, method="exact")
    found = {"runs": len(runs), "alarmed": len(wrong), "rate": len(wrong) / len(runs)}
    return {**found, "ci95": [float(interval.low), float(interval.high)], "which": wrong}


def report(null: Sequence[Replayed], collapsed: Sequence[Replayed], limits: AuditConfig) -> dict[str, Any]:
    """All numbers, as plain data."""
    halves: tuple[list[Replayed], list[Replayed]] = ([], [])
    groups = {name: sorted((r for r in null if r.group == name), key=lambda r: r.name) for name in _names(null)}
    for members in groups.values():
        for number, run in enumerate(members):
            halves[number % 2].append(run)
    fitted = fit(halves[0])
    now = {name: getattr(limits, name) for name in SIGNALS}
    return {
        "level": LEVEL,
        "limits": asdict(limits),
        "null": {
            "with the limits in force": rate(null, now),
            "by group": {name: rate(members, now) for name, members in groups.items()},
            "largest excess that lasted": {
                name: max(((run.peaks.get(name, 0.0), run.name, run.group) for run in null), default=None)
                for name in SIGNALS
            },
            "share of the limit, worst signal": _quantiles(
                [max((run.peaks[name] / now[name] for name in run.peaks if now[name]), default=0.0) for run in null]
            ),
        },
        "fitted on one half": {"limits": fitted, "runs": len(halves[0]), "on the other half": rate(halves[1], fitted)},
        "runs without an alarm for an upper bound of the level": math.ceil(math.log(0.025) / math.log(1 - LEVEL)),
        "collapsed": [
            {
                "run": run.name,
                "group": run.group,
                "first alarm": _first(run.alarms),
                "first alarm of answers": _first([one for one in run.alarms if one[2] != "update"]),
                "collapsed by rule at": run.by_rule,
                "iterations": run.last,
            }
            for run in collapsed
        ],
    }


def train_toys(folder: Path, seeds: int) -> None:
    """Null runs on the toy with a model of five tokens, one after the other; those that are
    finished are kept."""
    from coevo_agents.learners.policy import ActorCritic
    from coevo_agents.runs.config import Config
    from coevo_agents.training.loop import Run
    from coevo_env.testing import tiny_lm

    if not (folder / "model").is_dir():
        ActorCritic(tiny_lm(5, seed=3)).save_pretrained(folder / "model")
    for seed in range(seeds):
        for name, given in TOYS.items():
            if (folder / f"{name}-{seed}" / "summary.json").is_file():
                continue
            rate = {f"{given.get('learner', 'ppo')}.learning_rate": 0.003}
            usual = {"task": "toy", "iterations": 40, "kl.beta": 0.3, "eval_every": 5, "save_every": 0, "eval_draws": 1}
            config = apply(Config(model=str(folder / "model")), {**usual, "seed": seed, **rate, **given})
            Run(config, folder / f"{name}-{seed}").train()


def read(places: Iterable[Path], limits: AuditConfig) -> tuple[list[Replayed], list[str]]:
    """Runs in these folders or in folders of them, and those that could not be replayed."""
    found, left = [], []
    for place in places:
        folders = [place] if (place / "metrics.jsonl").is_file() else sorted(place.glob("*/"))
        for folder in folders:
            if not (folder / "metrics.jsonl").is_file():
                continue
            run = replay(read_record(folder), limits)
            if run is None:
                left.append(str(folder))
            else:
                found.append(run)
    return found, left


def _first(alarms: Sequence[tuple[int, str, str, list[str]]]) -> list[Any] | None:
    return list(alarms[0]) if alarms else None


def _group(config: Any) -> str:
    settings = board_settings(config)
    kept = {name: v for name, v in settings.items() if name not in SAME and not name.startswith("audit.")}
    return " ".join(f"{name}={value}" for name, value in sorted(kept.items()))


def _names(runs: Iterable[Replayed]) -> list[str]:
    return sorted({run.group for run in runs})


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not len(values):
        return {}
    return {str(q): float(np.quantile(values, q)) for q in (0.5, 0.9, 0.99, 1.0)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the report and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--null", nargs="+", type=Path, default=[], help="runs that nobody would call collapsed")
    parser.add_argument("--collapsed", nargs="+", type=Path, default=[], help="runs that collapse")
    parser.add_argument("--toys", type=Path, help="train null runs on the toy in this folder, and do nothing else")
    parser.add_argument("--seeds", type=int, default=10, help="of each kind of them")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    given = parser.parse_args(arguments)
    if given.toys:
        train_toys(given.toys, given.seeds)
        return
    limits = AuditConfig()
    (null, left), (collapsed, unseen) = read(given.null, limits), read(given.collapsed, limits)
    found = {
        "command": " ".join(["python -m benchmarks.audit", *(sys.argv[1:] if arguments is None else arguments)]),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        **report(null, collapsed, limits),
        "left out": left + unseen,
    }
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
