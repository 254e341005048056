"""The training loop: what it computes, and that nothing which interrupts it changes what it
computes.

Every run here is a real one of a tiny model. A resumed run is compared bit for bit with the same
run left alone.
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from runs import assert_same_run, config, lines, same_state, train

from coevo_agents.learners.ppo import PPO
from coevo_agents.runs import checkpoint, logbook
from coevo_agents.runs.checkpoint import checkpoints
from coevo_agents.runs.config import Config
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.settings import apply
from coevo_agents.training import loop
from coevo_agents.training.evaluate import evaluate
from coevo_agents.training.loop import Interrupted, Run
from coevo_agents.training.outcome import evaluate_agents
from coevo_env.errors import ConfigError, NonFiniteError, RewardError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory) -> Path:
    """The uninterrupted run of the default tiny settings."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    train(config(model), directory)
    return directory


# -------------------------------------------------------------------- what a run is
def test_a_run_writes_what_it_promises(alone, model):
    rows = lines(alone)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    for name in ("llm1", "llm2"):
        assert [row["iteration"] for row in rows if f"{name}/eval/reward" in row] == [0, 2, 4, 6]
        assert all(
            np.isfinite(row[f"{name}/{tag}"])
            for row in rows[1:]
            for tag in ("reward/task", "kl", "entropy", "loss/policy")
        )
        assert (alone / "agents" / name / "model.safetensors").exists()
    assert {row["iteration"] for row in lines(alone, "transcripts.jsonl")} == {2, 4, 6}
    summary = json.loads((alone / "summary.json").read_text())
    assert summary["iterations"] == 6
    assert summary["measured"] == {"split": "test", "prompts": 2, "asked": 128, "draws": 8}
    assert read_config(alone) == config(model)
    record = json.loads((alone / "config.json").read_text())
    assert record["provenance"]["versions"]["torch"] == torch.__version__


def test_the_same_seed_gives_the_same_run_and_another_seed_another(alone, model, tmp_path):
    torch.manual_seed(99)  # the loop must not look at global generators
    np.random.seed(99)
    before = torch.get_rng_state()
    train(config(model), tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_run(tmp_path / "again", alone)
    train(config(model, seed=1), tmp_path / "other")
    assert lines(tmp_path / "other") != lines(alone)


@pytest.mark.parametrize(
    "options",
    [
        {"num_agents": 1},
        {"num_agents": 3, "roles": "rotation"},
        {"weights": "lora"},
        {"kl__mode": "loss", "mixing": "own"},
        {"kl__estimator": "full"},
        {"kl__controller": "adaptive", "kl__target": 0.05, "kl__horizon": 20},
        {"kl__controller": "dual", "kl__target": 0.05, "ppo__normalize_reward": True, "ppo__decay_updates": 40},
        {"roles": "random", "exchange_every": 0},
        {"context": "none", "mixing": "competitive", "ppo__minibatch_size": 4, "ppo__micro_batch_size": 2},
    ],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()),
)
def test_every_kind_of_run_continues_bit_for_bit(options, model, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config(model, iterations=4, **options), whole)
    train(config(model, iterations=2, **options), parts)
    assert not any(row["iteration"] > 2 for row in lines(parts))
    train(config(model, iterations=4, **options), parts, resume=True)
    assert_same_run(parts, whole)
    assert len(list((parts / "agents").iterdir())) == options.get("num_agents", 2)


def test_the_embedded_model_continues_bit_for_bit(tmp_path):
    settings = {"batch_size": 8, "eval_prompts": 8, "eval_every": 1, "exchange_every": 1}
    train(apply(Config(), {**settings, "iterations": 2}), tmp_path / "whole")
    train(apply(Config(), {**settings, "iterations": 1}), tmp_path / "parts")
    train(apply(Config(), {**settings, "iterations": 2}), tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_the_adaptive_controller_moves_beta_by_its_rule_and_is_restored(model, tmp_path):
    settings = {"kl__controller": "adaptive", "kl__target": 0.05, "kl__horizon": 20, "kl__beta": 0.1}
    train(config(model, iterations=2, **settings), tmp_path / "run")
    train(config(model, iterations=4, **settings), tmp_path / "run", resume=True)
    rows = lines(tmp_path / "run")[1:]
    for name in ("llm1", "llm2"):
        betas = [row[f"{name}/kl_coef"] for row in rows]
        assert betas[0] == 0.1 and len(set(betas)) > 1
        for row, beta, after in zip(rows, betas, betas[1:], strict=False):
            error = min(max(row[f"{name}/kl"] / 0.05 - 1, -0.2), 0.2)
            assert after == pytest.approx(beta * (1 + error * 8 / 20), rel=1e-12)


# -------------------------------------------------------------------- roles
def test_an_exchange_moves_no_weight_no_moment_and_no_controller(model, tmp_path, monkeypatch):
    run = Run(config(model, kl__controller="adaptive", kl__horizon=20), tmp_path / "run")
    run._advance()
    seats = [rollout.seats.tolist() for rollout in run.parts.game.rollouts()]
    states = [copy.deepcopy(learner.state_dict()) for learner in run.parts.learners]
    betas = [controller.state_dict() for controller in run.parts.game.controllers]
    assert any("exp_avg" in key for key in states[0]) and any("value_head" in key for key in states[0])
    for learner in run.parts.learners:
        monkeypatch.setattr(learner, "update", lambda rollout: dict.fromkeys(run.keys[0], 0.0))
    monkeypatch.setattr(run.parts.game, "update_controllers", list)
    run._advance()
    exchanged = [rollout.seats.tolist() for rollout in run.parts.game.rollouts()]
    assert (seats, exchanged) == ([[0] * 8, [1] * 8], [[1] * 8, [0] * 8])
    assert all(
        same_state(learner.state_dict(), state) for learner, state in zip(run.parts.learners, states, strict=True)
    )
    assert [controller.state_dict() for controller in run.parts.game.controllers] == betas
    run.log.close()


def test_the_reset_of_the_released_code_is_an_option(model, tmp_path):
    options = {"exchange_every": 2, "reset_at_exchange": True, "kl__controller": "adaptive", "kl__horizon": 20}
    run = Run(config(model, **options, ppo__normalize_reward=True), tmp_path / "run")
    steps, betas = [], []
    for _ in range(4):
        run._advance()
        steps.append(float(next(iter(run.parts.learners[0].optimizer.state.values()))["step"]))
        betas.append(run.parts.game.controllers[0].beta)
    per_update = steps[0]
    assert steps == [per_update, 2 * per_update, per_update, 2 * per_update]  # Adam counts from zero after the exchange
    start = run.config.kl.beta
    assert betas[0] != start and betas[2] / start == pytest.approx(
        betas[0] / start, rel=0.02
    )  # one iteration away from the start again
    assert run.parts.learners[0].moments[0] == 2 * run.config.batch_size
    run.log.close()


def test_roles_exchange_every_so_many_iterations(model, tmp_path):
    train(config(model, exchange_every=2), tmp_path / "run")
    assert [row["llm1/seat"] for row in lines(tmp_path / "run")[1:]] == [0, 0, 1, 1, 0, 0]
    assert [row["llm2/seat"] for row in lines(tmp_path / "run")[1:]] == [1, 1, 0, 0, 1, 1]


def test_random_roles_after_every_episode_mix_both_orders_in_a_batch(model, tmp_path):
    run = Run(config(model, roles="random", exchange_every=0), tmp_path / "run")
    run._advance()
    first, second = run.parts.game.rollouts()
    assert set(first.seats) == {0, 1} and np.array_equal(first.seats + second.seats, np.ones(8))
    observers = [
        context
        for rollout in (first, second)
        for context, seat in zip(rollout.contexts, rollout.seats, strict=True)
        if seat
    ]
    pioneers = [
        context
        for rollout in (first, second)
        for context, seat in zip(rollout.contexts, rollout.seats, strict=True)
        if not seat
    ]
    assert {len(context) for context in pioneers} == {1}  # the plain prompt, whoever reads it
    assert max(len(context) for context in observers) > 1
    run.log.close()


# -------------------------------------------------------------------- evaluation
def test_an_evaluation_is_of_one_agent_alone_on_plain_held_out_prompts(model, tmp_path):
    run = Run(config(model), tmp_path / "run")

    class Spy:
        contexts: list[list[int]] = []  # noqa: RUF012

        def generate(self, contexts, *arguments):
            self.contexts += contexts
            return run.parts.learners[1].policy.generate(contexts, *arguments)

    spy, tokenizer = Spy(), run.parts.game.rules.tokenizer
    result = evaluate(run.parts.held_out, spy, "llm2")
    task = run.parts.game.rules.task
    assert sorted(spy.contexts) == sorted(
        tokenizer.encode(task.templates["pioneer"].format(prompt=prompt)) for prompt in task.validation
    )
    assert not set(task.test) & set(task.train)
    assert {turn["agent"] for transcript in result.transcripts for turn in transcript["turns"]} == {"llm2"}
    run._advance()  # whatever seat the agent has now, only its weights matter
    again = evaluate(run.parts.held_out, spy, "llm2")
    run.parts.learners[1].load_state_dict(Run(config(model), tmp_path / "fresh").parts.learners[1].state_dict())
    assert again.metrics["kl"] != 0 and evaluate(run.parts.held_out, spy, "llm2").metrics == result.metrics
    assert result.metrics["kl"] == pytest.approx(0, abs=1e-5)
    run.log.close()


@pytest.mark.parametrize("weights", ["separate", "lora"])
def test_saved_agents_are_plain_models(weights, model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(config(model, iterations=2, weights=weights), tmp_path / "run")
    ids = torch.tensor([[1, 2, 3, 4, 2, 1]])
    logits = []
    for name, learner in zip(run.parts.agents, run.parts.learners, strict=True):
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "agents" / name)
        assert type(plain).__name__ == "GPT2LMHeadModel"
        with torch.no_grad(), learner.policy.lm.active():
            ours = learner.policy.lm.module(input_ids=ids).logits
            logits.append(plain(input_ids=ids).logits)
        torch.testing.assert_close(logits[-1], ours, rtol=0, atol=0 if weights == "separate" else 1e-5)
        assert AutoTokenizer.from_pretrained(tmp_path / "run" / "agents" / name).eos_token_id == 0
    assert not torch.equal(*logits)  # two agents, not one saved twice


# -------------------------------------------------------------------- logs
def board(directory: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(
        str(directory / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}
    )
    accumulator.Reload()
    return accumulator


def assert_board_agrees(directory: Path) -> None:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    ours = {(tag, row["iteration"]): value for row in rows for tag, value in row.items() if tag != "iteration"}
    events = board(directory)
    points = [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    theirs = {(tag, step): value for tag, step, value in points}
    assert len(points) == len(theirs), "a point was written twice"
    assert set(theirs) == set(ours)
    assert all(np.float32(ours[key]) == np.float32(theirs[key]) for key in ours if not key[0].startswith("time/"))
    histograms = events.Histograms("llm1/histogram/kl")
    assert [event.step for event in histograms] == [row["iteration"] for row in rows[1:]]


def test_tensorboard_holds_the_metrics(alone):
    assert_board_agrees(alone)
    assert any("transcripts/0" in tag for tag in board(alone).Tags()["tensors"])


def test_the_last_checkpoints_and_the_best_one_are_kept(model, tmp_path, monkeypatch):
    run = Run(config(model, save_every=1, eval_every=1, keep=2), tmp_path / "run")
    scores = iter([0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6])

    def scripted(parts):
        results, score = evaluate_agents(parts), next(scores)
        for result in results.values():
            result.metrics["reward"] = score
        return results

    monkeypatch.setattr(loop, "evaluate_agents", scripted)
    run.train()
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["000002", "000005", "000006"]


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


def dies(events: int, body) -> bool:
    """Runs `body` in a forked process that is killed at the given event of writing; returns whether
    it was."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    left = events

    def counted(function):
        def wrapper(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    code = 1
    try:
        for place, name in (
            (os, "replace"),
            (checkpoint, "_sync"),
            (checkpoint, "save_file"),
            (checkpoint.shutil, "rmtree"),
        ):
            setattr(place, name, counted(getattr(place, name)))
        for place, name in (
            (logbook.Logbook, "_line"),
            (logbook.Logbook, "sync"),
            (PPO, "update"),
            (Path, "mkdir"),
            (Path, "write_text"),
        ):
            setattr(place, name, counted(getattr(place, name)))
        body()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_run_killed_again_and_again_between_any_two_writes_is_the_run_left_alone(seed, alone, model, tmp_path):
    directory, draw, settings, kills = tmp_path / "run", random.Random(seed), config(model), 0

    def attempt():
        train(settings, directory, resume=(directory / "config.json").exists())

    while dies(draw.randrange(60), attempt):
        kills += 1
        assert kills < 80
    assert kills > 2
    assert_same_run(directory, alone)
    assert_board_agrees(directory)
    leftovers = [path for path in directory.rglob(".*") if path.name != ".config.json.partial"]
    assert leftovers == []


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
