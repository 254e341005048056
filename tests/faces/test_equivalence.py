"""One game, five ways to play it: AEC, parallel, gymnasium, batched by turns and batched by tokens
agree on random ragged turns.

Actor, context, mask, per-token reward, KL, team reward and transcript, to 1e-12 with a table model.
The AEC face is the reference.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import coevo_env
from coevo_env.game.kl import STRICT, KLConfig
from coevo_env.tasks import toy

B, V, T = 12, 5, 3
MODES = [
    ("reported", "k1"),
    ("reported", "k2"),
    ("reported", "k3"),
    ("reported", "full"),
    ("reference", "k1"),
    ("loss", "k3"),
    ("off", "k1"),
]


class Turns:
    """Random turns of one seat, some ended by EOS, some by the budget, some with a masked first
    token; and what a policy reports of them."""

    def __init__(self, rng: np.random.Generator):
        self.tokens = rng.integers(1, V, (B, T))
        self.lengths = rng.integers(1, T + 1, B)
        for row, length in enumerate(self.lengths):
            if length < T or rng.random() < 0.5:
                self.tokens[row, length - 1] = 0
        logits = rng.standard_normal((B, T, V))
        self.distributions = logits - np.log(np.exp(logits).sum(-1, keepdims=True))  # (B, T, V)
        self.logprobs = np.take_along_axis(self.distributions, self.tokens[..., None], -1)[..., 0]  # (B, T)


def close(a, b) -> bool:
    return a == pytest.approx(b, rel=0, abs=1e-12)


def settings(mode: str, estimator: str, agents: int, context: str, mixing: str) -> dict:
    """A game in which as much as possible differs from row to row."""
    together = {
        "apart": (0.5, lambda prompts, said: [[2.0 * len(texts[0]) - len(text) for text in texts] for texts in said])
    }
    return {
        "task": replace(toy.task(), joint_rewards=together if context == "previous" else {}),
        "num_agents": agents,
        "kl": KLConfig(mode=mode, estimator=estimator, beta=0.3),
        "seed": 4,
        "roles": "random",
        "context": context,
        "mixing": mixing,
        "mixing_weight": 0.4,
        "temperature": 0.8,
    }


@pytest.mark.parametrize(("mode", "estimator"), MODES)
@pytest.mark.parametrize("agents", [1, 2, 3])
@pytest.mark.parametrize(("context", "mixing"), [("all", "weighted"), ("previous", "cooperative")])
def test_all_faces_agree(mode, estimator, agents, context, mixing):
    options = settings(mode, estimator, agents, context, mixing)
    rng = np.random.default_rng(agents)
    strict, full = mode in STRICT, estimator == "full"
    whole, single = coevo_env.BatchEnv(B, **options), coevo_env.BatchEnv(B, **options)
    aecs = [coevo_env.env(**options) for _ in range(B)]
    parallels = [coevo_env.parallel_env(**options) for _ in range(B)]
    for row in range(B):
        aecs[row].reset(options={"episode": row})
        parallels[row].reset(options={"episode": row})
    played: list[Turns] = []
    ours = np.zeros((B, agents))  # what each agent was paid over the episode
    while (turn := whole.begin_turn()) is not None:
        turns = Turns(rng)
        played.append(turns)
        reports = {
            "logprobs": turns.logprobs if strict else None,
            "distributions": turns.distributions if full else None,
        }
        rewards = whole.submit_turn(turns.tokens, turns.lengths, **reports)  # (B, T)
        paid = np.zeros(B)
        for t in range(turns.lengths.max()):
            assert (single.active == (turns.lengths > t)).all()
            column = {name: None if array is None else array[:, t] for name, array in reports.items()}
            paid += single.step(turns.tokens[:, t], **column)
        assert close(paid, rewards.sum(1))
        for row, (aec, parallel) in enumerate(zip(aecs, parallels, strict=True)):
            name = whole.agents[turn.agents[row]]
            assert aec.agent_selection == parallel.acting == name
            seen = aec.observe(name)["observation"]
            assert seen[seen < V].tolist() == turn.contexts[row]
            for t in range(turns.lengths[row]):
                assert (aec.observe(name)["action_mask"] == turn.sampling.mask(V, t)).all()
                step_both(aec, parallel, turns, row, t, strict, full)
                assert close(aec.rewards[name], rewards[row, t])
                ours[row] += [aec.rewards[agent] for agent in whole.agents]
    assert single.done
    same_rollouts(whole, single, aecs, ours, strict)
    same_transcripts(whole, aecs, shaped=mode != "off")
    learn_alone(options, played, whole, ours, strict, full)


def step_both(aec, parallel, turns: Turns, row: int, t: int, strict: bool, full: bool) -> None:
    """A token in the AEC and in the parallel face, which answer alike."""
    report = (turns.logprobs[row, t], turns.distributions[row, t] if full else None)
    for face in (aec, parallel) if strict else ():
        face.report(*report)
    action = int(turns.tokens[row, t])
    aec.step(action)
    step = parallel.step(dict.fromkeys(parallel.agents, action))
    assert (step[1], step[2], step[4]) == (aec.rewards, aec.terminations, aec.infos)


def same_rollouts(whole, single, aecs, ours, strict: bool) -> None:
    """Rollouts of whole turns and of single tokens, and what the AEC face says of them."""
    terms = np.stack(list(whole.scores.terms.values()))  # (terms, B, N)
    for rollout, again, name in zip(whole.rollouts(), single.rollouts(), whole.agents, strict=True):
        index = whole.agents.index(name)
        assert close(ours[:, index], rollout.shaping.sum(1) + rollout.team_reward)
        for key in ("kl", "shaping", "ref_logprobs", "logprobs", "task_reward", "team_reward"):
            assert close(getattr(again, key), getattr(rollout, key))
        for row, aec in enumerate(aecs):
            info = aec.infos[name]
            assert close(info["team_reward"], rollout.team_reward[row])
            assert close(info["task_reward"], rollout.task_reward[row])
            assert close([info[f"reward/{term}"] for term in whole.rules.term_names], terms[:, row, rollout.seats[row]])
            assert info["seat"] == rollout.seats[row] and info["length"] == rollout.lengths[row]
            assert close(info["kl"], rollout.kl[row].sum() if strict else 0.0)


def same_transcripts(whole, aecs, shaped: bool) -> None:
    """What was played, as plain data."""
    for theirs, aec in zip(whole.transcripts(), aecs, strict=True):
        mine = aec.transcript()
        assert {**mine, "turns": None} == {**theirs, "turns": None}
        for a, b in zip(mine["turns"], theirs["turns"], strict=True):
            for key in ("seat", "role", "agent", "text", "context", "cut", "tokens", "pieces"):
                assert a[key] == b[key]
            if shaped:
                assert close(a["ref_logprobs"], b["ref_logprobs"]) and close(a["shaping"], b["shaping"])


def learn_alone(options, played: list[Turns], whole, ours, strict: bool, full: bool) -> None:
    """The gymnasium view, its partners playing from the same script, pays its learner the same."""
    for index, learner in enumerate(whole.agents):
        env = coevo_env.GymEnv(**options, learner=learner)
        for row in range(B):

            def partner(context, tokens, mask, rng, env=env, row=row):
                return int(played[env.game.episode.turn.seat].tokens[row, len(tokens)])

            env.set_partner(partner)
            env.reset(options={"episode": row})
            seat = whole.episodes[row].seats.index(index)
            turns, total, over = played[seat], 0.0, False
            for t in range(turns.lengths[row]):
                assert not over
                if strict:
                    env.report(turns.logprobs[row, t], turns.distributions[row, t] if full else None)
                _, reward, over, _, info = env.step(int(turns.tokens[row, t]))
                total += reward
            assert over and info["seat"] == seat
            assert close(total, ours[row, index])


def test_a_real_model_agrees_to_rounding():
    """The AEC face scores token by token with a cache, the batched engine a turn in one pass."""
    options = {"task": "sentiment", "kl": "reported", "seed": 1}
    batch = coevo_env.BatchEnv(4, **options)
    rng = np.random.default_rng(0)
    aecs = [coevo_env.raw_env(**{**options, "task": batch.rules.task, "model": batch.reference}) for _ in range(4)]
    legal = np.flatnonzero(batch.rules.sampling.mask(batch.rules.vocab_size, 0))
    for row, aec in enumerate(aecs):
        aec.reset(options={"episode": row})
    while (turn := batch.begin_turn()) is not None:
        tokens = rng.choice(legal, (4, turn.max_new_tokens))
        lengths = np.array([2, 5, turn.max_new_tokens, 3])
        for row in (0, 1, 3):
            tokens[row, lengths[row] - 1] = batch.rules.eos_id
        logprobs = -rng.random(tokens.shape) * 5
        rewards = batch.submit_turn(tokens, lengths, logprobs)
        for row, aec in enumerate(aecs):
            name = batch.agents[turn.agents[row]]
            for t in range(lengths[row]):
                aec.report(logprobs[row, t])
                aec.step(tokens[row, t])
                assert aec.rewards[name] == pytest.approx(rewards[row, t], rel=0, abs=1e-5)
