"""What the token-level faces pay, show and refuse, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import Unigram

import coevo_env
from coevo_env import ConfigError, KLConfig, NonFiniteError, Task
from coevo_env.game.kl import MIN_LOGPROB
from coevo_env.game.reference import IntTokenizer, TableModel

V, T, L = 3, 2, 8  # tokens 0 (EOS), 1, 2; two tokens a turn; six ids of context


def count(prompts, responses):
    return [float(len(response.split())) for response in responses]


def probe(**fields) -> Task:
    return Task(
        name="probe",
        train=["1"],
        test=["2"],
        rewards={"count": count, "twos": (10.0, lambda p, r: [float(x.split().count("2")) for x in r])},
        templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"},
        max_new_tokens=T,
        max_context=L - T,
        model="table",
        tokenizer=IntTokenizer(V),
        **fields,
    )


UNIFORM = TableModel(np.zeros((V, V)))
HALF, THIRD = (
    math.log(1 / 2),
    math.log(1 / 3),
)  # EOS is masked at the first token, so two tokens are left there; later three


def make(**options):
    options = {"task": probe(), "model": UNIFORM, "seed": 0, **options}
    return coevo_env.raw_env(**options)


def play(env, turns: list[list[int]], reports=None) -> list[dict[str, float]]:
    """Plays whole turns; returns the rewards of each step."""
    paid = []
    for tokens in turns:
        for token in tokens:
            if reports is not None:
                env.report(*reports.pop(0))
            env.step(token)
            paid.append(dict(env.rewards))
    return paid


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


# ---------------------------------------------------------------- one agent learns
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
        ({"render_mode": "rgb_array"}, "unknown render_mode"),
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
