"""Evaluation of one agent alone on held-out prompts: no partner, no role, no partner's text.

One idea: an evaluation is a game of one agent on the test split, played by the same engine as
training, so that reward and KL mean the same thing in both. Prompts and sampling noise are the same
at every evaluation of a run, so that curves move only when the agent does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.game.rollout import Rollout
from coevo_env.game.task import Task
from coevo_env.metrics import summarize

from ..learners.learner import Actor
from ..runs.config import Config
from .play import play

__all__ = ["EVALUATION_SEED", "Evaluation", "describe", "evaluate", "evaluation_game"]

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
        **summarize(texts, rollout.token_lists(), game.rules.eos_id),
    }
    return Evaluation(metrics, rollout.task_reward, game.transcripts())


def describe(game: BatchEnv, rollout: Rollout) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of one agent's turns in the batch just played, and arrays (B,) worth a histogram
    (docs/metrics.md defines the tags)."""
    assert game.scores is not None
    rows = np.arange(len(game.episodes))  # each agent has one turn in every episode
    turns = [game.episodes[row].turns[seat] for row, seat in zip(rows, rollout.seats, strict=True)]
    diversity = summarize([turn.text for turn in turns], rollout.token_lists(), game.rules.eos_id)
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
