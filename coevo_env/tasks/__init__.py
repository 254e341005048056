"""The built-in tasks by name, and any task from what people call it.

One idea: a task is a file of this folder with a function `task(**options) -> Task`, and one line of
`BUILTIN_TASKS`. Nothing is imported before it is asked for, so a task may need packages that others
do not.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from ..errors import CoevoError, ConfigError, unknown_name
from ..game.preview import preview
from ..game.task import Task

__all__ = ["BUILTIN_TASKS", "FAMILIES", "make_task", "preview"]

BUILTIN_TASKS = {
    "sentiment": "coevo_env.tasks.sentiment",
    "arithmetic": "coevo_env.tasks.arithmetic",
    "imdb": "coevo_env.tasks.imdb",
    "gsm8k": "coevo_env.tasks.gsm8k",
    "toy": "coevo_env.tasks.toy",
    "matching": "coevo_env.tasks.matching",
    "own": "coevo_env.tasks.own",
}
"""Name -> module; each module has a function `task(**options) -> Task`."""

FAMILIES = {"reasoning-gym/<dataset>": "coevo_env.tasks.reasoning_gym"}
"""Name with an option in it -> module; `"reasoning-gym/chain_sum"` is its task with that option."""


def make_task(spec: str | Task, **options: Any) -> Task:
    """Builds a task from its name.

    Args:
        spec: A `Task` (returned as it is), a name of `BUILTIN_TASKS`, one that fits `FAMILIES`,
            or `"package.module:function"` for one's own.
        options: Passed to the task's function.

    Raises:
        ConfigError: The name is unknown (the nearest is suggested), or an option is not one of the
            task's.
    """
    if isinstance(spec, Task):
        if options:
            raise ConfigError(
                f"make_task got a Task object and the options {sorted(options)}; give options only with a name."
            )
        return spec
    if not isinstance(spec, str):
        raise ConfigError(f"task {spec!r}; expected a coevo_env.Task, or a name such as 'sentiment'.")
    function, named = _function(spec)
    options = {**named, **options}
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise ConfigError(f"task {spec!r}: {error}. Its options are: {inspect.signature(function)}.") from None
    try:
        task = function(**options)
    except CoevoError:
        raise
    except Exception as error:
        raise ConfigError(
            f"task {spec!r} with the options {options} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(task, Task):
        raise ConfigError(f"task {spec!r} returned {type(task).__name__}; expected a coevo_env.Task.")
    return task


def _function(spec: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that a name stands for, and the options that stand in the name."""
    for pattern, module in FAMILIES.items():
        family, option = pattern.rstrip(">").split("<")
        if spec.startswith(family):
            return importlib.import_module(module).task, {option: spec.removeprefix(family)}
    if spec in BUILTIN_TASKS:
        return importlib.import_module(BUILTIN_TASKS[spec]).task, {}
    module, _, attribute = spec.partition(":")
    if ":" not in spec:
        raise unknown_name("task", spec, [*BUILTIN_TASKS, *FAMILIES, "package.module:function"])
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user's can fail in any way
        raise ConfigError(
            f"task {spec!r} could not be imported: {type(error).__name__}: {error}. Expected 'package.module:function'."
        ) from error
    if not callable(function):
        raise ConfigError(
            f"task {spec!r} is a {type(function).__name__}; expected a function that returns a coevo_env.Task."
        )
    return function, {}
