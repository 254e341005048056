"""The promises every learner makes: what it trains, returns and refuses, and who learns when."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_runs import LEARNING, make, rollout_of, slow_logprobs, step

from coevo_agents.learners.best_of_n import choice_bound
from coevo_agents.learners.learner import LEARNERS, LearnerError, checked, find_learner
from coevo_agents.learners.policy import ActorCritic, LoRAConfig, make_policies
from coevo_agents.methods.update_order import drift, importance, order
from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_env.errors import ConfigError
from coevo_env.game.sampling import Sampling
from coevo_env.tasks.toy import responses
from coevo_env.testing import check_learner, tiny_lm


# ---------------------------------------------------------------- promises
@pytest.mark.parametrize("weights", ["separate", "lora"])
@pytest.mark.parametrize("learner", LEARNING)
def test_check_learner_passes(learner, weights):
    """The protocol, the same weights for the same seed, save and load and continue, and
    learning."""
    rate = (
        1e-2 if weights == "separate" else 2e-4 if "ppo" in learner else 1e-3
    )  # so that learning takes several of the 30 updates
    config = apply(Config(), {"learner": learner, "group_size": 4, f"{learner}.learning_rate": rate})

    def factory(lm, seed):
        lora = LoRAConfig(rank=8, alpha=32) if weights == "lora" else None
        policies, reference = make_policies(lm, ["llm1"], lora, 0)
        return find_learner(learner)(policies[0], reference, config.settings, Sampling(), seed)

    passed = check_learner(factory, group_size=4)
    assert {"same seed, same weights", "save, load, continue", "learns"} <= set(passed)


@pytest.mark.parametrize("learner", LEARNING)
@pytest.mark.parametrize("weights", ["separate", "shared", "lora", "shared-lora"])
def test_every_weight_mode_trains_what_it_should(learner, weights):
    game, learners = make(learner, 2, True, 0, batch=16, weights=weights, **{f"{learner}.learning_rate": 1e-2})
    assert len(learners) == (1 if "shared" in weights else 2)
    module = game.reference.module
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if "lora" not in name}
    before = [{name: p.detach().clone() for name, p in each.parameters.items()} for each in learners]
    for iteration in range(2):
        step(game, learners, iteration)
    assert all(
        torch.equal(frozen[name], p) for name, p in module.named_parameters() if "lora" not in name
    )  # the reference stays
    for each, old in zip(learners, before, strict=True):
        moved = {name for name, p in each.parameters.items() if not torch.equal(old[name], p)}
        assert any(name.startswith("model.") for name in moved)
        assert ("lora" in weights) == all("lora" in name for name in each.parameters if name.startswith("model."))
        if learner == "mappo":
            assert any(name.startswith("critic.model.") for name in moved)
            assert any(name.startswith("critic.value_head.") for name in moved)
    if len(learners) == 2:
        assert not {id(p) for p in learners[0].parameters.values()} & {id(p) for p in learners[1].parameters.values()}


def test_a_second_pass_without_a_ratio_is_refused():
    for learner in ("reinforce", "rloo"):
        with pytest.raises(ConfigError, match=rf"{learner}.epochs=2; expected 1"):
            apply(Config(), {"learner": learner, "group_size": 2, f"{learner}.epochs": 2})
        with pytest.raises(ConfigError, match=rf"{learner}.target_kl=0.1; expected 0"):
            apply(Config(), {"learner": learner, "group_size": 2, f"{learner}.target_kl": 0.1})


def test_a_group_of_one_is_refused_before_anything_is_computed():
    for learner in ("rloo", "grpo"):
        with pytest.raises(ConfigError, match=r"group_size=1 with .* expected at least 2"):
            make(learner, 1, False, 0, group_size=1)
    with pytest.raises(ConfigError, match="batch_size=10 is not a multiple of group_size=4"):
        make("grpo", 1, False, 0, batch=10, group_size=4)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "returned a NoneType from update"),
        ({"loss": float("nan")}, "returned nan for its metric 'loss'"),
        ({"loss": "small"}, "'loss': 'small', a str"),
        ({3: 1.0}, "expected a name and a float"),
    ],
)
def test_what_an_update_may_return(returned, says):
    with pytest.raises(LearnerError, match=says):
        checked("llm1", returned)


def test_metrics_whose_keys_change_are_refused():
    assert checked("llm1", {"loss": 1.0}, {"loss"}) == {"loss": 1.0}
    with pytest.raises(LearnerError, match=r"metrics \['loss', 'new'\] after \['loss'\]; expected the same keys"):
        checked("llm1", {"loss": 1.0, "new": 0.0}, {"loss"})


def test_no_learner_imports_another():
    import ast
    from pathlib import Path

    import coevo_agents

    folder = Path(coevo_agents.__file__).parent
    files = {target.partition(":")[0].rpartition(".")[2] for target in LEARNERS.values()}
    assert len(files) == len(LEARNERS)
    for name in files:
        tree = ast.parse((folder / "learners" / f"{name}.py").read_text(encoding="utf-8"))
        imported = {
            (node.module or "").rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        assert not imported & (files - {name}), name


# ---------------------------------------------------------------- controls that do not learn
def test_frozen_never_changes():
    game, learners = make("frozen", 2, True, 0, batch=8)
    before = copy.deepcopy(learners[0].state_dict())
    for iteration in range(2):
        step(game, learners, iteration)
    after = learners[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    learners[1].load_state_dict(before)


def test_best_of_n_earns_the_expected_maximum():
    """The mean reward of the kept responses is E[max of n], computed from the distribution of
    rewards by enumeration."""
    n, episodes = 3, 4096
    game, learners = make("best_of_n", 1, False, 0, batch=episodes, **{"best_of_n.n": n})
    metrics = step(game, learners, 0)[0]
    rules, (rollout,) = game.rules, game.rollouts()
    tokens, lengths = responses(rules)
    texts = [rules.text(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
    expected = []
    for index, prompt in enumerate(rules.prompts):
        rewards = sum(w * np.asarray(f([prompt] * len(texts), texts)) for w, f in rules.terms.values())
        context = rules.turn_context(index, prompt, [])
        p = np.exp(game.reference.score([context] * len(texts), tokens, lengths, rules.sampling).sum(1))
        levels = np.unique(rewards)
        below = np.array([0.0, *[p[rewards <= level].sum() for level in levels]])
        share = below[1:] ** n - below[:-1] ** n  # of each level among what is kept
        expected.append(float((levels * share).sum()))
        kl = float((share * np.log(share / np.diff(below))).sum())  # within a level nothing is preferred
        assert 0 < kl <= choice_bound(n)
    error = rollout.task_reward.std() / math.sqrt(episodes)
    assert rollout.task_reward.mean() == pytest.approx(np.mean(expected), abs=4 * error)
    assert metrics["kl_bound"] == pytest.approx(math.log(3) - 2 / 3)
    with pytest.raises(ConfigError, match=r"best_of_n\.n=1; expected a whole number >= 2"):
        make("best_of_n", 1, False, 0, **{"best_of_n.n": 1})


# ---------------------------------------------------------------- who learns when
def test_alternating_freezes_all_but_one():
    assert [order("alternating", i, 3, 2, 0) for i in range(8)] == [[0], [0], [1], [1], [2], [2], [0], [0]]
    assert order("simultaneous", 5, 3, 1, 0) == [0, 1, 2]
    orders = [tuple(order("sequential", i, 3, 1, 0)) for i in range(60)]
    assert {tuple(sorted(o)) for o in orders} == {(0, 1, 2)}
    assert len(set(orders)) == 6
    assert orders == [tuple(order("sequential", i, 3, 1, 0)) for i in range(60)]
    with pytest.raises(ConfigError, match="Did you mean 'alternating'"):
        order("alternate", 0, 2, 1, 0)


def test_drift_is_the_log_of_the_product_of_probability_ratios():
    game, learners = make("grpo", 2, True, 0, batch=16, **{"grpo.learning_rate": 3e-2})
    rollout = rollout_of(game, learners)
    episodes = np.arange(16)
    assert drift(learners[0].policy, rollout, game.rules.sampling, episodes) == pytest.approx(np.zeros(16), abs=1e-5)
    learners[0].update(rollout)
    expected = []
    for row, old in zip(slow_logprobs(learners[0], rollout), rollout.logprobs, strict=True):
        expected.append(sum(row).item() - old.sum())
    got = drift(learners[0].policy, rollout, game.rules.sampling, episodes)
    assert got == pytest.approx(expected, abs=1e-5)
    assert got.std() > 0.01


def test_only_the_product_of_all_ratios_is_cut():
    ratios = np.array([[10.0, 0.1, 1.0], [1.9, 1.9, 1.9], [0.1, 10.0, 1.5]])  # three agents in three episodes
    assert importance(np.log(ratios).sum(1)) == pytest.approx([1.0, 2.0, 1.5])
    assert importance(np.array([800.0, -800.0])).tolist() == pytest.approx([2.0, 0.0])  # no overflow on the way


def test_policies_without_a_critic_skip_the_value_head():
    for learner, valued in (("ppo", True), ("mappo", False), ("grpo", False), ("reinforce", False)):
        game, learners = make(learner, 1, False, 0, batch=8, group_size=4)
        rollout = rollout_of(game, learners)
        assert (rollout.values is not None) == valued
    assert ActorCritic(tiny_lm(5)).valued


@pytest.mark.parametrize("learner", ["ppo", "grpo", "mappo"])
def test_an_update_of_one_step_needs_no_second_scoring_pass(learner, monkeypatch):
    """In low precision old log-probs are those of the step itself: the ratio is exactly 1, and how
    far sampling was from it is logged."""
    settings = {f"{learner}.epochs": 1, f"{learner}.recompute": "always"}
    game, learners = make(learner, 1, False, 0, batch=8, group_size=4, **settings)
    rollout = rollout_of(game, learners)
    off = replace(rollout, logprobs=rollout.logprobs - 0.01 * rollout.mask)
    calls, lm = [], learners[0].policy.lm
    original = lm.hidden_states
    monkeypatch.setattr(lm, "hidden_states", lambda *a: (calls.append(1), original(*a))[1])
    metrics = learners[0].update(off)
    assert len(calls) == 1
    assert metrics["ratio_max"] == 1.0
    assert metrics["logprob_mismatch"] == pytest.approx(0.01, abs=1e-5)
    assert not metrics["clip_fraction"]
