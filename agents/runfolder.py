"""What surrounds a run: its folder, its record of versions, and Ctrl-C.

One idea: a run folder is claimed before anything is computed, and says by itself how its run was made.
"""

from __future__ import annotations

import json
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from coevo_env.errors import CoevoError, ConfigError
from coevo_env.lm import LanguageModel

from .checkpoint import CheckpointError, checkpoints, hint, replacing, write_json
from .config import Config, from_dict, to_dict
from .policy import quiet

__all__ = ["claim", "deferred_interrupt", "extend", "initial_model", "provenance", "read_config", "save_initial", "write_config"]


def read_config(directory: str | Path) -> Config:
    """The config of a run folder. What it says of `trust_remote_code` is not taken over: only a person can say that.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    path = Path(directory) / "config.json"
    try:
        config = from_dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{directory} is no run folder: it has no config.json. Give the folder that `coevo train` printed.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} Was it edited?") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not readable ({type(error).__name__}: {error}); expected the JSON that `coevo train` wrote. Was it edited or cut "
            "short? Copy the config.json of a run with the same settings over it."
        ) from error
    return replace(config, trust_remote_code=False)


def provenance() -> dict[str, Any]:
    """Versions, platform and commit, for the record."""
    versions = {"python": platform.python_version()}
    for name in ("coevo-env", "torch", "transformers", "numpy", "pettingzoo", "gymnasium", "peft", "safetensors"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    commit = None
    with suppress(OSError, subprocess.SubprocessError):
        here = Path(__file__).resolve().parent
        done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        commit = done.stdout.strip() or None
    return {"versions": versions, "platform": platform.platform(), "threads": torch.get_num_threads(), "git_commit": commit}


def claim(directory: Path, resume: bool) -> None:
    """A new run needs a folder without one, and a resumed run a folder with one."""
    try:
        taken = (directory / "config.json").exists()
        traces = taken or bool(checkpoints(directory / "checkpoints"))
    except OSError as error:
        raise ConfigError(f"the run folder {directory} could not be read: {error}. Choose another one with --out.") from error
    if traces and not resume:
        raise ConfigError(
            f"{directory} already holds a run. Choose another folder with --out, or continue it with: coevo train --resume {directory}"
        )
    if resume and not taken:
        raise ConfigError(f"{directory} holds no run to resume (no config.json). Start one with: coevo train --out {directory}")


def extend(error: CoevoError, text: str) -> None:
    """Adds a sentence to the message of an error that is on its way, whatever its class."""
    error.args = (f"{error}{text}",)
    if isinstance(error, ImportError):
        error.msg = error.args[0]


def write_config(directory: Path, config: Config) -> None:
    """The resolved settings, as they are now, and where the run was started."""
    path, record = directory / "config.json", {"config": to_dict(config), "provenance": provenance()}
    if path.exists():  # resumed, perhaps with more iterations
        record["provenance"] = json.loads(path.read_text(encoding="utf-8")).get("provenance", record["provenance"])
    write_json(path, record)


def initial_model(directory: Path, config: Config) -> str:
    """The model that a run's agents and its reference started from: the warm-started one if there is one, else that of the settings."""
    warm = directory / "initial"
    return str(warm) if (warm / "config.json").exists() else config.model


def save_initial(base: LanguageModel, directory: Path) -> None:
    """Keeps a warm-started initial model in the run folder, where a resumed run and an evaluation find it.

    Raises:
        CheckpointError: It could not be written.
    """
    try:
        with replacing(directory / "initial") as partial, quiet():
            base.module.save_pretrained(partial, safe_serialization=True)
            base.tokenizer.hf.save_pretrained(partial)
    except OSError as error:
        raise CheckpointError(f"the warm-started model could not be saved: {error}. {hint(error)}, then start the run again.") from error


@contextmanager
def deferred_interrupt(say: Callable[[str], None]) -> Iterator[list[bool]]:
    """Turns the first Ctrl-C into a note that the loop reads at the end of an iteration; the second one stops at once."""
    noted: list[bool] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(True)
        say("finishing this iteration, then saving (press Ctrl-C again to stop at once)")

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: whoever owns it decides
        yield noted
        return
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)
