"""Configurations that Optuna proposes, instead of a grid: as many for every arm.

One idea: each arm has a study of its own that is told its finished trials in their order, so that a
suite that was stopped proposes the same ones again and finds them done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError, MissingExtraError

from ..launch.executor import Outcome
from .rows import Row
from .suite import Suite
from .trials import score, trial_job, trial_row

__all__ = ["proposed"]


def proposed(
    suite: Suite, task: str, out: Path, workers: int, told: Callable[[Outcome], None], run: Callable[..., list[Outcome]]
) -> list[Row]:
    """The trials of every arm on a task, one configuration of each arm after the other.

    The values of a setting in an arm's grid are its bounds, if they are two numbers (on a
    logarithmic scale where both are above 0 and the larger is at least ten times the smaller), else
    the choices.

    Raises:
        MissingExtraError: Optuna is not installed.
    """
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("tuning.sampler='optuna'", "optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = {
        arm.name: optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        for arm in suite.arms
    }
    rows: list[Row] = []
    for number in range(suite.tuning.trials):
        asked = {arm.name: studies[arm.name].ask() for arm in suite.arms}
        tried = {arm.name: _values(asked[arm.name], arm.grid) for arm in suite.arms}
        keys = [(arm, seed) for arm in suite.arms for seed in range(suite.tuning.seeds)]
        jobs = [trial_job(suite, arm, task, number, seed, tried[arm.name], out) for arm, seed in keys]
        found = [
            trial_row(suite, outcome, arm, task, number, seed, tried[arm.name])
            for outcome, (arm, seed) in zip(run(jobs, workers, told), keys, strict=True)
        ]
        rows += found
        for arm in suite.arms:
            mine = [row for row, (other, _) in zip(found, keys, strict=True) if other is arm]
            value = score(suite, mine)
            if value > float("-inf"):
                studies[arm.name].tell(asked[arm.name], value)
            else:
                studies[arm.name].tell(asked[arm.name], state=optuna.trial.TrialState.FAIL)
    return rows


def _values(trial: Any, grid: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What a trial proposes for each setting."""
    found: dict[str, Any] = {}
    for name, values in grid.items():
        bounds = len(values) == 2 and all(type(value) in (int, float) for value in values)
        if not bounds:
            found[name] = trial.suggest_categorical(name, list(values))
            continue
        low, high = sorted(values)
        if low == high:
            raise ConfigError(f"the bounds of {name} are both {low}; expected two different numbers.")
        log = low > 0 and high >= 10 * low
        if all(type(value) is int for value in values):
            found[name] = trial.suggest_int(name, low, high, log=log)
        else:
            found[name] = trial.suggest_float(name, low, high, log=log)
    return found
