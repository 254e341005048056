"""The settings of a run from the words of a command.

One idea: an option is another spelling of a setting by its dotted name, so that words, a file and a
preset are laid over one another, the words last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError, unknown_name

from . import settings
from .config import Config
from .folder import read_config

__all__ = ["check_repeated", "chosen", "fresh_folder", "overrides", "own_data", "resumed"]


def overrides(named: dict[str, Any], given: list[str]) -> dict[str, Any]:
    """Settings by dotted name from options of their own and from `--set`."""
    overrides = {name: value for name, value in named.items() if value is not None}
    for item in given:
        name, separator, value = item.partition("=")
        if not separator:
            raise ConfigError(f"--set {item!r}; expected NAME=VALUE, such as kl.beta=0.1.")
        if name in overrides:
            raise ConfigError(f"the setting {name} is given twice, as {overrides[name]!r} and {value!r}; give it once.")
        overrides[name] = value
    return overrides


def own_data(
    task: str | None,
    prompts: str | None,
    prompt_column: str | None,
    answer_column: str | None,
    reward: str | None,
    template: list[str],
) -> dict[str, Any]:
    """Settings of the task `own` from options of their own, those that are given."""
    if prompts and task not in (None, "own"):
        raise ConfigError(f"--prompts with --task {task}; prompts of your own are the task 'own'. Give one of them.")
    templates = {}
    for item in template:
        role, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--template {item!r}; expected ROLE=TEXT, such as pioneer='{{prompt}}'.")
        if role not in ("pioneer", "observer"):
            raise unknown_name("role of --template", role, ("pioneer", "observer"))
        if role in templates:
            raise ConfigError(f"--template {role} is given twice; give it once.")
        templates[role] = text.replace("\\n", "\n")
    place = Path(prompts).expanduser() if prompts else None
    found = {
        "task": "own" if prompts else None,
        # whole, so that the run can be resumed and evaluated from another folder
        "task_options.prompts": str(place.resolve()) if place and place.exists() else prompts,
        "task_options.prompt_column": prompt_column,
        "task_options.answer_column": answer_column,
        "task_options.reward": reward,
        "task_options.templates": templates or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def chosen(preset: str | None, file: Path | None, overrides: dict[str, Any]) -> Config:
    """The config of a new run: a preset, a file over it, and the command line over both."""
    if file is None or file.suffix != ".json":
        given = settings.read_toml(file) if file else {}
        if preset and "preset" in given:
            raise ConfigError(f"--preset {preset} and {file} with preset = {given['preset']!r}; give one of them.")
        config = settings.apply(settings.preset(preset or given.pop("preset", "default")), given)
    elif preset:
        raise ConfigError(f"--preset {preset} with {file}, which holds every setting of a run; give one of them.")
    else:
        own = {name: overrides[name] for name in ("task", "learner") if name in overrides}
        reward = {"reward": overrides["task_options.reward"]} if "task_options.reward" in overrides else {}
        config = read_config(
            file,
            trusted={**own, **reward},
            uses=[name for name in ("task", "learner") if name not in own or ":" in own[name]],
        )
    return settings.apply(config, overrides)


def check_repeated(reward: str | None, config: Config) -> None:
    """Refuses a reward that a command was given for saved agents, where the task is paid by
    another: `config` alone says by which they are measured.

    Raises:
        ConfigError: It is not that of the task.
    """
    own = config.task_options.get("reward")
    if reward in (None, own):
        return
    what = "has its own" if own is None else f"is paid by {own!r}"
    raise ConfigError(
        f"--reward {reward}: the task {config.task!r} {what}, and saved agents are measured by that. Expected no "
        "--reward, or that of the run once more where it is code of yours; for another, give a task that has it: "
        "--task module:function."
    )


def resumed(folder: Path, overrides: dict[str, Any], alone: bool) -> Config:
    """The config of a run that goes on."""
    own = {name: overrides.pop(name) for name in ("task", "learner") if name in overrides}
    if (reward := overrides.pop("task_options.reward", None)) is not None:
        own["reward"] = reward
    config = read_config(folder, trusted=own)
    current = {"task": config.task, "learner": config.learner, "reward": config.task_options.get("reward")}
    changed = [name for name, value in own.items() if current[name] != value]
    if changed or set(overrides) - {"iterations", "stop_on", "trust_remote_code"} or not alone:
        raise ConfigError(
            "--resume continues a run with the settings it was started with; only --iterations and --stop-on can be "
            "given besides (and what a run folder cannot say for you: --set trust_remote_code=true, and a --task, "
            "--learner or --reward of your own, once more)."
        )
    return settings.apply(config, overrides)


@contextmanager
def fresh_folder(name: str) -> Iterator[Path]:
    """A folder in runs/ that nobody had: making it is what claims it, so that runs that are started
    in the same second get one each. It vanishes if nothing comes into it."""
    stem = name.replace("/", "-").replace(":", "-")
    stem = "sentiment" if stem == "default" else stem
    base = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = base, 1
    try:
        base.parent.mkdir(exist_ok=True)
        while True:
            with suppress(FileExistsError):
                folder.mkdir()
                break
            number += 1
            folder = base.with_name(f"{base.name}-{number}")
    except OSError as error:
        raise ConfigError(
            f"the run folder {folder} could not be made: {error}. Choose another one with --out."
        ) from error
    try:
        yield folder
    finally:
        with suppress(OSError):  # there is something in it
            folder.rmdir()
