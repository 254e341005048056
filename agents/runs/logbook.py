"""What a run writes while it goes: metrics, transcripts and alarms as JSON lines, and TensorBoard
events.

One idea: the JSON lines are the record and the rest is a view of them. Their length is part of each
checkpoint, so that a resumed run cuts off what the checkpoint does not know of and continues the
same file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from coevo_env.errors import CoevoError, ConfigError

from .board import lay_out, open_board
from .checkpoint import hint
from .door import check_folder, check_plain

__all__ = ["LogError", "Logbook", "lock"]

FILES = ("metrics.jsonl", "transcripts.jsonl", "alarms.jsonl")
BINS = 30
"""Of a histogram; TensorBoard shows that many, whatever it is given."""


class LogError(CoevoError):
    """A log of the run could not be written."""


class Logbook:
    """Writes the logs of a run.

    Args:
        directory: The run folder.
        offsets: Bytes of each file that a checkpoint knows of; {} if there was none; None starts
            anew.
        iteration: Last iteration that the checkpoint knows of.
        say: Called with what a person should know.
        locked: What `lock` gave, where it was asked before.

    Raises:
        ConfigError: Another process is writing this run.
        LogError: The files cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        offsets: Mapping[str, int] | None = None,
        iteration: int = 0,
        say: Callable[[str], None] = lambda line: None,
        locked: TextIO | None = None,
    ):
        self.directory, self.streams = directory, {}
        with self._writing():
            for name in FILES:
                path = directory / name
                check_plain(path, written=True)
                self.streams[name] = (
                    (locked or lock(directory)) if name == FILES[0] else path.open("a", encoding="utf-8")
                )
                kept, size = (offsets or {}).get(name, 0), path.stat().st_size
                if size < kept:
                    say(
                        f"{path} has {size} bytes where the checkpoint knew of {kept}: some of it is lost, and the "
                        "rest is continued."
                    )
                self.streams[name].truncate(min(kept, size))
            # TensorBoard drops what an earlier process wrote from this step on
            purge = None if offsets is None else iteration + 1 if offsets else 0
            self.board = open_board(directory / "tensorboard", purge, say)

    def metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """One line of metrics; every tag is a TensorBoard scalar too."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]  # made by protobuf

        self._line("metrics.jsonl", {"iteration": iteration, **values})
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        with self._writing():  # one event for all of them: each costs a lock, a checksum and a write
            assert self.board.file_writer is not None
            self.board.file_writer.add_summary(Summary(value=scalars), iteration)

    def lay_out(self, agents: Sequence[str], settings: Mapping[str, Any]) -> None:
        """What TensorBoard shows beside the curves, see `coevo_agents.runs.board`."""
        with self._writing():
            lay_out(self.board, agents, settings)

    def histogram(self, iteration: int, tag: str, values: np.ndarray) -> None:
        """A TensorBoard histogram; nothing for an empty array."""
        if len(values):
            with self._writing():
                # passed on to numpy.histogram
                self.board.add_histogram(tag, values, iteration, bins=BINS)  # type: ignore[arg-type]

    def transcripts(self, iteration: int, transcripts: Sequence[Mapping[str, Any]]) -> None:
        """Some episodes, as JSON lines and as TensorBoard text."""
        for number, transcript in enumerate(transcripts):
            self._line("transcripts.jsonl", {"iteration": iteration, **transcript})
            rows = [
                f"**{turn['agent']}** ({turn['role']}) {turn['task_reward']:+.3f}: {turn['text']}"
                for turn in transcript["turns"]
            ]
            with self._writing():
                self.board.add_text(
                    f"transcripts/{number}", "\n\n".join([f"> {transcript['prompt']}", *rows]), iteration
                )

    def alarms(self, alarms: Sequence[Mapping[str, Any]]) -> None:
        """What the collapse audit has to say."""
        for alarm in alarms:
            self._line("alarms.jsonl", alarm)

    def offsets(self) -> dict[str, int]:
        """How many bytes of each file have been written."""
        return {name: (self.directory / name).stat().st_size for name in self.streams}

    def sync(self) -> None:
        """Makes everything written so far reach the disk, as it must before a checkpoint that
        counts on it."""
        with self._writing():
            for stream in self.streams.values():
                os.fsync(stream.fileno())
            self.board.flush()

    def close(self) -> None:
        """Closes everything; what cannot be written any more was reported before."""
        for closing in (*(stream.close for stream in self.streams.values()), self.board.close):
            with contextlib.suppress(Exception):
                closing()

    def _line(self, name: str, data: Mapping[str, Any]) -> None:
        with self._writing():
            self.streams[name].write(json.dumps(data, ensure_ascii=False) + "\n")
            self.streams[name].flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unwritten(self.directory, error) from error


def lock(directory: Path) -> TextIO:
    """The metrics of a run, opened to be continued. Two processes on one run would spoil both, so
    whoever touches one takes this first; the lock goes with the process, so that a kill leaves none
    behind.

    Raises:
        ConfigError: Another process has it, or the folder holds links.
        LogError: The file cannot be written.
    """
    if directory.is_dir():
        check_folder(directory)
    check_plain(directory / FILES[0], written=True)
    try:
        stream = (directory / FILES[0]).open("a", encoding="utf-8")
    except OSError as error:
        raise _unwritten(directory, error) from error
    with contextlib.suppress(ImportError, OSError):  # Windows, or a file system without locks
        import fcntl

        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise ConfigError(
                f"another process is running the run in {directory}; wait for it, or choose another folder."
            ) from None
    return stream


def _unwritten(directory: Path, error: OSError) -> LogError:
    again = "resume the run" if (directory / "config.json").exists() else "start the run again"
    return LogError(f"the logs in {directory} could not be written: {error}. {hint(error)}, then {again}.")
