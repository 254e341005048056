"""Bridges to the libraries that people use: one module a library, imported only when it is asked
for.

One idea: an adapter translates shapes and names and has no rules of its own. Whatever the
environment paid must be what the library's learner saw; a test of each adapter adds both up.
docs/adapters.md says what works with which version.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import metadata

from coevo_env.errors import ConfigError, MissingExtraError, unknown_name
from coevo_env.game.task import Task
from coevo_env.tasks import make_task

__all__ = ["LIBRARIES", "Library", "alone", "require"]

OVERRIDE = "COEVO_ALLOW_UNTESTED"


@dataclass(frozen=True)
class Library:
    """A library with an adapter.

    Attributes:
        package: Name of the distribution on PyPI.
        extra: The extra of coevo-env that installs it, or None for a core dependency.
        low, high: Tested versions: low <= version < high.
    """

    package: str
    extra: str | None
    low: str
    high: str


LIBRARIES = {
    "stable-baselines3": Library("stable-baselines3", None, "2.6", "3"),
    "sb3-contrib": Library("sb3-contrib", "sb3", "2.6", "3"),
    "torchrl": Library("torchrl", "torchrl", "0.11", "0.15"),
    "benchmarl": Library("benchmarl", "benchmarl", "1.5.2", "1.6"),
    "rllib": Library("ray", "rllib", "2.50", "2.61"),
    "tianshou": Library("tianshou", "tianshou", "2.0", "2.1"),
    "agilerl": Library("agilerl", "agilerl", "2.50", "2.59"),
    "trl": Library("trl", "trl", "1.0", "1.17"),
    "verifiers": Library("verifiers", "verifiers", "0.4", "0.5"),
    "openenv": Library("openenv", "openenv", "0.10", "0.11"),
    "reasoning-gym": Library("reasoning-gym", "reasoning-gym", "0.1.25", "0.2"),
}


def require(name: str) -> str:
    """Checks that a library is there in a version that its adapter was tested with; returns the
    version.

    Raises:
        MissingExtraError: It is not installed.
        ConfigError: Another version; set the environment variable COEVO_ALLOW_UNTESTED=1 to try it
            all the same.
    """
    if name not in LIBRARIES:
        raise unknown_name("library", name, LIBRARIES)
    library = LIBRARIES[name]
    try:
        version = metadata.version(library.package)
    except metadata.PackageNotFoundError:
        raise MissingExtraError(f"the adapter for {name}", library.package, library.extra) from None
    if not _numbers(library.low) <= _numbers(version) < _numbers(library.high) and os.environ.get(OVERRIDE) != "1":
        raise ConfigError(
            f"the adapter for {name}: got {library.package} {version}; tested with >= {library.low}, < {library.high}. "
            "Install one of those, or set "
            f"{OVERRIDE}=1 to try this one."
        )
    return version


def alone(task: Task | str, name: str) -> Task:
    """A task for a library that scores each response by itself.

    Raises:
        ConfigError: It has joint rewards, which nobody would be paid there.
    """
    task = make_task(task)
    if task.joint_rewards:
        raise ConfigError(
            f"the adapter for {name}: the task {task.name!r} has the joint rewards {', '.join(task.joint_rewards)}, "
            f"which score the responses of an episode together, and {name} knows one response at a time. Expected a "
            "task with ordinary rewards only; the adapters for environments play the others."
        )
    return task


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, "2.9.2rc1" -> (2, 9, 2)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]
