"""Whom a command is about: the saved agents that a run folder, a model directory or a name stands
for.

One idea: of a run that has finished these are its agents, and of one that has not what its newest
checkpoint holds, written to a place that vanishes afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..runs.config import Config
from ..runs.folder import initial_model, read_config
from ..runs.given import check_repeated
from ..runs.saved import run_of, saved_agents
from .outcome import save_stopped

__all__ = ["found"]


@contextmanager
def found(
    spec: str, task: str | None, reward: str | None, say: Callable[[str], None]
) -> Iterator[tuple[Config, dict[str, str], Path | None]]:
    """The config of a run, with another task if one is given; its agents, name -> folder; and the
    run itself, where they do not lie in it.

    Args:
        spec: A run folder, a saved agent in one, a model directory or a name.
        task: Another task than the run's.
        reward: The run's reward, where that is code of one's own.
        say: Called with what a person should know.

    Raises:
        ConfigError: A run folder that cannot be read, holds other agents than its run saved, or
            names code that was not named once more.
        CheckpointError: A run that has not finished, without a whole checkpoint.
    """

    def chosen(config: Config) -> Config:
        return config if task in (None, config.task) else replace(config, task=task, task_options={})

    def known(run: Path) -> Config:
        config = read_config(run, uses=())
        if task in (None, config.task):  # its task options are used too, and they may name a reward that is code
            config = read_config(run, trusted={"task": task or "", "reward": reward or ""}, uses=("task",))
        config = replace(chosen(config), model=initial_model(run, config))
        check_repeated(reward, config)
        return config

    path = Path(spec)
    if path.is_dir() and any((path / name).exists() for name in ("agents", "metrics.jsonl", "checkpoints")):
        config = known(path)
        if saved := saved_agents(path):
            yield config, saved, None
            return
        with tempfile.TemporaryDirectory() as place:
            iteration = save_stopped(path, config, Path(place))
            say(f"{spec} has not finished; its agents are those of iteration {iteration}.")
            yield config, saved_agents(Path(place)), path
    elif run := run_of(path):
        yield known(run), {path.name: spec}, None
    else:
        config = chosen(Config(model=spec))
        check_repeated(reward, config)
        yield config, {path.name or spec: spec}, None
