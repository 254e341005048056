"""Random games on every face against the game as the documentation has it.

Settings are drawn at random, tokens too, legal or not; each step of each face is compared with the
oracle: who acts, what everybody sees and may do, what is paid and why. Mutants at the end show that
the comparison finds what it is for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from game_draws import Drawn
from game_oracle import Oracle, next_beta

import coevo_env
from coevo_env.faces import token_game
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.token_game import TokenGame
from coevo_env.game import reference, rules
from coevo_env.game.kl import Adaptive
from coevo_env.game.roles import Rotation, ScoreDriven
from coevo_env.game.rules import Episode, Rules

EPISODES = 6
"""Of each game on each face."""


def close(a: Any, b: Any) -> bool:
    return a == pytest.approx(b, rel=1e-9, abs=1e-9)


# ---------------------------------------------------------------- the faces of single tokens
def looks(drawn: Drawn, face: Any, oracle: Oracle, agent: int, observation: Any, info: dict[str, Any]) -> None:
    """Whether what an agent sees and is told is what the oracle says."""
    length = drawn.game.longest + drawn.game.budget
    ids = oracle.seen(agent)
    tokens = observation["observation"] if isinstance(observation, dict) else observation
    assert tokens.tolist() == ids + [drawn.vocab] * (length - len(ids))
    assert tokens.dtype == drawn.shape["token_dtype"] and tokens.shape == (length,)
    told = dict(info)
    if drawn.shape["mask"] == "observation":
        assert observation["action_mask"].tolist() == oracle.mask(agent)
    elif drawn.shape["mask"] == "info":
        assert told.pop("action_mask").tolist() == oracle.mask(agent)
    if drawn.shape["attention_mask"]:
        assert observation["attention_mask"].tolist() == [1] * len(ids) + [0] * (length - len(ids))
    told.pop("episode_index"), told.pop("prompt_index")
    assert told.keys() == oracle.info(agent).keys()
    assert close(told, oracle.info(agent))


def says(face: Any, drawn: Drawn, logprob: float, row: Any) -> None:
    if drawn.reports:
        face.report(logprob, row if drawn.game.estimator == "full" else None)


def play_aec(drawn: Drawn, wrapped: bool) -> int:
    make = coevo_env.env if wrapped else coevo_env.raw_env
    env, steps = make(**drawn.options, **drawn.shape), 0
    face = env.unwrapped
    names = face.possible_agents
    for episode in range(EPISODES):
        env.reset(options={"episode": episode} if episode == 0 or drawn.of(True, False) else None)
        oracle, index = drawn.start(episode, face.rules)
        owed = [0.0] * drawn.agents
        for tokens, logprobs, rows in drawn.script(episode):
            for token, logprob, row in zip(tokens, logprobs, rows, strict=True):
                actor = oracle.actor
                assert env.agent_selection == names[actor]
                for agent in range(drawn.agents) if drawn.draw.random() < 0.3 else [actor]:
                    looks(drawn, face, oracle, agent, env.observe(names[agent]), env.infos[names[agent]])
                says(face, drawn, logprob, row)
                owed[actor] = 0.0
                paid = oracle.push(token, logprob, row)
                owed = [a + b for a, b in zip(owed, paid, strict=True)]
                env.step(token)
                steps += 1
                assert close([env.rewards[name] for name in names], paid)
                selected = names.index(env.agent_selection)
                assert close(env.last()[1], owed[selected])
                assert set(env.terminations.values()) == {oracle.done} and set(env.truncations.values()) == {False}
        state = [ids + [drawn.vocab] * (face.game.length - len(ids)) for ids in oracle.state()]
        assert env.state().tolist() == state
        for agent, name in enumerate(names):
            looks(drawn, face, oracle, agent, env.observe(name), env.infos[name])
            assert env.infos[name]["episode_index"] == episode and env.infos[name]["prompt_index"] == index
        for _ in names:
            assert close(env.last()[1], owed[names.index(env.agent_selection)])
            env.step(None)
        assert env.agents == []
        if episode == 2:
            ends_iteration(drawn, face)
    return steps


def ends_iteration(drawn: Drawn, face: Any) -> None:
    """After the episodes 0 to 2."""
    kls = drawn.draw.uniform(0, 8, drawn.agents).tolist()
    found = face.end_iteration(dict(zip(face.possible_agents, kls, strict=True)), 3)
    moves(drawn, face.rules, kls, 3, list(found.values()))


def moves(drawn: Drawn, rules: Rules, kls: list[float], episodes: int, found: list[float]) -> None:
    """What moves between iterations: the betas, and roles that follow from scores."""
    drawn.betas = [
        next_beta(drawn.controller, beta, kl, episodes, drawn.target, drawn.horizon, drawn.rate)
        for beta, kl in zip(drawn.betas, kls, strict=True)
    ]
    assert close(found, drawn.betas)
    drawn.decide(rules, episodes)


def play_parallel(drawn: Drawn) -> int:
    env, steps = coevo_env.parallel_env(**drawn.options, **drawn.shape), 0
    for episode in range(EPISODES):
        seen, infos = env.reset()
        oracle, _ = drawn.start(episode, env.rules)
        for tokens, logprobs, rows in drawn.script(episode):
            for token, logprob, row in zip(tokens, logprobs, rows, strict=True):
                assert env.acting == env.possible_agents[oracle.actor]
                if drawn.draw.random() < 0.3:
                    for agent, name in enumerate(env.possible_agents):
                        looks(drawn, env, oracle, agent, seen[name], infos[name])
                says(env, drawn, logprob, row)
                others = drawn.draw.integers(drawn.vocab, size=drawn.agents).tolist()
                actions = dict(zip(env.possible_agents, others, strict=True)) | {env.acting: token}
                paid = oracle.push(token, logprob, row)
                seen, rewards, over, cut, infos = env.step(actions)
                steps += 1
                assert close(list(rewards.values()), paid)
                assert set(over.values()) == {oracle.done} and set(cut.values()) == {False}
        for agent, name in enumerate(env.possible_agents):
            looks(drawn, env, oracle, agent, seen[name], infos[name])
        assert env.agents == []
        if episode == 2:
            ends_iteration(drawn, env)
    return steps


def play_gym(drawn: Drawn) -> int:
    learner = int(drawn.draw.integers(drawn.agents))
    env, steps = coevo_env.GymEnv(**drawn.options, **drawn.shape, learner=f"llm{learner + 1}"), 0
    for episode in range(EPISODES):
        oracle, index = drawn.start(episode, env.rules)
        script = drawn.script(episode)
        paid = [0.0]

        def partner(context, tokens, mask, rng, oracle=oracle, script=script, paid=paid):
            said = script[len(oracle.turns) - 1][0]
            assert context == oracle.turn.context and mask.tolist() == oracle.mask(oracle.actor)
            token = said[len(tokens)]
            paid[0] += oracle.push(token, pay=False)[learner]
            return token

        env.set_partner(partner)
        observation, info = env.reset(options={"episode": episode})
        tokens, logprobs, rows = script[oracle.seats.index(learner)]
        for number, (token, logprob, row) in enumerate(zip(tokens, logprobs, rows, strict=True)):
            assert oracle.actor == learner and info["prompt_index"] == index
            looks(drawn, env, oracle, learner, observation, info)
            assert env.action_masks().tolist() == [bool(legal) for legal in oracle.mask(learner)]
            says(env, drawn, logprob, row)
            paid[0] = oracle.push(token, logprob, row)[learner]
            observation, reward, over, cut, info = env.step(token)
            steps += 1
            assert close(reward, paid[0]) and over == oracle.done == (number + 1 == len(tokens)) and not cut
        looks(drawn, env, oracle, learner, observation, info)
    return steps


# ---------------------------------------------------------------- the batched face
def play_batch(drawn: Drawn, whole: bool) -> int:
    size, steps = drawn.of(1, 3, 5), 0
    game = coevo_env.BatchEnv(size, **drawn.options)
    for batch in range(2):
        first = game.episode
        scripts = [drawn.script(first + row) for row in range(size)]
        oracles = [drawn.start(first + row, game.rules)[0] for row in range(size)]
        while (turn := game.begin_turn()) is not None:
            assert turn.seat == len(oracles[0].turns) - 1
            assert turn.agents.tolist() == [oracle.actor for oracle in oracles]
            assert turn.contexts == [oracle.turn.context for oracle in oracles]
            said = [script[turn.seat] for script in scripts]
            steps += (submit if whole else step)(drawn, game, oracles, said)
        assert all(oracle.done for oracle in oracles)
        same_rollouts(drawn, game, oracles, first)
        same_transcripts(drawn, game, oracles)
        if batch == 0:
            kls = [0.0] * drawn.agents
            for turn in (turn for oracle in oracles for turn in oracle.turns):
                kls[turn.agent] += sum(turn.kls) / size
            moves(drawn, game.rules, kls, size, game.update_controllers())
            game.reset()
    return steps


def arrays(drawn: Drawn, said: list[Any], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, lengths, log-probs and distributions, with anything at all behind the lengths."""
    lengths = np.array([len(tokens) for tokens, _, _ in said])
    tokens = drawn.draw.integers(0, drawn.vocab, (len(said), width))
    logprobs = drawn.draw.normal(size=tokens.shape)
    rows = np.full((*tokens.shape, drawn.vocab), -math.log(drawn.vocab))
    for row, (ids, values, distributions) in enumerate(said):
        tokens[row, : len(ids)], logprobs[row, : len(ids)], rows[row, : len(ids)] = ids, values, distributions
    return tokens, lengths, logprobs, rows


def pushed(oracle: Oracle, said: Any, position: int) -> tuple[int, list[float]]:
    """Who played a token, and what everybody is paid for it."""
    agent, (tokens, logprobs, rows) = oracle.actor, said
    return agent, oracle.push(tokens[position], logprobs[position], rows[position])


def submit(drawn: Drawn, game: Any, oracles: list[Oracle], said: list[Any]) -> int:
    width = int(drawn.draw.integers(max(len(tokens) for tokens, _, _ in said), drawn.budget + 1))
    tokens, lengths, logprobs, rows = arrays(drawn, said, width)
    each = np.concatenate([row[:length] for row, length in zip(rows, lengths, strict=True)])  # token by token
    given: Any = rows if drawn.of(True, False) else lambda part: each[part]
    given = given if drawn.game.estimator == "full" else None
    paid = game.submit_turn(tokens, lengths, logprobs if drawn.reports else None, distributions=given)
    expected = np.zeros(tokens.shape)
    for row, oracle in enumerate(oracles):
        for position in range(lengths[row]):
            agent, all_paid = pushed(oracle, said[row], position)
            expected[row, position] = all_paid[agent]
    assert close(paid, expected)
    return int(lengths.sum())


def step(drawn: Drawn, game: Any, oracles: list[Oracle], said: list[Any]) -> int:
    tokens, lengths, logprobs, rows = arrays(drawn, said, drawn.budget)
    last = len(oracles[0].turns) == drawn.agents
    for position in range(lengths.max()):
        assert game.active.tolist() == (lengths > position).tolist()
        paid = game.step(
            tokens[:, position], logprobs[:, position] if drawn.reports else None,
            distributions=rows[:, position] if drawn.game.estimator == "full" else None,
        )  # fmt: skip
        expected = np.zeros(len(oracles))
        for row, oracle in enumerate(oracles):
            if position < lengths[row]:
                agent, all_paid = pushed(oracle, said[row], position)
                expected[row] = all_paid[agent]
                if oracle.done:  # "paid when the whole batch has finished"
                    expected[row] -= oracle.earned[-1]["team_reward"]
            if last and position + 1 == lengths.max():
                expected[row] += oracle.earned[-1]["team_reward"]
        assert close(paid, expected)
    return int(lengths.sum())


def same_rollouts(drawn: Drawn, game: Any, oracles: list[Oracle], first: int) -> None:
    for agent, rollout in enumerate(game.rollouts()):
        assert len(rollout) == len(oracles)
        for row, oracle in enumerate(oracles):
            seat = oracle.seats.index(agent)
            turn, length, earned = oracle.turns[seat], len(oracle.turns[seat].tokens), oracle.earned[seat]
            assert rollout.contexts[row] == turn.context and rollout.lengths[row] == length
            for name, values in (("tokens", turn.tokens), ("logprobs", turn.logprobs), ("ref_logprobs", turn.refs),
                                 ("kl", turn.kls), ("shaping", turn.shaping)):  # fmt: skip
                values = values or [0.0] * length
                assert close(getattr(rollout, name)[row].tolist(), values + [0.0] * (rollout.tokens.shape[1] - length))
            assert close(rollout.task_reward[row], earned["task_reward"])
            assert close(rollout.team_reward[row], earned["team_reward"])
            assert close(rollout.returns[row], sum(turn.shaping) + earned["team_reward"])
            assert (rollout.episodes[row], rollout.seats[row], rollout.agents[row]) == (first + row, seat, agent)
            assert rollout.groups[row] == (first + row) // drawn.group
            before = [token for other in oracle.turns[:seat] for token in other.context + other.tokens]
            assert rollout.states[row] == before
        assert close(rollout.beta, drawn.betas[agent]) and rollout.kl_in_loss == (drawn.game.mode == "loss")


def same_transcripts(drawn: Drawn, game: Any, oracles: list[Oracle]) -> None:
    for data, oracle in zip(game.transcripts(), oracles, strict=True):
        assert data["prompt"] == " ".join(map(str, oracle.prompt))
        for seat, (turn, told) in enumerate(zip(oracle.turns, data["turns"], strict=True)):
            assert told["agent"] == f"llm{turn.agent + 1}" and told["seat"] == seat and told["cut"] == turn.cut
            assert told["text"] == " ".join(map(str, oracle.text(turn))) and told["tokens"] == turn.tokens
            assert told["context_ids"] == turn.context
            assert close(told["team_reward"], oracle.earned[seat]["team_reward"])
            assert close({f"reward/{name}": value for name, value in told["terms"].items()},
                         {name: value for name, value in oracle.earned[seat].items() if "/" in name})  # fmt: skip


# ---------------------------------------------------------------- the fuzz
FACES: dict[str, Callable[[Drawn], int]] = {
    "AEC": functools.partial(play_aec, wrapped=True),
    "AEC, raw": functools.partial(play_aec, wrapped=False),
    "parallel": play_parallel,
    "gymnasium": play_gym,
    "batch, turns": functools.partial(play_batch, whole=True),
    "batch, tokens": functools.partial(play_batch, whole=False),
}


def epochs(drawn: Drawn, rules: Rules) -> None:
    """ "Consecutive episodes about one prompt" in groups, and each prompt once in an epoch."""
    count, group = len(drawn.prompts), drawn.group
    for epoch in range(2):
        first = epoch * count * group
        found = [rules.prompt_index(first + i) for i in range(count * group)]
        assert all(found[i] == found[i - i % group] for i in range(len(found)))
        assert sorted(found[::group]) == list(range(count))


def fuzz(seed: int, steps: int) -> int:
    """Plays random games until so many tokens have been compared; returns how many there were."""
    done, number = 0, 0
    while done < steps:
        for name, play in FACES.items():
            drawn = Drawn(np.random.default_rng([seed, number]))  # the same game on each face
            try:
                if name == "AEC":
                    epochs(drawn, coevo_env.raw_env(**drawn.options).rules)
                done += play(drawn)
            except AssertionError as error:
                raise AssertionError(f"game ({seed}, {number}) on the face {name}: {error}") from error
        number += 1
    return done


def test_a_few_thousand_random_steps_are_those_of_the_documentation():
    assert fuzz(0, 3_000) >= 3_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_million_random_steps_are_those_of_the_documentation(seed):
    assert fuzz(seed, 50_000) >= 50_000


# -------------------------------------------------- mutants, by which the fuzz shows itself
def shaping(mode, beta, kl, ref_logprob):
    """Pays the KL of a loss, too."""
    return beta * ref_logprob if mode == "reference" else -beta * kl


def append(self, token):
    """Knows one id that ends a turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self.rules, "eos_ids", self.rules.eos_ids[:1])
        return real["append"](self, token)


def action_mask(self, agent):
    """Allows EOS a token too early."""
    position = len(self.episode.turns[-1].tokens) + 1
    early = self._early if position < self.rules.sampling.min_new_tokens else self._late
    return (early if agent == self.actor else self._noop).copy()


def observer_context(self, prompt, responses):
    """Cuts the partners' text at its beginning."""
    said = " ".join(responses).split()
    while len(ids := self.encode(self.task.render(prompt, [" ".join(said)]))) > self.max_context:
        said = said[1:]
    return ids


def info(self, agent):
    """Tells the KL of the last token."""
    told, record = real["info"](self, agent), self._records[self.seat_of[agent]]
    return told | {"kl": record.kls[-1] if record.kls else 0.0}


def update(self, kl, episodes):
    """Moves beta by more than a fifth."""
    self.beta *= 1 + (kl / self.target - 1) * min(1, episodes / self.horizon)


def backwards(self, episode):
    """Moves each agent one seat to the front."""
    shift = episode // self.every % self.num_agents
    return self._seats[shift:] + self._seats[:shift]


def betas(self, turn):
    """Takes the coefficient of the agent whose number is the seat's."""
    return np.full(len(turn.agents), self.controllers[turn.seat].beta)


def ungrouped(self, episode):
    """Forgets that a group has one prompt."""
    return real["prompt_index"](self, episode * self.group_size)


real = {
    "append": Episode.append,
    "info": TokenGame.info,
    "prompt_index": Rules.prompt_index,
    "mixing_matrix": rules.mixing_matrix,
    "warp": reference.warp,
    "observe": ScoreDriven.observe,
}
MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "a loss is paid": (token_game, "shaping", shaping),
    "one id ends a turn": (Episode, "append", append),
    "EOS too early": (TokenGame, "action_mask", action_mask),
    "cut at the beginning": (Rules, "_observer_context", observer_context),
    "the last token's KL": (TokenGame, "info", info),
    "no bound of beta's steps": (Adaptive, "update", update),
    "rotation backwards": (Rotation, "assignment", backwards),
    "no groups": (Rules, "prompt_index", ungrouped),
    "mixing transposed": (rules, "mixing_matrix", lambda *a: real["mixing_matrix"](*a).T),
    "beta of the seat": (BatchEnv, "_betas", betas),
    "another floor": (token_game, "MIN_LOGPROB", -200.0),
    "EOS is text": (Rules, "text", lambda self, tokens, context=(): self.tokenizer.decode(tokens)),
    "no temperature": (reference, "warp", lambda x, s, t: real["warp"](x, replace(s, temperature=1.0), t)),
    "the worst first": (ScoreDriven, "observe", lambda self, e, scores: real["observe"](self, e, [-s for s in scores])),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mutant_is_found(name, monkeypatch):
    monkeypatch.setattr(*MUTANTS[name])
    with pytest.raises(AssertionError, match="on the face"):
        fuzz(0, 20_000)
