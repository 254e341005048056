"""A rollout: the finished turns of one agent in one batch of episodes, with everything a learner
needs and nothing else.

One idea: learners see arrays of token ids, log-probs and rewards. They never see the environment,
the partner or the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Rollout"]


@dataclass(frozen=True)
class Rollout:
    """B turns of one agent, sorted by episode (B responses, T tokens at most).

    Attributes:
        contexts: B lists of ids, ragged: what the agent read.
        tokens: int64 (B, T), 0 behind `lengths`.
        lengths: int64 (B,).
        logprobs: float64 (B, T), behaviour policy, 0 behind `lengths`.
        ref_logprobs: float64 (B, T), reference policy; zeros when KL is off.
        kl: float64 (B, T), the KL estimate at each token in nats, as it was paid or (mode "loss")
            measured; zeros when it is unknown.
        shaping: float64 (B, T), the reward that KL shaping paid.
        task_reward: float64 (B,), what the reward function said of the agent's own response.
        team_reward: float64 (B,), after mixing among agents.
        beta: KL coefficient in force.
        kl_in_loss: Whether the KL was measured but not paid (KL mode "loss"): beta times it is then
            the learner's to add to its loss.
        episodes, seats, agents: int64 (B,): which episode, which place in the order of play, whose
            turn.
        groups: int64 (B,), equal where episodes are about the same prompt in a row
            (`Rules.group_size`).
        states: B lists of ids: what the seats before this one read and wrote, for centralised
            critics; a critic that has also read the row's own context knows all there is to know
            when the turn begins.
        values: float64 (B, T) or None, the learner's own estimates at sampling time.
        weights: float64 (B,) or None, importance weights of the responses: how much likelier what
            the partners did has become since they sampled it (agent-by-agent updates).
    """

    contexts: list[list[int]]
    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    kl: np.ndarray
    shaping: np.ndarray
    task_reward: np.ndarray
    team_reward: np.ndarray
    beta: float
    episodes: np.ndarray
    seats: np.ndarray
    agents: np.ndarray
    groups: np.ndarray
    states: list[list[int]]
    values: np.ndarray | None = None
    weights: np.ndarray | None = None
    kl_in_loss: bool = False

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mask(self) -> np.ndarray:
        """bool (B, T): which positions are tokens."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    @property
    def rewards(self) -> np.ndarray:
        """float64 (B, T): shaping at each token, and the team reward on the last one."""
        rewards = self.shaping.copy()
        rewards[np.arange(len(self)), self.lengths - 1] += self.team_reward
        return rewards

    @property
    def returns(self) -> np.ndarray:
        """float64 (B,): all that a response earned, shaping included."""
        return self.shaping.sum(1) + self.team_reward

    def weighted(self, advantages: np.ndarray) -> np.ndarray:
        """Advantages (B, T) times the importance weights, where there are any."""
        return advantages if self.weights is None else advantages * self.weights[:, None]

    def token_lists(self) -> list[list[int]]:
        """The ids of each response, without padding."""
        return [row[:length].tolist() for row, length in zip(self.tokens, self.lengths, strict=True)]

    @staticmethod
    def merge(rollouts: Sequence[Rollout]) -> Rollout:
        """The responses of several agents that share their weights as one rollout, sorted by
        episode."""
        if len(rollouts) == 1:
            return rollouts[0]
        width = max(rollout.tokens.shape[1] for rollout in rollouts)
        order = np.argsort(np.concatenate([rollout.episodes for rollout in rollouts]), kind="stable")

        def gather(name: str) -> np.ndarray | None:
            parts = [getattr(rollout, name) for rollout in rollouts]
            if any(part is None for part in parts):
                return None
            return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) if p.ndim == 2 else p for p in parts])[
                order
            ]

        arrays: dict[str, Any] = {name: gather(name) for name in (*_ARRAYS, "values", "weights")}
        contexts = [context for rollout in rollouts for context in rollout.contexts]
        states = [state for rollout in rollouts for state in rollout.states]
        return replace(rollouts[0], contexts=[contexts[i] for i in order], states=[states[i] for i in order], **arrays)

    def rows(self, index: np.ndarray) -> Rollout:
        """The rollout restricted to some rows."""
        picked = {name: getattr(self, name)[index] for name in _ARRAYS}
        known = {name: getattr(self, name) for name in ("values", "weights")}
        picked.update({name: None if array is None else array[index] for name, array in known.items()})
        ragged = {"contexts": [self.contexts[i] for i in index], "states": [self.states[i] for i in index]}
        return replace(self, **ragged, **picked)


_ARRAYS = (
    *("tokens", "lengths", "logprobs", "ref_logprobs", "kl", "shaping"),
    *("task_reward", "team_reward", "episodes", "seats", "agents", "groups"),
)
