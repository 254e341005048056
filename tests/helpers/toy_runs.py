"""Training on the closed-form game, for tests of learners: two prompts, five tokens, two of them a
turn.

One idea: a learner is right when every agent comes within 2 % of the best J there is for it,
computed exactly by enumeration, in every seat it has played and beside optimal partners, so that
each agent answers for itself alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from closed_forms import TeamGame

from coevo_agents.learners.learner import LEARNERS, find_learner, settings_class
from coevo_agents.learners.policy import make_policies
from coevo_agents.runs.config import Config
from coevo_agents.runs.settings import apply
from coevo_agents.training.play import play
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.game.rollout import Rollout
from coevo_env.testing import tiny_lm

BETA = 0.3


LEARNING = tuple(name for name in LEARNERS if getattr(find_learner(name), "learns", True))
"""Learners whose updates change something; each has to reach the optimum."""


def make(
    learner: str,
    num_agents: int,
    exchange: bool,
    seed: int,
    batch: int = 256,
    weights: str = "separate",
    **settings: Any,
):
    """The game, its reference and one learner per policy."""
    iterations = settings.pop("iterations", 1)
    options: dict[str, Any] = {
        "num_agents": num_agents,
        "roles": "rotation" if exchange else "never",
        "exchange_every": 1,
        "learner": learner,
        "batch_size": batch,
        "seed": seed,
        "weights": weights,
        "task": "toy",
        "task_options.max_new_tokens": 2,
        **settings,
    }
    if getattr(find_learner(learner), "compares", False):
        options.setdefault("group_size", 8)
    if "decay_updates" in {field.name for field in fields(settings_class(learner))}:
        options.setdefault(f"{learner}.decay_updates", iterations)
    config = apply(Config(kl=KLConfig(beta=BETA)), options)
    base = tiny_lm(5, seed=seed, eos_id=0)
    lora = config.lora if "lora" in weights else None
    policies, reference = make_policies(base, [f"llm{i + 1}" for i in range(num_agents)], lora, seed, config.shared)
    rules, _ = build(config.task, reference, **config.game())
    game = BatchEnv(batch, rules=rules, reference=reference)
    factory = find_learner(learner)
    different = policies[:1] if config.shared else policies
    learners = [
        factory(policy, reference, config.settings, rules.sampling, 10 * seed + i) for i, policy in enumerate(different)
    ]
    return game, learners


def step(game: BatchEnv, learners: list, iteration: int) -> list[dict[str, float]]:
    """Plays a batch and updates everybody."""
    game.reset(iteration * game.batch_size)
    play(game, [learners[i % len(learners)].policy for i in range(len(game.agents))])
    rollouts = game.rollouts()
    parts = [rollouts] if len(learners) < len(rollouts) else [[rollout] for rollout in rollouts]
    return [learner.update(Rollout.merge(part)) for learner, part in zip(learners, parts, strict=True)]


def reached(game: BatchEnv, learners: list, exchange: bool) -> np.ndarray:
    """J over the optimal J, of every agent in every seat it has played."""
    team = TeamGame(game.rules, game.reference, BETA)
    best = team.optimum()
    shares = []
    for agent in range(len(game.agents)):
        policy = learners[agent % len(learners)].policy.lm
        for seat in range(len(game.agents)) if exchange or len(learners) < len(game.agents) else [agent]:
            shares.append(team.reached(policy, seat) / best[seat])
    return np.array(shares)


def train(
    learner: str, num_agents: int, exchange: bool, seed: int, iterations: int, **settings: Mapping[str, Any]
) -> np.ndarray:
    """A whole training; returns `reached`."""
    game, learners = make(learner, num_agents, exchange, seed, iterations=iterations, **settings)
    for iteration in range(iterations):
        step(game, learners, iteration)
    return reached(game, learners, exchange)


def rollout_of(game, learners, iteration=0):
    """What the first learner would learn from in an iteration."""
    game.reset(iteration * game.batch_size)
    play(game, [learners[i % len(learners)].policy for i in range(len(game.agents))])
    return Rollout.merge(game.rollouts()) if len(learners) == 1 else game.rollouts()[0]


def slow_logprobs(learner, rollout) -> list[list[torch.Tensor]]:
    """log pi of every token, by one forward pass per response, without padding or cache, in
    float64."""
    rows = []
    for b in range(len(rollout)):
        length, start = int(rollout.lengths[b]), len(rollout.contexts[b]) - 1
        ids = torch.tensor([[*rollout.contexts[b], *rollout.tokens[b, :length].tolist()]])
        logits = learner.policy.lm.module(input_ids=ids).logits[0].double()
        row = []
        for t in range(length):
            scores = logits[start + t].clone()
            if t < learner.sampling.min_new_tokens:
                scores[learner.sampling.eos_id] = -math.inf
            row.append(scores[int(rollout.tokens[b, t])] - scores.logsumexp(0))
        rows.append(row)
    return rows
