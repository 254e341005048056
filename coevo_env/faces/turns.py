"""A turn of B episodes as arrays: what the seat is asked, what its answer is recorded as, and the
checks of what a learner hands in.

One idea: tokens, log-probs and distributions are somebody else's numbers, so each is checked here,
before anything of it is played, and the message names the row and its episode. Nothing here plays:
`coevo_env.faces.batch` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, NonFiniteError
from ..game import kl as klmod
from ..game.reference import ReferencePolicy
from ..game.sampling import Sampling
from ..rng import uniforms

__all__ = ["TurnBatch", "TurnRecord", "check_measured", "check_turn", "checked_report", "measured"]


@dataclass(frozen=True)
class TurnBatch:
    """What the seat whose turn it is has to answer.

    Attributes:
        seat: Order of play, 0 is the pioneer.
        agents: int64 (B,), the agent in that seat in each row.
        episodes: int64 (B,), episode numbers.
        contexts: B lists of ids, ragged.
        max_new_tokens: Token budget of the turn.
        sampling: Temperature and mask of the game.
        seed: Seed of the game; `uniforms` derives the sampling noise from it.
    """

    seat: int
    agents: np.ndarray
    episodes: np.ndarray
    contexts: list[list[int]]
    max_new_tokens: int
    sampling: Sampling
    seed: int

    def uniforms(self, rows: np.ndarray | None = None, draw: int = 0) -> np.ndarray:
        """Uniform numbers (B, max_new_tokens) that pick the tokens: a function of seed, episode,
        seat and draw alone.

        Args:
            rows: Rows to give them for; all by default.
            draw: Whoever draws several responses for one turn numbers them from 0.
        """
        episodes = self.episodes if rows is None else self.episodes[rows]
        return uniforms(self.seed, episodes.tolist(), self.seat, self.max_new_tokens, draw=draw)


@dataclass
class TurnRecord:
    """Per-token numbers of one seat in all rows.

    Attributes:
        agents, lengths: int64 (B,).
        tokens: int64 (B, T), 0 behind the end of a turn, as all others are.
        logprobs, ref_logprobs, kl, shaping: float64 (B, T).
        values: float64 (B, T), where the learner has a critic.
    """

    agents: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    kl: np.ndarray
    shaping: np.ndarray
    values: np.ndarray | None

    def series(self, row: int) -> dict[str, Any]:
        """What a transcript holds of each token of one row; None where it is not known."""
        names = ("logprobs", "ref_logprobs", "kl", "shaping", "values")
        arrays = {name: getattr(self, name) for name in names}
        return {name: None if array is None else array[row, : self.lengths[row]] for name, array in arrays.items()}


def check_turn(tokens: np.ndarray, lengths: np.ndarray, batch_size: int) -> None:
    """Whether these are tokens (B, T) and lengths (B,) of a turn.

    Raises:
        ConfigError: Other shapes or types, or lengths outside [1, T].
    """
    if tokens.ndim != 2 or len(tokens) != batch_size or lengths.shape != (batch_size,):
        raise ConfigError(
            f"submit_turn got tokens of shape {tokens.shape} and lengths of shape {lengths.shape}; expected "
            f"({batch_size}, T) and "
            f"({batch_size},)."
        )
    if tokens.dtype.kind not in "iu" or lengths.dtype.kind not in "iu":
        raise ConfigError(
            f"submit_turn got tokens of {tokens.dtype} and lengths of {lengths.dtype}; expected integers."
        )
    if lengths.min() < 1 or lengths.max() > tokens.shape[1]:
        raise ConfigError(
            f"submit_turn got lengths from {lengths.min()} to {lengths.max()}; expected 1 to {tokens.shape[1]}."
        )


def checked_report(
    name: str, array: np.ndarray | None, mask: np.ndarray, turn: TurnBatch, mode: str
) -> np.ndarray | None:
    """What a learner reports of each token, float64 (B, T), 0 where `mask` is False; None where it
    reports nothing and need not.

    Args:
        name: "logprobs" or "values".
        array: What it handed in.
        mask: bool (B, T), where there is a token.
        turn: The turn.
        mode: KL mode of the game.

    Raises:
        ConfigError: It is missing though the mode needs it, or has another shape.
        NonFiniteError: It is not finite, or no log-prob.
    """
    if array is None:
        if name == "logprobs" and mode in klmod.STRICT:
            raise ConfigError(
                f"KL mode {mode!r} needs `logprobs`, the log-probs of the behaviour policy; got "
                "None. Pass them, or build the game with "
                "kl='reference' or kl='off'."
            )
        return None
    array = np.asarray(array, np.float64)
    if array.shape != mask.shape:
        raise ConfigError(f"submit_turn got {name} of shape {array.shape}; expected that of tokens, {mask.shape}.")
    array = np.where(mask, array, 0.0)
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).all(1)))
        raise NonFiniteError(
            f"submit_turn got non-finite {name} in row {row} (episode {turn.episodes[row]}); expected finite "
            "numbers. "
            "The policy that sampled has probably diverged; nothing of this turn was played."
        )
    if name == "logprobs" and array.max() > 1e-3:
        row = int(np.argmax(array.max(1)))
        raise NonFiniteError(
            f"submit_turn got the log-prob {array[row].max():.6g} in row {row} (episode {turn.episodes[row]}); "
            "expected natural log-probs, which "
            "are never above 0. Nothing of this turn was played."
        )
    return array


def measured(
    config: klmod.KLConfig,
    reference: ReferencePolicy,
    turn: TurnBatch,
    tokens: np.ndarray,
    lengths: np.ndarray,
    logprobs: np.ndarray | None,
    distributions: np.ndarray | Callable[[slice], Any] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """log pi_ref of the tokens of a turn and the KL at each, float64 (B, T), 0 behind the end of a
    turn.

    Args:
        config: How KL is measured.
        logprobs: log pi, checked; None where nothing was reported.
        distributions: For the estimator "full": log pi over the vocabulary, (B, T, V), or a
            function that gives it for a slice of tokens, see `ReferencePolicy.compare`.

    Raises:
        ConfigError: The distributions are missing, have another shape, or do not sum to 1.
        NonFiniteError: What was measured is not finite.
    """
    mask, asked = np.arange(tokens.shape[1]) < lengths[:, None], (turn.contexts, tokens, lengths, turn.sampling)
    if config.estimator == klmod.FULL:
        ours = _by_token(distributions, mask, reference.vocab_size)
        ref_logprobs, kl, mass = reference.compare(*asked, ours)
        if (np.abs(mass[mask] - 1.0) > 1e-3).any():  # NaN is let through: that it is none is said below
            raise ConfigError(
                "submit_turn got distributions that do not sum to 1; expected normalised log-probs (of logits: "
                "log_softmax)."
            )
        ref_logprobs = np.maximum(ref_logprobs, klmod.MIN_LOGPROB)
    else:
        ref_logprobs, kl = np.maximum(reference.score(*asked), klmod.MIN_LOGPROB), np.zeros(tokens.shape)
        if logprobs is not None:
            kl = np.where(mask, klmod.estimate(config.estimator, logprobs, ref_logprobs), 0.0)
    check_measured(ref_logprobs, kl, turn, config.estimator)
    return ref_logprobs, kl


def _by_token(
    distributions: np.ndarray | Callable[[slice], Any] | None, mask: np.ndarray, vocab_size: int
) -> Callable[[slice], Any]:
    """What `measured` was given, as a function of a slice of tokens whose answers have the right
    shape."""
    if distributions is None:
        raise ConfigError("KL estimator 'full' needs `distributions`, log pi over the vocabulary (B, T, V); got None.")
    look = distributions
    if not callable(look):
        array, (rows, steps) = np.asarray(distributions), np.nonzero(mask)
        if array.shape != (expected := (*mask.shape, vocab_size)):
            raise ConfigError(f"submit_turn got distributions of shape {array.shape}; expected {expected}.")
        look = lambda part: array[rows[part], steps[part]]  # noqa: E731

    def ours(part: slice) -> Any:
        found = look(part)
        if np.shape(found) != (expected := (part.stop - part.start, vocab_size)):
            raise ConfigError(
                f"submit_turn got distributions of shape {np.shape(found)} for the tokens {part.start} to "
                f"{part.stop}; expected {expected}."
            )
        return found

    return ours


def check_measured(ref_logprobs: np.ndarray, kl: np.ndarray, turn: TurnBatch, estimator: str) -> None:
    """Whether what is about to be paid, (B, T) each, is finite.

    Raises:
        NonFiniteError: It is not; the message says whose fault that is.
    """
    by_kl = (
        f"the KL is not finite by the estimator {estimator!r}; expected log-probs under which the tokens were sampled"
    )
    for array, what in ((ref_logprobs, "the reference policy gave a log-prob that is no number"), (kl, by_kl)):
        if not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array).all(1)))
            raise NonFiniteError(f"row {row} (episode {turn.episodes[row]}): {what}. Nothing of it was played.")
