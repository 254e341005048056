"""Many runs: the same folders however many run at once, whatever was killed, and nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from coevo_agents.launch.executor import Job, run_all
from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_env.errors import ConfigError

TOY = {"task": "toy", "iterations": 3, "batch_size": 4, "eval_prompts": 2, "eval_every": 0, "threads": 1}


def jobs(folder, seeds=(0, 1), **given):
    return [Job(f"toy-{seed}", apply(Config(), {**TOY, "seed": seed, **given}), folder / str(seed)) for seed in seeds]


def metrics(job):
    lines = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


def test_results_depend_neither_on_workers_nor_on_order(tmp_path):
    serial, parallel = jobs(tmp_path / "serial"), jobs(tmp_path / "parallel")[::-1]
    said = []
    assert [outcome.error for outcome in run_all(serial)] == [None, None]
    outcomes = run_all(parallel, workers=2, report=said.append)
    assert [outcome.job for outcome in outcomes] == parallel and len(said) == 2
    for one, other in zip(serial, parallel[::-1], strict=True):
        assert metrics(one) == metrics(other)
    before = {job.name: (job.folder / "summary.json").stat().st_mtime_ns for job in serial}
    again = run_all(serial)
    assert all(outcome.seconds == 0 for outcome in again)
    assert before == {job.name: (job.folder / "summary.json").stat().st_mtime_ns for job in serial}


def test_a_failed_run_is_a_row_and_the_others_go_on(tmp_path):
    good, bad = jobs(tmp_path)
    bad = replace(bad, config=apply(bad.config, {"model": "no/such/model"}))
    failed, fine = run_all([bad, good])
    assert fine.error is None and (good.folder / "summary.json").exists()
    assert "ended with status 1" in failed.error and "no/such/model" in failed.error


def test_a_folder_is_used_again_only_by_its_own_run(tmp_path):
    one = jobs(tmp_path, seeds=(0,))
    run_all(one)
    other = [replace(one[0], config=apply(one[0].config, {"kl.beta": 0.5}))]
    with pytest.raises(ConfigError, match="already holds another run"):
        run_all(other)
    with pytest.raises(ConfigError, match="expected a folder for each"):
        run_all([*one, *one])
    record = json.loads((one[0].folder / "config.json").read_text())
    record["provenance"]["git_commit"] = "0" * 40
    (one[0].folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="made by commit 0000"):
        run_all(one)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_executor import jobs, run_all
run_all(jobs(Path({folder!r}), seeds=range(3), iterations=12, save_every=1), workers=2)
"""


@pytest.mark.slow
def test_what_was_killed_goes_on_and_is_the_same(tmp_path):
    """Executor and runs together, by SIGKILL; the same words bring what was not finished to its
    end."""
    whole = jobs(tmp_path / "whole", seeds=range(3), iterations=12, save_every=1)
    run_all(whole, workers=2)
    folder = tmp_path / "killed"
    script = SCRIPT.format(here=os.path.dirname(__file__), folder=str(folder))
    for wait in (6.0, 9.0):
        started = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        time.sleep(wait)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=300).returncode == 0
    for one, other in zip(whole, jobs(folder, seeds=range(3), iterations=12, save_every=1), strict=True):
        assert metrics(one) == metrics(other)
        weights = [(job.folder / "agents" / "llm1" / "model.safetensors").read_bytes() for job in (one, other)]
        assert weights[0] == weights[1]
