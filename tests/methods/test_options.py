"""Options of a run that belong to no learner: Elastic Reset, warm start, weight modes, update
schemes, annealed mixing. Real, tiny runs."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import assert_same_run, coevo, config, lines, same_state, save_tiny, train

from coevo_agents.learners.learner import LEARNERS
from coevo_agents.methods.elastic_reset import ElasticConfig, ElasticReset
from coevo_agents.methods.update_order import MAX_RATIO, drift
from coevo_agents.methods.warm_start import WarmStartConfig, examples, warm_start
from coevo_agents.runs.checkpoint import CheckpointError
from coevo_agents.runs.folder import save_initial
from coevo_agents.training.loop import Run
from coevo_env.errors import ConfigError
from coevo_env.faces.build import build
from coevo_env.game.task import Task
from coevo_env.lm.model import LanguageModel
from coevo_env.rewards import length_reward
from coevo_env.tasks import make_task
from coevo_env.testing import tiny_lm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


# ---------------------------------------------------------------- every learner in the loop
OPTIONS = {
    "ppo": {},
    "reinforce": {"reinforce__learning_rate": 1e-2},
    "rloo": {"group_size": 4, "rloo__learning_rate": 1e-2},
    "grpo": {"group_size": 4, "grpo__learning_rate": 1e-2},
    "mappo": {"mappo__learning_rate": 1e-2, "context": "none"},
    "best_of_n": {"best_of_n__n": 2},
    "frozen": {},
}


@pytest.mark.parametrize("weights", ["separate", "shared", "lora", "shared-lora"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_resumed_run_is_the_uninterrupted_one(model, tmp_path, learner, weights):
    settings = config(model, learner=learner, weights=weights, iterations=4, elastic__every=3, **OPTIONS[learner])
    if learner in ("best_of_n",):
        settings = config(model, learner=learner, weights=weights, iterations=4, **OPTIONS[learner])
    train(settings, tmp_path / "straight")
    interrupted = Run(settings, tmp_path / "interrupted")
    for _ in range(2):
        interrupted.iterate()
    interrupted.save()
    interrupted.log.close()
    train(settings, tmp_path / "interrupted", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "interrupted")


def test_agents_of_shared_weights_are_one_policy_with_one_controller(model, tmp_path):
    run = train(
        config(model, weights="shared", kl__controller="adaptive", kl__horizon=20, batch_size=8), tmp_path / "run"
    )
    assert len(run.parts.learners) == 1
    assert run.parts.game.controllers[0] is run.parts.game.controllers[1]
    rows = lines(tmp_path / "run")
    for row in rows[1:]:
        assert row["llm1/kl_coef"] == row["llm2/kl_coef"]
        assert row["llm1/loss/policy"] == row["llm2/loss/policy"]  # of one update over the turns of both
        if "llm1/eval/reward" in row:
            assert row["llm1/eval/reward"] == row["llm2/eval/reward"]
    beta = rows[1]["llm1/kl_coef"]
    kl = (rows[1]["llm1/kl"] + rows[1]["llm2/kl"]) / 2  # 8 turns each, in the same 8 episodes; moved once
    controller = run.parts.game.controllers[0]
    expected = beta * (1 + min(max(kl / run.config.kl.target - 1, -0.2), 0.2) * 8 / 20)
    assert rows[2]["llm1/kl_coef"] == pytest.approx(expected)
    assert controller.beta != beta
    saved = sorted(path.name for path in (tmp_path / "run" / "agents").iterdir())
    assert saved == ["llm1", "llm2"]
    done = coevo("play", tmp_path / "run", "--prompt", "1")
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- who learns when
def test_alternating_updates_one_learner_and_leaves_the_others_bit_for_bit(model, tmp_path):
    run = Run(config(model, updates="alternating", alternate_every=2), tmp_path / "run")
    for iteration in range(5):
        before = [
            {key: torch.as_tensor(value).clone() for key, value in learner.state_dict().items()}
            for learner in run.parts.learners
        ]
        run._advance()
        active = iteration // 2 % 2
        assert same_state(run.parts.learners[1 - active].state_dict(), before[1 - active])
        assert not same_state(run.parts.learners[active].state_dict(), before[active])
        assert (
            f"llm{active + 1}/loss/policy" in run.state.pending["metrics"],
            f"llm{2 - active}/loss/policy" in run.state.pending["metrics"],
        ) == (
            True,
            False,
        )
    run.log.close()


def test_sequential_updates_tell_each_learner_what_the_earlier_ones_changed(model, tmp_path, monkeypatch):
    run = Run(
        config(model, updates="sequential", num_agents=4, roles="rotation", ppo__learning_rate=0.2), tmp_path / "run"
    )
    seen, products = [], []
    for number, learner in enumerate(run.parts.learners):
        original = learner.update

        def spy(rollout, number=number, original=original):
            product = np.ones(8)
            for other, other_rollout in seen:
                product = product * np.exp(
                    drift(
                        run.parts.learners[other].policy, other_rollout, run.parts.game.rules.sampling, rollout.episodes
                    )
                )
            assert rollout.weights == pytest.approx(np.minimum(product, MAX_RATIO))
            products.append(product)
            stats = original(rollout)
            seen.append((number, rollout))
            return stats

        monkeypatch.setattr(learner, "update", spy)
    run._advance()
    run.log.close()
    assert sorted(number for number, _ in seen) == [0, 1, 2, 3]
    assert np.abs(seen[-1][1].weights - 1).max() > 1e-3
    # the run has episodes whose ratio passes the bound on the way and comes back under it: each
    # ratio cut by itself would be another weight
    assert any(
        (earlier > MAX_RATIO).any() and (later[earlier > MAX_RATIO] < MAX_RATIO).any()
        for earlier, later in pairwise(products)
    )
    importance = [run.state.pending["metrics"][f"llm{number + 1}/importance"] for number, _ in seen]
    assert importance[0] == 1.0
    assert importance[1] != 1.0


# ---------------------------------------------------------------- Elastic Reset
class Walker:
    """A learner whose one weight goes up by 1 in every update."""

    class policy:
        weight = torch.nn.Parameter(torch.zeros(()))

        @classmethod
        def named_parameters(cls):
            return {"model.w": cls.weight, "value_head.weight": torch.nn.Parameter(torch.zeros(()))}

    def update(self, rollout):
        with torch.no_grad():
            self.policy.weight += 1
        return {"loss": 0.0}

    def state_dict(self):
        return {"model.w": self.policy.weight.detach().clone()}

    def load_state_dict(self, state):
        with torch.no_grad():
            self.policy.weight.copy_(state["model.w"])


def test_elastic_reset_against_a_hand_worked_table():
    """decay 1/2, every 3: weight 1, 2, 3 -> average 0.5, 1.25, 2.125; reset: weight 2.125, average
    0; then 3.125 -> 1.5625, ..."""
    elastic = ElasticReset(Walker(), ElasticConfig(every=3, decay=0.5))
    weight, flags, weights, averages = Walker.policy.weight, [], [], []
    for _ in range(5):
        flags.append(elastic.update(None)["elastic_reset"])
        weights.append(float(weight.detach()))
        averages.append(float(elastic.average["model.w"]))
    assert weights == [1, 2, 2.125, 3.125, 4.125]
    assert averages == [0.5, 1.25, 0, 1.5625, 2.84375]
    assert flags == [0, 0, 1, 0, 0]
    assert set(elastic.average) == {"model.w"}  # value heads are not reset
    state = {name: torch.as_tensor(value).clone() for name, value in elastic.state_dict().items()}
    elastic.update(None)
    elastic.load_state_dict(state)
    assert (float(weight.detach()), float(elastic.average["model.w"]), elastic.updates) == (4.125, 2.84375, 5)


def test_elastic_reset_settings():
    with pytest.raises(ConfigError, match=r"decay=1\.0; expected every >= 0"):
        ElasticConfig(every=5, decay=1.0)
    with pytest.raises(ConfigError, match="named_parameters"):
        ElasticReset(type("Blind", (), {"policy": object()})(), ElasticConfig(every=2))


# ---------------------------------------------------------------- warm start
def test_a_warm_start_teaches_what_the_script_says():
    lm = tiny_lm(5, seed=0, eos_id=0)
    rules, _ = build("toy", lm, num_agents=1)
    pairs = examples(rules)
    assert pairs == [([1], [1, 1, 1]), ([2], [2, 2, 2])]  # three tokens fill the budget, so there is no room for EOS
    losses = warm_start(lm, rules, WarmStartConfig(steps=60, batch_size=8, learning_rate=1e-2), seed=0)
    assert losses[-1] < 0.1 * losses[0]
    again = tiny_lm(5, seed=0, eos_id=0)
    assert warm_start(again, rules, WarmStartConfig(steps=60, batch_size=8, learning_rate=1e-2), seed=0) == losses


@pytest.mark.parametrize("weights", ["separate", "lora"])
def test_agents_and_reference_start_from_the_warm_model(model, tmp_path, weights):
    settings = config(model, weights=weights, warm_start__steps=40, warm_start__learning_rate=1e-2, iterations=2)
    said = []
    run = Run(settings, tmp_path / "run", say=said.append)
    assert "warm start: 40 steps, loss" in said[0]
    contexts, tokens, lengths = [[1], [2]], np.array([[1, 1, 1], [2, 2, 2]]), np.array([3, 3])
    reference = run.parts.reference.score(contexts, tokens, lengths, run.parts.game.rules.sampling)
    assert reference.min() > -0.5  # it says what the script says
    assert np.allclose(
        run.parts.policies[0].lm.score(contexts, tokens, lengths, run.parts.game.rules.sampling), reference, atol=1e-6
    )
    run.train()
    warm = LanguageModel.from_pretrained(tmp_path / "run" / "initial")
    assert np.allclose(warm.score(contexts, tokens, lengths, run.parts.game.rules.sampling), reference, atol=1e-6)
    kl = lines(tmp_path / "run")[0]["llm1/eval/kl"]
    assert kl == pytest.approx(0.0, abs=1e-6)  # measured from the warm model, which is where the agents are
    done = coevo("eval", tmp_path / "run", "--prompts", "2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"learner": "grpo"}, "group_size=1 with learner='grpo'"),
        ({"weights": "lora", "lora__targets": "nope"}, "no module 'nope'"),
    ],
)
def test_settings_are_refused_before_the_warm_start(model, tmp_path, settings, says):
    said: list[str] = []
    with pytest.raises(ConfigError, match=says):
        Run(config(model, warm_start__steps=40, **settings), tmp_path / "run", say=said.append)
    assert not said and not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"could not be made|is no folder|not a directory"):
        Run(config(model, warm_start__steps=40), tmp_path / "file" / "run", say=said.append)
    assert not said


def test_a_run_with_a_warm_start_resumes_bit_for_bit(model, tmp_path):
    settings = config(model, warm_start__steps=5, iterations=4)
    train(settings, tmp_path / "straight")
    Run(settings, tmp_path / "interrupted").log.close()  # killed before the first checkpoint
    train(settings, tmp_path / "interrupted", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "interrupted")


def test_a_warm_start_that_was_never_a_run_is_not_taken_over(model, tmp_path):
    folder = tmp_path / "run"
    tiny = tiny_lm(5, seed=9)
    folder.mkdir()
    save_initial(tiny, folder)
    run = Run(config(model), folder)
    run.log.close()
    assert not (folder / "initial").exists()
    tiny.module.save_pretrained(tmp_path / "other" / "initial")  # a model of somebody else's
    tiny.tokenizer.hf.save_pretrained(tmp_path / "other" / "initial")
    with pytest.raises(ConfigError, match="is not empty, and what it holds is no run: initial"):
        Run(config(model), tmp_path / "other")
    assert (tmp_path / "other" / "initial" / "model.safetensors").exists()


@functools.cache
def written_game():
    lm = tiny_lm(None, positions=512)
    task = Task(name="t", train=["a"], test=["b"], rewards={"length": length_reward(3)})
    return lm, build(task, lm, num_agents=1, max_new_tokens=80, max_context=400)[0]


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.lists(st.text(max_size=2), max_size=2)


@given(VALUES | st.text(max_size=4), VALUES | st.text(max_size=4))
def test_a_warm_start_teaches_texts_and_nothing_that_python_writes(prompt, response):
    def is_text(value):  # or a number
        return isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))

    lm, rules = written_game()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        file.write_text(json.dumps({"prompt": prompt, "response": response}))
        if not is_text(prompt) or not is_text(response) or not str(prompt).strip():
            with pytest.raises(ConfigError, match=r"pairs.jsonl, row 1"):
                examples(rules, str(file))
            return
        ((context, tokens),) = examples(rules, str(file))
    said = [json.dumps(v) if not isinstance(v, str) else v for v in (prompt, response)]
    assert [lm.tokenizer.decode(context), lm.tokenizer.decode(tokens)] == said


def test_a_warm_start_reads_chats_as_agents_read_them(tmp_path):
    lm = tiny_lm(None, positions=512)
    lm.tokenizer.hf.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    chats = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"q{i}"}] for i in range(20)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": c, "answer": 1}) + "\n" for c in chats))
    task = make_task("own", prompts=str(tmp_path / "chats.jsonl"), reward="number", max_new_tokens=9, max_context=300)
    rules, _ = build(task, lm, num_agents=1)
    prompt = task.prompt("train", 0)
    file = tmp_path / "pairs.jsonl"
    messages = [*prompt.earlier, {"role": "user", "content": str(prompt)}]
    for row in ({"prompt": messages, "response": "4"},
                {"messages": [*messages, {"role": "assistant", "content": "4"}]}):  # fmt: skip
        file.write_text(json.dumps(row))
        ((context, tokens),) = examples(rules, str(file))
        assert context == rules.encode(task.render(prompt)) and lm.tokenizer.decode(context).startswith("<system>")
        assert lm.tokenizer.decode(tokens) == "4"
    file.write_text('{"prompt": "q3", "response": "3"}')
    with pytest.raises(ConfigError, match="row 1: the prompt is text, and the prompts of the task are messages"):
        examples(rules, str(file))


def test_a_full_disk_during_the_warm_start(model, tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(CheckpointError, match=r"warm-started model could not be saved: .*No space left.*make room"):
        Run(config(model, warm_start__steps=1), tmp_path / "run")
    assert not (tmp_path / "run" / "initial").exists()


# ---------------------------------------------------------------- annealed mixing
def test_lambda_moves_linearly_and_a_resumed_run_agrees(model, tmp_path):
    settings = config(
        model,
        mixing="weighted",
        mixing_weight=-1.0,
        mixing_weight_end=1.0,
        mixing_anneal=4,
        iterations=6,
        exchange_every=0,
    )
    run = train(settings, tmp_path / "run")
    assert [settings.mixing_weight_at(i) for i in range(6)] == [-1.0, -0.5, 0.0, 0.5, 1.0, 1.0]
    for row, weight in zip(lines(tmp_path / "run")[1:], (-1.0, -0.5, 0.0, 0.5, 1.0, 1.0), strict=True):
        both = row["llm1/reward/task"] + row["llm2/reward/task"]
        assert row["llm1/reward/team"] + row["llm2/reward/team"] == pytest.approx((1 + weight) * both)
    assert run.parts.game.rules.mixing.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert run.parts.held_out.rules.mixing.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": "shard"}, "Did you mean 'shared'"),
        ({"updates": "parallel"}, "expected one of simultaneous, alternating, sequential"),
        ({"updates": "sequential", "weights": "shared"}, "nothing to update in turn"),
        ({"mixing_anneal": 3}, "only 'weighted' has a lambda"),
        ({"group_size": 3}, "batch_size=8 is not a multiple of group_size=3"),
        ({"learner": "grpo"}, "group_size=1 with learner='grpo'"),
        ({"learner": "best_of_n", "best_of_n__n": 1}, "best_of_n.n=1"),
        (
            {"learner": "grpo", "group_size": 4, "grpo__scale": "group"},
            "grpo.scale='group'; expected one of cell, batch, none",
        ),
        ({"learner": "rloo", "group_size": 4, "rloo__over": "team"}, "rloo.over='team'"),
        ({"learner": "mappo", "mappo__gamma": 2}, "mappo.gamma=2.0; expected a number from 0 to 1"),
        ({"learner": "grpp"}, "Did you mean 'grpo'"),
    ],
)
def test_options_that_cannot_work(model, tmp_path, settings, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        Run(config(model, **settings), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_learner_that_returns_nan_stops_the_run_with_what_it_had(model, tmp_path):
    """The error names the agent and the metric; the last whole checkpoint stays, and the command
    exits with 1."""
    (tmp_path / "diverging.py").write_text(
        "from coevo_agents.learners.reinforce import Reinforce\n\n\n"
        "class Diverging(Reinforce):\n"
        "    def update(self, rollout):\n"
        "        stats = super().update(rollout)\n"
        "        return {**stats, 'made_up': float('nan') if self.updates > 3 else 0.0}\n"
    )
    words = [
        "--task",
        "toy",
        "--model",
        model,
        "--batch-size",
        "8",
        "--iterations",
        "6",
        "--set",
        "save_every=2",
        "--set",
        "eval_every=2",
    ]
    done = coevo("train", *words, "--learner", "diverging:Diverging", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "llm1 returned nan for its metric 'made_up'" in " ".join(done.stderr.split())
    assert json.loads((tmp_path / "run" / "checkpoints" / "000002" / "state.json").read_text())["iteration"] == 2
    assert len(lines(tmp_path / "run")) == 4  # iterations 0 to 3
