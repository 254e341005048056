"""Runs whose responses have a length that is drawn for each batch and seat."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from runs import assert_same_run, config, lines, save_tiny, train, weights

from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_agents.training.loop import Run
from coevo_env.errors import ConfigError

DRAWN = {"max_new_tokens": 6, "max_new_tokens_low": 2, "min_new_tokens": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    "options",
    [
        {"context": "own", "num_agents": 3, "weights": "lora"},
        {"learner": "grpo", "group_size": 4, "kl__estimator": "full"},
        {"agents__llm2__learner": "best_of_n"},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(model, tmp_path, options):
    settings = config(model, iterations=3, eval_every=0, **DRAWN, **options)
    train(settings, tmp_path / "straight")
    run = Run(settings, tmp_path / "interrupted")
    for _ in range(2):
        run.iterate()
    run.save()
    run.log.close()
    train(settings, tmp_path / "interrupted", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "interrupted")


def test_all_turns_of_a_batch_and_seat_have_one_budget_and_evaluations_have_all_of_it(model, tmp_path):
    settings = config(model, iterations=8, eval_every=4, eval_prompts=4, **DRAWN)
    run = train(settings, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "transcripts.jsonl").read_text().splitlines()]
    cut: dict[tuple[int, int], set[int]] = {}
    for row in rows:
        for turn in row["turns"]:
            budget = run.parts.game.rules.budgets.of(0, row["episode"], turn["seat"])
            assert 2 <= len(turn["tokens"]) <= budget <= 6
            assert turn["cut"] == (len(turn["tokens"]) == budget and turn["tokens"][-1] != 0)
            if turn["cut"]:
                cut.setdefault((row["episode"] // 8, turn["seat"]), set()).add(budget)
    assert cut and all(len(budgets) == 1 for budgets in cut.values())
    assert len(set.union(*cut.values())) > 2
    for game in (run.parts.held_out, run.parts.final):
        assert not game.rules.budgets.drawn and game.rules.max_new_tokens == 6
    training = lines(tmp_path / "run")[1:]
    assert max(row[f"llm{n}/logprob_mismatch"] for row in training for n in (1, 2)) < 1e-5


def test_the_shorter_turn_is_the_beginning_of_the_longer_one(model, tmp_path):
    """Which tokens are drawn does not depend on where the budget ends them."""
    said = []
    for low in (0, 2):
        settings = config(model, iterations=1, **{**DRAWN, "max_new_tokens_low": low})
        with Run(settings, tmp_path / str(low)) as run:
            run.begin()
            run._advance()
            said.append([episode.turns[0].tokens for episode in run.parts.game.episodes])
            budget = run.parts.game.episodes[0].turns[0].budget
    assert budget < 6
    assert said[1] == [tokens[:budget] for tokens in said[0]]


def test_a_low_end_that_is_the_high_end_is_the_run_without_one(model, tmp_path):
    plain = {"max_new_tokens": 4, "iterations": 2}
    one, other = tmp_path / "plain", tmp_path / "same"
    train(config(model, **plain), one)
    train(config(model, **plain, max_new_tokens_low=4), other)
    assert all(lines(one, name) == lines(other, name) for name in ("metrics.jsonl", "transcripts.jsonl"))
    assert weights(one) == weights(other)  # summaries differ in the digest of the settings


@pytest.mark.parametrize("low", [1, 7])
def test_a_low_end_that_cannot_be_is_refused_before_there_is_a_folder(model, tmp_path, low):
    settings = replace(config(model, **DRAWN), max_new_tokens_low=low)
    with pytest.raises(ConfigError, match="expected 2 to 6"):
        Run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_that_are_no_lengths_are_told():
    with pytest.raises(ConfigError, match="max_new_tokens_low"):
        apply(Config(), {"max_new_tokens_low": -1})
    with pytest.raises(ConfigError, match="Did you mean 'max_new_tokens_low'"):
        apply(Config(), {"max_new_token_low": 3})
