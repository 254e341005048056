"""SuperSuit's wrappers and its routes to vectors of environments: the game passes through them, and
what the environment paid arrives."""

from __future__ import annotations

import numpy as np
import pytest
from ledger import Ledger

import coevo_env
from coevo_env.errors import ConfigError

supersuit = pytest.importorskip("supersuit")
pytestmark = pytest.mark.adapter

PLAIN = {"task": "toy", "mask": "none", "token_dtype": "float32", "seed": 0}
WRAPPERS = {
    "agent_indicator_v0": {},
    "clip_reward_v0": {"lower_bound": -9, "upper_bound": 9},
    "dtype_v0": {"dtype": "float32"},
    "flatten_v0": {},
    "frame_stack_v1": {"stack_size": 2},
    "pad_action_space_v0": {},
    "pad_observations_v0": {},
}


def actions(env):
    return dict.fromkeys(env.agents, 1)


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_conserve_rewards_on_both_faces(name):
    wrapper = getattr(supersuit, name)
    parallel = wrapper(coevo_env.parallel_env(**PLAIN), **WRAPPERS[name])
    bare = coevo_env.parallel_env(**PLAIN)
    for env in (parallel, bare):
        env.reset(seed=4)
    while bare.agents:
        got, expected = parallel.step(actions(parallel)), bare.step(actions(bare))
        assert dict(got[1]) == expected[1]
        assert got[2] == expected[2]
    turns = wrapper(coevo_env.env(**PLAIN), **WRAPPERS[name])
    turns.reset(seed=4)
    paid = dict.fromkeys(turns.possible_agents, 0.0)
    for agent in turns.agent_iter(100):
        _, reward, terminated, truncated, _ = turns.last()
        paid[agent] += reward
        turns.step(None if terminated or truncated else 1)
    assert paid == expected[1]  # without KL all of it comes at the end


@pytest.mark.parametrize("base", ["gymnasium", "stable_baselines3"])
def test_vectors_conserve_rewards(base):
    """Two copies of the game, each agent a row, for learners that know vectors only."""
    env = supersuit.pettingzoo_env_to_vec_env_v1(coevo_env.parallel_env(kl="reference", **PLAIN))
    vec = supersuit.concat_vec_envs_v1(env, 2, num_cpus=0, base_class=base)
    assert vec.num_envs == 4
    with pytest.MonkeyPatch.context() as patch:
        ledger = Ledger().install(patch)
        vec.reset()
        found = np.zeros(4)
        for _ in range(12):  # two turns of up to three tokens make an episode
            rewards = vec.step(np.array([1, 2, 3, 4]))[1]
            found += rewards
    paid = np.zeros((2, 2))
    for entry in ledger.entries:
        paid[entry.game] += entry.rewards
    assert found == pytest.approx(paid.reshape(-1), rel=1e-5)
    assert paid.all()


def test_copies_play_the_same_episodes_until_they_are_seeded():
    """As docs/environment.md says: `concat_vec_envs_v1` copies an environment, its seed as well."""
    vec = supersuit.concat_vec_envs_v1(
        supersuit.pettingzoo_env_to_vec_env_v1(coevo_env.parallel_env(**PLAIN)), 2, num_cpus=0, base_class="gymnasium"
    )
    first, _ = vec.reset()
    assert np.array_equal(first[:2], first[2:])
    different = False
    for seed in range(6):  # two prompts: some seeds begin with the same one
        first, _ = vec.reset(seed=10 * seed)
        different |= not np.array_equal(first[:2], first[2:])
    assert different


def test_pettingzoos_own_conversion_puts_a_string_into_the_infos():
    from pettingzoo.utils.conversions import turn_based_aec_to_parallel

    env = turn_based_aec_to_parallel(coevo_env.raw_env(**PLAIN))
    env.reset()
    infos = env.step(actions(env))[-1]
    assert any(isinstance(value, str) for info in infos.values() for value in info.values())


def test_black_death_would_never_end():
    env = supersuit.black_death_v3(coevo_env.parallel_env(**PLAIN))
    env.reset()
    for _ in range(6):  # the whole episode
        ends = env.step(actions(env))[2]
    assert not any(ends.values())
    with pytest.raises(ConfigError, match="while no episode is being played"):
        env.step(actions(env))
