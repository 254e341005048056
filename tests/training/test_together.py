"""More than two agents, adaptive roles, populations and communication metrics in real, tiny
runs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from runs import assert_same_run, coevo, config, lines, same_state, save_tiny, train

from coevo_agents.methods.communication import METRICS
from coevo_agents.runs.record import read_record
from coevo_agents.training.loop import Run
from coevo_env.errors import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def interrupted(settings, folder, after):
    """A run that is stopped after some iterations and resumed."""
    run = Run(settings, folder)
    for _ in range(after):
        run.iterate()
    run.save()
    run.log.close()
    return train(settings, folder, resume=True)


POPULATION = {"population__capacity": 3, "population__every": 2, "population__share": 0.7}


@pytest.mark.parametrize(
    "options",
    [
        {**POPULATION},
        {**POPULATION, "weights": "shared", "population__matchmaking": "elo"},
        {**POPULATION, "weights": "lora", "population__matchmaking": "recent", "num_agents": 3},
        {"roles": "bandit", "num_agents": 3},
        {"roles": "score", "num_agents": 3},
        {"communication": True, "num_agents": 3, "context": "previous"},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_a_resumed_run_is_the_uninterrupted_one(model, tmp_path, options):
    settings = config(model, iterations=8, **options)
    train(settings, tmp_path / "straight")
    interrupted(settings, tmp_path / "interrupted", 5)
    assert_same_run(tmp_path / "straight", tmp_path / "interrupted")


@pytest.mark.parametrize("weights", ["separate", "lora"])
def test_whom_a_snapshot_replaces_sits_out(model, tmp_path, weights):
    run = Run(config(model, weights=weights, kl__controller="adaptive", kl__horizon=20, **POPULATION), tmp_path / "run")
    assert run.parts.opponents is not None
    replaced = 0
    for iteration in range(6):
        before = [
            {key: torch.as_tensor(value).clone() for key, value in learner.state_dict().items()}
            for learner in run.parts.learners
        ]
        betas = [controller.state_dict() for controller in run.parts.game.controllers]
        run._advance()
        visit, seen = run.parts.opponents.visit, run.state.pending["metrics"]
        assert seen["population/guest"] == float(visit is not None)
        if visit is None:
            continue
        replaced += 1
        place, member = visit
        assert place == iteration % 2
        assert same_state(run.parts.learners[place].state_dict(), before[place])
        assert not same_state(run.parts.learners[1 - place].state_dict(), before[1 - place])
        assert run.parts.game.controllers[place].state_dict() == betas[place]
        assert run.parts.game.controllers[1 - place].state_dict() != betas[1 - place]
        assert not any(tag.startswith(f"llm{place + 1}/") for tag in seen)
        assert all(
            torch.equal(run.parts.opponents.guest.weights()[name], tensor) for name, tensor in member.tensors.items()
        )
        # what it said was sampled from the snapshot
        rollout = run.parts.game.rollouts()[place]
        again = run.parts.opponents.guest.lm.score(
            rollout.contexts, rollout.tokens, rollout.lengths, run.parts.game.rules.sampling
        )
        assert rollout.logprobs == pytest.approx(again, abs=1e-5)
    run.log.close()
    assert replaced >= 2
    ratings = run.parts.opponents.population.elo
    assert sum(ratings.values()) == pytest.approx(1000 * len(ratings), abs=200)
    assert len({round(rating, 6) for rating in ratings.values()}) > 1


def test_ratings_belong_to_the_run_and_not_to_an_agent(model, tmp_path):
    train(config(model, **POPULATION), tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.agents == ["llm1", "llm2"]
    assert len(record.series("population/elo/llm1")[0]) == 6


def test_snapshots_hold_the_weights_of_their_iteration(model, tmp_path):
    run = Run(config(model, population__capacity=10, population__every=1, population__share=0.0), tmp_path / "run")
    assert run.parts.opponents is not None
    weights = [{name: p.detach().clone() for name, p in run.parts.policies[1].weights().items()}]
    for _ in range(3):
        run._advance()
        weights.append({name: p.detach().clone() for name, p in run.parts.policies[1].weights().items()})
    run.log.close()
    members = [member for member in run.parts.opponents.population.members if member.name == "llm2"]
    assert [member.key for member in members] == ["llm2@0", "llm2@1", "llm2@2", "llm2@3"]
    for member, expected in zip(members, weights, strict=True):
        assert all(torch.equal(member.tensors[name], tensor) for name, tensor in expected.items())
    assert not any(name.startswith("value_head") for name in members[0].tensors)


@pytest.mark.parametrize("roles", ["bandit", "score"])
def test_roles_follow_the_held_out_scores(model, tmp_path, roles):
    run = train(
        config(model, roles=roles, num_agents=3, iterations=8, eval_every=2, ppo__learning_rate=0.02), tmp_path / "run"
    )
    rows = lines(tmp_path / "run")
    schedule = run.parts.game.rules.roles
    for previous, row in pairwise(rows):
        seats = [row[f"llm{agent + 1}/seat"] for agent in range(3)]
        expected = schedule.assignment((row["iteration"] - 1) * 8)
        assert [int(np.argwhere(np.array(expected) == agent)[0, 0]) for agent in range(3)] == seats
        if roles == "score" and "llm1/eval/reward" in previous:
            scores = [previous[f"llm{agent + 1}/eval/reward"] for agent in range(3)]
            assert list(expected) == sorted(range(3), key=lambda agent: (-scores[agent], agent))


def test_communication_is_measured_at_each_evaluation(model, tmp_path):
    train(config(model, communication=True, num_agents=3, iterations=4), tmp_path / "run")
    for row in lines(tmp_path / "run"):
        tags = {tag for tag in row if "/communication/" in tag}
        expected = {f"llm{agent}/communication/{name}" for agent in (1, 2, 3) for name in METRICS}
        assert tags == (expected if row["iteration"] in (2, 4) else set())


@pytest.mark.parametrize("context", ["all", "previous", "none"])
@pytest.mark.parametrize("num_agents", [3, 4, 8])
def test_many_agents_end_to_end(model, tmp_path, num_agents, context):
    """N agents train, exchange roles by rotation, are evaluated and saved, and answer a prompt
    together."""
    settings = config(
        model, num_agents=num_agents, context=context, roles="rotation", weights="lora", iterations=2, max_context=64
    )
    run = train(settings, tmp_path / "run")
    rows = lines(tmp_path / "run")
    first, second = ([rows[i][f"llm{agent + 1}/seat"] for agent in range(num_agents)] for i in (1, 2))
    assert first == list(range(num_agents))
    assert second == [*range(1, num_agents), 0]  # everybody one seat on
    turns = run.parts.game.episodes[0].turns
    said = [run.parts.game.rules.tokenizer.encode(turn.text) for turn in turns]
    heard = {"all": [token for part in said[:-1] for token in part], "previous": said[-2], "none": []}[context]
    assert turns[-1].context[: len(heard)] == heard
    done = coevo("play", tmp_path / "run", "--prompt", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("observer") >= num_agents - 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_agents": 1, "population__capacity": 3}, "a population of one"),
        ({"num_agents": 1, "communication": True}, "expected at least 2 agents"),
        ({"communication": True, "context": "none"}, "nobody reads anybody"),
        ({"population__capacity": -1}, "population capacity=-1"),
        ({"population__capacity": 2, "population__matchmaking": "swiss"}, "unknown matchmaking 'swiss'"),
        ({"population__capacity": 2, "learner": "best_of_n"}, "needs learners whose policy is an ActorCritic"),
        ({"roles": "score", "eval_every": 0}, "roles='score' with eval_every=0; these roles move by held-out rewards"),
        ({"roles": "bandit", "eval_every": 0}, "Set eval_every >= 1, or roles='never'"),
        ({"roles": "bandid"}, "Did you mean 'bandit'"),
    ],
)
def test_settings_that_cannot_work(model, tmp_path, settings, says):
    with pytest.raises(ConfigError, match=says):
        Run(config(model, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
