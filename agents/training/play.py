"""Plays a batch of episodes: every agent samples the turns of the seats it holds.

One idea: whoever acts is asked for turns and nothing else; what it returns is checked, and the game
does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from coevo_env.faces.batch import BatchEnv, TurnBatch
from coevo_env.game.rules import Episode, Rules
from coevo_env.game.scoring import rate
from coevo_env.lm.model import Generation, LanguageModel

from ..learners.learner import Actor, LearnerError
from ..learners.policy import unremembered

__all__ = ["draw", "play"]


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
    """Plays a batch of episodes to its end: each agent samples the turns of the seats it holds, and
    where an observer reads what it would say itself, that before."""
    full = game.rules.kl.estimator == "full"
    while not game.done:
        if (alone := game.begin_rehearsal()) is not None:
            with unremembered(policies):
                rehearsed, _ = _said(game, alone, policies)
            game.submit_rehearsal(rehearsed.tokens, rehearsed.lengths)
        turn = game.begin_turn()
        assert turn is not None, "it is not done"
        all_said, parts = _said(game, turn, policies)
        extra: Any = {"distributions": _distributions(turn, all_said.lengths, parts)} if full else {}
        game.submit_turn(all_said.tokens, all_said.lengths, all_said.logprobs, values=all_said.values, **extra)


def _said(
    game: BatchEnv, turn: TurnBatch, policies: Sequence[Actor]
) -> tuple[Generation, list[tuple[Any, np.ndarray, Generation]]]:
    """What the agents of a turn say, of all rows; and of each agent with its rows."""
    size, budget = len(turn.contexts), turn.max_new_tokens
    tokens, lengths = np.zeros((size, budget), np.int64), np.zeros(size, np.int64)
    logprobs, values = np.zeros((size, budget)), np.zeros((size, budget))
    valued, said = True, []
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
        said.append((policy, rows, drawn))
    width = int(lengths.max())
    tokens, logprobs, values = tokens[:, :width], logprobs[:, :width], values[:, :width]
    return Generation(tokens, lengths, logprobs, values if valued else None), said


def _distributions(
    turn: TurnBatch, lengths: np.ndarray, said: Sequence[tuple[Any, np.ndarray, Generation]]
) -> Callable[[slice], torch.Tensor]:
    """log pi over the vocabulary for a slice of a turn's tokens. It is made from the hidden states
    in which they were chosen; a policy that did not keep them reads what it said once more."""
    speaker, held = np.repeat(turn.agents, lengths), []
    for policy, rows, drawn in said:
        lm: LanguageModel = policy.lm  # "full" is for language models
        mask = np.arange(drawn.tokens.shape[1]) < drawn.lengths[:, None]
        if drawn.states is None:
            states, _, _ = lm.read([turn.contexts[row] for row in rows], drawn.tokens, drawn.lengths)
        else:
            states = drawn.states[torch.as_tensor(mask, device=lm.device)]
        steps = torch.as_tensor(np.nonzero(mask)[1], device=lm.device)
        held.append((lm, np.nonzero(speaker == turn.agents[rows[0]])[0], states, steps))

    @torch.no_grad()
    def look(part: slice) -> torch.Tensor:
        found, places = [], []
        for lm, numbers, states, steps in held:  # the tokens of one speaker, in order
            own = slice(*np.searchsorted(numbers, (part.start, part.stop)))
            if own.start < own.stop:
                found.append(lm.log_distributions(states[own], steps[own], turn.sampling))
                places.append(numbers[own])
        if len(found) == 1:
            return found[0]
        return torch.cat(found)[torch.as_tensor(np.argsort(np.concatenate(places)), device=found[0].device)]

    return look
