"""The ways in which people make environments by name: vectors of them, registries, recorders."""

from __future__ import annotations

from itertools import pairwise

import gymnasium
import numpy as np
import pettingzoo
import pytest
from gymnasium.wrappers import RenderCollection
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import coevo_env
from coevo_env.view.picture import HEIGHT, LINE, MARGIN, WIDTH, picture
from coevo_env.view.render import heat_color

TOY = {"task": "toy", "mask": "none"}


def played(seed: int, **options):
    """Observation at the start of episode 0 of a seed."""
    return coevo_env.GymEnv(seed=seed, **TOY, **options).reset()[0]


@pytest.mark.parametrize("kind", [None, SubprocVecEnv])
def test_make_vec_env_by_id(kind):
    """In a process of its own an id has to say which module knows it, as gymnasium has it."""
    vec = make_vec_env(
        "coevo_env:coevo/Text-v0" if kind else "coevo/Text-v0", n_envs=3, seed=5, vec_env_cls=kind, env_kwargs=TOY
    )
    try:
        observations = vec.reset()
        assert np.array_equal(observations, [played(5), played(6), played(7)])  # each its own seed
        observations, rewards, _, infos = vec.step(np.array([1, 2, 0]))
        assert rewards.shape == (3,)
        assert [int(info["length"]) for info in infos] == [1, 1, 1]
        assert vec.render().shape[-1] == 3  # they tile what `rgb_array` returns
    finally:
        vec.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasium_make_vec(mode):
    vec = gymnasium.make_vec("coevo/Text-v0", num_envs=2, vectorization_mode=mode, **TOY)
    try:
        observations, infos = vec.reset(seed=8)
        assert np.array_equal(observations, [played(8), played(9)])
        assert infos["episode_index"].tolist() == [0, 0]
        _, rewards, terminated, truncated, _ = vec.step(np.array([1, 2]))
        assert rewards.shape == terminated.shape == truncated.shape == (2,)
    finally:
        vec.close()


@pytest.mark.skipif(not hasattr(pettingzoo, "make"), reason="PettingZoo before 1.27 has no registry")
@pytest.mark.parametrize("api", ["aec", "parallel"])
def test_pettingzoo_make(api):
    env = pettingzoo.make(api, "coevo/text_v0", task="toy", num_agents=3, seed=0)
    env.reset()
    assert env.possible_agents == ["llm1", "llm2", "llm3"]


# ---------------------------------------------------------------- pictures
def test_recorders_get_frames_of_one_size():
    env = RenderCollection(gymnasium.make("coevo/Text-v0", task="toy", seed=0, render_mode="rgb_array"))
    env.reset()
    while not env.step(1)[2]:
        pass
    frames = env.render()
    assert len(frames) == 4  # the start, and three tokens
    assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for frame in frames)
    assert all((a != b).any() for a, b in pairwise(frames))  # each token is seen
    assert env.unwrapped.metadata["render_fps"] > 0


@pytest.mark.parametrize("make", [coevo_env.env, coevo_env.parallel_env])
def test_pettingzoo_faces_return_the_picture_of_their_transcript(make):
    env = make(task="toy", kl="reference", seed=0, render_mode="rgb_array")
    env.reset()
    assert np.array_equal(env.render(), picture(env.unwrapped.transcript()))


def rows_with_ink(frame: np.ndarray) -> list[int]:
    dark = (frame != 255).any(-1).any(1)
    return sorted({int(row - MARGIN) // LINE for row in np.flatnonzero(dark)})


def episode(**given):
    turn = {"agent": "llm1", "role": "pioneer", "text": "fine", "tokens": [4, 0], "pieces": ["fine", "<eos>"]}
    return {"task": "toy", "episode": 3, "prompt": "a day", "turns": [turn | given.pop("turn", {})], **given}


def test_behind_a_token_is_its_kl():
    for kl, expected in ((2.0, {"blue"}), (-2.0, {"orange"}), (0.0, set())):
        frame = picture(episode(turn={"kl": [kl, 0.0]}))
        shown = {name for name, heat in (("blue", 1.0), ("orange", -1.0)) if (frame == heat_color(heat)).all(-1).any()}
        assert shown == expected


@pytest.mark.parametrize("prompt", ["word " * 2000, "x" * 9000, "\n" * 300, "", "\x1b[31m\u202e 漢字 \ud800"])
def test_a_picture_keeps_its_size_and_shows_the_end(prompt):
    frame = picture(episode(prompt=prompt))
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert (frame[:, : MARGIN - 2] == 255).all() and (frame[:, WIDTH - MARGIN + 2 :] == 255).all()
    assert (frame[HEIGHT - MARGIN + LINE :] == 255).all()
    short, rows = rows_with_ink(picture(episode(prompt="a day"))), rows_with_ink(frame)
    tail = [row - short[-1] for row in short[-2:]]
    assert [row - rows[-1] for row in rows[-2:]] == tail  # the answer and what it earned come last


def test_the_vector_for_sb3_returns_one_picture_of_all_rows():
    from coevo_agents.adapters.sb3 import CoevoVecEnv

    vec = CoevoVecEnv(4, "toy", kl="off", render_mode="rgb_array")
    vec.set_partner("chance")
    vec.reset()
    assert vec.render().shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert [image.shape for image in vec.get_images()] == [(HEIGHT, WIDTH, 3)] * 4
