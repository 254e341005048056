"""A turn of B episodes played token by token: the arrays of a whole turn, filled one column at a
time.

One idea: everything that can fail in a step is tried before any row plays its token, so a step is
played whole or not at all. What is paid for the turn, and what follows it, is `BatchEnv`'s
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..game import kl as klmod
from ..game.reference import ReferencePolicy
from ..game.rules import Episode, Rules
from .turns import TurnBatch, check_measured, checked_report

__all__ = ["Columns"]


class Columns:
    """The columns of a turn that have been played.

    Args:
        rules, reference: The game; the reference policy is None with KL off.
        episodes: B episodes at the start of the turn.
        turn: The turn.

    Attributes:
        active: bool (B,), rows whose turn is not finished.
        length: Columns played so far.
        tokens: int64 (B, max_new_tokens), 0 where nothing was played.
        lengths: int64 (B,), tokens of each row so far.
        logprobs: float64 (B, max_new_tokens), None as long as nothing was reported.
        ref_logprobs, kl: float64 (B, max_new_tokens).
    """

    def __init__(self, rules: Rules, reference: ReferencePolicy | None, episodes: Sequence[Episode], turn: TurnBatch):
        self.rules, self.episodes, self.turn, self.length = rules, episodes, turn, 0
        size, budget = len(episodes), turn.max_new_tokens
        self.active = np.ones(size, bool)
        self.tokens = np.zeros((size, budget), np.int64)
        self.lengths = np.zeros(size, np.int64)
        self.logprobs: np.ndarray | None = None
        self.ref_logprobs, self.kl = np.zeros((size, budget)), np.zeros((size, budget))
        self._cursors: list[Any] = []  # none with KL off
        if rules.kl.mode != "off":
            assert reference is not None
            self._cursors = [reference.cursor(context, turn.sampling) for context in turn.contexts]

    def push(self, tokens: np.ndarray, logprobs: Any, distributions: Any) -> np.ndarray:
        """Plays a token in every active row; see `BatchEnv.step` for the arguments.

        Returns:
            bool (B,): the rows that played.
        """
        self._check(tokens, distributions)
        reported = None if logprobs is None else np.asarray(logprobs)[:, None]
        report = checked_report("logprobs", reported, self.active[:, None], self.turn, self.rules.kl.mode)
        ref_logprobs, kl = self._measured(tokens, report, distributions)
        t, played = self.length, self.active.copy()
        self.ref_logprobs[:, t], self.kl[:, t] = ref_logprobs, kl  # nothing can fail any more until the turn is over
        if report is not None:
            self.logprobs = np.zeros(self.tokens.shape) if self.logprobs is None else self.logprobs
            self.logprobs[:, t] = report[:, 0]
        for row in np.nonzero(played)[0].tolist():
            token = int(tokens[row])
            if self._cursors:
                self._cursors[row].push(token)
            self.tokens[row, t] = token
            self.lengths[row] = t + 1
            self.active[row] = not self.episodes[row].append(token)
        self.length += 1
        return played

    @property
    def _full(self) -> bool:
        return self.rules.kl.estimator == klmod.FULL and self.rules.kl.mode != "off"

    def _check(self, tokens: np.ndarray, distributions: Any) -> None:
        size, vocab = len(self.episodes), self.rules.vocab_size
        if tokens.shape != (size,) or tokens.dtype.kind not in "iu":
            raise ConfigError(
                f"step got tokens of shape {tokens.shape} and type {tokens.dtype}; expected integers ({size},)."
            )
        if self._full and np.shape(distributions) != (expected := (size, vocab)):
            got = "None" if distributions is None else f"shape {np.shape(distributions)}"
            raise ConfigError(
                f"KL estimator 'full' needs `distributions`, log pi over the vocabulary (B, V) = {expected}; got {got}."
            )
        if self._full and not klmod.normalised(np.asarray(distributions)[self.active]):
            raise ConfigError(
                "step got distributions that do not sum to 1; expected normalised log-probs (of logits: log_softmax)."
            )
        if not ((tokens[self.active] >= 0) & (tokens[self.active] < vocab)).all():
            raise ConfigError(f"step got tokens outside [0, {vocab}).")

    def _measured(
        self, tokens: np.ndarray, report: np.ndarray | None, distributions: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """log pi_ref of the tokens and their KL, (B,) each, 0 in rows that do not play."""
        ref_logprobs, kl = np.zeros(len(tokens)), np.zeros(len(tokens))
        estimator = self.rules.kl.estimator
        for row in np.nonzero(self.active)[0].tolist() if self._cursors else ():
            reference = self._cursors[row].logprobs()
            ref_logprobs[row] = np.maximum(reference[tokens[row]], klmod.MIN_LOGPROB)
            if self._full:
                kl[row] = klmod.full_kl(np.asarray(distributions)[row], reference)
            elif report is not None:
                kl[row] = klmod.estimate(estimator, float(report[row, 0]), float(ref_logprobs[row]))
        check_measured(ref_logprobs[:, None], kl[:, None], self.turn, estimator)
        return ref_logprobs, kl
