"""Language models as policies of Stable-Baselines3: their log-probs, their masks, and that they are
saved."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from sb3_games import EXTRACTOR, Ledger, V, lm_ppo, ppo, same
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CallbackList

import coevo_env
from coevo_agents.adapters.sb3 import (
    CausalLMPolicy,
    CoevoVecEnv,
    CursorActor,
    KLCallback,
    SB3Actor,
    language_model_kwargs,
    maskable_causal_lm_policy,
)
from coevo_agents.learners.policy import LoRAConfig
from coevo_env.errors import ConfigError
from coevo_env.game.reference import IntTokenizer
from coevo_env.tasks import toy
from coevo_env.testing import tiny_lm


# ---------------------------------------------------------------- the language model as a policy
def observations(env, contexts, turns):
    """What the learner would have seen before each token of the turns, and the tokens."""
    rules, rows, masks, tokens = env.rules, [], [], []
    width = env.observation_space["observation"].shape[0]
    for context, turn in zip(contexts, turns, strict=True):
        for t, token in enumerate(turn):
            seen = [*context, *turn[:t]]
            rows.append([*seen, *[rules.vocab_size] * (width - len(seen))])
            masks.append(rules.sampling.mask(rules.vocab_size, t))
            tokens.append(token)
    return {"observation": torch.tensor(rows), "action_mask": torch.tensor(np.array(masks))}, torch.tensor(tokens)


@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=2, alpha=4)], ids=["whole", "lora"])
def test_log_probs_are_those_of_the_language_model(lora):
    lm = tiny_lm(V, seed=3)
    env = CoevoVecEnv(3, "toy", lm, kl="reference", seed=0, temperature=0.7, min_new_tokens=2)
    model = lm_ppo(env, policy_kwargs=language_model_kwargs(env, lora=lora))
    model.learn(150, callback=KLCallback())
    contexts, turns = [[1], [2, 3, 1], [4, 4, 2, 2, 1, 3]], [[2, 1, 0], [1, 4, 3], [3, 2, 0]]
    tokens, lengths = np.array(turns), np.array([3, 3, 3])
    wrapped = model.policy.actor_critic.lm
    expected = wrapped.score(contexts, tokens, lengths, env.rules.sampling)
    seen, actions = observations(env, contexts, turns)
    values, logprobs, entropy = model.policy.evaluate_actions(seen, actions)
    assert logprobs.detach().numpy() == pytest.approx(expected.ravel(), abs=1e-5)
    assert not np.allclose(
        expected, lm.score(contexts, tokens, lengths, env.rules.sampling), atol=1e-3
    )  # it has learned
    assert values.shape == (9, 1) and torch.isfinite(entropy).all()
    drawn = SB3Actor(model).generate(contexts, 3, env.rules.sampling, np.random.default_rng(0).random((3, 3)))
    assert drawn.logprobs == pytest.approx(
        wrapped.score(contexts, drawn.tokens, drawn.lengths, env.rules.sampling), abs=1e-5
    )
    trained = [name for name, parameter in model.policy.named_parameters() if parameter.requires_grad]
    assert any("value_head" in name for name in trained) and (lora is None) == (
        not any("lora" in name for name in trained)
    )
    if lora is not None:
        assert all("lora" in name or "value_head" in name for name in trained)
    model.policy.set_training_mode(True)
    assert not model.policy.actor_critic.lm.module.training


@pytest.mark.parametrize("given", ["object", "function"])
def test_language_model_policies_are_saved(given, tmp_path):
    make = functools.partial(tiny_lm, V, seed=3)
    env = CoevoVecEnv(3, "toy", make(), kl="reference", seed=0)
    model = A2C(
        CausalLMPolicy,
        env,
        n_steps=5,
        policy_kwargs=language_model_kwargs(env, None if given == "object" else make),
        seed=0,
    )
    model.learn(60, callback=KLCallback())
    model.save(tmp_path / "model")
    again = A2C.load(tmp_path / "model", env=env)
    model.policy.save(tmp_path / "policy")
    alone = CausalLMPolicy.load(tmp_path / "policy")
    seen, actions = observations(env, [[1], [2]], [[2, 1, 0], [1, 0]])
    expected = model.policy.evaluate_actions(seen, actions)
    for policy in (again.policy, alone):
        for a, b in zip(expected, policy.evaluate_actions(seen, actions), strict=True):
            assert torch.equal(a, b)
    again.learn(30, callback=KLCallback())
    model.policy.save_pretrained(tmp_path / "plain")
    plain = coevo_env.LanguageModel.from_pretrained(tmp_path / "plain")
    assert plain.score([[1]], np.array([[2]]), np.array([1]), env.rules.sampling) == pytest.approx(
        expected[1][:1].detach().numpy()[None], abs=1e-5
    )


def test_extractor_models_are_saved(tmp_path):
    env = CoevoVecEnv(3, "toy", kl="reference", seed=0)
    model = ppo(env).learn(50, callback=KLCallback())
    model.save(tmp_path / "model")
    noise = np.random.default_rng(0).random((8, 3))
    a, b = (
        SB3Actor(m).generate([[1]] * 8, 3, env.rules.sampling, noise) for m in (model, PPO.load(tmp_path / "model"))
    )
    assert same(a.tokens, b.tokens) and same(a.logprobs, b.logprobs)


# ---------------------------------------------------------------- masks
class Watch(CoevoVecEnv):
    """Counts the illegal tokens that a learner plays."""

    illegal = 0

    def step_async(self, actions):
        masks = np.stack(self.env_method("action_masks"))
        self.illegal += int((~masks[np.arange(self.num_envs), actions]).sum())
        super().step_async(actions)


class Banned(IntTokenizer):
    banned = (3,)


def masked_game(**options) -> Watch:
    return Watch(6, replace(toy.task(), tokenizer=Banned(V)), min_new_tokens=2, max_new_tokens=5, seed=0, **options)


def test_maskable_ppo_never_samples_what_is_illegal():
    MaskablePPO = pytest.importorskip("sb3_contrib").MaskablePPO
    free, bound = masked_game(kl="reference"), masked_game(kl="reference")
    ppo(free).learn(400)
    assert free.illegal > 50  # a stock policy does not read the mask
    ledger = Ledger()
    model = MaskablePPO("MultiInputPolicy", bound, n_steps=16, batch_size=96, policy_kwargs=EXTRACTOR, seed=0)
    model.learn(400, callback=CallbackList([KLCallback(), ledger]))
    assert bound.illegal == 0 and ledger.wrong < 1e-5
    assert {len(tokens) for *_, tokens in ledger.episodes()} == {3, 4, 5}  # EOS comes after two tokens at the earliest
    assert all(3 not in tokens for *_, tokens in ledger.episodes())
    partner = SB3Actor(model).generate([[1]] * 64, 5, bound.rules.sampling, np.random.default_rng(0).random((64, 5)))
    assert partner.lengths.min() == 3 and not (partner.tokens == 3).any()


@pytest.mark.parametrize("mask", ["observation", "none"])
def test_language_model_policies_obey_masks(mask):
    lm = tiny_lm(V, seed=3)
    env = masked_game(kl="off", mask=mask, partner=CursorActor(None, V))
    settings = {"n_steps": 8, "batch_size": 48, "n_epochs": 1, "policy_kwargs": {"lm": lm}, "seed": 0}
    if mask == "observation":
        PPO(CausalLMPolicy, env, **settings).learn(200)
    else:
        MaskablePPO = pytest.importorskip("sb3_contrib").MaskablePPO
        with pytest.raises(ConfigError, match="action_mask"):
            PPO(CausalLMPolicy, env, **settings)
        MaskablePPO(maskable_causal_lm_policy(), env, **settings).learn(200)
    assert env.illegal == 0
