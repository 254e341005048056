"""A transcript: one finished episode as plain data, ready for JSON, a terminal or a page.

One idea: every face writes the same dictionary, so that one reader shows them all and any number
that was paid can be looked up. Keys of an episode: episode, task, split, prompt_index, prompt,
answer, turns. Keys of a turn: seat, role, agent, text, context, context_ids, cut, tokens, pieces,
logprobs, ref_logprobs, kl, shaping, values, advantages (each a list over tokens, or None where not
known), terms (name -> raw value), task_reward, team_reward; a training run adds weights, the
iteration after which the weights that spoke were what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .rules import Episode
from .scoring import Scores

__all__ = ["PER_TOKEN", "make_transcript", "role_name"]

PER_TOKEN = ("logprobs", "ref_logprobs", "kl", "shaping", "values", "advantages")


def role_name(seat: int, num_agents: int) -> str:
    """ "pioneer", "observer", or "observer1".. where there are several."""
    if seat == 0:
        return "pioneer"
    return "observer" if num_agents == 2 else f"observer{seat}"


def make_transcript(
    episode: Episode,
    agents: Sequence[str],
    per_token: Sequence[Mapping[str, Sequence[float] | None]],
    scores: Scores,
    row: int,
) -> dict[str, Any]:
    """The transcript of a finished episode.

    Args:
        episode: It must be done.
        agents: Names by agent index.
        per_token: For each turn, any of `PER_TOKEN` as sequences over its tokens.
        scores: Scores of a batch that holds the episode at `row`.
    """
    rules = episode.rules
    pieces = getattr(rules.tokenizer, "pieces", lambda ids: [rules.tokenizer.decode([i]) for i in ids])
    turns = []
    for turn, numbers in zip(episode.turns, per_token, strict=True):
        series = {}
        for name in PER_TOKEN:
            values = numbers.get(name)
            series[name] = None if values is None else [float(value) for value in values]
        turns.append(
            {
                "seat": turn.seat,
                "role": role_name(turn.seat, rules.num_agents),
                "agent": agents[turn.agent],
                "context": rules.tokenizer.decode(turn.context),
                "context_ids": [int(token) for token in turn.context],
                "text": turn.text,
                "cut": turn.cut,
                "tokens": [int(token) for token in turn.tokens],
                "pieces": pieces(turn.tokens),
                **series,
                "terms": {name: float(values[row, turn.seat]) for name, values in scores.terms.items()},
                "task_reward": float(scores.task[row, turn.seat]),
                "team_reward": float(scores.team[row, turn.seat]),
            }
        )
    return {
        "episode": episode.index,
        "task": rules.task.name,
        "split": rules.split,
        "prompt_index": episode.prompt_index,
        "prompt": str(episode.prompt),
        "answer": episode.prompt.answer,
        "turns": turns,
    }
