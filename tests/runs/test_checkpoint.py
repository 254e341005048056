"""Checkpoints under damage: every file of one broken in every way, the disk full at every write,
and nothing that unpickles."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import runs
import torch
from runs import assert_same_run, config, lines, train

from coevo_agents.runs import checkpoint
from coevo_agents.runs.checkpoint import CheckpointError, checkpoints, load, prune, save, sweep, write_json
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.logbook import LogError
from coevo_agents.training.loop import Run
from coevo_env.errors import CoevoError, ConfigError

FILES = ("llm1.safetensors", "llm2.safetensors", "state.json", "manifest.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    """A run of 4 iterations with the checkpoints 2, 3 and 4."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    train(config(model, iterations=4, save_every=1, keep=3), directory)
    assert [path.name for path in checkpoints(directory / "checkpoints")][-3:] == ["000002", "000003", "000004"]
    return directory


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x80
    path.write_bytes(data)


DAMAGE = {
    "truncated": truncate,
    "flipped": flip,
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a list": lambda path: path.write_text("[]"),
    "an empty object": lambda path: path.write_text("{}"),
}


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    state = {
        "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "step": torch.tensor(7.0),
        "updates": 3,
        "name": "é",
    }
    half = {"weight": torch.randn(5).to(torch.bfloat16)}
    path = save(tmp_path, 12, {"a": state, "b": half}, {"best": [0.1, 3]})
    assert path == tmp_path / "000012"
    states, meta = load(path)
    assert meta == {"iteration": 12, "best": [0.1, 3]}
    assert states["a"].keys() == state.keys() and states["a"]["updates"] == 3 and states["a"]["name"] == "é"
    assert torch.equal(states["a"]["weight"], state["weight"]) and torch.equal(states["a"]["step"], state["step"])
    assert states["b"]["weight"].dtype == torch.bfloat16 and torch.equal(states["b"]["weight"], half["weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000012"]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_every_damage_to_every_file_is_found(name, how, run):
    path = run / "checkpoints" / "000004"
    DAMAGE[how](path / name)
    with pytest.raises(CheckpointError, match="000004"):
        load(path)


def test_every_byte_counts(run):
    """Wherever one bit flips, it is found (or it made no difference)."""
    path = run / "checkpoints" / "000004"
    whole = load(path)
    for name in ("manifest.json", "state.json"):
        data = (path / name).read_bytes()
        for place in range(0, len(data), max(1, len(data) // 150)):
            for bit in (0x01, 0x80):
                (path / name).write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
                try:
                    states, meta = load(path)
                except CheckpointError:
                    continue
                assert meta == whole[1] and all(states[who].keys() == whole[0][who].keys() for who in states)
        (path / name).write_bytes(data)
    load(path)


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "empty"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(name, how, run, finished):
    DAMAGE[how](run / "checkpoints" / "000004" / name)
    said: list[str] = []
    resumed = Run(read_config(run), run, resume=True, say=said.append)
    assert resumed.iteration == 3
    assert said[0].startswith("skipped: checkpoint") and "000004" in said[0]
    assert said[1] == f"resumed from {run / 'checkpoints' / '000003'}"
    resumed.train()
    assert_same_run(run, finished)
    load(run / "checkpoints" / "000004")


def test_a_half_written_directory_is_no_checkpoint(run, finished):
    folder = run / "checkpoints"
    shutil.rmtree(folder / "000004")
    partial = folder / ".partial-000004"
    partial.mkdir()
    (partial / "llm1.safetensors").write_bytes(b"half")
    (folder / "000005").mkdir()  # as a copy that was broken off
    said: list[str] = []
    train(read_config(run), run, resume=True, say=said.append)
    assert said[1] == f"resumed from {folder / '000003'}"
    assert_same_run(run, finished)
    assert not partial.exists()
    assert [path.name for path in checkpoints(folder)][-1] == "000004"  # the empty one is gone


def test_a_kill_between_the_two_renames_loses_nothing(run, finished):
    folder = run / "checkpoints"
    for name in ("000003", "000002"):
        shutil.rmtree(folder / name)
    os.replace(folder / "000004", folder / ".old-000004")
    os.replace(run / "agents" / "llm1", run / "agents" / ".old-llm1")
    resumed = train(read_config(run), run, resume=True)
    assert resumed.iteration == 4
    assert_same_run(run, finished)
    assert not list(folder.glob(".*")) and not list((run / "agents").glob(".*"))


def test_no_whole_checkpoint_is_a_clear_error(run):
    for path in checkpoints(run / "checkpoints"):
        truncate(path / "llm2.safetensors")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"none of the \d checkpoints .* is whole.*another folder.*coevo show"):
        Run(read_config(run), run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_damaged_checkpoints_do_not_push_out_good_ones(tmp_path):
    for iteration in (8, 9, 10, 11):
        save(tmp_path, iteration, {}, {})
    prune(tmp_path, 9, keep=1, best=8)  # the run went back to 9, because 10 and 11 were damaged
    assert [path.name for path in checkpoints(tmp_path)] == ["000008", "000009"]
    prune(tmp_path, 9, keep=1, best=-1)
    assert [path.name for path in checkpoints(tmp_path)] == ["000009"]


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("999999", "1000000", "000002", "notes", "12x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["000002", "999999", "1000000"]
    sweep(tmp_path / "nowhere")


def test_a_checkpoint_of_another_model_is_refused(run, model, tmp_path):
    other = runs.save_tiny(tmp_path / "other", vocab_size=7)
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"was started with other settings: task_options is .* and was"):
        Run(config(other, task_options={"vocab_size": 7}), run, resume=True)
    record = json.loads((run / "config.json").read_text())
    del record["inputs"]  # as in a run of 0.1, of which nothing else is known than what its checkpoints hold
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="none of the"):
        Run(config(other, task_options={"vocab_size": 7}), run, resume=True, say=said.append)
    assert "has no digests" in said[0] and any("expected shape (7, 32)" in line for line in said)


# -------------------------------------------------------------------- full disk
def writers() -> list[tuple[object, str]]:
    return [(checkpoint, "save_file"), (Path, "write_text"), (checkpoint, "_sync"), (Path, "mkdir"), (os, "replace")]


@pytest.mark.parametrize("number", range(5), ids=[name for _, name in writers()])
@pytest.mark.parametrize("after", [0, 1])
def test_an_error_at_any_write_leaves_the_old_checkpoint_and_no_partial_one(number, after, tmp_path, monkeypatch):
    state = {"a": {"weight": torch.zeros(3)}}
    save(tmp_path, 1, state, {})
    save(tmp_path, 2, state, {})
    place, name = writers()[number]
    real, left = getattr(place, name), after

    def full(*arguments, **options):
        nonlocal left
        left -= 1
        if left == -1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, full)
    message = ""
    try:
        save(tmp_path, 2, {"a": {"weight": torch.ones(3)}, "b": {"weight": torch.ones(3)}}, {})
    except CheckpointError as error:
        message = str(error)
    failed = bool(message)
    if failed:
        assert (
            "The disk is full: make room, then continue with: coevo train --resume" in message
            and "000001, 000002" in message
        )
    monkeypatch.undo()
    assert failed or name == "mkdir"  # only one directory is made
    states, _ = load(tmp_path / "000002")
    assert torch.equal(states["a"]["weight"], torch.zeros(3) if failed else torch.ones(3))
    load(tmp_path / "000001")
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_ends_the_command_with_advice(model, tmp_path):
    """A real one: a file system of 2 MB, in which there is room for two checkpoints."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2000k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        settings = config(model, iterations=3, save_every=1, keep=5)
        train(settings, tmp_path / "alone")
        words = [
            f"--set={name}={value}"
            for name, value in {**runs.TINY, "iterations": 3, "save_every": 1, "keep": 5}.items()
        ]
        done = runs.coevo("train", "--model", model, *words, "--out", disk / "run")
        assert done.returncode == 1
        assert "The disk is full: make room" in done.stderr and f"coevo train --resume {disk / 'run'}" in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        whole = checkpoints(disk / "run" / "checkpoints")
        assert whole and not list((disk / "run" / "checkpoints").glob(".*"))
        for path in whole:
            load(path)
        assert str(whole[-1]) in done.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        done = runs.coevo("train", "--resume", disk / "run")
        assert done.returncode == 0, done.stderr
        assert_same_run(disk / "run", tmp_path / "alone")
    finally:
        subprocess.run(["umount", disk], check=False)


def test_a_disk_that_is_full_from_the_start(model, tmp_path):
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (disk / "filler").write_bytes(bytes(64 << 10))
        words = [f"--set={name}={value}" for name, value in runs.TINY.items()]
        done = runs.coevo("train", "--model", model, *words, "--out", disk / "run")
        assert done.returncode == 1
        assert "The disk is full: make room, " in done.stderr  # for the logs or the configuration, whichever is first
        assert "Traceback" not in done.stderr + done.stdout
    finally:
        subprocess.run(["umount", disk], check=False)


@pytest.mark.parametrize("name", ["metrics", "transcripts", "histogram"])
def test_a_disk_that_is_full_for_the_logs_stops_the_run_and_a_resumed_one_is_the_run_left_alone(
    name, model, finished, tmp_path, monkeypatch
):
    settings = config(model, iterations=4, save_every=1, keep=3)
    run = Run(settings, tmp_path / "run")
    stream = run.log.streams["metrics.jsonl" if name == "metrics" else "transcripts.jsonl"]
    if name == "histogram":
        monkeypatch.setattr(
            run.log.board,
            "add_histogram",
            lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
        )
    else:

        class Full:
            def write(self, text):
                if run.iteration == 2:
                    stream.write(text[:20])  # a line is cut short
                    stream.flush()
                    raise OSError(errno.ENOSPC, "No space left on device")
                stream.write(text)

            def __getattr__(self, attribute):
                return getattr(stream, attribute)

        run.log.streams[Path(stream.name).name] = Full()
    with pytest.raises(LogError, match=r"logs in .* could not be written.*The disk is full: make room, then resume"):
        run.train()
    train(settings, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished)


def test_agents_that_cannot_be_saved_are_not_left_by_halves(model, tmp_path, monkeypatch):
    from coevo_agents.learners.policy import ActorCritic

    settings, real = config(model, iterations=1), ActorCritic.save_pretrained

    def full(self, directory):
        real(self, directory)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ActorCritic, "save_pretrained", full)
    with pytest.raises(CheckpointError, match=r"agent llm1 could not be saved.*The disk is full"):
        train(settings, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name == "model.safetensors"]
    monkeypatch.undo()
    assert train(settings, tmp_path / "run", resume=True).iteration == 1


def test_json_is_written_in_one_step(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"x": 1})

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match=r"could not be written.*The disk is full"):
        write_json(tmp_path / "a.json", {"x": 2})
    monkeypatch.undo()
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1} and len(list(tmp_path.iterdir())) == 1


# -------------------------------------------------------------------- the rest of the folder
def test_lost_lines_of_a_log_are_told_and_never_filled_with_zeros(run):
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:2]))
    said: list[str] = []
    resumed = Run(config(Path(read_config(run).model), iterations=5), run, resume=True, say=said.append)
    resumed.train()
    assert any("some of it is lost" in line for line in said)
    assert [row["iteration"] for row in lines(run)] == [0, 1, 5]


def test_two_processes_do_not_run_one_run(run):
    pytest.importorskip("fcntl")
    first = Run(read_config(run), run, resume=True)
    half = run / "checkpoints" / ".partial-000009"  # what the first is just writing
    half.mkdir()
    said: list[str] = []
    with pytest.raises(ConfigError, match="another process is running"):
        Run(read_config(run), run, resume=True, say=said.append)
    assert half.exists() and not said
    first.log.close()
    Run(read_config(run), run, resume=True).log.close()


def test_nothing_is_unpickled(run, monkeypatch):
    unpickled = []

    def refuse(*arguments, **options):
        unpickled.append(arguments)
        raise AssertionError("something was unpickled")

    for module in (torch, pickle):
        for name in ("load", "loads", "Unpickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr("torch.serialization.load", refuse)
    train(config(Path(read_config(run).model), iterations=5), run, resume=True)
    bad = run / "checkpoints" / "000005" / "llm1.safetensors"
    bad.write_bytes(b"\x80\x04\x95" + bad.read_bytes()[3:])  # as a pickle begins
    with pytest.raises(CoevoError):
        load(run / "checkpoints" / "000005")
    assert unpickled == []


def test_a_run_folder_cannot_ask_for_remote_code(run):
    record = json.loads((run / "config.json").read_text())
    record["config"]["trust_remote_code"] = True
    (run / "config.json").write_text(json.dumps(record))
    assert read_config(run).trust_remote_code is False
