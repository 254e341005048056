"""What the environment needs of a reference policy, and the smallest one: a table.

One idea: a model of token sequences answers three questions. `score` gives the log-probs of whole
turns at once (what fast learners use), `compare` gives the exact KL of another policy beside them,
`cursor` gives one distribution at a time (what a token-level environment uses). All three answers
agree. `coevo_env.lm.model.LanguageModel` answers them for any Hugging Face causal LM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import ConfigError
from .kl import full_kl
from .sampling import Sampling

__all__ = ["Comparison", "Cursor", "IntTokenizer", "ReferencePolicy", "TableModel", "warp"]


CHUNK = 1 << 24
"""Log-probs that a `TableModel` looks up at once when it is compared."""


class Comparison(NamedTuple):
    """The tokens of turns under the reference and another policy pi, float64 (B, T) each, 0 behind
    the end of a turn.

    Attributes:
        logprobs: log pi_ref, as `ReferencePolicy.score` gives it.
        kl: KL(pi || pi_ref) over the vocabulary, by the definition of `coevo_env.game.kl.full_kl`.
        mass: What the probabilities of pi sum to: 1, or they were none.
    """

    logprobs: np.ndarray
    kl: np.ndarray
    mass: np.ndarray


class Cursor(Protocol):
    """Walks through one turn token by token."""

    def logprobs(self) -> np.ndarray:
        """Log-distribution of the next token, float64 of shape (V,); the caller must not change
        it."""
        ...

    def push(self, token: int) -> None:
        """Goes on by one token, whether or not it was likely."""
        ...


class ReferencePolicy(Protocol):
    """A frozen policy over token ids."""

    vocab_size: int

    def score(
        self, contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray, sampling: Sampling
    ) -> np.ndarray:
        """Log-probs of the given tokens under the warp.

        Args:
            contexts: B lists of ids, ragged.
            tokens: int64 of shape (B, T); what stands behind `lengths` is ignored.
            lengths: int64 of shape (B,), from 1 to T.
            sampling: The warp; its temperature and mask renormalise, its truncation cuts.

        Returns:
            float64 of shape (B, T), 0 behind `lengths`.
        """
        ...

    def compare(
        self,
        contexts: Sequence[Sequence[int]],
        tokens: np.ndarray,
        lengths: np.ndarray,
        sampling: Sampling,
        ours: Callable[[slice], Any],
    ) -> Comparison:
        """`score`, and the exact KL of another policy beside it, in one pass of this model.

        Args:
            contexts, tokens, lengths, sampling: As in `score`.
            ours: log pi over the vocabulary (m, V), an array or a tensor, for a slice of the M =
                sum(lengths) tokens, which are numbered row by row. It is asked for a few at a time,
                in order, so that no (B, T, V) array has to exist.
        """
        ...

    def cursor(self, context: Sequence[int], sampling: Sampling) -> Cursor:
        """A walk through a turn that begins after `context`, a non-empty list of ids, under the
        warp."""
        ...


def warp(logits: np.ndarray, sampling: Sampling, positions: np.ndarray | int) -> np.ndarray:
    """Log-distributions of logits under a warp, in float64: temperature, then mask, then top-k,
    then top-p, then normalisation.

    Args:
        logits: Shape (..., V).
        sampling: The warp.
        positions: Position in the turn, broadcasting against the leading axes of `logits`.

    Returns:
        float64 log-probs of the shape of `logits`; -inf where a token cannot be drawn.
    """
    scores = np.array(logits, np.float64)
    if sampling.temperature > 0:
        scores /= sampling.temperature
    if sampling.banned:
        scores[..., list(sampling.banned)] = -np.inf
    if sampling.min_new_tokens:
        early = np.broadcast_to(np.asarray(positions) < sampling.min_new_tokens, scores.shape[:-1])
        for end in sampling.eos_ids:
            scores[early, end] = -np.inf
    if sampling.top_k and sampling.top_k < scores.shape[-1]:
        kth = np.partition(scores, -sampling.top_k, axis=-1)[..., -sampling.top_k, None]
        scores[scores < kth] = -np.inf
    if sampling.top_p < 1:
        order = np.argsort(-scores, axis=-1, kind="stable")
        ranked = np.take_along_axis(_log_softmax(scores), order, -1)
        before = np.cumsum(np.exp(ranked), -1) - np.exp(ranked)  # mass of the more probable tokens
        drop = np.zeros(scores.shape, bool)
        np.put_along_axis(drop, order, before >= sampling.top_p, -1)
        scores[drop] = -np.inf
    return _log_softmax(scores)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class TableModel:
    """A policy given by a table of logits whose row is the last token before the one to predict (a
    bigram model).

    Fast, exact and free of torch: the reference of toys, of property tests, and of the measurement
    of the environment's own cost.

    Args:
        logits: Shape (V, V): row = last id, column = next id.
    """

    def __init__(self, logits: np.ndarray):
        self.logits = np.asarray(logits, np.float64)
        if self.logits.ndim != 2 or self.logits.shape[0] != self.logits.shape[1]:
            raise ConfigError(f"a table of logits of shape {self.logits.shape}; expected (V, V).")
        self.vocab_size = len(self.logits)
        self._warped: dict[tuple[Sampling, bool], np.ndarray] = {}

    @classmethod
    def random(cls, vocab_size: int, seed: int = 0, scale: float = 1.0) -> TableModel:
        """Independent normal logits."""
        if vocab_size > 4096:  # the square of a language model's vocabulary does not fit into memory
            raise ConfigError(
                f"a table model of {vocab_size} tokens; expected at most 4096. Use a language model, or kl='off'."
            )
        return cls(scale * np.random.default_rng(seed).standard_normal((vocab_size, vocab_size)))

    def table(self, sampling: Sampling, position: int = 0) -> np.ndarray:
        """Log-distributions under a warp, shape (V, V); the warp has at most two phases, before and
        after `min_new_tokens`."""
        key = (sampling, position < sampling.min_new_tokens)
        if key not in self._warped:
            self._warped[key] = warp(self.logits, sampling, position)
        return self._warped[key]

    def score(self, contexts, tokens, lengths, sampling: Sampling) -> np.ndarray:
        """See `ReferencePolicy.score`."""
        tokens, lengths = np.asarray(tokens), np.asarray(lengths)
        previous = self._previous(contexts, tokens)
        positions = np.arange(tokens.shape[1])
        late = self.table(sampling, sampling.min_new_tokens)[previous, tokens]  # (B, T)
        if sampling.min_new_tokens:
            early = self.table(sampling, 0)[previous, tokens]
            late = np.where(positions < sampling.min_new_tokens, early, late)
        return np.where(positions < lengths[:, None], late, 0.0)

    def compare(self, contexts, tokens, lengths, sampling: Sampling, ours: Callable[[slice], Any]) -> Comparison:
        """See `ReferencePolicy.compare`."""
        tokens, lengths = np.asarray(tokens), np.asarray(lengths)
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        kl, mass, ends = np.zeros(tokens.shape), np.zeros(tokens.shape), [0, *lengths.cumsum().tolist()]
        rows = max(1, CHUNK // (tokens.shape[1] * self.vocab_size))
        for start in range(0, len(tokens), rows):
            part = slice(start, min(start + rows, len(tokens)))
            mine = np.asarray(ours(slice(ends[part.start], ends[part.stop])), np.float64)  # (m, V)
            theirs = self.distributions(contexts[part], tokens[part], lengths[part], sampling)[mask[part]]
            kl[part][mask[part]], mass[part][mask[part]] = full_kl(mine, theirs), np.exp(mine).sum(-1)
        return Comparison(self.score(contexts, tokens, lengths, sampling), kl, mass)

    def distributions(self, contexts, tokens, lengths, sampling: Sampling) -> np.ndarray:
        """Log-distributions at each position of the turns, of shape (B, T, V); what stands behind
        `lengths` is not defined."""
        previous = self._previous(contexts, np.asarray(tokens))
        return np.stack([self.table(sampling, t)[previous[:, t]] for t in range(previous.shape[1])], 1)  # (B, T, V)

    def cursor(self, context: Sequence[int], sampling: Sampling) -> Cursor:
        """See `ReferencePolicy.cursor`; only the last id of the context matters."""
        return _TableCursor(self, context[-1], sampling)

    @staticmethod
    def _previous(contexts, tokens: np.ndarray) -> np.ndarray:
        last = np.array([context[-1] for context in contexts])[:, None]
        return np.concatenate([last, tokens[:, :-1]], 1)  # (B, T)


class _TableCursor:
    __slots__ = ("last", "model", "position", "sampling")

    def __init__(self, model: TableModel, last: int, sampling: Sampling):
        self.model, self.last, self.sampling, self.position = model, last, sampling, 0

    def logprobs(self) -> np.ndarray:
        return self.model.table(self.sampling, self.position)[self.last]

    def push(self, token: int) -> None:
        self.last = token
        self.position += 1


class IntTokenizer:
    """Text whose words are the decimal ids themselves, for token-level toys: `"3 1"` <-> `[3, 1]`.

    >>> IntTokenizer(5).encode("3 1"), IntTokenizer(5).decode([3, 1])
    ([3, 1], '3 1')
    """

    def __init__(self, vocab_size: int, eos_id: int = 0):
        self.vocab_size, self.eos_id = vocab_size, eos_id

    def encode(self, text: str) -> list[int]:
        """The ids that the words are.

        Raises:
            ConfigError: A word is no whole number, or no id of the vocabulary.
        """
        try:
            ids = [int(word) for word in text.split()]
        except ValueError:
            raise ConfigError(
                f"text {text!r} is not made of ids; expected whole numbers in [0, {self.vocab_size}), such as '1 2'."
            ) from None
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ConfigError(f"text {text!r} has ids outside [0, {self.vocab_size}).")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The ids as words."""
        return " ".join(map(str, ids))
