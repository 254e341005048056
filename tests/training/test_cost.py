"""What a run costs is counted where the work is done, and a run ends when its budget is spent."""

from __future__ import annotations

import numpy as np
import pytest
import runs
from runs import config, lines, train

from coevo_agents.runs.budget import BudgetConfig
from coevo_agents.training.loop import Run
from coevo_env.errors import ConfigError
from coevo_env.lm.model import LanguageModel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return runs.save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def counted(directory) -> list[dict[str, float]]:
    return [{tag: v for tag, v in row.items() if tag.startswith("cost/")} for row in lines(directory)[1:]]


def test_tokens_are_counted_as_by_hand(model, tmp_path):
    seen = []

    class Watched(Run):
        def _update(self, rollouts, playing, metrics):
            seen.append(rollouts)
            return super()._update(rollouts, playing, metrics)

    Watched(config(model, iterations=2, ppo__epochs=3), tmp_path / "run").train()
    for row, rollouts in zip(counted(tmp_path / "run"), seen, strict=True):
        prompt = sum(len(context) for rollout in rollouts for context in rollout.contexts)
        generated = sum(int(rollout.lengths.sum()) for rollout in rollouts)
        assert row == {
            "cost/episodes": 8,
            "cost/prompt_tokens": prompt,
            "cost/generated_tokens": generated,
            "cost/reference_tokens": prompt + generated,
            "cost/trained_tokens": 3 * (prompt + generated),
            "cost/value_tokens": 0,
        }


@pytest.mark.parametrize("weights", ["lora", "shared", "shared-lora"])
def test_the_count_is_the_same_for_other_weights(weights, model, tmp_path):
    given = {"lora.rank": 2} if "lora" in weights else {}
    train(config(model, iterations=1, weights=weights, ppo__epochs=2, **given), tmp_path / "run")
    (row,) = counted(tmp_path / "run")
    assert row["cost/reference_tokens"] == row["cost/prompt_tokens"] + row["cost/generated_tokens"]
    assert row["cost/trained_tokens"] == 2 * row["cost/reference_tokens"]


def test_a_critic_that_is_a_model_and_answers_that_are_thrown_away_count(model, tmp_path):
    train(config(model, iterations=1, learner="mappo"), tmp_path / "mappo")
    train(config(model, iterations=1, learner="best_of_n", best_of_n__n=4), tmp_path / "best")
    train(config(model, iterations=1, learner="frozen"), tmp_path / "frozen")
    (mappo,), (best,), (frozen,) = (counted(tmp_path / name) for name in ("mappo", "best", "frozen"))
    assert mappo["cost/value_tokens"] >= mappo["cost/trained_tokens"] > 0  # it reads what others said besides
    assert best["cost/prompt_tokens"] > 3 * frozen["cost/prompt_tokens"]
    assert frozen["cost/trained_tokens"] == best["cost/trained_tokens"] == 0


def test_flops_are_those_of_torchs_counter_and_about_6_n_d(tmp_path):
    lm = LanguageModel.from_pretrained("embedded")
    settings = runs.apply(
        runs.Config(),
        {"iterations": 1, "batch_size": 64, "count_flops": True, "eval_prompts": 4, "eval_draws": 1, "ppo.epochs": 2},
    )
    train(settings, tmp_path / "run")
    (row,) = counted(tmp_path / "run")
    matrices = sum(p.numel() for name, p in lm.module.named_parameters() if p.ndim == 2 and "wpe" not in name)
    # forward 2 N a position, backward twice that; attention adds a little, and what is shared among
    # equal prompts or remembered from sampling is not computed again
    read = row["cost/prompt_tokens"] + row["cost/generated_tokens"] + row["cost/reference_tokens"]
    plain = 2 * matrices * read + 6 * matrices * row["cost/trained_tokens"]
    assert 0.5 * plain < row["cost/flops"] < 1.15 * plain


def test_one_pass_is_2_n_d_flops_and_with_gradients_6_n_d():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from coevo_env.game.sampling import Sampling

    lm = LanguageModel.from_pretrained("embedded")
    draw = np.random.default_rng(0)
    contexts = [draw.integers(1, 100, 12).tolist() for _ in range(8)]
    tokens, lengths = draw.integers(1, 100, (8, 12)), np.full(8, 12)
    layers = sum(p.numel() for name, p in lm.module.named_parameters() if ".h." in name and p.ndim == 2)
    head, width = lm.head.weight.numel(), lm.hidden_size
    depth = lm.module.config.num_hidden_layers
    read, chosen, pairs = 8 * 24, 8 * 12, 8 * 24 * 24
    forward = 2 * layers * read + 2 * head * chosen + 4 * depth * width * pairs  # attention: scores, and their sums
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lm.score_tensor(contexts, tokens, lengths, Sampling())
    assert counter.get_total_flops() == pytest.approx(forward, rel=0.08)
    with FlopCounterMode(display=False) as counter:
        lm.score_tensor(contexts, tokens, lengths, Sampling())[0].sum().backward()
    assert counter.get_total_flops() == pytest.approx(3 * forward, rel=0.08)


def test_a_run_ends_nearest_to_its_budget_also_when_it_was_stopped(model, tmp_path):
    given = {"iterations": 50, "budget__by": "generated", "budget__amount": 250.0, "save_every": 1}
    whole = train(config(model, **given), tmp_path / "whole")
    spent = np.cumsum([row["cost/generated_tokens"] for row in counted(tmp_path / "whole")])
    assert 3 < len(spent) == whole.iteration < 50
    one_more = spent[-1] + np.diff(spent)[-1]
    assert abs(spent[-1] - 250) <= min(abs(spent[-2] - 250), abs(one_more - 250))
    assert any("/eval/" in tag for tag in lines(tmp_path / "whole")[-1])  # it ends with an evaluation
    with Run(config(model, **given), tmp_path / "parts") as run:
        run.begin()
        run.iterate()
        run.iterate()
    train(config(model, **given), tmp_path / "parts", resume=True)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("by", ["episodes", "tokens", "flops", "cpu_seconds"])
def test_every_kind_of_budget_ends_a_run(by, model, tmp_path):
    train(config(model, iterations=1, count_flops=True), tmp_path / "one")
    row = lines(tmp_path / "one")[1]
    amounts = {"episodes": 16.0, "flops": 2.2 * row["cost/flops"], "cpu_seconds": 1e-6}
    amount = amounts.get(by) or 2.2 * sum(row[tag] for tag in row if tag.startswith("cost/") and "tokens" in tag)
    run = train(config(model, iterations=9, budget__by=by, budget__amount=amount), tmp_path / "run")
    assert run.iteration == (1 if by == "cpu_seconds" else 2)


def test_half_a_budget_is_refused():
    with pytest.raises(ConfigError, match=r"budget\.by='' with budget\.amount=3"):
        BudgetConfig(amount=3)
    with pytest.raises(ConfigError, match=r"budget\.by='tokens'"):
        BudgetConfig("tokens")
    with pytest.raises(ConfigError, match="Did you mean 'tokens'"):
        BudgetConfig("token", 3)
