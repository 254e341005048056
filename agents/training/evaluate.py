"""Evaluation of one agent alone on prompts that it does not learn from: no partner, no role, no
partner's text.

One idea: an evaluation is a game of one agent, played by the same engine as training, so that
reward and KL mean the same thing in both. What chooses anything while a run goes (the best
checkpoint, adaptive roles) reads the validation split, once a prompt; the test split is read at the
end, several times a prompt. Prompts and sampling noise are the same at every evaluation, so that
curves move only when the agent does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.game.rollout import Rollout
from coevo_env.game.splits import identity
from coevo_env.game.task import Task
from coevo_env.metrics import summarize

from ..learners.best_of_n import choice_bound
from ..learners.learner import Actor
from ..runs.config import Config
from .intervals import half_width
from .play import play
from .signals import by_seat

__all__ = ["EVALUATION_SEED", "Evaluation", "describe", "evaluate", "evaluation_game"]

EVALUATION_SEED = 20_000
"""Seed of the prompts of evaluations and of their sampling noise; the same for runs of any seed, so
that runs are compared on the same prompts."""


@dataclass(frozen=True)
class Evaluation:
    """One agent on P prompts, with D draws for each.

    Attributes:
        metrics: reward, kl (nats per response, k1; where the best of n is played, plus the most
            that the choice can cost), entropy (nats per token), raw reward terms, and
            `coevo_env.metrics.summarize`, which depends on the number of responses and so is taken
            of one draw for each prompt, and averaged over the draws.
        rewards: float64 (P * D,), task reward of each response, the draws for a prompt in a row.
        transcripts: The first draw for every prompt.
        ci95: Half widths of 95 % intervals over prompts, of reward and kl,
            each where there is one (see `half_width`).
        by_prompt: Means over the draws of reward and kl for each of the P rows, and under "asked" a
            digest of each prompt, so that runs are compared prompt by prompt.
    """

    metrics: dict[str, float]
    rewards: np.ndarray
    transcripts: list[dict[str, Any]]
    ci95: dict[str, float] = field(default_factory=dict)
    by_prompt: dict[str, list[Any]] = field(default_factory=dict)


def evaluation_game(
    config: Config, task: Task, reference: Any, num_agents: int = 1, *, split: str = "validation", draws: int = 1
) -> BatchEnv:
    """The game on a split that belongs to a run: of one agent, or to see them together of several.
    A batch is one draw for each prompt, as many rows as there are prompts; `draws` batches in a row
    are about the same prompts (the rules' `group_size`)."""
    options = {**config.game(control=False), "num_agents": num_agents, "task_options": None}
    options.update(roles="never", mixing="own")
    if num_agents == 1:
        options["context"] = "all"
    options.update(kl=KLConfig(mode="loss"), group_size=draws, seed=EVALUATION_SEED, split=split)
    rules, _ = build(task, reference, **options)
    return BatchEnv(min(config.eval_prompts, len(rules.prompts)), rules=rules, reference=reference)


def evaluate(game: BatchEnv, policy: Actor, name: str = "llm1") -> Evaluation:
    """Plays the prompts of a game of `evaluation_game`, each as often as that says, and
    measures."""
    game.agents = [name]
    draws, size, eos = game.rules.group_size, game.batch_size, game.rules.eos_ids
    rewards, kl, tokens, logprob = np.zeros(size * draws), np.zeros(size * draws), 0, 0.0
    terms: dict[str, list[np.ndarray]] = {}
    texts: list[str] = []
    asked: list[Hashable] = []
    ids: list[list[int]] = []
    transcripts: list[dict[str, Any]] = []
    for start in range(0, size * draws, size):  # as large as a batch of an evaluation in training
        game.reset(start)
        play(game, [policy])
        (rollout,) = game.rollouts()
        assert game.scores is not None
        rewards[start : start + size], kl[start : start + size] = rollout.task_reward, rollout.kl.sum(1)
        tokens, logprob = tokens + int(rollout.lengths.sum()), logprob + float(rollout.logprobs.sum())
        for term, values in game.scores.terms.items():
            terms.setdefault(term, []).append(values)
        texts += [episode.turns[0].text for episode in game.episodes]
        asked += [identity(episode.prompt) for episode in game.episodes]
        ids += rollout.token_lists()
        transcripts += game.transcripts([row for row in range(size) if (start + row) % draws == 0])
    diverse = [summarize(texts[draw::draws], ids[draw::draws], eos) for draw in range(draws)]
    metrics = {
        "reward": float(rewards.mean()),
        "kl": float(kl.mean()) + choice_bound(getattr(policy, "draws", 1)),
        "entropy": -logprob / max(1, tokens),
        **{f"reward/{term}": float(np.concatenate(values).mean()) for term, values in terms.items()},
        **{key: float(np.mean([one[key] for one in diverse])) for key in diverse[0]},
        "responses": float(size * draws),
    }
    found = {"reward": rewards.reshape(size, draws), "kl": kl.reshape(size, draws)}
    widths = {tag: half_width(table, asked[::draws]) for tag, table in found.items()}
    by_prompt: dict[str, list[Any]] = {tag: table.mean(1).tolist() for tag, table in found.items()}
    by_prompt["asked"] = [hashlib.sha256(repr(one).encode()).hexdigest()[:16] for one in asked[::draws]]
    ci95 = {tag: width for tag, width in widths.items() if width is not None}
    return Evaluation(metrics, rewards, transcripts, ci95, by_prompt)


def describe(game: BatchEnv, rollout: Rollout) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of one agent's turns in the batch just played, and arrays (B,) worth a histogram
    (docs/metrics.md defines the tags)."""
    assert game.scores is not None
    rows = np.arange(len(game.episodes))  # each agent has one turn in every episode
    turns = [game.episodes[row].turns[seat] for row, seat in zip(rows, rollout.seats, strict=True)]
    texts = [turn.text for turn in turns]
    diversity = summarize(texts, rollout.token_lists(), game.rules.eos_ids)
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
        **by_seat(game, rollout, texts),
    }
    histograms = {"task_reward": rollout.task_reward, "kl": rollout.kl.sum(1), "length": rollout.lengths}
    return {tag: float(value) for tag, value in values.items()}, histograms


def measure(rollout: Rollout) -> dict[str, float]:
    """KL in nats per response and entropy in nats per token, both estimated from the sampled
    tokens."""
    tokens = max(1, int(rollout.lengths.sum()))
    return {"kl": float(rollout.kl.sum(1).mean()), "entropy": float(-rollout.logprobs.sum() / tokens)}
