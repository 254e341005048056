"""The stable-baselines3 adapter: what a row plays is what `GymEnv` plays, what was paid is what SB3
learns from, and SB3 learns.

The environment's own account of an episode comes from two places that the adapter does not touch:
the engine's scoring, which is recorded, and `coevo_env.BatchEnv`, which plays the same tokens
again.
"""

from __future__ import annotations

import functools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor, VecNormalize

import coevo_env
from coevo_agents.adapters.sb3 import (
    CausalLMPolicy,
    CoevoVecEnv,
    CursorActor,
    KLCallback,
    SB3Actor,
    TokenExtractor,
    cotrain,
    language_model_kwargs,
    maskable_causal_lm_policy,
)
from coevo_agents.learners.policy import LoRAConfig
from coevo_agents.training.play import play
from coevo_env.errors import ConfigError, MissingExtraError
from coevo_env.game import scoring
from coevo_env.game.kl import KLConfig
from coevo_env.game.reference import IntTokenizer, TableModel
from coevo_env.tasks import toy
from coevo_env.testing import tiny_lm

EXTRACTOR = {
    "features_extractor_class": TokenExtractor,
    "features_extractor_kwargs": {"features_dim": 32, "embedding_dim": 16},
}
V = 5


def ppo(env, n_steps=16, **options) -> PPO:
    steps = n_steps * env.num_envs  # of a rollout; in two minibatches, or in one where the number is odd
    batch = steps // (1 + (steps % 2 == 0))
    settings = {
        "n_steps": n_steps,
        "batch_size": batch,
        "n_epochs": 4,
        "learning_rate": 3e-3,
        "seed": 0,
        "policy_kwargs": EXTRACTOR,
    }
    return PPO("MultiInputPolicy", env, **{**settings, **options})


def a2c(env, n_steps=6, **options) -> A2C:
    return A2C(
        "MultiInputPolicy",
        env,
        **{"n_steps": n_steps, "learning_rate": 3e-3, "seed": 0, "policy_kwargs": EXTRACTOR, **options},
    )


def same(a, b) -> bool:
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


# ---------------------------------------------------------------- the same game as GymEnv
GAMES = [
    {"num_agents": 1, "kl": "reference"},
    {"num_agents": 2, "kl": "reference", "roles": "never"},
    {"num_agents": 2, "kl": "reference", "roles": "never", "learner": "llm2"},
    {
        "num_agents": 3,
        "kl": "reference",
        "roles": "random",
        "learner": "llm2",
        "min_new_tokens": 2,
        "mixing": "weighted",
        "mixing_weight": 0.4,
    },
    {"num_agents": 3, "kl": "off", "roles": "rotation", "context": "previous", "mask": "info"},
    {"num_agents": 2, "kl": "off", "mask": "none", "token_dtype": "float32"},
    {"num_agents": 2, "kl": "off", "attention_mask": True, "temperature": 0.7},
]


@pytest.mark.parametrize("options", GAMES, ids=lambda options: "-".join(map(str, options.values())))
def test_rows_are_gymnasium_episodes(options):
    """Random ragged turns, some with masked tokens: observations, rewards and infos of each row are
    those of a GymEnv."""
    rows = 5
    env = CoevoVecEnv(rows, "toy", partner="chance" if options["kl"] == "off" else None, seed=3, **options)
    singles = [coevo_env.GymEnv("toy", seed=3, **options) for _ in range(rows)]  # whose default partners are the same
    rng, seen, lengths = np.random.default_rng(0), env.reset(), set()
    played = list(range(rows))
    firsts = [single.reset(options={"episode": row}) for row, single in enumerate(singles)]
    for _ in range(40):
        for row, (observation, info) in enumerate(firsts):
            if observation is not None:
                assert same(
                    observation,
                    {key: value[row] for key, value in seen.items()} if isinstance(seen, dict) else seen[row],
                )
                assert same(info, env.reset_infos[row])
        assert (
            np.stack(env.env_method("action_masks")) == np.stack([single.action_masks() for single in singles])
        ).all()
        actions = rng.integers(0, V, rows)
        seen, rewards, dones, infos = env.step(actions)
        firsts = []
        for row, single in enumerate(singles):
            observation, reward, terminated, truncated, info = single.step(actions[row])
            got = {
                key: value
                for key, value in infos[row].items()
                if key not in ("TimeLimit.truncated", "terminal_observation")
            }
            assert same(got, info) or got == pytest.approx(info, rel=0, abs=1e-12)
            assert rewards[row] == np.float32(reward) and dones[row] == terminated
            assert infos[row]["TimeLimit.truncated"] is truncated is False
            if terminated:
                lengths.add(info["length"])
                assert same(infos[row]["terminal_observation"], observation)
                played.append(env.reset_infos[row]["episode_index"])
                firsts.append(single.reset(options={"episode": played[-1]}))
            else:
                assert same(
                    observation,
                    {key: value[row] for key, value in seen.items()} if isinstance(seen, dict) else seen[row],
                )
                firsts.append((None, None))
    assert played == list(range(len(played))) and len(played) > 3 * rows  # each number once, in order
    assert lengths >= {1, 2, 3}


def test_a_language_model_reference_is_scored_in_batches():
    """One forward pass over all rows per step, and the log-probs of the token-by-token cursor of
    GymEnv."""
    lm, calls = tiny_lm(V, seed=3), []
    env = CoevoVecEnv(4, "toy", lm, kl="reference", roles="never", seed=0, min_new_tokens=0)
    single = coevo_env.GymEnv("toy", lm, kl="reference", roles="never", seed=0, min_new_tokens=0)
    single.set_partner(None)
    score, lm.score = lm.score, lambda contexts, *rest: calls.append(len(contexts)) or score(contexts, *rest)
    env.reset()
    single.reset()
    for token in (2, 3):
        _, _, _, infos = env.step(np.full(4, token))
        assert infos[0]["ref_logprob"] == pytest.approx(single.step(token)[4]["ref_logprob"], abs=1e-5)
    assert calls == [4, 4]


def test_partners_are_asked_in_batches():
    calls: list[tuple[int, int]] = []

    class Spy(CursorActor):
        def generate(self, contexts, max_new_tokens, sampling, uniforms):
            calls.append((len(contexts), uniforms.shape[1]))
            return super().generate(contexts, max_new_tokens, sampling, uniforms)

    env = CoevoVecEnv(6, "toy", num_agents=3, partner=Spy(None, V), seed=0, roles="never", learner="llm2", kl="off")
    env.reset()
    assert calls == [(6, 3)]
    env.step(np.full(6, 1))
    assert calls == [(6, 3)]  # nobody's turn ended
    env.step(np.array([0, 0, 1, 1, 1, 1]))
    assert calls == [(6, 3), (2, 3), (2, 3)]  # the observers of two episodes, then the pioneers of the next two


# ------------------------------------------------------------ what was paid is what is learned from
class Ledger(BaseCallback):
    """What SB3 is about to learn from, step by step, over all rollouts."""

    def __init__(self):
        super().__init__()
        self.steps: list[tuple] = []  # (rewards, log_probs, actions, dones, infos) of each step, each over rows
        self.wrong = 0.0

    def _on_rollout_start(self):
        self.rollout = []

    def _on_step(self):
        self.rollout.append((np.array(self.locals["dones"]), self.locals["infos"]))
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        for t, (dones, infos) in enumerate(self.rollout):
            self.steps.append(
                (buffer.rewards[t].copy(), buffer.log_probs[t].copy(), buffer.actions[t, :, 0].copy(), dones, infos)
            )
        # returns and advantages must be those that SB3 would have computed from the rewards
        advantages, returns = buffer.advantages.copy(), buffer.returns.copy()
        with torch.no_grad():
            last = self.model.policy.predict_values(obs_as_tensor(self.locals["new_obs"], self.model.device))
        buffer.compute_returns_and_advantage(last_values=last, dones=self.rollout[-1][0])
        self.wrong = max(self.wrong, abs(advantages - buffer.advantages).max(), abs(returns - buffer.returns).max())

    def episodes(self):
        """(info of the last step, rewards, log-probs, tokens) of each finished episode."""
        for row in range(len(self.steps[0][0])):
            series = []
            for rewards, logprobs, tokens, dones, infos in self.steps:
                series.append((rewards[row], logprobs[row], tokens[row]))
                if dones[row]:
                    yield infos[row], *(np.array(column) for column in zip(*series, strict=True))
                    series = []


@pytest.mark.parametrize(
    ("make", "agents", "learner", "roles"),
    [(ppo, 1, "llm1", "never"), (a2c, 2, "llm1", "never"), (ppo, 2, "llm2", "never"), (a2c, 2, "llm2", "periodic")]
    + [(ppo, 3, f"llm{i}", "never") for i in (1, 2, 3)]
    + [(a2c, 3, "llm2", "random")],
)
def test_rewards_are_conserved_and_equal_mode_reported(make, agents, learner, roles, monkeypatch):
    """Every reward of the engine arrives, once, at its token; with the callback the sum is that of
    KL mode "reported"."""
    scored = {}
    score = scoring.score

    def record(self, episodes):
        result = score(self, episodes)
        scored.update({episode.index: (episode, result.team[row]) for row, episode in enumerate(episodes)})
        return result

    for module in ("faces.batch", "faces.token_game"):
        monkeypatch.setattr(f"coevo_env.{module}.score", record)
    monkeypatch.setattr("coevo_agents.adapters.sb3_env.score", record)
    options = {"num_agents": agents, "roles": roles, "min_new_tokens": 0}
    beta = 0.3
    env = VecMonitor(
        CoevoVecEnv(7, "toy", learner=learner, kl=KLConfig(mode="reference", beta=beta), seed=0, **options)
    )
    ledger, model = Ledger(), make(env, n_steps=9)
    model.learn(5 * 9 * 7, callback=CallbackList([KLCallback(), ledger]))
    assert ledger.wrong < 1e-5
    finished = list(ledger.episodes())
    assert sorted(info["episode_index"] for info, *_ in finished) == sorted(
        scored
    )  # nothing dropped, nothing paid twice
    assert {len(tokens) for *_, tokens in finished} >= {1, 2, 3}
    assert {info["seat"] for info, *_ in finished} == (
        {int(learner[-1]) - 1} if roles == "never" else set(range(agents))
    )
    monkeypatch.undo()
    halves = {
        mode: coevo_env.BatchEnv(1, "toy", kl=KLConfig(mode=mode, beta=beta), seed=0, **options)
        for mode in ("reference", "reported")
    }
    for info, rewards, logprobs, tokens in finished:
        episode, team = scored[info["episode_index"]]
        mine = next(turn for turn in episode.turns if f"llm{turn.agent + 1}" == learner)
        assert mine.tokens == tokens.tolist()
        expected = {}
        for mode, game in halves.items():
            game.reset(episode.index)
            for turn in episode.turns:
                reported = logprobs[None] if turn is mine else np.zeros((1, len(turn.tokens)))
                game.submit_turn(
                    np.array([turn.tokens]), np.array([len(turn.tokens)]), reported if mode == "reported" else None
                )
            expected[mode] = game.rollouts()[mine.agent].rewards[0]
        assert rewards == pytest.approx(expected["reported"], rel=1e-6, abs=1e-6)
        assert info["episode"]["r"] == pytest.approx(
            expected["reference"].sum(), rel=1e-6, abs=1e-6
        )  # VecMonitor saw the first half
        assert info["episode"]["l"] == len(tokens)
        assert info["team_reward"] == team[mine.seat]


def test_without_kl_the_buffer_holds_the_team_rewards_exactly():
    env = CoevoVecEnv(4, "toy", kl="off", partner="chance", seed=0)
    ledger, model = Ledger(), ppo(env, 10)
    model.learn(120, callback=ledger)
    finished = list(ledger.episodes())
    assert len(finished) > 20
    for info, rewards, _, _ in finished:
        assert rewards.tolist() == [0.0] * (len(rewards) - 1) + [np.float32(info["team_reward"])]


class Kept(KVWriter):
    """A log in memory."""

    def __init__(self):
        self.rows: list[dict] = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(dict(key_values))


def test_callback_measures_kl_and_moves_beta():
    config = KLConfig(mode="reference", beta=0.2, controller="adaptive", target=0.5, horizon=100)
    env = CoevoVecEnv(8, "toy", kl=config, seed=0)
    callback, ledger = KLCallback(), Ledger()
    model, writer = ppo(env, 8), Kept()
    model.set_logger(Logger(None, [writer]))
    model.learn(8 * 8 * 6, callback=CallbackList([callback, ledger]))
    controller, kls = coevo_env.game.kl.make_controller(config), []
    for info, rewards, logprobs, _ in ledger.episodes():
        shaped = rewards.astype(np.float64)
        shaped[-1] -= info["team_reward"]
        kls.append(-shaped.sum() / info["beta"])  # beta of an episode is the one it began with
        assert (logprobs <= 0).all()
    assert sum(n for _, n, _ in callback.history) == len(kls)
    total = sum(kl * n for kl, n, _ in callback.history)
    assert total == pytest.approx(sum(kls), rel=1e-4)
    for kl, n, beta in callback.history:
        controller.update(kl, n)
        assert beta == controller.beta
    assert env.controllers["llm1"].beta == controller.beta != 0.2
    assert env.controllers["llm2"].beta == 0.2
    assert [(row["coevo/kl"], row["coevo/beta"]) for row in writer.rows] == [
        (kl, beta) for kl, _, beta in callback.history
    ]
    assert all({"coevo/task_reward", "coevo/team_reward"} <= set(row) for row in writer.rows)


def test_callback_on_gymnasium_environments():
    """Through SB3's own DummyVecEnv, each environment with a controller of its own."""
    config = KLConfig(mode="reference", controller="adaptive", target=0.1, horizon=50)
    envs = DummyVecEnv([lambda seed=seed: coevo_env.GymEnv("toy", kl=config, seed=seed) for seed in range(3)])
    callback, ledger = KLCallback(), Ledger()
    ppo(envs, 12, seed=None).learn(72, callback=[callback, ledger])
    assert ledger.wrong < 1e-5
    betas = {env.controllers["llm1"].beta for env in envs.envs}
    assert betas == {callback.history[-1][2]} != {0.1}


# ----------------------------------------------------------- a vector environment as SB3 expects it
def test_conforms_to_sb3():
    env = VecCheckNan(VecMonitor(CoevoVecEnv(3, "toy", kl="reference", seed=0)), raise_exception=True)
    seen = env.reset()
    for _ in range(30):
        for row in range(3):
            assert env.observation_space.contains({key: value[row] for key, value in seen.items()})
        before = {key: value.copy() for key, value in seen.items()}
        old = seen
        seen, rewards, dones, infos = env.step(np.array([env.action_space.sample() for _ in range(3)]))
        assert same(before, old)  # no buffer is written to again
        assert (
            rewards.dtype == np.float32
            and dones.dtype == bool
            and rewards.shape == dones.shape == (3,)
            and len(infos) == 3
        )
        for row in np.flatnonzero(dones):
            assert infos[row]["episode"]["l"] == infos[row]["length"]
            assert env.observation_space.contains(infos[row]["terminal_observation"])
    mean, deviation = evaluate_policy(ppo(env), env, n_eval_episodes=6)
    assert math.isfinite(mean) and math.isfinite(deviation)
    env.close()


def test_attributes_methods_seed_and_options():
    env = CoevoVecEnv(3, "toy", kl="off", partner="chance", seed=0, render_mode="ansi", roles="never")
    assert env.get_attr("learner") == ["llm1"] * 3 and env.get_attr("rules", [1]) == [env.rules]
    assert env.env_is_wrapped(coevo_env.GymEnv) == [False] * 3
    assert not env.has_attr("nothing") and env.has_attr("action_masks")
    env.set_attr("note", 7, indices=[0, 2])
    assert env.get_attr("note", indices=[0, 2]) == [7, 7]
    with pytest.raises(ConfigError, match="rows share it"):
        env.set_attr("learner", "llm2")
    assert env.seed(5) == [5, 5, 5]
    first = env.reset()
    assert [episode.index for episode in env.get_attr("episode")] == [0, 1, 2] and env.rules.seed == 5
    env.reset()
    assert [episode.index for episode in env.get_attr("episode")] == [3, 4, 5]
    env.set_options([{"episode": 0}, {"episode": 1}, {"episode": 2}])
    assert same(env.reset(), first)
    env.step(np.zeros(3, int))
    assert "pioneer" in env.render() and env.env_method("transcript", indices=1)[0]["task"] == "toy"
    assert env.seed() != env.seed()


@pytest.mark.parametrize("algorithm", [ppo, a2c])
def test_same_seed_same_weights(algorithm):
    def train():
        model = algorithm(CoevoVecEnv(4, "toy", kl="reference", seed=0))
        model.learn(100, callback=KLCallback())
        return torch.cat([parameter.flatten() for parameter in model.policy.parameters()])

    assert torch.equal(train(), train())


def test_extractor_ignores_padding():
    """A wider observation of the same tokens has the same features, and other ids have others."""
    narrow, wide = (coevo_env.GymEnv("toy", seed=0, max_context=length).observation_space for length in (14, 30))
    torch.manual_seed(0)
    a, b = TokenExtractor(narrow), TokenExtractor(wide)
    b.load_state_dict(a.state_dict())
    rows = [[1], [2, 3, 1], [3, 2, 1], [1, 2, 3, 4]]
    padded = [torch.tensor([[*row, *[V] * (length + 3 - len(row))] for row in rows]) for length in (14, 30)]
    features = a({"observation": padded[0]})
    assert features.shape == (4, 64)
    assert torch.allclose(features, b(padded[1].float()), atol=1e-6)
    for row, tokens in enumerate(padded[0]):  # alone, where nobody else is longer
        assert torch.allclose(features[row], a(tokens[None])[0], atol=1e-6)
    assert (torch.cdist(features, features) + torch.eye(4) > 1e-3).all()


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


def lm_ppo(env, **options) -> PPO:
    settings = {
        "n_steps": 16,
        "batch_size": 8 * env.num_envs,
        "n_epochs": 4,
        "learning_rate": 2e-3,
        "seed": 0,
        "policy_kwargs": language_model_kwargs(env),
    }
    return PPO(CausalLMPolicy, env, **{**settings, **options})


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
        (lambda: off(render_mode="rgb_array"), "render_mode"),
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
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "examples"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--timesteps", "3000"])
    module = __import__(name)
    for before, after in module.main():
        assert after > before + 0.1
