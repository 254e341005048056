"""Many runs on a cluster, by Ray.

One idea: a job on a cluster is the same job, a process that leaves a folder; Ray only decides where
it goes, and gives it to another machine when one dies. The folder must be on a disk that all
machines share, so that a job that is given on continues from its last checkpoint.

`RAY_ADDRESS` says where the cluster is, as for any program that uses Ray; without it one is started
here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from coevo_env.errors import CoevoError, MissingExtraError, first_line, whole

from .executor import Job, Outcome, check_jobs, run_one

__all__ = ["run_all"]

RETRIES = 3
"""How often a job is given on when its machine dies."""


def run_all(
    jobs: Sequence[Job], workers: int = 1, report: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """As `coevo_agents.launch.executor.run_all`, on a cluster.

    Args:
        jobs, report: See there.
        workers: How many jobs are with Ray at a time; each asks for one processor.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        ray: Any = import_module("ray")  # this file has the same name, for type checkers
    except ImportError:
        raise MissingExtraError("executor='ray'", "ray", "ray") from None
    workers = whole("workers", workers, 1)
    check_jobs(jobs)
    here = Path(__file__).resolve().parents[2]
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    remote: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(_work)
    found: dict[int, Outcome] = {}
    waiting = [(number, job) for number, job in enumerate(jobs)]
    running: dict[Any, tuple[int, Job]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            number, job = waiting.pop(0)
            running[remote.remote(_absolute(job), str(here))] = (number, job)
        (ready, *_), _ = ray.wait(list(running), num_returns=1)
        number, job = running.pop(ready)
        try:
            outcome = ray.get(ready)
            outcome = Outcome(job, outcome.error, outcome.seconds)
        except CoevoError as error:
            outcome = Outcome(job, str(error))
        except ray.exceptions.RayError as error:
            outcome = Outcome(job, f"given on {RETRIES} times, and lost: {first_line(error)}")
        found[number] = outcome
        report(outcome)
    return [found[number] for number in range(len(jobs))]


def _absolute(job: Job) -> Job:
    return Job(job.name, job.config, job.folder.resolve())


def _work(job: Job, path: str) -> Outcome:
    """What a machine does."""
    os.environ.setdefault("PYTHONPATH", path)
    return run_one(job)
