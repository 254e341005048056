"""What the AEC face pays, KL included, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import Unigram
from probe_game import HALF, THIRD, UNIFORM, V, make, play

from coevo_env import ConfigError, KLConfig, NonFiniteError
from coevo_env.game.kl import MIN_LOGPROB
from coevo_env.game.reference import TableModel


# ---------------------------------------------------------------- rewards
@pytest.mark.parametrize(
    ("mixing", "team"),
    # task rewards: "1" earns 1, "2 2" earns 2 + 10 * 2 = 22
    [("cooperative", (23.0, 23.0)), ("own", (1.0, 22.0)), ("weighted", (12.0, 22.5)), ("competitive", (-21.0, 21.0))],
)
def test_rewards_by_hand(mixing, team):
    env = make(kl="reference", mixing=mixing, mixing_weight=0.5)
    env.reset()
    paid = play(env, [[1, 0], [2, 2]])
    assert [step["llm1"] for step in paid] == pytest.approx([0.1 * HALF, 0.1 * THIRD, 0.0, team[0]])
    assert [step["llm2"] for step in paid] == pytest.approx([0.0, 0.0, 0.1 * HALF, 0.1 * THIRD + team[1]])
    assert all(type(value) is float for step in paid for value in step.values())
    one, two = env.infos["llm1"], env.infos["llm2"]
    assert (one["task_reward"], one["team_reward"], one["reward/count"], one["reward/twos"]) == (1.0, team[0], 1.0, 0.0)
    assert (two["task_reward"], two["team_reward"], two["reward/count"], two["reward/twos"]) == (
        22.0,
        team[1],
        2.0,
        2.0,
    )
    assert (one["length"], one["cut"], two["length"], two["cut"]) == (2, 0, 2, 1)
    assert env.last()[1] == pytest.approx(0.1 * THIRD + team[0])  # what came since its last step, that step included
    env.step(None)
    assert env.last()[1] == pytest.approx(0.1 * THIRD + team[1])
    env.step(None)
    assert env.agents == []


def test_last_hands_out_every_reward_once():
    env = make(kl="reference")
    env.reset()
    collected = dict.fromkeys(env.agents, 0.0)
    tokens = iter([1, 0, 2, 2])
    for agent in env.agent_iter():
        _, reward, over, _, _ = env.last()
        collected[agent] += reward
        env.step(None if over else next(tokens))
    assert collected["llm1"] == pytest.approx(0.1 * (HALF + THIRD) + 23)
    assert collected["llm2"] == pytest.approx(0.1 * (HALF + THIRD) + 23)


def test_after_an_exchange_the_other_agent_is_the_pioneer():
    env = make(mixing="own", exchange_every=2)
    for pioneer, observer in [("llm1", "llm2"), ("llm1", "llm2"), ("llm2", "llm1"), ("llm2", "llm1"), ("llm1", "llm2")]:
        env.reset()
        assert env.agent_selection == pioneer
        assert (env.infos[pioneer]["seat"], env.infos[observer]["seat"]) == (0, 1)
        paid = play(env, [[1, 0], [2, 0]])
        assert paid[-1] == {pioneer: 1.0, observer: 11.0}
        assert env.infos[pioneer]["task_reward"] == 1.0


def test_own_mixing_matrix_speaks_of_seats():
    env = make(mixing=np.array([[0.0, 2.0], [3.0, 0.0]]))
    env.reset(options={"episode": 1})  # llm2 is the pioneer
    assert play(env, [[1, 0], [2, 0]])[-1] == {"llm2": 22.0, "llm1": 3.0}


def test_agents_that_are_roles_keep_their_seats():
    env = make(agent_ids="role", num_agents=3, mixing="own")
    for _ in range(4):
        env.reset()
        assert env.agents == ["pioneer", "observer1", "observer2"]
        assert [env.infos[name]["seat"] for name in env.agents] == [0, 1, 2]
        assert play(env, [[1, 0], [2, 0], [1, 2]])[-1] == {"pioneer": 1.0, "observer1": 11.0, "observer2": 12.0}
    with pytest.raises(ConfigError, match="Leave `roles` out"):
        make(agent_ids="role", roles="rotation")


def test_one_agent_is_plain_fine_tuning():
    env = make(num_agents=1, kl="reference")
    env.reset()
    assert play(env, [[2, 0]]) == [{"llm1": pytest.approx(0.1 * HALF)}, {"llm1": pytest.approx(0.1 * THIRD + 11)}]


# ---------------------------------------------------------------- KL
@pytest.mark.parametrize(
    ("estimator", "first", "second"),
    # log-ratios: -0.5 - log(1/2) = 0.193147, -1.5 - log(1/3) = -0.401388
    [
        ("k1", -0.5 - HALF, -1.5 - THIRD),
        ("k2", (-0.5 - HALF) ** 2 / 2, (-1.5 - THIRD) ** 2 / 2),
        ("k3", 0.5 * math.exp(0.5) - 1 - 0.5 - HALF, math.exp(1.5) / 3 - 1 - 1.5 - THIRD),
    ],
)
def test_reported_kl_is_paid_and_logged(estimator, first, second):
    env = make(num_agents=1, kl=KLConfig(mode="reported", estimator=estimator, beta=0.3))
    env.reset()
    paid = play(env, [[1, 0]], reports=[(-0.5,), (-1.5,)])
    assert [step["llm1"] for step in paid] == pytest.approx([-0.3 * first, -0.3 * second + 1.0])
    info = env.infos["llm1"]
    assert info["kl"] == pytest.approx(first + second)
    assert info["ref_logprob"] == pytest.approx(THIRD)
    assert env.transcript()["turns"][0]["kl"] == pytest.approx([first, second])


def test_full_kl_needs_the_distribution():
    env = make(num_agents=1, kl=KLConfig(estimator="full", beta=1.0))
    env.reset()
    with pytest.raises(ConfigError, match="pass distribution="):
        env.report(-0.5)
    with pytest.raises(ConfigError, match="normalised"):
        env.report(-0.5, np.log([0.5, 0.5, 0.5]))
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        env.report(-0.5, np.log([0.5, 0.5]))
    first = np.array([-np.inf, math.log(0.25), math.log(0.75)])
    second = np.log([0.5, 0.25, 0.25])
    paid = play(env, [[1, 0]], reports=[(math.log(0.25), first), (math.log(0.5), second)])
    # KL((1/4, 3/4) || (1/2, 1/2)) and KL((1/2, 1/4, 1/4) || thirds)
    kl = [0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.5 * math.log(1.5) + 0.5 * math.log(0.75)]
    assert [step["llm1"] for step in paid] == pytest.approx([-kl[0], -kl[1] + 1.0])


def test_mode_loss_measures_but_does_not_pay():
    env = make(num_agents=1, kl="loss")
    env.reset()
    paid = play(env, [[1, 0]], reports=[(-0.5,), (-1.5,)])
    assert [step["llm1"] for step in paid] == [0.0, 1.0]
    assert env.infos["llm1"]["kl"] == pytest.approx(-2.0 - HALF - THIRD)


def test_reports_are_strict():
    env = make(kl="reported")
    with pytest.raises(ConfigError, match="expected it before a step"):
        env.report(-0.5)
    env.reset()
    with pytest.raises(ConfigError, match=r"needs report\(logprob\) before each step"):
        env.step(1)
    for bad in ("no", None, [1.0, 2.0]):
        with pytest.raises(ConfigError, match="one float"):
            env.report(bad)
    for bad in (float("nan"), float("-inf"), 0.5):
        with pytest.raises(NonFiniteError, match="expected a finite natural log-prob"):
            env.report(bad)
    env.report(-0.5)
    with pytest.raises(ConfigError, match="twice for one token"):
        env.report(-0.5)
    with pytest.raises(ConfigError, match="waits for its step"):
        env.reset()
    env.reset()
    play(env, [[1, 0], [1, 0]], reports=[(-0.5,)] * 4)
    with pytest.raises(ConfigError, match="expected it before a step"):
        env.report(-0.5)
    for mode in ("off", "reference"):
        env = make(kl=mode)
        env.reset()
        with pytest.raises(ConfigError, match=f"KL mode '{mode}'"):
            env.report(-0.5)


def test_a_failed_step_changes_nothing():
    env = make(kl="reported")
    env.reset()
    env.report(-0.5)
    before, state = env.observe("llm1")["observation"], env.state()
    with pytest.raises(ConfigError):
        env.step(99)
    assert (env.observe("llm1")["observation"] == before).all() and (env.state() == state).all()
    env.step(1)  # the report still stands
    assert env.infos["llm1"]["length"] == 1


@pytest.mark.parametrize("model", [UNIFORM, Unigram(V)])
def test_a_masked_token_is_played_and_scored_at_the_floor(model):
    env = make(model=model, kl="reference", num_agents=1)
    env.reset()
    mask = env.observe("llm1")["action_mask"]
    assert mask.tolist() == [0, 1, 1]
    env.step(0)  # EOS at once, which min_new_tokens forbids
    assert env.terminations == {"llm1": True}
    assert env.rewards["llm1"] == pytest.approx(0.1 * MIN_LOGPROB)
    assert env.infos["llm1"]["ref_logprob"] == MIN_LOGPROB
    assert math.isfinite(env.rewards["llm1"])


def test_temperature_is_in_the_reference():
    logits = np.array([[0.0, 1.0, 3.0]] * V)
    env = make(model=TableModel(logits), kl="reference", num_agents=1, temperature=2.0, min_new_tokens=0)
    env.reset()
    env.step(2)
    assert env.rewards["llm1"] == pytest.approx(0.1 * (1.5 - math.log(1 + math.exp(0.5) + math.exp(1.5))))


def test_controllers_move_beta_between_episodes_only():
    env = make(kl=KLConfig(mode="reference", beta=0.1, controller="dual", target=2.0, rate=0.1))
    env.reset()
    env.step(1)
    with pytest.raises(NonFiniteError, match="Beta is left as it was"):
        env.end_iteration({"llm1": 3.0, "llm2": float("nan")}, episodes=8)
    assert env.end_iteration({"llm1": 3.0, "llm2": 1.0}, episodes=8) == pytest.approx({"llm1": 0.2, "llm2": 0.0})
    env.step(1)
    assert env.rewards["llm1"] == pytest.approx(0.1 * THIRD)  # this episode goes on with the old one
    env.reset(options={"episode": 0})
    env.step(1)
    assert env.rewards["llm1"] == pytest.approx(0.2 * HALF)
    assert env.infos["llm1"]["beta"] == pytest.approx(0.2)
    assert env.controllers["llm2"].beta == 0.0
    with pytest.raises(ConfigError, match="one number for each"):
        env.end_iteration({"llm1": 1.0}, episodes=8)
