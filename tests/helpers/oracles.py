"""Exact values of two-agent games on tiny vocabularies, by writing down every pair of responses.
Shared by tests; no test itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_env.game.rules import Rules
from coevo_env.tasks.toy import responses


@dataclass
class PairValues:
    """J of the pioneer and of the observer, each a mean over prompts."""

    pioneer: float
    observer: float


class CooperativePair:
    """A two-agent cooperative game with k1 shaping, enumerated: R responses for the pioneer, R for
    the observer after each.

    J_pioneer = E[r1 + r2] - beta KL(pi_1), J_observer = E[r1 + r2] - beta E[KL(pi_2)]: each agent
    pays its own KL in its own context.
    """

    def __init__(self, rules: Rules, reference, beta: float):
        self.rules, self.beta = rules, beta
        self.tokens, self.lengths = responses(rules)
        texts = [rules.text(row[:length].tolist()) for row, length in zip(self.tokens, self.lengths, strict=True)]
        self.prompts = [rules.task.prompt(rules.split, i) for i in range(len(rules.prompts))]
        self.rewards = np.stack(
            [sum(w * np.asarray(f([p] * len(texts), texts)) for w, f in rules.terms.values()) for p in self.prompts]
        )  # (P, R)
        self.first = [rules.turn_context(i, p, []) for i, p in enumerate(self.prompts)]
        self.second = [[rules.turn_context(i, p, [text]) for text in texts] for i, p in enumerate(self.prompts)]
        self.ref_first, self.ref_second = self.logprobs(reference)

    def logprobs(self, policy) -> tuple[np.ndarray, np.ndarray]:
        """Log-probs of all responses: as pioneer (P, R), as observer after each pioneer's response
        (P, R, R)."""
        first = np.stack([self._score(policy, [ids] * len(self.tokens)) for ids in self.first])
        second = np.stack([[self._score(policy, [ids] * len(self.tokens)) for ids in row] for row in self.second])
        return first, second

    def optimum(self) -> PairValues:
        """The subgame-perfect pair: the observer tilts the reference by its reward; the pioneer by
        its own plus what the observer will get."""
        return self._values(*self._best())

    def reached(self, policy) -> PairValues:
        """What a policy is worth in either role beside the best partner, so that it answers for
        itself alone."""
        first, second = self.logprobs(policy)
        best_first, best_second = self._best()
        return PairValues(self._values(first, best_second).pioneer, self._values(best_first, second).observer)

    def _best(self) -> tuple[np.ndarray, np.ndarray]:
        second = _normalize(self.ref_second + self.rewards[:, None, :] / self.beta)
        following = (np.exp(second) * self.rewards[:, None, :]).sum(-1)  # (P, R): E[r2 | a1]
        return _normalize(self.ref_first + (self.rewards + following) / self.beta), second

    def _values(self, first: np.ndarray, second: np.ndarray) -> PairValues:
        p1, p2 = np.exp(first), np.exp(second)
        following = (p2 * self.rewards[:, None, :]).sum(-1)
        total = (p1 * (self.rewards + following)).sum(-1)  # (P,)
        kl1 = (p1 * (first - self.ref_first)).sum(-1)
        kl2 = (p1 * (p2 * (second - self.ref_second)).sum(-1)).sum(-1)
        return PairValues(float((total - self.beta * kl1).mean()), float((total - self.beta * kl2).mean()))

    def _score(self, policy, contexts) -> np.ndarray:
        return policy.score(contexts, self.tokens, self.lengths, self.rules.sampling).sum(1)


def _normalize(logits: np.ndarray) -> np.ndarray:
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
