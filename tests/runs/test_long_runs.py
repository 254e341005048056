"""What a long run meets: a scheduler that stops it, a kill at a bad moment, a disk that is full,
and other people who read its files."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
from runs import assert_same_run, config, lines, train

from coevo_agents.runs.checkpoint import checkpoints
from coevo_agents.runs.folder import OutOfMemory, read_config
from coevo_agents.training import loop, state
from coevo_agents.training.loop import Run
from coevo_env.tasks import make_task

PROGRAM = """
import sys
from pathlib import Path
from coevo_agents.runs.folder import Interrupted
from coevo_agents.training.loop import Run
from coevo_env.errors import CoevoError
import runs
settings = runs.config(Path(sys.argv[1]), iterations=int(sys.argv[3]))
place = Path(sys.argv[2])
try:
    Run(settings, place, resume=(place / "config.json").exists(), say=lambda line: print(line, flush=True)).train()
except CoevoError as error:
    print(error)
    sys.exit(error.code)
"""


def start(model: Path, place: Path, iterations: int, **options) -> subprocess.Popen[str]:
    return started(PROGRAM, model, place, str(iterations), **options)


def started(program: str, *words: object, **options) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(runs.__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        env={**runs.ENVIRONMENT, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def wait_for(process: subprocess.Popen[str], place: Path, least: int) -> bool:
    log = place / "metrics.jsonl"
    for _ in range(6000):
        if process.poll() is not None:
            return False
        if log.exists() and log.read_bytes().count(b"\n") > least:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_run_that_is_told_to_stop_saves_itself_and_says_how_to_go_on(name, model, tmp_path):
    process = start(model, tmp_path / "run", 500)
    assert wait_for(process, tmp_path / "run", 3)
    process.send_signal(getattr(signal, name))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name)
    assert "finishing this iteration, then saving" in said and f"coevo train --resume {tmp_path / 'run'}" in said
    last = lines(tmp_path / "run")[-1]["iteration"]
    assert 3 <= last < 500
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].name == f"{last:06d}"


def test_a_run_under_nohup_outlives_its_terminal(model, tmp_path):
    process = start(model, tmp_path / "run", 12, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert wait_for(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert lines(tmp_path / "run")[-1]["iteration"] == 12


def test_sigterm_before_a_run_has_begun_ends_the_command_in_words(model, tmp_path):
    words = [runs.COEVO, "train", "--model", model, "--task", "toy", "--out", tmp_path / "run"]
    process = subprocess.Popen(words, env=runs.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and "loading PyTorch" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143 and "stopped at once. What was saved before is whole" in err
    assert "Traceback" not in out + err and not (tmp_path / "run" / "config.json").exists()


# ---------------------------------------------------------------- memory
BATCH = {"batch_size": 1024, "iterations": 4, "save_every": 2, "eval_prompts": 2, "eval_draws": 1}
LIMITED = """
import resource
import sys
from pathlib import Path
from coevo_agents.training.loop import Run
from coevo_env.errors import CoevoError
import runs
place, more, at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def limit(iteration, metrics):
    if iteration == at:
        (size,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (int(size) * 1024 + more,) * 2)
try:
    Run(runs.config(Path("table"), **SETTINGS), place, report=limit).train()
except CoevoError as error:
    print(type(error).__name__, error)
    sys.exit(error.code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(("more", "at"), [(0, 1), (10**6, 1), (10**6, 3), (10**7, 1), (0, 3), (0, 4)])
def test_memory_that_does_not_suffice_stops_the_run_and_loses_nothing(more, at, tmp_path):
    """Wherever it bites: while a batch is played or learned from, or agents are saved and
    loaded."""
    settings = config(Path("table"), **BATCH)
    process = started(LIMITED.replace("SETTINGS", repr(BATCH)), tmp_path / "run", str(more), str(at))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "OutOfMemory out of memory: " in said and "Traceback" not in said, said
    assert f"the run goes on: coevo train --resume {tmp_path / 'run'}" in said
    assert [row["iteration"] for row in lines(tmp_path / "run")][: at + 1] == list(range(at + 1))
    train(settings, tmp_path / "run", resume=True)
    train(settings, tmp_path / "alone")
    assert_same_run(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 GB")])
def test_an_iteration_that_does_not_fit_leaves_the_one_before_saved(error, model, tmp_path, monkeypatch):
    settings, play = config(model, iterations=3, save_every=0), loop.play
    run = Run(settings, tmp_path / "run")

    def plays(*given: object) -> None:
        if run.iteration == 2:
            raise error
        play(*given)

    monkeypatch.setattr(loop, "play", plays)
    with pytest.raises(OutOfMemory, match=r"out of memory: .*goes on: coevo train --resume [\s\S]*checkpoints/000002"):
        run.train()
    monkeypatch.undo()
    train(settings, tmp_path / "run", resume=True)
    train(settings, tmp_path / "alone")
    assert_same_run(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_iterations(tmp_path):
    """After a start in which everything has happened once, 500 iterations take less than 2 MB."""
    sizes = {}

    def report(iteration: int, metrics: dict[str, float]) -> None:
        status = Path("/proc/self/status").read_text().splitlines()
        sizes[iteration] = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    often = {"eval_every": 20, "save_every": 20, "eval_prompts": 2, "eval_draws": 1, "batch_size": 8}
    Run(config(Path("table"), iterations=700, **often), tmp_path / "run", report=report).train()
    assert sizes[700] - sizes[200] < 2000


# ---------------------------------------------------------------- side by side
@pytest.mark.slow
def test_four_runs_started_in_one_folder_at_once_are_four_runs(model, tmp_path):
    """Without --out, in the same second; two of them with the same seed."""
    words = [f"--set={name}={value}" for name, value in runs.TINY.items()]
    processes = [
        subprocess.Popen(
            [runs.COEVO, "train", "--model", model, *words, "--seed", str(seed)],
            env=runs.ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in (0, 0, 1, 2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    folders = [next(line for line in out.splitlines() if line.startswith("Run folder: "))[12:] for out, _ in said]
    assert len(set(folders)) == 4 == len(list((tmp_path / "runs").iterdir()))
    for seed in (0, 1, 2):
        train(config(model, seed=seed), tmp_path / f"alone{seed}")
    for folder, seed in zip(folders, (0, 0, 1, 2), strict=True):
        assert_same_run(tmp_path / folder, tmp_path / f"alone{seed}")


def test_a_kill_between_saving_and_pruning_leaves_no_checkpoint_behind(model, tmp_path, monkeypatch):
    settings = config(model, iterations=4, save_every=1, keep=1, eval_every=0)
    with monkeypatch.context() as killed:
        killed.setattr(state, "prune", lambda *arguments, **options: None)
        train(settings, tmp_path / "run")
    assert len(checkpoints(tmp_path / "run" / "checkpoints")) == 4
    train(read_config(tmp_path / "run"), tmp_path / "run", resume=True)
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["000004"]


def test_a_resumed_run_that_was_warm_started_saves_the_same_bytes(tmp_path):
    settings = config(Path("table"), iterations=2, save_every=1, warm_start__steps=2)
    train(settings, tmp_path / "alone")
    shutil.copytree(tmp_path / "alone", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "000002")
    shutil.rmtree(tmp_path / "run" / "agents")
    train(read_config(tmp_path / "run"), tmp_path / "run", resume=True)
    files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone" / "agents").rglob("*.*"))
    assert len(files) >= 8
    for name in files:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_every_file_has_the_permissions_that_new_files_get(umask, model, tmp_path):
    before = os.umask(umask)
    try:
        train(config(model, iterations=1), tmp_path / "run")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize("name", ["toy", "matching"])
def test_the_token_games_pickle(name):
    task = make_task(name)
    other = pickle.loads(pickle.dumps(task))
    assert task.scripted and other.scripted
    prompt = task.prompt("train", 0)
    said = [task.scripted(prompt, ()), "2"]
    assert other.scripted(prompt, ()) == said[0]
    for terms in ("rewards", "joint_rewards"):
        for term, value in getattr(task, terms).items():
            mine = value[1] if isinstance(value, tuple) else value
            theirs = getattr(other, terms)[term]
            theirs = theirs[1] if isinstance(theirs, tuple) else theirs
            asked = ([prompt], [said[0]]) if terms == "rewards" else ([prompt], [tuple(said)])
            assert list(mine(*asked)) == list(theirs(*asked))
