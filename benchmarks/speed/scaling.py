"""How the cost of an iteration grows with the batch, the tokens and the number of agents, and
whether memory grows with the episodes run.

One idea: every setting is measured once per round, round after round, so that a slow minute touches
them all; a straight line is then fitted to the medians, and its R^2 says whether growth is linear.
An iteration is one batch played and one PPO update (4 epochs) of each agent of the embedded model,
without logs. Observers see the previous response only (`context="previous"`): if each saw all of
them, contexts would grow with N as well, and the cost with N^2, by design of the game.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from .models import config, label
from .results import Item, Row
from .timing import Estimate, clock_for, interleave, median_of

AXES = {
    "batch": ("batch_size", (8, 16, 32, 64, 96, 128), "episodes per batch"),
    "tokens": ("max_new_tokens", (4, 8, 16, 24, 32, 48), "tokens per response"),
    "agents": ("num_agents", (1, 2, 3, 4, 5, 6), "agents"),
}
LINEAR = 0.98
RESAMPLES = 1000


def run(settings: Any) -> Item:
    item = Item()
    repeats, iterations = (1, 4) if settings.quick else (9, 200)
    for axis, (name, values, unit) in AXES.items():
        values = values[:3] if settings.quick else values
        sides = {str(value): _iteration(name, value) for value in values}
        seconds = np.stack(
            list(interleave(sides, repeats, warmup=1, clock=clock_for(settings.threads)).values()), 1
        )  # (R, K)
        r2, slope = _fits(np.array(values, float), seconds)
        fixed = _fixed(name)
        item.rows.append(
            Row.of(f"R² of a straight line: cost over {unit}", r2, unit="", sense=">=", bar=LINEAR, note=fixed)
        )
        item.rows.append(
            Row.of(f"slope: cost over {unit}", slope.scaled(1e3), unit="ms each", note=f"{label('embedded')}, {fixed}")
        )
        medians = [median_of(column) for column in seconds.T]
        item.series[axis] = {
            "unit": unit,
            "x": list(values),
            "seconds": [estimate.value for estimate in medians],
            "low": [estimate.low for estimate in medians],
            "high": [estimate.high for estimate in medians],
        }
    done = subprocess.run([sys.executable, "-m", __name__, str(iterations)], capture_output=True, text=True, check=True)
    resident = np.array(json.loads(done.stdout.splitlines()[-1])) / 2**20  # (iterations,) MiB
    item.series["memory"] = {"episodes": [8 * (i + 1) for i in range(len(resident))], "mib": resident.round(3).tolist()}
    early, late = (np.array_split(resident, 4)[i] for i in (1, 3))
    growth = float(np.median(late) - np.median(early))
    note = (
        f"last quarter less the second one, of {8 * len(resident):,} episodes by the training loop, logs included, "
        "in a fresh process"
    )
    item.rows.append(Row("growth of resident memory", growth, growth, growth, unit="MiB", bar=2.0, note=note))
    return item


def _settings(name: str, value: int) -> Any:
    changed = {"max_new_tokens": 16, "batch_size": 32, "num_agents": 2, name: value}
    return config(
        "embedded", context="previous", max_context=110 - 48, min_new_tokens=changed["max_new_tokens"], **changed
    )


def _fixed(name: str) -> str:
    others = {"batch_size": "batch 32", "max_new_tokens": "16 tokens", "num_agents": "2 agents"}
    return ", ".join(text for key, text in others.items() if key != name)


def _iteration(name: str, value: int) -> Callable[[], None]:
    """One iteration with a setting changed; each call plays the next batch."""
    from coevo_agents.learners.policy import make_policies
    from coevo_agents.learners.ppo import PPO
    from coevo_agents.training.play import play
    from coevo_env.faces.batch import BatchEnv
    from coevo_env.faces.build import build
    from coevo_env.lm.model import LanguageModel
    from coevo_env.tasks import make_task

    settings = _settings(name, value)
    agents = [f"llm{i + 1}" for i in range(settings.num_agents)]
    policies, reference = make_policies(LanguageModel.from_pretrained("embedded"), agents, None, 0)
    rules, _ = build(make_task(settings.task), reference, **{**settings.game(), "task_options": None})
    game = BatchEnv(settings.batch_size, rules=rules, reference=reference)
    learners = [PPO(policy, reference, settings.settings, rules.sampling, i) for i, policy in enumerate(policies)]

    def iteration() -> None:
        game.reset()
        play(game, [learner.policy for learner in learners])
        for learner, rollout in zip(learners, game.rollouts(), strict=True):
            learner.update(rollout)
        game.update_controllers()

    return iteration


def _fits(x: np.ndarray, seconds: np.ndarray) -> tuple[Estimate, Estimate]:
    """R^2 and slope of the line through the medians, with intervals from resampled rounds."""
    rounds = len(seconds)
    draws = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
    r2, slope = _line(x, np.median(seconds, 0))
    many = np.array([_line(x, np.median(seconds[rows], 0)) for rows in draws])
    (r2_low, slope_low), (r2_high, slope_high) = np.percentile(many, [2.5, 97.5], axis=0)
    return Estimate(r2, float(r2_low), float(r2_high), rounds), Estimate(
        slope, float(slope_low), float(slope_high), rounds
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope, offset = np.polyfit(x, y, 1)
    rest = y - (slope * x + offset)
    return float(1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum()), float(slope)


def _resident(iterations: int) -> list[int]:
    """Bytes of resident memory after each iteration of the training loop, 8 episodes of 4 tokens
    each."""
    import psutil

    from coevo_agents.training.loop import Run

    process = psutil.Process()
    sizes: list[int] = []

    def after(iteration: int, _metrics: dict[str, float]) -> None:
        if iteration:
            gc.collect()
            sizes.append(process.memory_info().rss)

    with tempfile.TemporaryDirectory() as folder:
        settings = config(
            "embedded", batch_size=8, max_new_tokens=4, min_new_tokens=4, iterations=iterations + 1, **{"ppo.epochs": 1}
        )
        Run(settings, folder, report=after).train()
    return sizes[:-1]  # the last iteration evaluates as well


if __name__ == "__main__":
    print(json.dumps(_resident(int(sys.argv[1]))))
