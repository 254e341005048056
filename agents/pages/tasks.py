"""The built-in tasks as a list.

One idea: a paragraph for each, because a table of four columns needs a wide terminal.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from rich.padding import Padding
from rich.text import Text

from coevo_env.errors import CoevoError
from coevo_env.game.splits import SPLITS
from coevo_env.tasks import BUILTIN_TASKS, make_task

__all__ = ["task_list"]

OTHERS = (
    ("reasoning-gym/<dataset>", "any dataset of reasoning-gym (extra: reasoning-gym); model: smollm2"),
    ("package.module:function", "your own (docs/add_a_task.md)"),
)


def task_list() -> Iterator[Text | Padding]:
    """Name, description, number of prompts and default model of each; what is not installed here
    says so."""
    for name, home in BUILTIN_TASKS.items():
        try:
            task = make_task(name)
            counts = " / ".join(str(len(task.prompts(split))) for split in SPLITS)
            model = "a tiny random one" if task.model == "table" else task.model
            facts = f"prompts to train / validate / test on: {counts}; model: {model}"
            yield from _paragraph(name, task.description, facts)
        except CoevoError:
            what = (importlib.import_module(home).__doc__ or "").splitlines()[0]
            yield from _paragraph(name, what, f"not installed here; `coevo train --task {name}` says how")
    for name, what in OTHERS:
        yield from _paragraph(name, what)


def _paragraph(name: str, *lines: str) -> Iterator[Text | Padding]:
    yield Text(name, "bold", overflow="fold")
    for number, line in enumerate(lines):
        yield Padding(Text(line, "dim" if number else ""), (0, 0, 0, 4))
