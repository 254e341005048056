"""Many runs, each in a process of its own, as many at a time as there is room for.

One idea: a run is a function of its settings that leaves a folder, so running many is calling it
for each and reading the folders afterwards. Whatever was finished is not run again, whatever was
begun goes on, and a run that fails is a row with its reason; so a suite that was killed at any
moment is started again by the same words, and the result depends neither on order nor on how many
ran at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError, whole

from ..runs.config import Config
from ..runs.folder import provenance, read_saved
from ..runs.settings import to_dict

__all__ = ["Job", "Outcome", "check_jobs", "check_same", "run_all", "run_one"]

LOG = "run.log"
"""What a run printed, beside its folder."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: What it is called in tables and messages.
        config: Its settings.
        folder: Where it goes.
    """

    name: str
    config: Config
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job.
        error: Why it failed, or None.
        seconds: How long it took now; 0 where nothing was left to do.
    """

    job: Job
    error: str | None = None
    seconds: float = 0.0


def run_all(
    jobs: Sequence[Job], workers: int = 1, report: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Runs what is not finished; returns what became of each job, in their order.

    Args:
        jobs: What to run.
        workers: How many processes at a time; give each one thread (`--set threads=1`).
        report: Called with each outcome when it is known.

    Raises:
        ConfigError: Two jobs share a folder, or a folder holds another run than its job's, or one
            of other code. Nothing was started then.
    """
    workers = whole("workers", workers, 1)
    check_jobs(jobs)
    found: dict[int, Outcome] = {}
    waiting = list(enumerate(jobs))
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, job = waiting.pop(0)
                if (job.folder / "summary.json").exists():
                    found[number] = Outcome(job)
                    report(found[number])
                else:
                    running[number] = (job, _start(job), time.monotonic())
            for number, outcome in list(_ended(running)):
                del running[number]
                found[number] = outcome
                report(outcome)
            if running:
                time.sleep(0.05)
    finally:  # Ctrl-C: each saves itself, as at a signal of a scheduler
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()
    return [found[number] for number in range(len(jobs))]


def check_jobs(jobs: Sequence[Job]) -> None:
    """Whether every job has a folder of its own, and what is there already is its own run.

    Raises:
        ConfigError: Two jobs share a folder, or one holds another run.
    """
    folders = [job.folder.resolve() for job in jobs]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ConfigError(f"two runs would go to {twice}; expected a folder for each.")
    for job in jobs:
        if (job.folder / "config.json").exists():
            check_same(job.folder, job.config)


def check_same(folder: Path, config: Config) -> None:
    """Whether the run in a folder has these settings and was made by this code, so that it may
    stand in a table beside new ones.

    Raises:
        ConfigError: It is another one.
    """
    saved = read_saved(folder / "config.json")
    wanted, there = _plain(to_dict(config.complete())), saved["config"]
    differ = [f"{key} is {there.get(key)!r}, not {wanted[key]!r}" for key in wanted if there.get(key) != wanted[key]]
    commit, now = saved.get("provenance", {}).get("git_commit"), provenance()["git_commit"]
    if commit != now:
        differ.append(f"it was made by commit {commit}, not {now}")
    if differ:
        raise ConfigError(
            f"{folder} already holds another run: {'; '.join(differ)}. Choose another folder, or remove it."
        )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are in a file."""
    return json.loads(json.dumps(settings))


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    words = ["--resume", str(job.folder)]
    if not (job.folder / "config.json").exists():
        file = job.folder.parent / f".{job.folder.name}.json"
        file.write_text(json.dumps({"config": to_dict(job.config)}), encoding="utf-8")
        words = ["--config", str(file), "--out", str(job.folder)]
    with (job.folder.parent / f"{job.folder.name}.{LOG}").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "coevo_agents.cli", "train", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def run_one(job: Job) -> Outcome:
    """Runs a job to its end in a process of its own, here and now."""
    if (job.folder / "summary.json").exists():
        return Outcome(job)
    started = time.monotonic()
    process = _start(job)
    try:
        status = process.wait()
    finally:
        process.terminate()
        process.wait()
    return _outcome(job, status, started)


def _outcome(job: Job, status: int, started: float) -> Outcome:
    with suppress(OSError):
        (job.folder.parent / f".{job.folder.name}.json").unlink(missing_ok=True)
    return Outcome(job, _reason(job, status), time.monotonic() - started)


def _ended(running: Mapping[int, tuple[Job, subprocess.Popen[bytes], float]]) -> Iterator[tuple[int, Outcome]]:
    for number, (job, process, started) in running.items():
        if (status := process.poll()) is not None:
            yield number, _outcome(job, status, started)


def _reason(job: Job, status: int) -> str | None:
    """What a run that failed said last."""
    if status == 0 and (job.folder / "summary.json").exists():
        return None
    log = job.folder.parent / f"{job.folder.name}.{LOG}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "error:" in line.lower()), lines[-1] if lines else "nothing")
    how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"{how}; it said: {said.strip()[:500]} (all of it: {log})"
