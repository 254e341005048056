"""The collapse audit of a run: what it sees of an iteration, what it says, and what follows.

One idea: `coevo_agents.methods.audit` decides by numbers alone; here the numbers come from the run,
and its alarms get the answers that show what they mean, a line for the person who watches, and a
say in which checkpoint is the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from coevo_env.faces.batch import BatchEnv
from coevo_env.game.rollout import Rollout

from ..methods.audit import ALONE, Alarm, AuditConfig, is_sound, observe
from .evaluate import Evaluation
from .state import State

__all__ = ["alarming", "best_of", "conclude"]

SHOWN, TEXT = 3, 500
"""Answers beside an alarm, and characters of each that are kept."""


def alarming(
    config: AuditConfig,
    state: State,
    metrics: Mapping[str, float],
    game: BatchEnv,
    rollouts: Sequence[Rollout],
) -> dict[str, list[dict[str, str]]]:
    """Answers of the batch just played that show what the audit is going to say of it, by agent and
    place ("llm1/seat0"); {} where it is content."""
    if state.audit is None:
        return {}
    found = {}
    for alarm in observe(config, state.audit, state.iteration, metrics).alarms:
        number = game.agents.index(alarm.agent)
        rollout = rollouts[number]
        there = rollout.seats == int(alarm.place[4:]) if alarm.place.startswith("seat") else np.ones(len(rollout), bool)
        far = (rollout.logprobs - rollout.ref_logprobs).sum(1) / np.maximum(rollout.lengths, 1)
        rows = sorted(np.nonzero(there)[0], key=lambda row: -far[row])[:SHOWN]
        turns = [(game.episodes[row], game.episodes[row].turns[rollout.seats[row]]) for row in rows]
        found[f"{alarm.agent}/{alarm.place}"] = [_example(episode.prompt, turn.text) for episode, turn in turns]
    return found


def conclude(
    config: AuditConfig,
    state: State,
    metrics: dict[str, float],
    evaluations: Mapping[str, Evaluation],
    examples: Mapping[str, list[dict[str, str]]],
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """What the audit says of a whole iteration; its scores are added to `metrics`.

    Args:
        config: Limits.
        state: Of the run, the iteration counted already.
        metrics: Of the iteration.
        evaluations: Of the agents, where it had any.
        examples: What `alarming` gave.

    Returns:
        The audit's new state, and new alarms as lines of `alarms.jsonl`.
    """
    if state.audit is None:
        return None, []
    verdict = observe(config, state.audit, state.iteration, metrics)
    lines = []
    for alarm in verdict.alarms:
        shown = examples.get(f"{alarm.agent}/{alarm.place}", [])
        if alarm.place == ALONE and alarm.agent in evaluations:
            shown = _furthest(evaluations[alarm.agent].transcripts)
        lines.append(_line(alarm, shown))
    for agent, score in verdict.scores.items():
        metrics[f"{agent}/audit/score"] = score
        metrics[f"{agent}/audit/alarms"] = float(
            sum(len(one["active"]) for key, one in verdict.state["streams"].items() if key.startswith(f"{agent}/"))
        )
    return verdict.state, lines


def best_of(
    best: tuple[float, int],
    former: tuple[float, int],
    audit: Mapping[str, Any] | None,
    alarms: Sequence[Mapping[str, Any]],
) -> tuple[bool, tuple[float, int], tuple[float, int]]:
    """Which checkpoints may be the best one.

    Args:
        best, former: (score, iteration) of the best so far, and of the one before it.
        audit: State of the audit now.
        alarms: New ones.

    Returns:
        Whether this iteration's may, and both as they are after the alarms: one whose weights show
        what an alarm is about is none.
    """
    since = min((alarm["since"] for alarm in alarms), default=np.inf)
    while best[1] >= since:
        best, former = former, (-np.inf, -1)
    return audit is None or is_sound(audit), best, former


def _line(alarm: Alarm, examples: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    plain = asdict(alarm)
    signals = list(plain.pop("findings"))
    return {**plain, "signals": signals, "examples": list(examples)}


def _example(prompt: Any, answer: str) -> dict[str, str]:
    return {"prompt": str(prompt)[-TEXT:], "answer": answer[:TEXT]}


def _furthest(transcripts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The answers of an evaluation that are furthest from what the reference would say."""
    asked = [(transcript["prompt"], transcript["turns"][0]) for transcript in transcripts]
    asked.sort(key=lambda item: -float(np.mean(item[1]["kl"] or [0.0])))
    return [_example(prompt, turn["text"]) for prompt, turn in asked[:SHOWN]]
