"""Evaluation of one agent alone on held-out prompts: no partner, no role, no partner's text.

One idea: an evaluation is a game of one agent on the test split, played by the same engine as
training, so that reward and KL mean the same thing in both. Prompts and sampling noise are the same
at every evaluation of a run, so that curves move only when the agent does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coevo_env.faces.batch import BatchEnv, TurnBatch
from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.game.rollout import Rollout
from coevo_env.game.rules import Episode, Rules
from coevo_env.game.scoring import rate
from coevo_env.game.task import Task
from coevo_env.lm.model import Generation
from coevo_env.metrics import summarize

from ..learners.learner import Actor, LearnerError
from ..runs.config import Config

__all__ = ["EVALUATION_SEED", "Evaluation", "describe", "draw", "evaluate", "evaluation_game", "play"]

EVALUATION_SEED = 20_000
"""Seed of held-out prompts and of their sampling noise; the same for runs of any seed, so that runs
are compared on the same prompts."""


@dataclass(frozen=True)
class Evaluation:
    """One agent on held-out prompts.

    Attributes:
        metrics: reward, kl (nats per response, k1), entropy (nats per token), raw reward terms, and
            `coevo_env.metrics.summarize`.
        rewards: float64 (B,), task reward of each response.
        transcripts: Every episode.
    """

    metrics: dict[str, float]
    rewards: np.ndarray
    transcripts: list[dict[str, Any]]


def evaluation_game(config: Config, task: Task, reference: Any, num_agents: int = 1) -> BatchEnv:
    """The game on the test split that belongs to a run: of one agent, or to see them together of
    several."""
    options = {**config.game(), "num_agents": num_agents, "roles": "never", "mixing": "own", "task_options": None}
    if num_agents == 1:
        options["context"] = "all"
    options.update(kl=KLConfig(mode="loss"), group_size=1, seed=EVALUATION_SEED, split="test")
    rules, _ = build(task, reference, **options)
    return BatchEnv(min(config.eval_prompts, len(rules.prompts)), rules=rules, reference=reference)


def evaluate(game: BatchEnv, policy: Actor, name: str = "llm1") -> Evaluation:
    """Plays the held-out prompts once and measures."""
    game.reset(0)
    game.agents = [name]
    play(game, [policy])
    (rollout,) = game.rollouts()
    assert game.scores is not None
    texts = [episode.turns[0].text for episode in game.episodes]
    metrics = {
        "reward": float(rollout.task_reward.mean()),
        **measure(rollout),
        **{f"reward/{term}": float(values.mean()) for term, values in game.scores.terms.items()},
        **summarize(texts, rollout.token_lists(), game.rules.eos_ids),
    }
    return Evaluation(metrics, rollout.task_reward, game.transcripts())


def describe(game: BatchEnv, rollout: Rollout) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of one agent's turns in the batch just played, and arrays (B,) worth a histogram
    (docs/metrics.md defines the tags)."""
    assert game.scores is not None
    rows = np.arange(len(game.episodes))  # each agent has one turn in every episode
    turns = [game.episodes[row].turns[seat] for row, seat in zip(rows, rollout.seats, strict=True)]
    diversity = summarize([turn.text for turn in turns], rollout.token_lists(), game.rules.eos_ids)
    values = {
        "reward/task": rollout.task_reward.mean(),
        "reward/team": rollout.team_reward.mean(),
        "reward/shaped": rollout.returns.mean(),
        **{f"reward/{term}": array[rows, rollout.seats].mean() for term, array in game.scores.terms.items()},
        **measure(rollout),
        "kl_coef": rollout.beta,
        "seat": rollout.seats.mean(),
        "cut": np.mean([turn.cut for turn in turns]),
        "length": rollout.lengths.mean(),
        "distinct_2": diversity["distinct_2"],
        "unique": diversity["unique"],
    }
    histograms = {"task_reward": rollout.task_reward, "kl": rollout.kl.sum(1), "length": rollout.lengths}
    return {tag: float(value) for tag, value in values.items()}, histograms


def measure(rollout: Rollout) -> dict[str, float]:
    """KL in nats per response and entropy in nats per token, both estimated from the sampled
    tokens."""
    tokens = max(1, int(rollout.lengths.sum()))
    return {"kl": float(rollout.kl.sum(1).mean()), "entropy": float(-rollout.logprobs.sum() / tokens)}


def draw(game: BatchEnv, turn: TurnBatch, rows: np.ndarray, policy: Actor) -> Generation:
    """Samples the turns of some rows; for a policy with `draws` > 1 that many of each, of which the
    one with the highest task reward counts."""
    contexts = [turn.contexts[row] for row in rows]
    tries = [
        _generated(policy, contexts, turn, turn.uniforms(rows, number)) for number in range(getattr(policy, "draws", 1))
    ]
    if len(tries) == 1:
        return tries[0]
    rules, episodes = game.rules, [game.episodes[row] for row in rows]
    texts = [
        [
            rules.text(row[:length].tolist(), context)
            for row, length, context in zip(t.tokens, t.lengths, contexts, strict=True)
        ]
        for t in tries
    ]
    rewards = np.stack([_task_reward(rules, episodes, said) for said in texts])  # (n, B')
    best = rewards.argmax(0)  # the first of equals
    tokens = np.zeros((len(rows), max(t.tokens.shape[1] for t in tries)), np.int64)
    lengths, logprobs = np.zeros(len(rows), np.int64), np.zeros(tokens.shape)
    for row, number in enumerate(best):
        chosen = tries[number]
        length = lengths[row] = chosen.lengths[row]
        tokens[row, :length], logprobs[row, :length] = chosen.tokens[row, :length], chosen.logprobs[row, :length]
    width = int(lengths.max())
    return Generation(tokens[:, :width], lengths, logprobs[:, :width])


def _generated(policy: Actor, contexts: list[list[int]], turn: TurnBatch, uniforms: np.ndarray) -> Generation:
    """What `generate` returned, if it is one turn for each context; what the turns say is checked
    by the game."""
    drawn: Any = policy.generate(contexts, turn.max_new_tokens, turn.sampling, uniforms)
    tokens, lengths, logprobs = (np.shape(getattr(drawn, name, 0.0)) for name in ("tokens", "lengths", "logprobs"))
    whole = len(tokens) == 2 and tokens[0] == len(contexts) and tokens[1] <= turn.max_new_tokens
    if not whole or lengths != tokens[:1] or logprobs != tokens:
        raise LearnerError(
            f"generate() of the policy, a {type(policy).__name__}, returned a {type(drawn).__name__} with tokens, "
            "lengths and logprobs of shape "
            f"{tokens}, {lengths} and {logprobs}; expected a coevo_env.lm.model.Generation with ({len(contexts)}, T), "
            f"({len(contexts)},) and "
            f"({len(contexts)}, T), T at most {turn.max_new_tokens}."
        )
    return drawn


def _task_reward(rules: Rules, episodes: Sequence[Episode], texts: Sequence[str]) -> np.ndarray:
    """The task reward of single responses, (R,); joint terms, which judge a response beside the
    others, do not count."""
    rewards = np.zeros(len(texts))
    for name, values in rate(rules, episodes, texts).items():
        rewards += rules.terms[name][0] * values
    return rewards


def play(game: BatchEnv, policies: Sequence[Actor]) -> None:
    """Plays a batch of episodes to its end: each agent samples the turns of the seats it holds."""
    full = game.rules.kl.estimator == "full"
    while (turn := game.begin_turn()) is not None:
        size, budget = len(turn.contexts), turn.max_new_tokens
        tokens, lengths = np.zeros((size, budget), np.int64), np.zeros(size, np.int64)
        logprobs, values = np.zeros((size, budget)), np.zeros((size, budget))
        valued = True
        for agent, policy in enumerate(policies):
            rows = np.nonzero(turn.agents == agent)[0]
            if not len(rows):
                continue
            drawn = draw(game, turn, rows, policy)
            width = drawn.tokens.shape[1]
            tokens[rows, :width], lengths[rows], logprobs[rows, :width] = drawn.tokens, drawn.lengths, drawn.logprobs
            if drawn.values is None:
                valued = False
            else:
                values[rows, :width] = drawn.values
        width = int(lengths.max())
        tokens, logprobs, values = tokens[:, :width], logprobs[:, :width], values[:, :width]

        def distributions(part: slice, turn=turn, tokens=tokens, lengths=lengths, size=size) -> np.ndarray:
            chosen = np.arange(size)[part]
            result = np.zeros((len(chosen), tokens.shape[1], game.rules.vocab_size))
            for agent, policy in enumerate(policies):
                rows = chosen[turn.agents[chosen] == agent]
                if len(rows):
                    contexts = [turn.contexts[row] for row in rows]
                    lm: Any = policy.lm  # type: ignore[attr-defined]  # "full" is for language models
                    result[rows - chosen[0]] = lm.distributions(contexts, tokens[rows], lengths[rows], turn.sampling)
            return result

        extra = {"distributions": distributions} if full else {}
        game.submit_turn(tokens, lengths, logprobs, values=values if valued else None, **extra)
