"""The stable-baselines3 adapter: what a row plays is what `GymEnv` plays, what was paid is what SB3
learns from.

The environment's own account of an episode comes from two places that the adapter does not touch:
the engine's scoring, which is recorded, and `coevo_env.BatchEnv`, which plays the same tokens
again.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from sb3_games import Ledger, V, a2c, ppo, same
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor

import coevo_env
from coevo_agents.adapters.sb3 import (
    CoevoVecEnv,
    CursorActor,
    KLCallback,
    TokenExtractor,
)
from coevo_env.errors import ConfigError
from coevo_env.game import scoring
from coevo_env.game.kl import KLConfig
from coevo_env.testing import tiny_lm

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
    {"num_agents": 2, "kl": "reference", "max_new_tokens": 5, "max_new_tokens_low": 2},
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


# ---------------------------------------------------------------- what was paid is learned
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


# ---------------------------------------------------------------- as SB3 expects it
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
