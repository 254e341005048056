"""Checkpoints: safetensors for tensors, JSON for the rest, a checksum for each file, written so
that a crash leaves the old one whole.

One idea: a checkpoint is a directory that appears by a rename, after everything in it has reached
the disk. Reading one executes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from coevo_env.errors import CoevoError, ConfigError, short_of_memory

from .door import check_folder, file_mode, replace_file
from .schema import STATE_BYTES, Manifest, StateFile, read_json

__all__ = ["CheckpointError", "checkpoints", "load", "manifest", "prune", "replacing", "save", "sweep", "write_json"]


DAMAGED = "It is incomplete, was altered, or is no checkpoint."


class CheckpointError(CoevoError):
    """A checkpoint or a saved agent is missing, truncated or altered, or could not be written."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of `target` at once when the block ends well, and
    vanishes when it does not.

    A kill at any moment leaves the old `target`, the new one, or the old one under a name that
    `sweep` gives back.
    """
    partial, old = target.with_name(f".partial-{target.name}"), target.with_name(f".old-{target.name}")
    try:
        for path in (partial, old):
            shutil.rmtree(path, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        mode = file_mode(partial)  # weights can come with one of their own
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(mode)
            _sync(path)
        _sync(partial)
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Tidies what a killed process left of `replacing` in a folder."""
    for old in directory.glob(".old-*"):
        target = old.with_name(old.name.removeprefix(".old-"))
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, target)
    for partial in directory.glob(".partial-*"):
        shutil.rmtree(partial, ignore_errors=True)


def save(directory: Path, iteration: int, states: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> Path:
    """Writes `directory/000012`.

    Args:
        directory: Folder of all checkpoints of a run.
        iteration: Finished iterations; names the checkpoint.
        states: Name -> flat state; tensors go to `name.safetensors`, everything else to
            `state.json`.
        meta: JSON data of the run.

    Raises:
        CheckpointError: It could not be written (a full disk, no permission); earlier checkpoints
            are untouched.
    """
    target = directory / f"{iteration:06d}"
    try:
        with replacing(target) as partial:
            scalars: dict[str, Any] = {}
            for name, state in states.items():
                tensors = {
                    key: value.detach().cpu().contiguous()
                    for key, value in state.items()
                    if isinstance(value, torch.Tensor)
                }
                scalars[name] = {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
                save_file(tensors, partial / f"{name}.safetensors")
            text = json.dumps({"iteration": iteration, "scalars": scalars, **meta}, indent=1)
            (partial / "state.json").write_text(text, encoding="utf-8")
            (partial / "manifest.json").write_text(json.dumps(manifest(partial), indent=1), encoding="utf-8")
    except Exception as error:  # safetensors has errors of its own
        if short_of_memory(error):
            raise
        raise CheckpointError(
            f"checkpoint {target} could not be written: {error}. {hint(error)}, then continue with: coevo train "
            "--resume "
            f"{directory.parent} (checkpoints already there, untouched: "
            f"{', '.join(path.name for path in checkpoints(directory)) or 'none'})."
        ) from error
    return target


def hint(error: BaseException) -> str:
    """What to do about an error of writing."""
    number, text = getattr(error, "errno", None), str(error)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "quota exceeded" in text:
        return "The disk is full: make room"
    if number == errno.EFBIG or "File too large" in text:
        return "A file may not grow that large here: raise the limit (ulimit -f)"
    return "Mend that"


def load(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Reads a checkpoint and verifies every byte of it.

    Returns:
        The states by name, and the metadata.

    Raises:
        CheckpointError: A file is missing, truncated or altered.
    """
    try:
        check_folder(path)
        listed = read_json(path / "manifest.json", Manifest, _damaged, advice=DAMAGED)
        if "state.json" not in listed:
            raise CheckpointError(f"checkpoint file {path / 'manifest.json'} does not list state.json; it was altered.")
        for name, expected in listed.items():
            file = path / name
            size = file.stat().st_size
            if size != expected["bytes"]:
                raise CheckpointError(
                    f"checkpoint file {file} has {size} bytes; expected {expected['bytes']}. It is truncated or "
                    "altered."
                )
            if _digest(file) != expected["sha256"]:
                raise CheckpointError(
                    f"checkpoint file {file} does not match its checksum; it was altered after it was written."
                )
        data = read_json(path / "state.json", StateFile, _damaged, STATE_BYTES, DAMAGED)
        if data["iteration"] != int(path.name):
            raise CheckpointError(
                f"checkpoint file {path / 'state.json'} is of iteration {data['iteration']}; expected "
                f"{int(path.name)}, as its folder is called. It was altered."
            )
        states = {}
        for name, scalars in data.pop("scalars").items():
            if f"{name}.safetensors" not in listed:
                raise CheckpointError(
                    f"checkpoint file {path / 'manifest.json'} does not list {name}.safetensors; it was altered."
                )
            states[name] = {**load_file(path / f"{name}.safetensors"), **scalars}
    except CheckpointError:
        raise
    except Exception as error:  # every way in which a damaged file can be no JSON, no text or no safetensors
        if short_of_memory(error):
            raise
        raise CheckpointError(
            f"checkpoint {path} is not readable: {type(error).__name__}: {error}. It is incomplete or no checkpoint."
        ) from error
    return states, data


def manifest(folder: Path, sizes: Collection[int] | None = None) -> dict[str, dict[str, Any]]:
    """What can be said of every file in a folder, by its path in it; a file of none of the `sizes`
    is not read."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest = _digest(path) if sizes is None or size in sizes else ""
        found[path.relative_to(folder).as_posix()] = {"sha256": digest, "bytes": size}
    return found


def _damaged(message: str) -> CheckpointError:
    return CheckpointError(f"checkpoint file {message}")


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first, by name alone: `load` verifies them."""
    found = (
        [path for path in directory.glob("[0-9]*") if path.name.isdecimal() and path.is_dir()]
        if directory.is_dir()
        else []
    )
    return sorted(found, key=lambda path: int(path.name))


def prune(directory: Path, iteration: int, keep: int, best: int, later: bool = False) -> None:
    """Removes all but the newest `keep` checkpoints up to `iteration` and the best one.

    Later ones are removed too, unless `later` ones are to stay: a run that stands at `iteration`
    has them only because they were damaged, and it will write them again.
    """
    known = [path for path in checkpoints(directory) if int(path.name) <= iteration]
    kept = {path.name for path in known[-keep:]} | {f"{best:06d}"}
    for path in checkpoints(directory):
        if path.name not in kept if path in known else not later:
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file in one step, so that a reader never sees half of it."""
    try:
        with replace_file(path) as partial:
            partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
            _sync(partial)
    except OSError as error:
        raise ConfigError(f"{path} could not be written: {error}. {hint(error)}, or choose another folder.") from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Makes a file or the entries of a directory reach the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open directories
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
