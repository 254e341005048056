"""A disk that is full at every kind of write: logs, configuration, checkpoints, agents, summary,
pages. The command ends with advice, and with room it goes on as if nothing had been.

The disk is a real one of a few megabytes, filled at the moment when a file is opened; where none
can be mounted, files may not grow any more from that moment on, which is the same for who writes.
"""

from __future__ import annotations

import fnmatch
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runs
from kills import WRITES, assert_same_bytes, spoken
from runs import config, train

from coevo_agents import cli
from coevo_agents.runs.folder import read_config

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

OFTEN = {"iterations": 2, "save_every": 1, "eval_every": 1, "batch_size": 4, "eval_prompts": 2, "eval_draws": 1}
KINDS = {
    "configuration": ".config.json.partial",
    "metrics": "metrics.jsonl",
    "transcripts": "transcripts.jsonl",
    "events": "tensorboard/events*",
    "warm start": ".partial-initial",
    "weights of a checkpoint": "checkpoints/.partial-000001",
    "state of a checkpoint": "checkpoints/.partial-000001/state.json",
    "manifest of a checkpoint": "checkpoints/.partial-000002/manifest.json",
    "weights of an agent": "agents/.partial-llm1",
    "configuration of an agent": "agents/.partial-llm2/config.json",
    "tokenizer of an agent": "agents/.partial-llm2/tokenizer_config.json",
    "summary": ".summary.json.partial",
}
"""What is being opened or made when the disk is full."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("alone") / "run"
    train(config(model, **OFTEN, warm_start__steps=1), directory)
    return directory


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=False)


def fill(disk: Path) -> None:
    """Takes all the room that there is."""
    with (disk / "filler").open("ab", buffering=0) as filler:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while filler.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def forbid(disk: Path) -> None:
    """Lets no file of this process grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def full_at(pattern: str, run: Path, full: Callable[[Path], None], *words: object) -> tuple[int, str]:
    """The command in a process of its own, with the disk full from the moment on when a file of
    this name is opened or a folder of this name is made; its status, and what it said."""
    done = []

    def audit(event: str, arguments: tuple) -> None:
        if done or not (event == "os.mkdir" or (event == "open" and (arguments[2] or 0) & WRITES)):
            return
        path = arguments[0] if isinstance(arguments[0], int) else os.path.abspath(os.fsdecode(arguments[0]))
        if path and fnmatch.fnmatch(str(path), f"{run}/{pattern}"):
            done.append(path)
            full(run.parent)

    def typed() -> None:
        sys.addaudithook(audit)
        sys.argv = ["coevo", *map(str, words)]
        cli.main()

    return spoken(typed)


def train_words(model: Path, run: Path) -> list[object]:
    settings = {**runs.TINY, **OFTEN, "warm_start.steps": 1}
    return ["train", "--model", model, *(f"--set={name}={value}" for name, value in settings.items()), "--out", run]


def told(code: int, said: str) -> None:
    assert code == 1, (code, said)
    assert "error: " in said and ("The disk is full: make room" in said or "ulimit -f" in said), said
    assert "Traceback" not in said.split("Exception in thread")[0], said


def goes_on(model: Path, run: Path, alone: Path) -> None:
    """With room again."""
    again = (run / "config.json").exists()
    train(read_config(run) if again else config(model, **OFTEN, warm_start__steps=1), run, resume=again)
    assert_same_bytes(run, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_at_every_kind_of_write(kind, model, alone, disk):
    run = disk / "run"
    told(*full_at(KINDS[kind], run, fill, *train_words(model, run)))
    (disk / "filler").unlink()
    goes_on(model, run, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_may_not_grow_at_every_kind_of_write(kind, model, alone, tmp_path):
    run = tmp_path / "run"
    told(*full_at(KINDS[kind], run, forbid, *train_words(model, run)))
    goes_on(model, run, alone)


@pytest.mark.parametrize("full", [fill, forbid])
def test_a_page_that_does_not_fit_leaves_the_one_before(full, alone, disk):
    run = Path(shutil.copytree(alone, disk / "run"))
    (run / "report.html").write_text("the page of yesterday")
    told(*full_at(".report.html.partial", run, full, "show", run))
    assert (run / "report.html").read_text() == "the page of yesterday"
    assert not list(run.glob(".report*"))


def test_a_disk_that_is_never_full_is_noticed(model, tmp_path):
    code, said = full_at("no such file", tmp_path / "run", forbid, *train_words(model, tmp_path / "run"))
    with pytest.raises(AssertionError):
        told(code, said)
