"""Agents that have learners, or settings of a learner, of their own."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from runs import assert_same_run, config, lines, same_state, save_tiny, train, weights

from coevo_agents.learners.frozen import Frozen
from coevo_agents.learners.ppo import PPO
from coevo_agents.runs.config import Config
from coevo_agents.runs.folder import read_config
from coevo_agents.runs.settings import apply, from_dict, read_toml, to_dict
from coevo_agents.training.assess import assess
from coevo_agents.training.loop import Run
from coevo_env.errors import ConfigError

FROZEN = {"agents__llm2__learner": "frozen"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def test_a_frozen_partner_stays_the_initial_model_and_is_reported_like_any_other(model, tmp_path):
    run = train(config(model, iterations=4, **FROZEN), tmp_path / "run")
    first, second = run.parts.learners
    assert isinstance(first, PPO) and isinstance(second, Frozen)
    base = dict(run.parts.reference.module.named_parameters())
    for name, parameter in second.policy.lm.module.named_parameters():
        assert torch.equal(parameter, base[name]), name
    assert any(not torch.equal(p, base[name]) for name, p in first.policy.lm.module.named_parameters())
    rows = lines(tmp_path / "run")[1:]
    assert {row["llm2/seat"] for row in rows} == {0.0, 1.0}  # exchanged like any other
    assert all(row["llm2/kl"] == pytest.approx(0, abs=1e-6) for row in rows)
    for tag in ("reward/task", "reward/team", "kl", "length", "seat", "return"):
        assert all(f"{name}/{tag}" in row for row in rows for name in ("llm1", "llm2"))
    assert all("llm1/loss/policy" in row and "llm2/loss/policy" not in row for row in rows)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    told = summary["agents"]["llm2"]
    assert told["after"] == told["before"]
    assert summary["agents"]["llm1"]["after"] != told["after"]
    learned = [row for row in rows if row["cost/trained_tokens"]]
    assert len(learned) == len(rows)


@pytest.mark.parametrize(
    "options",
    [
        {"exchange_every": 0},
        {"weights": "lora", "updates": "sequential"},
        {"learner": "mappo", "context": "none"},
        {"reset_at_exchange": True, "elastic__every": 2},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_a_resumed_run_with_a_frozen_partner_is_the_uninterrupted_one(model, tmp_path, options):
    settings = config(model, iterations=4, **options, **FROZEN)
    train(settings, tmp_path / "straight")
    run = Run(settings, tmp_path / "interrupted")
    for _ in range(3):
        run.iterate()
    run.save()
    run.log.close()
    resumed = train(read_config(tmp_path / "interrupted"), tmp_path / "interrupted", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "interrupted")
    frozen, base = resumed.parts.learners[1].policy, resumed.parts.reference
    contexts, sampling = [[1], [2, 1]], resumed.parts.game.rules.sampling
    noise = resumed.parts.game.rules.seed + torch.arange(6).reshape(2, 3).numpy() / 7
    said = [one.generate(contexts, 3, sampling, noise) for one in (frozen, base)]
    assert (said[0].tokens == said[1].tokens).all() and (said[0].logprobs == said[1].logprobs).all()


def test_what_is_its_own_goes_before_what_is_the_runs(model, tmp_path):
    settings = config(model, iterations=1, ppo__clip=0.1, agents__llm2__ppo__learning_rate=0.5)
    (first, ours), (second, theirs) = settings.learner_of("llm1"), settings.learner_of("llm2")
    assert (first, second) == ("ppo", "ppo")
    assert theirs == dataclasses.replace(ours, learning_rate=0.5)
    assert (ours.clip, ours.learning_rate) == (0.1, 0.01)
    train(settings, tmp_path / "run")
    row = lines(tmp_path / "run")[-1]
    assert (row["llm1/learning_rate"], row["llm2/learning_rate"]) == (0.01, 0.5)


def test_two_learners_of_the_same_kind_are_the_run_that_names_them_once(model, tmp_path):
    train(config(model, iterations=2), tmp_path / "plain")
    train(config(model, iterations=2, agents__llm2__ppo__learning_rate=0.01), tmp_path / "own")
    plain, own = tmp_path / "plain", tmp_path / "own"
    assert lines(plain) == lines(own) and weights(plain) == weights(own)


def test_what_the_partner_learns_with_does_not_change_who_samples_what_first(model, tmp_path):
    """The first batch is played by the same models, so llm1's first update is the same too."""
    states = []
    for options in ({}, FROZEN):
        run = Run(config(model, iterations=1, **options), tmp_path / str(len(states)))
        run.begin()
        run._advance()
        states.append({key: torch.as_tensor(v).clone() for key, v in run.parts.learners[0].state_dict().items()})
        run.log.close()
    assert same_state(*states)


def test_best_of_n_beside_a_learner_is_measured_as_it_plays(model, tmp_path):
    settings = config(model, iterations=1, agents__llm2__learner="best_of_n", agents__llm2__best_of_n__n=3)
    train(settings, tmp_path / "run")
    agents = json.loads((tmp_path / "run" / "summary.json").read_text())["agents"]
    after = {name: told["after"] for name, told in agents.items()}
    assert after["llm2"]["reward"] > agents["llm2"]["before"]["reward"] + 0.1  # the same model without a choice
    folders = {name: str(tmp_path / "run" / "agents" / name) for name in after}
    again = assess(read_config(tmp_path / "run"), folders).metrics()
    assert again["llm1"] == after["llm1"] and again["llm2"] == after["llm2"]


def test_a_file_says_the_same_as_the_command_line(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[agents.llm2]\nlearner = "frozen"\n[agents.llm1.ppo]\nclip = 0.3\n')
    from_file = apply(Config(), read_toml(file))
    assert from_file.agents == {"llm2": {"learner": "frozen"}, "llm1": {"learner_settings": {"clip": 0.3}}}
    spoken = apply(Config(), {"agents.llm2.learner": "frozen", "agents.llm1.ppo.clip": "0.3"})
    assert to_dict(spoken) == {**to_dict(from_file)}
    assert from_dict(json.loads(json.dumps(to_dict(spoken)))) == spoken
    assert apply(spoken, {"agents.llm2.learner": "ppo"}).agents["llm2"] == {"learner": "ppo"}


def test_settings_of_another_learner_are_not_taken_over():
    settings = apply(Config(), {"agents.llm2.ppo.clip": 0.3, "agents.llm1.learner": "reinforce"})
    other = apply(settings, {"learner": "reinforce"})
    assert other.agents == {"llm1": {"learner": "reinforce"}}
    assert from_dict(to_dict(other)) == other


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"agents.lm2.learner": "frozen"}, "'agents.llm2'"),
        ({"agents.llm3.learner": "frozen"}, "agents.llm3"),
        ({"agents.llm2.learner": "frosen"}, "'frozen'"),
        ({"agents.llm2.lerner": "frozen"}, "'agents.llm2.learner'"),
        ({"agents.llm2": "frozen"}, "agents.llm2"),
        ({"agents": "frozen"}, "setting agents='frozen'"),
        ({"agents.llm2.ppo.clipp": 0.1}, r"agents\.llm2.*'ppo.clip'"),
        ({"agents.llm2.learner": "frozen", "agents.llm2.ppo.clip": 0.1}, "agents.llm2.*learner is frozen"),
        ({"agents.llm2.ppo.clip": "much"}, r"agents\.llm2\.ppo\.clip='much'"),
        ({"agents.llm2.ppo.clip": -1}, r"agents\.llm2.*ppo\.clip"),
        ({"agents.llm2.kl.beta": 0.1}, r"agents\.llm2\.kl\.beta"),
        ({"agents.llm2.learner": "mine:Mine"}, "agents.llm2.learner"),
        ({"agents.llm2.learner": "grpo"}, "agents.llm2: group_size=1"),
        ({"agents.llm2.ppo.minibatch_size": 7}, "agents.llm2.*minibatch_size"),
        ({"agents.llm2.learner": "frozen", "weights": "shared"}, "one set of weights has one learner"),
        ({"agents.llm2.learner": "frozen", "population.capacity": 2}, "Switch the population off"),
        ({"agents.llm2.learner": "frozen", "updates": "alternating"}, "nobody would learn in its turns"),
        ({"agents.llm2.learner": "frozen", "num_agents": 1}, "agents.llm2"),
    ],
)
def test_what_cannot_work_is_told(given, told):
    with pytest.raises(ConfigError, match=told):
        apply(Config(), given)


@pytest.mark.parametrize("agents", ["frozen", {"llm2": "frozen"}, {"llm2": {"learner_settings": 3}}, [1]])
def test_a_config_that_somebody_edited_is_refused(agents):
    with pytest.raises(ConfigError, match="agents"):
        from_dict({**to_dict(Config()), "agents": agents})
    with pytest.raises(ConfigError, match="agents"):
        from_dict({**to_dict(Config()), "learner": "mine:Mine", "agents": agents})
