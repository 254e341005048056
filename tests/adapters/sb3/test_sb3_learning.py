"""Learners of Stable-Baselines3 learn, alone and together, and what cannot work is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from sb3_games import Ledger, V, a2c, lm_ppo, ppo, same
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecNormalize

import coevo_env
from coevo_agents.adapters.sb3 import (
    CausalLMPolicy,
    CoevoVecEnv,
    CursorActor,
    KLCallback,
    SB3Actor,
    cotrain,
    language_model_kwargs,
    maskable_causal_lm_policy,
)
from coevo_agents.training.play import play
from coevo_env.errors import ConfigError, MissingExtraError
from coevo_env.game.reference import TableModel
from coevo_env.tasks import toy
from coevo_env.testing import tiny_lm


# ---------------------------------------------------------------- learning
def held_out(actor, n: int = 256) -> np.ndarray:
    """Task rewards of an agent alone on held-out prompts, (n,)."""
    game = coevo_env.BatchEnv(n, task="toy", num_agents=1, kl="off", split="test", seed=99, mixing="own")
    play(game, [actor])
    return game.rollouts()[0].task_reward


def improved(before: np.ndarray, after: np.ndarray) -> bool:
    """By more than five standard errors."""
    return after.mean() - before.mean() > 5 * math.hypot(before.std(), after.std()) / math.sqrt(len(before))


@pytest.mark.parametrize(("algorithm", "steps"), [(ppo, 4000), (a2c, 4000)])
def test_learns_with_the_extractor(algorithm, steps):
    model = algorithm(CoevoVecEnv(16, "toy", kl="reference", seed=0))
    before, chance = held_out(SB3Actor(model)), held_out(CursorActor(None, V))
    model.learn(steps, callback=KLCallback())
    after = held_out(SB3Actor(model))
    assert improved(before, after) and improved(chance, after)


def test_learns_with_a_language_model():
    lm = tiny_lm(V, seed=3)
    env = CoevoVecEnv(16, "toy", lm, kl="reference", seed=0)
    weights = {name: tensor.clone() for name, tensor in lm.module.state_dict().items()}
    model, callback = lm_ppo(env), KLCallback()
    before = held_out(SB3Actor(model))
    model.learn(2600, callback=callback)
    assert improved(before, held_out(SB3Actor(model)))
    assert abs(callback.history[0][0]) < 1e-5 and callback.history[-1][0] > 0.1  # it starts as the reference
    assert same(
        {name: tensor.numpy() for name, tensor in lm.module.state_dict().items()},
        {k: v.numpy() for k, v in weights.items()},
    )


# ---------------------------------------------------------------- several learners
def test_cotrained_models_are_each_others_partners():
    envs = {
        name: CoevoVecEnv(8, "toy", kl="reference", seed=0, learner=name, exchange_every=4) for name in ("llm1", "llm2")
    }
    models = {name: ppo(env, seed=seed) for seed, (name, env) in enumerate(envs.items())}
    for env in envs.values():
        env.seed(0)  # a model's seed has become the game's: the same episodes for both
    ledgers = {name: Ledger() for name in models}
    before = {name: held_out(SB3Actor(model)) for name, model in models.items()}
    callbacks = {name: CallbackList([KLCallback(), ledger]) for name, ledger in ledgers.items()}
    cotrain(models, 2500, callbacks)
    for name, other in (("llm1", "llm2"), ("llm2", "llm1")):
        assert improved(before[name], held_out(SB3Actor(models[name])))
        (partner,) = envs[name]._partners.values()
        assert partner.model is models[other]
        for info, *_ in ledgers[name].episodes():
            assert envs[name].rules.roles.assignment(info["episode_index"])[info["seat"]] == int(name[-1]) - 1
        assert {info["seat"] for info, *_ in ledgers[name].episodes()} == {0, 1}
    with pytest.raises(ConfigError, match="learner='llm1'"):
        cotrain({"llm1": models["llm2"], "llm2": models["llm1"]}, 10)


# ---------------------------------------------------------------- errors
def off(**options):
    return CoevoVecEnv(2, "toy", kl="off", seed=0, **options)


def started(**options):
    env = off(partner="chance", **options)
    env.reset()
    return env


def warm() -> PPO:
    lm = tiny_lm(V)
    env = CoevoVecEnv(2, "toy", lm, kl="reference", temperature=0.7)
    return lm_ppo(env, policy_kwargs={"lm": lm})


class Short:
    def generate(self, contexts, max_new_tokens, sampling, uniforms):
        return CursorActor(None, V).generate(contexts[:1], max_new_tokens, sampling, uniforms)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: CoevoVecEnv(0, "toy"), "num_envs=0"),
        (lambda: CoevoVecEnv(2, "toy", kl="reported"), "KLCallback"),
        (lambda: off(learner="llm3"), "unknown learner 'llm3'"),
        (lambda: off(render_mode="rgb_arrey"), "render_mode"),
        (lambda: off(partner=3), "generate"),
        (lambda: off(partner="random"), "'chance'"),
        (lambda: off(partner=tiny_lm(7)), "vocabulary of 7 tokens; the game has 5"),
        (lambda: off(partner=TableModel.random(7)), "vocabulary of 7"),
        (lambda: off(partner=SB3Actor(ppo(CoevoVecEnv(1, toy.task(vocab_size=6), kl="off")))), "vocabulary of 6"),
        (lambda: off().set_partner("chance", agent="llm1"), "unknown partner 'llm1'"),
        (lambda: off().reset(), "nobody plays llm2"),
        (lambda: off(num_agents=3).reset(), "nobody plays llm2, llm3"),
        (lambda: off(partner="chance").step(np.zeros(2, int)), "before the first reset"),
        (lambda: started().step(np.zeros(3, int)), "shape"),
        (lambda: started().step(np.zeros(2)), "float64"),
        (lambda: started().step(np.array([0, 5])), r"\[0, 5\)"),
        (lambda: started().step(np.array([-1, 0])), r"\[0, 5\)"),
        (lambda: started().render(), "render_mode=None"),
        (lambda: off(partner=Short(), learner="llm2", roles="never").reset(), "1 turns for 2 contexts"),
        (lambda: SB3Actor(3), "on-policy"),
        (
            lambda: SB3Actor(ppo(started())).generate([[1] * 40], 3, started().rules.sampling, np.zeros((1, 3))),
            "a sequence of 40 tokens",
        ),
        (lambda: PPO(CausalLMPolicy, started()), "without a language model"),
        (lambda: PPO(CausalLMPolicy, started(), policy_kwargs={"lm": tiny_lm(7)}), "vocabulary of 7"),
        (lambda: PPO(CausalLMPolicy, started(), policy_kwargs={"lm": tiny_lm(5), "temperature": 0}), "temperature=0"),
        (lambda: language_model_kwargs(CoevoVecEnv(1, "toy", kl="reference")), "TableModel"),
        (lambda: ppo(started()).learn(10, callback=KLCallback()), "kl='reference'"),
        (
            lambda: ppo(VecNormalize(CoevoVecEnv(2, "toy", kl="reference"), norm_obs=False)).learn(
                10, callback=KLCallback()
            ),
            "norm_reward=False",
        ),
        (
            lambda: PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).learn(8, callback=KLCallback()),
            "without `rules`",
        ),
        (lambda: warm().learn(10, callback=KLCallback()), "temperature 1.0; the game has 0.7"),
        (lambda: DQN("MlpPolicy", "CartPole-v1").learn(8, callback=KLCallback()), "expected an on-policy model"),
        (lambda: cotrain({"llm1": ppo(started())}, 10), r"learner 'llm1' of \['llm1', 'llm2'\]"),
    ],
)
def test_clear_errors(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_missing_extra_is_named(monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    maskable_causal_lm_policy.cache_clear()
    with pytest.raises(MissingExtraError, match=r"coevo-env\[sb3\]"):
        maskable_causal_lm_policy()


# ---------------------------------------------------------------- examples
@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_cotrain"])
def test_examples_run_and_learn(name, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "docs" / "examples"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--timesteps", "3000"])
    module = __import__(name)
    for before, after in module.main():
        assert after > before + 0.1
