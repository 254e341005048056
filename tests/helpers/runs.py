"""Small real runs for the tests of the loop, the checkpoints and the command: a random GPT-2 of
five tokens on the toy task.

One idea: these are ordinary runs of `coevo_agents.training.loop.Run`, only tiny, so that a test can
afford to kill and resume them many times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coevo_agents.learners.policy import ActorCritic
from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_agents.training.loop import Run
from coevo_env.game.task import Task
from coevo_env.tasks import toy
from coevo_env.testing import tiny_lm

COEVO = str(Path(sys.executable).with_name("coevo"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}

TINY: dict[str, Any] = {
    "task": "toy",
    "batch_size": 8,
    "iterations": 6,
    "exchange_every": 1,
    "eval_every": 2,
    "save_every": 2,
    "ppo.learning_rate": 0.01,
}


def tiny(learner: str) -> dict[str, Any]:
    """`TINY` without the settings of another learner."""
    return {name: value for name, value in TINY.items() if learner == "ppo" or not name.startswith("ppo.")}


def save_tiny(directory: Path, vocab_size: int | None = 5) -> Path:
    """A tiny model on disk."""
    ActorCritic(tiny_lm(vocab_size, seed=3)).save_pretrained(directory)
    return directory


def config(model: Path, **overrides: Any) -> Config:
    """Settings of a tiny run; `__` stands for a dot."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return apply(Config(model=str(model)), {**tiny(given.get("learner", "ppo")), **given})


def train(settings: Config, directory: Path, **options: Any) -> Run:
    """Runs to the end."""
    run = Run(settings, directory, **options)
    run.train()
    return run


def lines(directory: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """A log, without what a clock measured."""
    rows = [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").splitlines()]
    return [{tag: value for tag, value in row.items() if not tag.startswith("time/")} for row in rows]


def weights(directory: Path) -> dict[str, bytes]:
    """The saved agents, byte by byte."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted((directory / "agents").rglob("*.safetensors"))
    }


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Metrics, transcripts, alarms, summary and weights are equal bit for bit."""
    for name in ("metrics.jsonl", "transcripts.jsonl", "alarms.jsonl"):
        assert lines(ours, name) == lines(theirs, name), name
    assert (ours / "summary.json").read_bytes() == (theirs / "summary.json").read_bytes()
    assert weights(ours) == weights(theirs)
    assert len(weights(ours)) >= 2


def same_state(ours: Any, theirs: Any) -> bool:
    """Two learners' states are equal bit for bit."""
    return set(ours) == set(theirs) and all(
        np.array_equal(np.asarray(ours[key]), np.asarray(theirs[key])) for key in ours
    )


def coevo(*arguments: object, cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command, as a user types it."""
    words = [COEVO, *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, check=False)


BREAK: dict[str, Any] = {"after": None, "with": None}
"""What the reward of `mendable` does on call number `after`: `with(values)` instead of the
values."""


def mendable() -> Task:
    """The toy with a reward that `BREAK` can break, and mend."""
    task = toy.task()
    matches = task.rewards["matches"]
    assert callable(matches)

    def fragile(prompts, responses):
        values = list(matches(prompts, responses))
        broken = vars(sys.modules[__name__])["BREAK"]  # what breaks is the world outside, no value of the reward's own
        if broken["after"] is None:
            return values
        broken["after"] -= 1
        return broken["with"](values) if broken["after"] < 0 else values

    return replace(task, name="mendable", rewards={"fragile": fragile})


def board(directory: Path):
    """The TensorBoard events of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(
        str(directory / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}
    )
    accumulator.Reload()
    return accumulator


def assert_board_agrees(directory: Path) -> None:
    """TensorBoard has every metric of a run once, and no other."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    ours = {(tag, row["iteration"]): value for row in rows for tag, value in row.items() if tag != "iteration"}
    events = board(directory)
    points = [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    theirs = {(tag, step): value for tag, step, value in points}
    assert len(points) == len(theirs), "a point was written twice"
    assert set(theirs) == set(ours)
    assert all(np.float32(ours[key]) == np.float32(theirs[key]) for key in ours if not key[0].startswith("time/"))
    histograms = events.Histograms("llm1/histogram/kl")
    assert [event.step for event in histograms] == [row["iteration"] for row in rows if "llm1/kl" in row]
