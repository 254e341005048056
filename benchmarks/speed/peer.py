"""Our training loop and another library's trainer, one iteration of ours and one step of theirs in
turn.

One idea: the other library waits in a process of its own, in an environment of its own, and makes a
step each time it is told to. What both do is the business of whoever asks.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from coevo_agents.runs.config import Config

from .timing import clock_for

__all__ = ["Worker", "WorkerError", "in_turn"]


class WorkerError(Exception):
    """The other library did not do what was asked; its last words."""


class Worker:
    """Another library in its own process, one step at a time.

    Args:
        python: Of the environment that has it.
        script: A file beside this one, which is given the order and a folder.
        order: What to do; JSON.
        folder: Where it may write; must not exist.
    """

    def __init__(self, python: str, script: str, order: dict[str, Any], folder: Path):
        folder.mkdir()
        (folder / "order.json").write_text(json.dumps(order))
        self.script, self.errors = script, open(folder / "errors.txt", "w+")  # noqa: SIM115  # closed in __exit__
        environment = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "WANDB_MODE": "disabled", "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name(script)), str(folder / "order.json"), str(folder / "theirs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Worker:
        return self

    def step(self) -> float:
        """Seconds of its next step."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it died; the empty answer below says so
            pass
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = " ".join(self.errors.read().strip().splitlines()[-2:])[-400:]
            raise WorkerError(f"{self.script} stopped with code {self.process.wait()}: {last}")
        return float(line)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def in_turn(
    python: str, script: str, order: dict[str, Any], config: Config, repeats: int, warmup: int, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of our iterations, logs included, and of the other library's steps, (R,) each.

    Args:
        python, script, order: See `Worker`; "steps" and "wall" are added to the order.
        config: Settings of our run; its length is set here.
        repeats, warmup: Pairs that count, and pairs before them.
        threads: CPU threads of torch.
    """
    from coevo_agents.runs.settings import apply
    from coevo_agents.training.loop import Run

    clock, ours, theirs, mark = clock_for(threads), [], [], 0.0
    order = {**order, "steps": warmup + repeats, "wall": threads != 1}

    def after(iteration: int, _metrics: dict[str, float]) -> None:
        nonlocal mark
        elapsed = clock() - mark
        if 1 <= iteration <= warmup + repeats:  # 0 is the evaluation before training, and the last one evaluates too
            seconds = worker.step()
            if iteration > warmup:
                ours.append(elapsed)
                theirs.append(seconds)
        mark = clock()

    with tempfile.TemporaryDirectory() as folder, Worker(python, script, order, Path(folder) / "theirs") as worker:
        Run(apply(config, {"iterations": warmup + repeats + 1}), Path(folder) / "run", report=after).train()
    return np.array(ours), np.array(theirs)
