"""Kills: a run in a process of its own that is killed by SIGKILL at a chosen operation on its
files, in the middle of a write, or at a chosen moment; and the comparison with an untouched run.

One idea: the process is a fork, so that it has everything imported and a kill costs a fraction of a
second, and it counts what it does to files in the run folder through Python's audit hooks, so that
no code of the package has to know of it.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["HOW", "WRITES", "assert_same_bytes", "attempt", "operations", "spoken"]

HOW = ("before", "within", "moment")
"""Where a kill strikes: before an operation, within a write, at a moment of the clock."""

CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def attempt(body: Callable[[], object], folder: Path, how: str = "before", when: float = 1e9) -> bool:
    """Runs `body` in a forked process.

    Args:
        body: What to run.
        folder: Whose files are watched.
        how: One of `HOW`.
        when: For "before" the number of the operation, for "within" of the write, both from 0; for
            "moment" seconds.

    Returns:
        Whether it was killed.

    Raises:
        AssertionError: It failed, instead of being killed or ending well.
    """
    child = os.fork()
    if not child:
        _play(body, folder, how, when)
    if how == "moment":
        time.sleep(when)
        os.kill(child, signal.SIGKILL)  # one that has ended is still there until it is waited for
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed, see its output"
    return os.WIFSIGNALED(status)


def spoken(body: Callable[[], object]) -> tuple[int, str]:
    """Runs `body` in a forked process; its exit status, and all that it said."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as stream:
            said = stream.read()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), said
    code = 70
    try:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(writer), "w", encoding="utf-8") for _ in range(2))
        body()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError  # nobody comes here


def operations(body: Callable[[], object], folder: Path) -> dict[str, float]:
    """How many operations and writes a whole run takes, and how many seconds: what `attempt` can be
    told of each of `HOW`."""
    reader, writer = os.pipe()

    def told() -> None:
        body()
        os.write(writer, f"{COUNT['before']} {COUNT['within']}".encode())

    started = time.monotonic()
    assert not attempt(told, folder)
    seconds = time.monotonic() - started
    before, within = os.read(reader, 100).split()
    os.close(reader)
    os.close(writer)
    return {"before": int(before), "within": int(within), "moment": seconds}


COUNT = {"before": 0, "within": 0}
"""What the process has done so far."""


def _play(body: Callable[[], object], folder: Path, how: str, when: float) -> None:
    """In the fork: counts, until the time has come."""

    def count(kind: str, half: Callable[[], object] = lambda: None) -> None:
        if how == kind and COUNT[kind] >= when:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        COUNT[kind] += 1

    code = 1
    try:
        _watch(folder, count)
        body()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _watch(folder: Path, count: Callable[..., None]) -> None:
    """Counts every operation on files in a folder, and every write by halves."""
    inside = f"{folder.resolve()}{os.sep}"

    def ours(path: Any) -> bool:
        return not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(inside)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and ours(path):
                count("before")
        elif event in CHANGES and (ours(arguments[0]) or arguments[-1] not in (-1, None)):  # by a descriptor
            count("before")

    sys.addaudithook(audit)
    opened, synced = io.open, os.fsync

    def sync(descriptor: int) -> None:
        count("before")
        synced(descriptor)

    def open_(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        stream = opened(file, mode, *arguments, **options)
        return Halves(stream, count) if set(mode) & set("wax+") and ours(file) else stream

    os.fsync, builtins.open, io.open = sync, open_, open_
    _watch_safetensors(count)


class Halves:
    """A stream whose writes can be cut by half."""

    def __init__(self, stream: Any, count: Callable[..., None]):
        self.stream, self.count = stream, count

    def write(self, data: Any) -> Any:
        def half() -> None:
            self.stream.write(data[: len(data) // 2])
            self.stream.flush()

        self.count("within", half)
        return self.stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> Halves:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()


def _watch_safetensors(count: Callable[..., None]) -> None:
    """Weights are written by a library that Python does not see into."""
    import safetensors.torch

    written = safetensors.torch.serialize_file

    def serialize_file(tensors: Any, path: Any, *arguments: Any, **options: Any) -> None:
        def half() -> None:
            written(tensors, path, *arguments, **options)
            os.truncate(path, os.path.getsize(path) // 2)

        count("within", half)
        written(tensors, path, *arguments, **options)

    safetensors.torch.serialize_file = serialize_file


# ---------------------------------------------------------------- the comparison
TIME = re.compile(rb', "time/[a-z_]+": [0-9.e+-]+')


def assert_same_bytes(ours: Path, theirs: Path) -> None:
    """Metrics but for the clock's, transcripts, summary, agents and the tensors of the checkpoints
    are equal byte for byte; nothing half-done is left."""
    for name in ("metrics.jsonl", "transcripts.jsonl", "summary.json"):
        mine, other = (TIME.sub(b"", (place / name).read_bytes()) for place in (ours, theirs))
        assert mine == other, f"{name} differs"
    mine, other = (_files(place) for place in (ours, theirs))
    assert sorted(mine) == sorted(other)
    for name, data in mine.items():
        assert data == other[name], f"{name} differs"
    left = [str(path) for path in ours.rglob(".*") if not path.name.endswith((".partial", ".made-by-coevo-train"))]
    assert left == []


def _files(run: Path) -> dict[str, bytes]:
    """The files of a run that hold no times: agents, tensors of checkpoints, the initial model."""
    kinds = ("agents/**/*", "checkpoints/*/*.safetensors", "initial/*")
    return {
        str(path.relative_to(run)): path.read_bytes() for kind in kinds for path in run.glob(kind) if path.is_file()
    }
