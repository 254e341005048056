"""Ctrl-C, errors, second starts and the command killed: nothing that interrupts a run changes what
it computes.

Every run here is a real one of a tiny model. A resumed run is compared bit for bit with the same
run left alone. Kills between any two writes are in test_kills.py.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import runs
from runs import assert_board_agrees, assert_same_run, config, lines, train

from coevo_agents.learners.ppo import PPO
from coevo_agents.runs import logbook
from coevo_agents.runs.checkpoint import checkpoints
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.settings import apply
from coevo_agents.training.loop import Interrupted, Run
from coevo_env.errors import ConfigError, NonFiniteError, RewardError


# -------------------------------------------------------------------- kills
def wait_for(process: subprocess.Popen, directory: Path, count: int) -> bool:
    """Waits until a run has written so many lines; False if it ended before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = directory / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    raise AssertionError("the run did not get anywhere")


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [runs.COEVO, *map(str, arguments)],
        env=runs.ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def typed(settings) -> list[str]:
    """The tiny settings as a user types them."""
    words = [f"--set={name}={value}" for name, value in {**runs.TINY, "iterations": settings.iterations}.items()]
    return ["train", "--model", settings.model, *words]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_command_killed_and_interrupted_is_the_run_left_alone(model, tmp_path):
    settings = config(model, iterations=40)
    train(settings, tmp_path / "alone")
    directory, draw = tmp_path / "run", random.Random(7)
    arguments = [*typed(settings), "--out", directory]
    for least in (3, 14):  # SIGKILL somewhere behind these lines
        process = start(*arguments)
        assert wait_for(process, directory, least + draw.randrange(8))
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        arguments = ["train", "--resume", directory]
    process = start(*arguments)
    assert wait_for(process, directory, 27)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"coevo train --resume {directory}" in err and "everything is saved" in err and "Traceback" not in out + err
    last = lines(directory)[-1]["iteration"]
    assert 26 <= last < 40
    assert checkpoints(directory / "checkpoints")[-1].name == f"{last:06d}"
    done = runs.coevo(*arguments)
    assert done.returncode == 0, done.stderr
    assert_same_run(directory, tmp_path / "alone")
    assert_board_agrees(directory)


def test_ctrl_c_twice_stops_at_once(model, tmp_path, monkeypatch):
    said: list[str] = []
    run = Run(config(model), tmp_path / "run", say=said.append)
    monkeypatch.setattr(
        run.parts.learners[0], "update", lambda rollout: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
    )
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert any("again to stop at once" in line for line in said)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_at_any_moment_of_an_iteration_saves_it(model, tmp_path, monkeypatch):
    """Also while the logs are written and while the decision to save is already taken."""
    for number, (place, name) in enumerate(
        [(PPO, "update"), (logbook.Logbook, "metrics"), (Run, "_saves"), (Run, "save")]
    ):
        directory = tmp_path / str(number)
        run = Run(config(model), directory)
        real = getattr(place, name)

        def pressed(*arguments, real=real, run=run):
            if (
                run.iteration in (1, 2)
                and signal.getsignal(signal.SIGINT) is not signal.default_int_handler
                and not pressed.done
            ):
                pressed.done = True
                signal.raise_signal(signal.SIGINT)
            return real(*arguments)

        pressed.done = False
        monkeypatch.setattr(place, name, pressed)
        with pytest.raises(Interrupted) as caught:
            run.train()
        monkeypatch.setattr(place, name, real)
        assert f"after iteration {lines(directory)[-1]['iteration']} of 6" in str(caught.value)
        assert int(checkpoints(directory / "checkpoints")[-1].name) == lines(directory)[-1]["iteration"]


def test_ctrl_c_in_the_last_iteration_finishes_the_run(model, tmp_path):
    run = Run(config(model, iterations=1), tmp_path / "run")
    run.report = lambda iteration, metrics: signal.raise_signal(signal.SIGINT) if iteration == 1 else None
    assert run.train()["iterations"] == 1
    again = Run(config(model), tmp_path / "interrupted")
    again.report = lambda iteration, metrics: signal.raise_signal(signal.SIGINT) if iteration == 0 else None
    with pytest.raises(Interrupted, match="after iteration 1 of 6"):
        again.train()


# -------------------------------------------------------------------- going on
def test_a_finished_run_can_be_extended(alone, model, tmp_path):
    train(config(model, iterations=4), tmp_path / "run")
    train(apply(read_config(tmp_path / "run"), {"iterations": 6}), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", alone)
    assert read_config(tmp_path / "run").iterations == 6
    with pytest.raises(ConfigError, match="is at iteration 6"):
        Run(config(model, iterations=5), tmp_path / "run", resume=True)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    train(read_config(tmp_path / "run"), tmp_path / "run", resume=True)  # nothing left to do
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert_same_run(tmp_path / "run", alone)
    assert_board_agrees(tmp_path / "run")


def broken(how: str):
    """What a reward function does wrong."""

    def fail(values):
        raise ZeroDivisionError("float division by zero")

    return {
        "raises": fail,
        "nan": lambda values: [*values[:-1], float("nan")],
        "length": lambda values: values[:-1],
        "string": lambda values: [*values[:-1], "good"],
        "none": lambda values: None,
    }[how]


@pytest.mark.parametrize("how", ["raises", "nan", "length", "string", "none"])
@pytest.mark.parametrize("call", [0, 4, 5], ids=["first evaluation", "training", "evaluation"])
def test_a_broken_reward_stops_the_run_and_a_mended_one_continues_it(how, call, model, tmp_path, monkeypatch):
    settings = config(model, task="runs:mendable", save_every=0, iterations=4)
    train(settings, tmp_path / "alone")
    # calls: one for each of two agents before, one for iterations 1 and 2, and two evaluations
    # after it
    monkeypatch.setitem(runs.BREAK, "after", call)
    monkeypatch.setitem(runs.BREAK, "with", broken(how))
    run = Run(settings, tmp_path / "run")
    with pytest.raises(
        NonFiniteError if how == "nan" else RewardError, match=r"task 'mendable', reward 'fragile'"
    ) as caught:
        run.train()
    if how in ("raises", "nan", "string"):
        assert "to prompt" in str(caught.value) and "the response" in str(caught.value)
    at = 0 if call == 0 else 2
    assert str(tmp_path / "run" / "checkpoints" / f"{at:06d}") in str(caught.value)
    monkeypatch.setitem(runs.BREAK, "after", None)
    train(settings, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "alone")
    assert_board_agrees(tmp_path / "run")


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(model, tmp_path, monkeypatch):
    settings = config(model, save_every=1)
    run = Run(settings, tmp_path / "run")
    real, calls = PPO.update, []

    def update(self, rollout):
        calls.append(1)
        if len(calls) == 6:  # the second learner of iteration 3
            self.policy.value_head.weight.data.fill_(float("nan"))
        return real(self, rollout)

    monkeypatch.setattr(PPO, "update", update)
    with pytest.raises(NonFiniteError, match=r"loss is not finite[\s\S]*checkpoints/000002"):
        run.train()
    monkeypatch.setattr(PPO, "update", real)
    train(settings, tmp_path / "run", resume=True)
    assert [row["iteration"] for row in lines(tmp_path / "run")] == [0, 1, 2, 3, 4, 5, 6]


def test_an_error_of_a_learner_is_not_hidden_and_what_can_be_saved_is(model, tmp_path, monkeypatch):
    run = Run(config(model, save_every=0), tmp_path / "run")
    run._advance()
    run._conclude()
    monkeypatch.setattr(run.parts.game, "reset", lambda episode: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["000001"]


def test_what_a_run_had_before_an_error_inside_a_learner_is_kept(alone, model, tmp_path, monkeypatch):
    """Logs up to the last finished iteration and the checkpoints; with the learner mended the run
    is the one without the error."""
    run, calls, update = Run(config(model), tmp_path / "run"), [], PPO.update

    def fails(learner, rollout):
        calls.append(rollout)
        return update(learner, rollout) if len(calls) != 8 else {}["advantage"]  # the second agent's in iteration 4

    monkeypatch.setattr(PPO, "update", fails)
    with pytest.raises(KeyError, match="advantage"):
        run.train()
    monkeypatch.setattr(PPO, "update", update)
    assert [row["iteration"] for row in lines(tmp_path / "run")] == [0, 1, 2, 3]
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")][-1] == "000002"
    train(config(model), tmp_path / "run", resume=True)
    assert_same_run(alone, tmp_path / "run")


def test_a_state_that_cannot_be_had_does_not_hide_what_stopped_the_run(model, tmp_path, monkeypatch):
    run = Run(config(model), tmp_path / "run")
    monkeypatch.setattr(run.parts.game, "reset", lambda episode: 1 / 0)
    monkeypatch.setattr(PPO, "state_dict", lambda learner: None)
    with pytest.raises(ZeroDivisionError):
        run.train()
