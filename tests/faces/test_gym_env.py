"""The gymnasium view: one agent learns, the others are partners."""

from __future__ import annotations

import numpy as np
import pytest
from probe_game import HALF, THIRD, UNIFORM, V, probe

import coevo_env
from coevo_env import ConfigError
from coevo_env.game.reference import TableModel


def test_the_gym_view_pays_the_learner_what_the_game_does():
    env = coevo_env.GymEnv(task=probe(), model=UNIFORM, seed=0, kl="reference")
    script = {"context": []}

    def partner(context, tokens, mask, rng):
        script["context"].append((list(context), list(tokens), mask.tolist()))
        return [2, 0][len(tokens)]

    env.set_partner(partner)
    _, info = env.reset()  # llm1 is the pioneer
    assert info["seat"] == 0 and script["context"] == []
    assert env.step(1)[1] == pytest.approx(0.1 * HALF)
    _, reward, over, cut, info = env.step(0)  # the partner answers "2", which is worth 11
    assert (reward, over, cut) == (pytest.approx(0.1 * THIRD + 12), True, False)
    assert script["context"] == [([1, 1], [], [0, 1, 1]), ([1, 1], [2], [1, 1, 1])]
    observation, info = env.reset()  # llm1 is the observer
    assert info["seat"] == 1 and info["acting"] == 1
    assert observation["observation"].tolist() == [2, 1] + [3] * 6
    env.step(1)
    assert env.step(1)[1] == pytest.approx(0.1 * THIRD + 13)
    assert [turn["agent"] for turn in env.transcript()["turns"]] == ["llm2", "llm1"]
    with pytest.raises(ConfigError, match="call reset"):
        env.step(1)


def test_the_gym_view_with_reports():
    env = coevo_env.GymEnv(task=probe(), model=UNIFORM, seed=0, kl="reported")
    env.reset()
    with pytest.raises(ConfigError, match="needs report"):
        env.step(1)
    env.report(-0.5)
    assert env.step(1)[1] == pytest.approx(-0.1 * (-0.5 - HALF))  # the partner reports nothing and is not asked to


@pytest.mark.parametrize("kl", ["off", "reference"])
def test_default_partners_are_the_reference_or_chance(kl):
    model = TableModel(np.log([[0.6, 0.3, 0.1]] * V))
    env = coevo_env.GymEnv(task=probe(), model=model, kl=kl, seed=0, learner="llm2", roles="never", num_agents=2)
    texts = []
    for _ in range(2000):
        env.reset()
        texts.append(env.game.episode.turns[0].tokens)
    first = np.bincount([row[0] for row in texts], minlength=V) / 2000
    second = np.bincount([row[1] for row in texts], minlength=V) / 2000
    masked = [0.0, 0.75, 0.25] if kl == "reference" else [0.0, 0.5, 0.5]
    assert first == pytest.approx(masked, abs=0.05)  # more than four standard errors
    assert second == pytest.approx([0.6, 0.3, 0.1] if kl == "reference" else [1 / 3] * 3, abs=0.05)
    replay = coevo_env.GymEnv(task=probe(), model=model, kl=kl, seed=0, learner="llm2", roles="never")
    replay.reset(options={"episode": 1234})
    assert replay.game.episode.turns[0].tokens == texts[1234]


def test_partners_are_set_one_by_one():
    env = coevo_env.GymEnv(task=probe(), kl="off", seed=0, num_agents=3, learner="llm3", roles="never")
    env.set_partner(lambda context, tokens, mask, rng: 1)
    env.set_partner(TableModel(np.log([[1e-9, 1e-9, 1.0]] * V)), "llm2")
    env.reset()
    assert [turn.tokens for turn in env.game.episode.turns[:2]] == [[1, 1], [2, 2]]
    with pytest.raises(ConfigError, match="unknown partner 'llm3'"):
        env.set_partner(None, "llm3")
    with pytest.raises(ConfigError, match="expected a function"):
        env.set_partner("greedy")
