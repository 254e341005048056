"""The final numbers: what chooses reads validation, the test split is read at the end, and `coevo
eval` gives the numbers of the run again, to the last bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import runs
from runs import coevo, config, train

from coevo_agents.runs.folder import read_config
from coevo_agents.training.assess import assess
from coevo_agents.training.evaluate import evaluate, evaluation_game
from coevo_agents.training.intervals import half_width, t_quantile
from coevo_agents.training.loop import Run
from coevo_env.faces.batch import BatchEnv
from coevo_env.rng import uniforms


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


KINDS = {
    "separate": {},
    "shared": {"weights": "shared"},
    "lora": {"weights": "lora", "lora.rank": 2},
    "shared-lora": {"weights": "shared-lora", "lora.rank": 2},
    "warm start": {"warm_start.steps": 2, "warm_start.learning_rate": 1e-2},
    "best of n": {"learner": "best_of_n", "best_of_n.n": 3},
    "one draw": {"eval_draws": 1, "eval_prompts": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_eval_of_a_run_gives_the_numbers_of_its_summary(kind, model, tmp_path):
    given = {"model": str(model), **KINDS[kind]}
    run = train(
        runs.apply(runs.Config(), {**runs.tiny(given.get("learner", "ppo")), "iterations": 2, **given}),
        tmp_path / "run",
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    done = coevo("eval", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in run.parts.agents:
        assert found["models"][name] == summary["agents"][name]["after"]
        assert found["models"]["reference"] == summary["agents"][name]["before"]
        assert found["ci95"][name] == summary["agents"][name]["ci95"]["after"]
    assert {key: found[key] for key in ("split", "prompts", "asked", "draws")} == summary["measured"]
    assert summary["measured"]["split"] == "test"
    if kind == "best of n":  # a choice is not free, though its tokens are the reference's own
        agent = summary["agents"]["llm1"]
        assert (agent["before"]["kl"], agent["after"]["kl"]) == pytest.approx((0, np.log(3) - 2 / 3), abs=1e-5)


def test_the_test_split_is_not_read_before_the_end(model, tmp_path, monkeypatch):
    """No prompt of the test split is played while the run goes, and at the end each is, as often
    as there are draws."""
    asked: list[tuple[str, str]] = []
    run = Run(config(model, iterations=2, eval_draws=3), tmp_path / "run")
    submit = BatchEnv.submit_turn

    def spy(game, *arguments, **options):
        asked.extend((game.rules.split, str(episode.prompt)) for episode in game.episodes)
        return submit(game, *arguments, **options)

    monkeypatch.setattr(BatchEnv, "submit_turn", spy)
    with run:
        while run.iteration < 2:
            run.iterate()
        assert {split for split, _ in asked} == {"train", "validation"}
        asked.clear()
        run.finish()
    test = list(map(str, run.parts.game.rules.task.test))
    assert sorted(asked) == sorted(("test", prompt) for prompt in test for _ in range(3 * 3))  # and three models


def test_draws_for_a_prompt_have_noise_of_their_own_and_are_averaged(model, tmp_path):
    settings = config(model, eval_draws=4)
    run = Run(settings, tmp_path / "run")
    game, reference = run.parts.final, run.parts.reference
    result = evaluate(game, reference)
    prompts = game.batch_size
    assert result.rewards.shape == (prompts * 4,) and len(result.transcripts) == prompts
    assert len({t["prompt"] for t in result.transcripts}) == prompts
    assert result.metrics["reward"] == pytest.approx(result.rewards.mean())
    assert result.ci95.get("reward") == half_width(result.rewards.reshape(prompts, 4))
    noise = uniforms(game.rules.seed, range(prompts * 4), 0, 2)
    assert len(np.unique(noise, axis=0)) == prompts * 4
    one = evaluation_game(settings, game.rules.task, reference, split="test")
    assert evaluate(one, reference).metrics.keys() == result.metrics.keys()
    run.log.close()


def test_more_prompts_than_there_are_is_said(model, tmp_path):
    said: list[str] = []
    run = Run(config(model, eval_prompts=50), tmp_path / "run", say=said.append)
    run.log.close()
    assert any("note: evaluation on 2 prompts of the test split; eval_prompts=50 asks for more" in s for s in said)


def test_a_stopped_run_is_played_and_evaluated_from_its_checkpoint(model, tmp_path):
    """Its agents are those of a run that ends there."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(config(model, iterations=4), whole)
    with Run(config(model, iterations=6), stopped) as run:
        while run.iteration < 5:  # saved after 2 and 4
            run.iterate()
    before = sorted(str(p) for p in stopped.rglob("*"))
    done = coevo("eval", stopped, "--json")
    assert done.returncode == 0 and "its agents are those of iteration 4" in done.stderr
    summary = json.loads((whole / "summary.json").read_text())
    assert json.loads(done.stdout)["models"]["llm2"] == summary["agents"]["llm2"]["after"]
    assert "llm2 (observer)" in coevo("play", stopped, "--prompt", "2").stdout
    assert sorted(str(p) for p in stopped.rglob("*")) == before


def test_other_numbers_can_be_asked_for(model, tmp_path):
    train(config(model, iterations=1), tmp_path / "run")
    settings = read_config(tmp_path / "run")
    found = assess(runs.replace(settings, eval_draws=2, eval_prompts=1), {"a": str(tmp_path / "run/agents/llm1")})
    assert found.measured() == {"split": "test", "prompts": 1, "asked": 1, "draws": 2} and found.ci95()["a"] == {}
    done = coevo("eval", tmp_path / "run", "--prompts", 1, "--draws", 2)
    assert "1 prompt of the test split, 2 draws each" in done.stdout


# ---------------------------------------------------------------- intervals
@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (30, 2.042), (127, 1.979), (1000, 1.962)],
)
def test_quantiles_are_those_of_the_tables(freedom, quantile):
    assert round(t_quantile(0.95, freedom), 3) == quantile


def test_the_interval_is_over_prompts_and_holds_the_mean_as_often_as_it_says():
    assert half_width(np.array([[1.0, 3.0]])) is None
    assert half_width(np.array([[1.0], [3.0]])) == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), abs=1e-3)
    twice = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])  # a draw that repeats another adds nothing
    assert half_width(twice) == half_width(twice[:, :1])
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        values = draw.normal(size=(6, 1)) + draw.normal(size=(6, 4))
        hits += abs(values.mean()) <= half_width(values)
    assert abs(hits / 2000 - 0.95) < 0.015  # three standard errors


def test_rows_that_repeat_a_prompt_are_one_prompt():
    draw = np.random.default_rng(1)
    hits, naive = 0, 0
    for _ in range(400):
        values = np.repeat(draw.normal(size=12), 10)[:, None] + 0.1 * draw.normal(size=(120, 2))
        hits += abs(values.mean()) <= half_width(values, np.repeat(np.arange(12), 10).tolist())
        naive += abs(values.mean()) <= half_width(values)
    assert abs(hits / 400 - 0.95) < 0.033 and naive < 280  # three standard errors; and the mutant is seen
    once = draw.normal(size=(5, 3))
    order = [3, 1, 0, 4, 2, 0, 1, 2, 3, 4]
    assert half_width(once[order], list(map(str, order))) == pytest.approx(half_width(once))
    assert half_width(once[[0, 0, 0]], ["a", "a", "a"]) is None


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_equal_values_are_no_interval_of_no_width(value):
    assert half_width(np.full((16, 8), value)) is None
    assert half_width(np.full((16, 3), value), [*range(8), *range(8)]) is None


def test_an_evaluation_counts_prompts_and_not_rows(model, tmp_path):
    lines = [f"{i} {j}" for i in range(5) for j in range(5)]
    (tmp_path / "train.txt").write_text("\n".join(lines[2:]))
    (tmp_path / "test.txt").write_text("\n".join([*lines[:2], *lines[:2], lines[0], *lines[:2]]))
    options = {"prompts": str(tmp_path / "train.txt"), "test": str(tmp_path / "test.txt"), "reward": "regex:2"}
    options["templates"] = {"observer": "{prompt} {responses}"}
    settings = config(model, task="own", max_context=32, max_new_tokens=4, eval_prompts=7, eval_draws=3,
                      batch_size=2, task_options=options)  # fmt: skip
    with Run(settings, tmp_path / "run") as run:
        result = evaluate(run.parts.final, run.parts.reference)
    assert sorted(t["prompt"] for t in result.transcripts) == sorted([*lines[:2] * 3, lines[0]])
    asked = [t["prompt"] for t in result.transcripts]
    assert result.ci95.get("reward") == half_width(result.rewards.reshape(7, 3), asked)
