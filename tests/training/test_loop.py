"""The training loop: what it computes and writes, and that a run in parts is the whole run.

Every run here is a real one of a tiny model. A resumed run is compared bit for bit with the same
run left alone.
"""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from runs import assert_board_agrees, assert_same_run, board, config, lines, same_state, train

from coevo_agents.runs.checkpoint import checkpoints
from coevo_agents.runs.config import Config
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.settings import apply
from coevo_agents.training import loop
from coevo_agents.training.evaluate import evaluate
from coevo_agents.training.loop import Run
from coevo_agents.training.outcome import evaluate_agents


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
def test_tensorboard_holds_the_metrics(alone):
    assert_board_agrees(alone)
    assert any("transcripts/0" in tag for tag in board(alone).Tags()["tensors"])


def test_tensorboard_has_an_overview_and_the_settings(alone):
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = board(alone)
    shown = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in shown.category for chart in category.chart}
    assert len(charts) >= 10
    for title, patterns in charts.items():
        for pattern in patterns:
            assert any(re.match(pattern, tag) for tag in events.Tags()["scalars"]), (title, pattern)
    metadata = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    named = HParamsPluginData.FromString(metadata).session_start_info.hparams
    saved = json.loads((alone / "config.json").read_text())["config"]
    assert named["task"].string_value == saved["task"]
    assert named["batch_size"].number_value == saved["batch_size"]  # not the default
    assert "kl.mode" not in named  # the default


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
