"""Runs in which observers read something else than their partners."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from runs import assert_same_run, config, lines, same_state, save_tiny, train

from coevo_agents.runs.config import Config
from coevo_agents.training.loop import Run
from coevo_agents.training.play import play
from coevo_env.errors import ConfigError

CONTROLS = ("empty", "shuffled", "own")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    "options",
    [
        {"context": "empty"},
        {"context": "shuffled", "exchange_every": 0},
        {"context": "shuffled", "num_agents": 3, "weights": "lora"},
        {"context": "own", "exchange_every": 0},
        {"context": "own", "num_agents": 3, "weights": "shared"},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_a_resumed_control_is_the_uninterrupted_one(model, tmp_path, options):
    settings = config(model, iterations=4, **options)
    train(settings, tmp_path / "straight")
    run = Run(settings, tmp_path / "interrupted")
    for _ in range(3):
        run.iterate()
    run.save()
    run.log.close()
    train(settings, tmp_path / "interrupted", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "interrupted")


@pytest.mark.parametrize("reuse_mib", [0, 1024])
def test_what_an_observer_rehearses_is_what_it_says_as_the_pioneer(model, tmp_path, monkeypatch, reuse_mib):
    with Run(config(model, context="own", exchange_every=0, ppo__reuse_mib=reuse_mib), tmp_path / "run") as run:
        game, actors = run.parts.game, run.parts.actors()
        game.reset(0)
        asked = []
        begin = game.begin_rehearsal

        def seen():
            asked.append(begin())
            return asked[-1]

        monkeypatch.setattr(game, "begin_rehearsal", seen)  # it is only looked at
        play(game, actors)
        rehearsal = next(turn for turn in asked if turn is not None)
        for row, episode in enumerate(game.episodes):
            listener = actors[episode.seats[1]]
            drawn = listener.generate(
                [episode.turns[0].context], 3, rehearsal.sampling, rehearsal.uniforms(np.array([row]))
            )
            text = game.rules.text(drawn.tokens[0, : drawn.lengths[0]].tolist())
            assert episode.turns[1].context == game.rules.turn_context(episode.prompt_index, episode.prompt, [text])
        metrics = run.iterate()
        assert metrics["cost/generated_tokens"] > sum(
            int(rollout.lengths.sum()) for rollout in game.rollouts()
        )  # what is rehearsed costs too
        assert max(metrics[f"{name}/logprob_mismatch"] for name in run.parts.agents) < 1e-5


@pytest.mark.parametrize("context", ["empty", "own", "all"])
def test_what_the_pioneer_says_reaches_an_observer_only_through_what_it_reads(model, tmp_path, context):
    """Two pioneers, one observer: with mixing "own" the observer's whole update is the same."""
    settings = config(model, context=context, mixing="own", roles="never")
    states, rollouts = [], []
    for scale in (1.0, 20.0):
        with Run(settings, tmp_path / str(scale)) as run:
            pioneer = run.parts.learners[0].policy
            with torch.no_grad():
                for name, parameter in pioneer.weights().items():
                    if name.endswith("wte.weight"):
                        parameter.mul_(scale)
            run.begin()
            run._advance()
            rollouts.append(run.parts.game.rollouts())
            states.append({key: torch.as_tensor(v).clone() for key, v in run.parts.learners[1].state_dict().items()})
    assert not np.array_equal(rollouts[0][0].tokens, rollouts[1][0].tokens)
    assert (rollouts[0][1].contexts == rollouts[1][1].contexts) == (context != "all")
    assert same_state(*states) == (context != "all")


def test_transcripts_have_what_was_really_read(model, tmp_path):
    train(config(model, context="shuffled", iterations=2, batch_size=4), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "transcripts.jsonl").read_text().splitlines()]
    by_batch: dict[int, list[dict]] = {}
    for row in rows:
        by_batch.setdefault(row["episode"] // 4, []).append(row)
    assert by_batch
    for batch in by_batch.values():
        said = [(row["prompt"], row["turns"][0]["text"]) for row in batch]
        assert len(said) == 4
        for row in batch:
            ids = [int(word) for word in f"{row['turns'][1]['context']}".split()]
            read = " ".join(map(str, ids[:-1]))  # the prompt, one word, stands last
            assert ids == row["turns"][1]["context_ids"]
            assert any(prompt != row["prompt"] and text == read for prompt, text in said)


@pytest.mark.parametrize("context", CONTROLS)
def test_controls_are_of_training_only(model, tmp_path, context):
    """What agents make of each other's texts is measured with these texts."""
    settings = config(model, context=context, communication=True, iterations=1, eval_every=1, eval_prompts=2)
    assert settings.game()["context"] == context
    assert settings.game(control=False)["context"] == "all"
    run = train(settings, tmp_path / "run")
    assert run.parts.together is not None and run.parts.together.rules.context == "all"
    assert "llm1/communication/gain_shuffled" in lines(tmp_path / "run")[-1]


def test_a_run_whose_batches_cannot_be_shuffled_is_refused_before_it_begins(model, tmp_path):
    with pytest.raises(ConfigError, match="at most half"):
        Run(config(model, context="shuffled", batch_size=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="'shuffled'"):
        Run(Config(model=str(model), task="toy", context="shufled"), tmp_path / "run")
