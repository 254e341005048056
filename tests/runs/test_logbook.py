"""Logs: TensorBoard reads the files of a run in the order in which they were written."""

from __future__ import annotations

import os
import time

from runs import board
from tensorboard.summary.writer import event_file_writer

from coevo_agents.runs import board as runs_board
from coevo_agents.runs.logbook import Logbook


def written_by_two(folder) -> list[str]:
    """Two writers after each other, of which the second takes the last step back."""
    said: list[str] = []
    for number in (0, 1):
        log = Logbook(folder, {"metrics.jsonl": 0} if number else None, 1, said.append)
        for step in (1, 2) if number == 0 else (2, 3):
            log.metrics(step, {"tag": 10.0 * number + step})
        log.close()
    return said


def test_files_of_one_second_are_read_in_the_order_in_which_they_were_written(tmp_path, monkeypatch):
    # the name ends with a count, here 9 and then 10, which sort the other way round
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    time.sleep(1.001 - time.time() % 1)
    assert written_by_two(tmp_path) == []
    assert [(event.step, event.value) for event in board(tmp_path).Scalars("tag")] == [(1, 1.0), (2, 12.0), (3, 13.0)]


def test_a_clock_that_was_set_back_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_board, "WAIT", 0.0)
    (tmp_path / "tensorboard").mkdir()
    later = f"events.out.tfevents.{int(time.time()) + 3600}.{os.uname().nodename}.1.0"
    (tmp_path / "tensorboard" / later).touch()
    log_lines = written_by_two(tmp_path)
    assert log_lines and all(f"the clock stands before the TensorBoard file {later}" in line for line in log_lines)
