"""What surrounds a run: its folder, its record of versions, and Ctrl-C.

One idea: a run folder is claimed before anything is computed, and says by itself how its run was
made.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from coevo_env.errors import CoevoError, ConfigError, first_line
from coevo_env.lm.model import LanguageModel
from coevo_env.rewards.named import REWARDS

from ..learners.policy import quiet
from .checkpoint import CheckpointError, checkpoints, hint, replacing, write_json
from .config import Config
from .door import check_folder, refuse_link
from .inputs import FREE, compare, settings_digest
from .schema import ConfigFile, read_json
from .settings import from_dict, to_dict

__all__ = [
    "Interrupted",
    "OutOfMemory",
    "check_inputs",
    "check_settings",
    "claim",
    "deferred_interrupt",
    "extend",
    "initial_model",
    "lacking",
    "make_folder",
    "provenance",
    "read_config",
    "read_saved",
    "repeated",
    "save_initial",
    "stopped",
    "write_config",
]


def read_config(
    place: str | Path, trusted: Mapping[str, str] | None = None, uses: Collection[str] = ("task", "learner")
) -> Config:
    """The config of a run. A run folder can come from anywhere, and only a person can say what
    code is to run: `trust_remote_code` is not taken over, and a task or learner of one's own
    ("module:name", which is imported and called) has to be named once more.

    Args:
        place: The run folder, or its config.json.
        trusted: The task, learner or reward of this kind that may be used, by the name of the
            setting.
        uses: Settings that the caller is going to use.

    Raises:
        ConfigError: There is none, it cannot be read, or it names code that is not in `trusted`.
    """
    path = Path(place)
    if path.suffix != ".json" or path.is_dir():
        path = path / "config.json"
        if path.is_symlink() or path.exists():
            check_folder(Path(place))
    record = read_saved(path)
    try:
        config = from_dict(record["config"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} Was it edited?") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not readable ({type(error).__name__}: {error}); {COPY}") from error
    for name, spec in _code(config, uses):
        if spec != (trusted or {}).get(name):
            raise ConfigError(
                f"{path} names the {name} {spec!r}, code that would be imported and run; a run folder alone cannot ask "
                f"for that. If you know it, repeat it: --{name} {spec} (in Python: read_config({str(place)!r}, "
                f"trusted={{{name!r}: {spec!r}}}))."
            )
    config = replace(config, trust_remote_code=False)
    return config.complete() if "learner" in uses else config


COPY = (
    "expected the JSON that `coevo train` wrote. Was it edited or cut short? Copy the config.json of a run with the "
    "same settings over it."
)


def read_saved(path: Path) -> dict[str, Any]:
    """What a config.json holds: settings, provenance and digests of what the run rests on.

    Raises:
        ConfigError: It is not there, or holds something else.
    """
    try:
        return read_json(path, ConfigFile, ConfigError, advice=COPY)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{path.parent} is no run folder: it has no config.json. Give the folder that `coevo train` printed."
        ) from None


def repeated(config: Config, *uses: str) -> str:
    """What a command has to say once more of a run whose task or learner (`uses`) is code of one's
    own; see `read_config`."""
    return "".join(f" --{name} {spec}" for name, spec in _code(config, uses))


def _code(config: Config, uses: Collection[str]) -> Iterator[tuple[str, str]]:
    """The settings among `uses` that name code of one's own, which would be imported; with the task
    also the reward that it is given."""
    for name in uses:
        if ":" in (spec := getattr(config, name)):
            yield name, spec
    reward = str(config.task_options.get("reward", ""))
    if "task" in uses and ":" in reward and reward.partition(":")[0] not in REWARDS:
        yield "reward", reward


def provenance() -> dict[str, Any]:
    """Versions, platform and commit, for the record; the commit ends in "+changes" and a digest of
    these where files of the package differ from it, and is None where the package does not stand in
    a repository of its own."""
    versions = {"python": platform.python_version()}
    for name in ("coevo-env", "torch", "transformers", "numpy", "pettingzoo", "gymnasium", "peft", "safetensors"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    versions["torch"] = torch.__version__  # with its build, as in 2.13.0+cpu
    commit = None
    with suppress(OSError, subprocess.SubprocessError):
        commit = _commit()
    return {
        "versions": versions,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "git_commit": commit,
    }


def _commit() -> str:
    file = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(file.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    git("ls-files", "--error-unmatch", file.name)  # an installed package may stand in somebody else's repository
    changes = git("status", "--porcelain", "--untracked-files=no", "--", "..", "../../coevo_env")
    if not changes:
        return git("rev-parse", "HEAD")
    digest = hashlib.sha256(git("diff", "HEAD", "--", "..", "../../coevo_env").encode()).hexdigest()
    return f"{git('rev-parse', 'HEAD')}+changes.{digest[:8]}"


def claim(directory: Path, resume: bool) -> None:
    """A new run needs a folder without anything in it, and a resumed run a folder with a run. What
    a run that was stopped before it began has left is cleared away.

    Raises:
        ConfigError: The folder is not what is needed, or holds links.
    """
    try:
        if resume and directory.is_dir():
            check_folder(directory)
        taken = (directory / "config.json").exists()
        traces = taken or bool(checkpoints(directory / "checkpoints"))
        held = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
        for name in held:
            refuse_link(directory, directory / name)
        others = [name for name in held if name[0] != "." and not (name in BEGUN and _is_leftover(directory / name))]
    except OSError as error:
        raise ConfigError(
            f"the run folder {directory} could not be read: {error}. Choose another one with --out."
        ) from error
    if resume:
        if not taken:
            raise ConfigError(
                f"{directory} holds no run to resume (no config.json). Start one with: coevo train --out {directory}"
            )
        return
    if traces:
        raise ConfigError(
            f"{directory} already holds a run. Choose another folder with --out, or continue it with: coevo train "
            f"--resume {directory}"
        )
    if others:
        raise ConfigError(
            f"{directory} is not empty, and what it holds is no run: "
            f"{', '.join(others[:4])}{', ...' if others[4:] else ''}. A run writes files of its own; "
            "choose a new or empty folder with --out."
        )
    for name in BEGUN:
        if (directory / name).is_dir():
            check_folder(directory / name)
    if "initial" in held:
        try:
            shutil.rmtree(directory / "initial")
        except OSError as error:
            raise ConfigError(
                f"{directory / 'initial'}, left by an earlier start, could not be removed: {error}. Remove it by hand."
            ) from error


BEGUN = ("initial", "metrics.jsonl", "transcripts.jsonl", "alarms.jsonl", "tensorboard")
"""What a run makes before its config.json."""

WARM_START = ".made-by-coevo-train"
"""A file that tells a warm-started model of ours from any other."""


def _is_leftover(path: Path) -> bool:
    """Whether a file of a name in `BEGUN` can be what a run made before it began: nothing but a
    saved model, events or empty files."""
    if path.name == "initial":
        return not path.is_symlink() and (path / WARM_START).is_file()
    if path.name == "tensorboard":
        return path.is_dir() and all(entry.name.startswith("events.") for entry in path.iterdir())
    return path.is_file() and path.stat().st_size == 0


def extend(error: CoevoError, text: str) -> None:
    """Adds a sentence to the message of an error that is on its way, whatever its class."""
    error.args = (f"{error}{text}",)
    if isinstance(error, ImportError):
        error.msg = error.args[0]


def write_config(directory: Path, config: Config, rests_on: Mapping[str, Any]) -> None:
    """The resolved settings, as they are now, where the run was started, and digests of what it
    rests on (`coevo_agents.runs.inputs`)."""
    path, settings = directory / "config.json", to_dict(config)
    record = {"config": settings, "provenance": provenance(), "inputs": dict(rests_on)}
    if path.exists():  # resumed, perhaps with more iterations
        record["provenance"] = read_saved(path).get("provenance", record["provenance"])
    record["inputs"]["settings"] = settings_digest(settings)
    write_json(path, record)


def check_inputs(directory: Path, config: Config, rests_on: Mapping[str, Any], say: Callable[[str], None]) -> str:
    """Whether a run that goes on does so with what it was made with; returns the digest by which
    its files know each other.

    Args:
        directory: The run folder.
        config: The settings that it is to go on with.
        rests_on: Digests of what is there now.
        say: Called where the run is older than digests.

    Raises:
        ConfigError: Something differs.
    """
    saved = read_saved(directory / "config.json")
    pinned = saved.get("inputs")
    if pinned is None:
        say(
            f"{directory} has no digests of its model, task and settings, as earlier runs have none: whether they "
            "are still the same was not checked. From here on it has those of now."
        )
        return rests_on["run"]
    check_settings(directory, saved)
    ours, theirs = to_dict(config), to_dict(from_dict(saved["config"]).complete())
    if changed := [name for name in ours if name not in FREE and ours[name] != theirs.get(name)]:
        what = ", ".join(f"{name} is {ours[name]!r} and was {theirs.get(name)!r}" for name in changed)
        raise ConfigError(f"the run in {directory} was started with other settings: {what}. Only {FREE[0]} may change.")
    kinds = {kind: values for kind, values in rests_on.items() if kind not in ("settings", "run")}
    for note in compare(pinned, kinds, f"the run in {directory}"):
        say(f"note: {note}")
    return pinned.get("run", rests_on["run"])  # a later version can have more settings, and another digest of them


def check_settings(directory: Path, saved: Mapping[str, Any]) -> None:
    """Whether the settings in a run folder are those that its run was made with.

    Args:
        directory: The run folder.
        saved: What its config.json holds.

    Raises:
        ConfigError: They were edited.
    """
    pinned = saved.get("inputs")
    if pinned is not None and pinned["settings"] != settings_digest(saved["config"]):
        raise ConfigError(
            f"the settings in {directory / 'config.json'} are not those that the run was started with: the file was "
            "edited. Put back what was changed, or start a new run with: coevo train --config "
            f"{directory / 'config.json'}"
        )


def initial_model(directory: Path, config: Config) -> str:
    """The model that a run's agents and its reference started from: the warm-started one if there
    is one, else that of the settings."""
    warm = directory / "initial"
    return str(warm) if (warm / "config.json").exists() else config.model


def make_folder(directory: Path) -> None:
    """Makes the run folder, if it is not there.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run folder {directory} could not be made: {error}. Choose another one with --out."
        ) from error


def save_initial(base: LanguageModel, directory: Path) -> None:
    """Keeps a warm-started initial model in the run folder, where a resumed run and an evaluation
    find it.

    Raises:
        CheckpointError: It could not be written.
    """
    try:
        with replacing(directory / "initial") as partial, quiet():
            base.module.save_pretrained(partial, safe_serialization=True)
            base.tokenizer.hf.save_pretrained(partial)
            (partial / WARM_START).touch()
    except OSError as error:
        raise CheckpointError(
            f"the warm-started model could not be saved: {error}. {hint(error)}, then start the run again."
        ) from error


class Interrupted(CoevoError):
    """The run was stopped by a signal after it saved itself.

    Attributes:
        code: Exit status of a command: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """

    def __init__(self, message: str, signal: int = 2):
        super().__init__(message)
        self.code = 128 + signal


def stopped(directory: Path, config: Config, iteration: int, number: int) -> Interrupted:
    """What a run ends with that was told to stop by a signal of this number."""
    return Interrupted(
        f"stopped after iteration {iteration} of {config.iterations}; everything is saved. Continue with: coevo train "
        f"--resume {directory}{repeated(config, 'task', 'learner')}",
        number,
    )


class OutOfMemory(CoevoError):
    """The memory did not suffice for an iteration of a run."""


def lacking(directory: Path, config: Config, error: BaseException) -> str:
    """What a run says whose iteration did not fit into the memory."""
    micro = f", or a micro_batch_size as in --set {config.learner}.micro_batch_size=8"
    return (
        f"out of memory: {first_line(error).rstrip('.')}. With more of it the run goes on: coevo train --resume "
        f"{directory}{repeated(config, 'task', 'learner')}. Or start a new one that needs less, with a smaller "
        f"--batch-size{micro if hasattr(config.settings, 'micro_batch_size') else ''}."
    )


@contextmanager
def deferred_interrupt(say: Callable[[str], None]) -> Iterator[list[int]]:
    """Turns the first Ctrl-C, SIGTERM (a scheduler that needs the machine) or SIGHUP (a terminal
    that is closed) into a note of its number, which the loop reads at the end of an iteration; the
    second one stops at once. Who had a signal ignored, as `nohup` does, keeps it ignored."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        noted.append(number)
        if number != signal.SIGINT and number != signal.SIGTERM:
            _leave_terminal()
        again = "press Ctrl-C again" if number == signal.SIGINT else f"send {signal.Signals(number).name} again"
        with suppress(OSError, ValueError):  # there may be nobody left to tell
            say(f"finishing this iteration, then saving ({again} to stop at once)")

    previous: dict[int, Any] = {}
    with suppress(ValueError):  # not in the main thread: whoever owns it decides
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _leave_terminal() -> None:
    """What is printed after a terminal is gone would be an error in mid-run."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
