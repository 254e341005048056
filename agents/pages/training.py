"""What `coevo train` prints.

One idea: a run goes on whether or not anybody looks; this is who looks.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from coevo_env.errors import CoevoError, printable
from coevo_env.game.preview import preview

from ..runs.config import Config
from ..runs.folder import repeated
from ..training.loop import Run
from .progress import progress
from .tables import summary_table

__all__ = ["trained"]


def trained(console: Console, config: Config, folder: Path, resume: bool) -> None:
    """Runs to the end, and says what there is to be seen.

    Raises:
        Collapsed: The audit ended the run, as was asked.
    """

    def say(line: str) -> None:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    with progress(console, config) as report:
        run = Run(config, folder, resume=resume, report=report, say=say)
        if not resume and (config.task == "own" or ":" in config.task):
            say(preview(run.parts.game.rules))  # what agents will read, where nobody has seen it before
        summary = run.train()
    console.print(summary_table(summary))
    again = repeated(config, "task")
    say(
        f"Run folder: {folder}\nLook at it: coevo show {folder}\nTalk to it: coevo play {folder}{again}\n"
        f"Its numbers again: coevo eval {folder}{again}"
    )
    if run.alarmed:
        raise Collapsed(
            f"the collapse audit ended the run after iteration {run.iteration} of {config.iterations}; it is saved. "
            f"See {folder / 'alarms.jsonl'}. To go on all the same: coevo train --resume {folder} --stop-on never"
            f"{repeated(config, 'task', 'learner')}"
        )


class Collapsed(CoevoError):
    """The audit ended a run; the exit status of `coevo train` is then 3."""

    code = 3
