"""What the AEC face shows, how its episodes go, and what it refuses, against values worked out by
hand."""

from __future__ import annotations

import numpy as np
import pytest
from probe_game import HALF, THIRD, UNIFORM, L, V, make, play, probe

import coevo_env
from coevo_env import ConfigError, NonFiniteError, Task
from coevo_env.game.reference import IntTokenizer, TableModel


# ---------------------------------------------------------------- observations
def test_observations_by_hand():
    env = make(exchange_every=100)
    env.reset()

    def seen(agent):
        return env.observe(agent)["observation"].tolist()

    nothing = [3] * L
    assert seen("llm1") == seen("llm2") == [1] + [3] * 7  # the prompt
    assert env.state().tolist() == [[1] + [3] * 7, nothing]
    env.step(2)
    assert seen("llm1") == [1, 2] + [3] * 6
    assert seen("llm2") == [1] + [3] * 7
    assert env.observe("llm2")["action_mask"].tolist() == [1, 0, 0]  # idle: EOS is the no-op
    assert env.observe("llm1")["action_mask"].tolist() == [1, 1, 1]
    env.step(2)  # the budget ends the turn
    assert seen("llm1") == [1, 2, 2] + [3] * 5
    assert seen("llm2") == [2, 2, 1] + [3] * 5  # the response, then the prompt
    assert env.observe("llm2")["action_mask"].tolist() == [0, 1, 1]
    env.step(1)
    env.step(0)
    assert env.state().tolist() == [[1, 2, 2] + [3] * 5, [2, 2, 1, 1, 0] + [3] * 3]
    assert env.observe("llm1")["action_mask"].tolist() == env.observe("llm2")["action_mask"].tolist() == [1, 0, 0]
    env.step(None)
    assert seen("llm1") == [1, 2, 2] + [3] * 5  # also for an agent that has left


def test_observing_changes_nothing_and_gives_fresh_arrays():
    env = make(attention_mask=True)
    env.reset()
    first = env.observe("llm1")
    for array in first.values():
        array[:] = 0
    again = env.observe("llm1")
    assert again["observation"].tolist() == [1] + [3] * 7
    assert again["action_mask"].tolist() == [0, 1, 1]
    assert again["attention_mask"].tolist() == [1] + [0] * 7
    env.state()[:] = 0
    assert env.state()[0, 0] == 1


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_layouts(dtype):
    tokens = make(mask="none", token_dtype=dtype)
    tokens.reset()
    assert tokens.observe("llm1").dtype == np.dtype(dtype)
    assert tokens.observation_space("llm1").shape == (L,)
    assert "action_mask" not in tokens.infos["llm1"]
    info = make(mask="info", token_dtype=dtype, attention_mask=True)
    info.reset()
    assert set(info.observe("llm1")) == {"observation", "attention_mask"}
    assert info.infos["llm1"]["action_mask"].tolist() == [0, 1, 1]
    assert info.infos["llm2"]["action_mask"].tolist() == [1, 0, 0]
    info.step(1)
    assert info.infos["llm1"]["action_mask"].tolist() == [1, 1, 1]
    assert tokens.observation_space("llm1") is tokens.observation_space("llm2")


# ---------------------------------------------------------------- episodes
def journey(env, episodes: int, **reset) -> list:
    out = []
    for number in range(episodes):
        env.reset(**(reset if number == 0 else {}))
        out.append((env.infos["llm1"]["episode_index"], env.infos["llm1"]["prompt_index"], env.agent_selection))
    return out


def test_seeds_fix_episodes_and_any_episode_replays_alone():
    options = {"task": "toy", "task_options": {"vocab_size": 9, "prompts": 8}, "roles": "random", "kl": "off"}
    env = coevo_env.raw_env(**options, seed=5)
    first = journey(env, 20)
    assert [row[0] for row in first] == list(range(20))
    assert journey(env, 20, seed=5) == first
    assert journey(coevo_env.raw_env(**options), 20, seed=5) == first
    assert journey(env, 20, seed=6) != first
    assert journey(env, 3, seed=5, options={"episode": 17}) == first[17:]
    assert journey(env, 2, options={"episode": 3, "unknown": object()}) == first[3:5]
    unseeded = [journey(coevo_env.raw_env(**options), 20) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_the_parallel_view_pays_the_same():
    aec, parallel = make(kl="reference"), coevo_env.parallel_env(task=probe(), model=UNIFORM, seed=0, kl="reference")
    for _ in range(3):
        aec.reset()
        observations, infos = parallel.reset()
        for token in (1, 0, 2, 2):
            actor = aec.agent_selection
            assert parallel.acting == actor
            aec.step(token)
            actions = {name: token if name == actor else 2 for name in parallel.agents}
            observations, rewards, terminations, truncations, infos = parallel.step(actions)
            assert (rewards, terminations, truncations, infos) == (
                aec.rewards,
                aec.terminations,
                aec.truncations,
                aec.infos,
            )
            for name, seen in observations.items():
                for key, array in aec.observe(name).items():
                    assert (seen[key] == array).all()
            assert (aec.state() == parallel.state()).all()
        assert parallel.agents == []
    with pytest.raises(ConfigError, match="call reset"):
        parallel.step({})
    parallel.reset()
    with pytest.raises(ConfigError, match="'llm2', whose turn it is"):
        parallel.step({"llm1": 1})


# ---------------------------------------------------------------- actions and errors
@pytest.mark.parametrize("action", [1, np.int32(1), np.int64(1), np.uint8(1), np.array(1), True])
def test_actions_of_any_integer_type(action):
    env = make()
    env.reset()
    env.step(action)
    assert env.state()[0, 1] == 1


@pytest.mark.parametrize("action", [-1, 3, 1.0, "1", None, np.array([1, 2]), np.float32(1)])
def test_what_is_no_token(action):
    env = make()
    env.reset()
    with pytest.raises(ConfigError, match="expected a token id"):
        env.step(action)


def test_calls_out_of_order():
    env = make()
    for call in (lambda: env.step(1), lambda: env.observe("llm1"), env.state, env.transcript):
        with pytest.raises(ConfigError, match="reset"):
            call()
    env.reset()
    with pytest.raises(ConfigError, match="Did you mean 'llm2'"):
        env.observe("lm2")
    with pytest.raises(ConfigError, match="render_mode=None"):
        env.render()
    play(env, [[1, 0], [1, 0]])
    env.step(None)
    env.step(None)
    with pytest.raises(ConfigError, match="reset"):
        env.step(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "infos"}, "Did you mean 'info'"),
        ({"token_dtype": "int32"}, "unknown token_dtype"),
        ({"agent_ids": "roles"}, "Did you mean 'role'"),
        ({"render_mode": "rgb_arrey"}, "unknown render_mode"),
        ({"max_cycles": 0}, "max_cycles=0"),
        ({"kl": "repoted"}, "Did you mean 'reported'"),
        ({"seed": -3}, "seed=-3"),
        ({"num_agents": 0}, "num_agents=0"),
        ({"temprature": 1.0}, "temprature"),
        ({"model": 7, "kl": "reference"}, "expected a name"),
        ({"model": TableModel(np.zeros((4, 4))), "kl": "reference"}, "must agree"),
        ({"task": "toyy"}, "Did you mean 'toy'"),
    ],
)
def test_clear_errors_at_construction(options, message):
    for face in (make, lambda **o: coevo_env.parallel_env(**{"task": probe(), **o})):
        with pytest.raises(ConfigError, match=message):
            face(**options)


def test_bad_resets():
    env = make()
    with pytest.raises(ConfigError, match="seed=-1"):
        env.reset(seed=-1)
    with pytest.raises(ConfigError, match="episode='last'"):
        env.reset(options={"episode": "last"})


def test_a_reward_that_fails_names_itself_and_the_next_episode_is_fine():
    state = {"broken": True}

    def sometimes(prompts, responses):
        return [float("nan") if state["broken"] else 1.0] * len(responses)

    task = Task(
        name="shaky", train=["1"], test=["2"], rewards={"mine": sometimes}, tokenizer=IntTokenizer(V), max_new_tokens=1
    )
    env = coevo_env.raw_env(task=task, num_agents=1, seed=0)
    env.reset()
    with pytest.raises(NonFiniteError, match="task 'shaky', reward 'mine'"):
        env.step(1)
    with pytest.raises(ConfigError, match="call reset"):
        env.step(1)
    state["broken"] = False
    env.reset()
    env.step(1)
    assert env.rewards == {"llm1": 1.0}


def test_transcript_and_render_are_text():
    import json

    env = make(render_mode="ansi", kl="reference")
    env.reset()
    env.step(2)
    assert "llm1 (pioneer)  2" in env.render() and "task" not in env.render()
    assert env.transcript()["turns"][0]["task_reward"] is None
    play(env, [[0], [1, 1]])
    transcript = env.transcript()
    json.dumps(transcript)
    assert [turn["text"] for turn in transcript["turns"]] == ["2", "1 1"]
    assert transcript["turns"][0]["logprobs"] is None
    assert transcript["turns"][0]["ref_logprobs"] == pytest.approx([HALF, THIRD])
    assert "task +11.000" in env.render() and "team +13.000" in env.render()
