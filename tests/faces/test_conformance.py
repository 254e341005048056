"""Every face passes the test suites of the APIs it claims to implement, and the contract of
`coevo_env.faces.aec` over many episodes.

PettingZoo's own test plays at most one episode, and with 50,257 tokens it never meets EOS; so a
driver of our own plays many, with a vocabulary of five tokens as well.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pettingzoo
import pytest
from builtin import made
from closed_forms import Unigram
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.utils.env_checker import data_equivalence
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test, seed_test, state_test

import coevo_env
from coevo_env.tasks import BUILTIN_TASKS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LARGE = 50257
GAMES = [*BUILTIN_TASKS, "reasoning-gym/chain_sum", "toy_large"]
"""Every task, and the toy with a vocabulary as large as a language model's. The references are
closed forms."""


def keywords(game: str, folder: Path) -> dict:
    """What makes a face of a game. Turns of real text are cut short: here nobody says anything."""
    if game == "toy_large":
        return {"task": coevo_env.make_task("toy", vocab_size=LARGE), "model": Unigram(LARGE)}
    task, model = made(game, folder)
    return {"task": task, "model": model, "max_new_tokens": min(9, task.max_new_tokens)}


def cases() -> Iterator:
    for game in GAMES:
        for kl in ("off", "reference"):
            for agents in (1, 2, 3):
                for ids in ("agent", "role"):
                    yield pytest.param(
                        game, {"kl": kl, "num_agents": agents, "agent_ids": ids}, id=f"{game}-{kl}-{agents}-{ids}"
                    )


every_case = pytest.mark.parametrize(("game", "options"), list(cases()))


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Callable:
    """Makes a face of a game; tasks and tokenizers are loaded once."""

    known: dict[str, dict] = {}

    def make(face: Callable, game: str, **options):
        if game not in known:
            known[game] = keywords(game, tmp_path_factory.mktemp(game.replace("/", "-")))
        return face(**known[game], **options)

    return make


@every_case
def test_aec(build, game, options, capsys):
    api_test(build(coevo_env.env, game, **options), num_cycles=60)
    seed_test(lambda: build(coevo_env.env, game, **options), num_cycles=60)
    state_test(build(coevo_env.env, game, **options), build(coevo_env.parallel_env, game, **options))
    render_test(lambda render_mode=None: build(coevo_env.env, game, **options, render_mode=render_mode))


@every_case
def test_parallel(build, game, options, capsys):
    parallel_api_test(build(coevo_env.parallel_env, game, **options), num_cycles=60)
    parallel_seed_test(lambda: build(coevo_env.parallel_env, game, **options), num_cycles=60)


@every_case
def test_many_episodes(build, game, options):
    env = build(coevo_env.env, game, **options, seed=1, mask="observation")
    raw = env.unwrapped
    large = env.action_space(env.possible_agents[0]).n == LARGE
    rng = np.random.default_rng(0)
    early = 0
    keys = None
    for _ in range(3 if large else 25):
        env.reset()
        paid, collected = dict.fromkeys(env.agents, 0.0), dict.fromkeys(env.agents, 0.0)
        seen: dict[str, np.ndarray] = {}
        dead = 0
        previous = None
        for agent in env.agent_iter():
            observation, reward, terminated, truncated, info = env.last()
            collected[agent] += reward
            assert type(reward) is float and type(terminated) is bool and truncated is False
            keys = keys or [(key, type(value)) for key, value in info.items()]
            for name in env.agents:  # infos: the same keys and plain numbers, always
                assert [(key, type(value)) for key, value in env.infos[name].items()] == keys
            for name in env.possible_agents:  # everybody can be observed at any time, and nothing comes of it
                shown = env.observe(name)
                assert env.observation_space(name).contains(shown)
                assert shown["action_mask"].any()
                assert data_equivalence(shown, env.observe(name))
                tokens = shown["observation"]
                pad = int((tokens == raw.rules.vocab_size).argmax())
                assert (tokens[pad:] == raw.rules.vocab_size).all()
                if name in seen and agent == previous:  # within a turn what was seen stays
                    assert (tokens[: len(seen[name])] == seen[name]).all()
                seen[name] = tokens[:pad]
            previous = agent
            if terminated:
                dead += 1
                action = None
            else:
                assert dead == 0 and info["acting"] == 1
                legal = np.flatnonzero(observation["action_mask"])
                end = raw.rules.eos_id in legal and rng.random() < 0.4
                action = int(raw.rules.eos_id if end else rng.choice(legal))
            env.step(action)
            for name, value in env.rewards.items():
                assert type(value) is float
                if action is not None:
                    paid[name] += value
        assert dead == len(env.possible_agents)
        assert collected == pytest.approx(paid, abs=1e-9)
        early += sum(not turn.cut for turn in raw.game.episode.turns)
    assert (
        early > 0 or raw.rules.sampling.min_new_tokens == raw.rules.max_new_tokens
    )  # turns that EOS ended, where it may end them


@pytest.mark.parametrize("game", ["toy", "toy_large", "sentiment"])
@pytest.mark.parametrize("kl", ["off", "reference"])
@pytest.mark.parametrize("agents", [1, 2, 3])
def test_gymnasium_and_stable_baselines(build, game, kl, agents, recwarn):
    sb3_check = pytest.importorskip("stable_baselines3.common.env_checker").check_env
    for mask in ("observation", "info", "none"):
        for dtype in ("int64", "float32"):
            for attention in (False, True):
                layout = {"mask": mask, "token_dtype": dtype, "attention_mask": attention, "render_mode": "ansi"}
                env = build(coevo_env.GymEnv, game, kl=kl, num_agents=agents, **layout)
                gymnasium_check(env, skip_render_check=True)
                sb3_check(env, skip_render_check=True)
                assert env.action_masks().dtype == bool and env.action_masks().any()
    assert not [str(w.message) for w in recwarn if "render" not in str(w.message)]


def test_a_stock_learner_runs_on_the_gym_view():
    PPO = pytest.importorskip("stable_baselines3").PPO
    env = coevo_env.GymEnv(task="toy", kl="reference", seed=0, token_dtype="float32")
    model = PPO("MultiInputPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    action, _ = model.predict(env.reset(seed=0)[0])
    env.step(action)


def test_registries():
    env = gymnasium.make("coevo/Text-v0", task="toy", num_agents=1, render_mode="ansi")
    env.reset(seed=0)
    assert "episode 0" in env.render()
    if not hasattr(pettingzoo, "make"):
        pytest.skip("this pettingzoo has no registry")
    for cycles in (None, 10):
        aec = pettingzoo.make("aec", "coevo/text_v0", task="toy", max_cycles=cycles)
        aec.reset(seed=0)
        assert aec.agents == ["llm1", "llm2"]
        parallel = pettingzoo.make("parallel", "coevo/text_v0", task="toy", max_cycles=cycles)
        assert len(parallel.reset(seed=0)) == 2


def test_vector_environments_of_gymnasium():
    env = gymnasium.make_vec("coevo/Text-v0", num_envs=3, vectorization_mode="sync", task="toy", kl="reference")
    observation, _ = env.reset(seed=0)
    assert observation["observation"].shape == (3, 17)
    for _ in range(20):
        _, reward, _, truncated, _ = env.step(np.array([1, 2, 0]))
        assert reward.shape == (3,) and not truncated.any()


def test_spaces_are_one_object():
    for env in (coevo_env.env(task="toy"), coevo_env.parallel_env(task="toy")):
        one, two = env.possible_agents
        assert env.observation_space(one) is env.observation_space(two)
        assert env.action_space(one) is env.action_space(two)
        assert sorted(env.observation_space(one).spaces) == ["action_mask", "observation"]


def test_metadata():
    metadata = coevo_env.raw_env.metadata
    assert (
        metadata["name"].endswith("_v0")
        and metadata["render_modes"] == ["ansi", "human", "rgb_array"]
        and metadata["is_parallelizable"] is False
    )
    assert str(coevo_env.env(task="toy")) == metadata["name"]


# ---------------------------------------------------------------- the package
def test_import_is_light():
    code = (
        "import time, sys; t = time.process_time(); import coevo_env; t = time.process_time() - t; "
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy'; print(t)"
    )
    took = min(
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    )
    assert took < 0.5


def test_the_toy_needs_no_torch():
    code = (
        "import sys, coevo_env; env = coevo_env.env(task='toy', kl='reference'); env.reset(); env.step(1); "
        "coevo_env.BatchEnv; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    assert set(coevo_env.__all__) == {"__version__", *coevo_env._HOME}
    assert set(coevo_env.__all__) <= set(dir(coevo_env))
    for name in coevo_env.__all__:
        assert getattr(coevo_env, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'raw_envv'"):
        coevo_env.raw_envv  # noqa: B018
