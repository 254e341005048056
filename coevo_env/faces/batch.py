"""The batched engine: B episodes at once, a whole turn at a time. What fast learners drive.

One idea: every row plays the same seat at the same time, so contexts are handed out together, the
reference policy scores a turn in one pass, and the reward function sees all responses in one call.
The rules are `core.Episode`'s; tests/test_equivalence.py proves that B rows here and B AEC
environments pay the same.

Two ways to play a turn: `begin_turn` / `submit_turn` (whole turns), or `step` (one token for every
active row).

    >>> import numpy as np
    >>> game = BatchEnv(4, task="toy", seed=0)
    >>> while (turn := game.begin_turn()) is not None:
    ...     tokens = np.zeros((4, 1), int)                # everybody says EOS at once
    ...     logprobs = np.full((4, 1), -1.0)              # and reports log pi
    ...     rewards = game.submit_turn(tokens, np.ones(4, int), logprobs)
    >>> [len(rollout) for rollout in game.rollouts()]
    [4, 4]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, NonFiniteError, whole
from ..game import kl as klmod
from ..game.reference import ReferencePolicy
from ..game.rollout import Rollout
from ..game.rules import Rules
from ..game.sampling import Sampling
from ..game.scoring import Scores, score
from ..game.transcript import make_transcript
from ..rng import uniforms
from .build import agent_names, build

__all__ = ["BatchEnv", "TurnBatch"]


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
class _TurnRecord:
    """Per-token numbers of one seat in all rows, each (B, T)."""

    agents: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    kl: np.ndarray
    shaping: np.ndarray
    values: np.ndarray | None


class BatchEnv:
    """B episodes of one game in step.

    Args:
        batch_size: B, episodes per batch.
        task, model, options: See `coevo_env.faces.build.build`; or pass `rules` and `reference`
            that exist already.
        agent_ids: "agent" (`llm1`..) or "role" (`pioneer`, `observer`); names only, in transcripts
            and errors.

    Attributes:
        rules, reference: The game.
        controllers: One KL controller per agent.
        scores: `Scores` of the batch, once every turn is played; else None.
        episode: Number of the first episode of the batch.
    """

    def __init__(
        self,
        batch_size: int,
        task: Any = "sentiment",
        model: Any = None,
        *,
        rules: Rules | None = None,
        reference: ReferencePolicy | None = None,
        agent_ids: str = "agent",
        **options: Any,
    ):
        self.batch_size = whole("batch_size", batch_size, 1)
        if rules is None:
            rules, reference = build(task, model, **options)
        elif options:
            raise ConfigError(
                f"BatchEnv got `rules` and the options {sorted(options)}; give options only when the rules are built "
                "here."
            )
        if reference is None and rules.kl.mode != "off":
            raise ConfigError(
                f"BatchEnv got `rules` with KL mode {rules.kl.mode!r} and no reference policy; pass `reference=` or "
                "rules with kl='off'."
            )
        self.rules, self.reference = rules, reference
        self.agents = agent_names(rules.num_agents, agent_ids)
        self.controllers = [klmod.make_controller(rules.kl) for _ in self.agents]
        self.reset(0)

    # ---------------------------------------------------------------- playing whole turns
    def reset(self, episode: int | None = None) -> None:
        """Starts the batch of episodes `episode, ..., episode + B - 1`; by default those after the
        current ones."""
        self.episode = self.episode + self.batch_size if episode is None else whole("episode", episode, 0)
        self.episodes = [self.rules.start(self.episode + row) for row in range(self.batch_size)]
        self.scores: Scores | None = None
        self._records: list[_TurnRecord] = []
        self._step: _StepState | None = None

    @property
    def done(self) -> bool:
        """Whether every turn of the batch has been played."""
        return self.scores is not None

    def begin_turn(self) -> TurnBatch | None:
        """The turn to play now, or None when the batch is done. Asking twice gives the same
        answer."""
        if self.done:
            return None
        seat = len(self._records)
        turns = [episode.turns[seat] for episode in self.episodes]
        return TurnBatch(
            seat,
            np.array([turn.agent for turn in turns]),
            np.arange(self.episode, self.episode + self.batch_size),
            [turn.context for turn in turns],
            self.rules.max_new_tokens,
            self.rules.sampling,
            self.rules.seed,
        )

    def submit_turn(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        logprobs: np.ndarray | None = None,
        *,
        distributions: np.ndarray | Callable[[slice], np.ndarray] | None = None,
        values: np.ndarray | None = None,
    ) -> np.ndarray:
        """Plays the current turn in all rows.

        Args:
            tokens: int (B, T), T up to the budget; what stands behind `lengths` is ignored.
            lengths: int (B,); each row's last token is EOS unless the budget is full.
            logprobs: float (B, T), log pi of the behaviour policy; required by the KL modes
                "reported" and "loss".
            distributions: For the estimator "full": log pi over the vocabulary, (B, T, V), or a
                function that gives it for a slice of rows, so that it never exists as a whole.
            values: float (B, T), kept for the learner.

        Returns:
            float64 (B, T): the reward of each token for the agent that emitted it. The team reward
            of the last seat stands on its last token; the other agents' is in `scores.team` and in
            their rollouts.

        Raises:
            ConfigError: The arrays are not one whole turn, or a required report is missing or no
                log-prob.
            NonFiniteError: A reported log-prob, or the KL that follows from it, is NaN or infinite.
            RewardError: A reward term failed.

        Whatever it raises, nothing of the turn was played.
        """
        turn = self.begin_turn()
        if turn is None:
            raise ConfigError("submit_turn after the last turn of the batch; call reset() to start the next one.")
        if self._step is not None and self._step.length:
            raise ConfigError("submit_turn in a turn that step() has begun; finish it with step().")
        tokens, lengths = np.asarray(tokens), np.asarray(lengths)
        if tokens.ndim != 2 or len(tokens) != self.batch_size or lengths.shape != (self.batch_size,):
            raise ConfigError(
                f"submit_turn got tokens of shape {tokens.shape} and lengths of shape {lengths.shape}; expected "
                f"({self.batch_size}, T) and "
                f"({self.batch_size},)."
            )
        if tokens.dtype.kind not in "iu" or lengths.dtype.kind not in "iu":
            raise ConfigError(
                f"submit_turn got tokens of {tokens.dtype} and lengths of {lengths.dtype}; expected integers."
            )
        if lengths.min() < 1 or lengths.max() > tokens.shape[1]:
            raise ConfigError(
                f"submit_turn got lengths from {lengths.min()} to {lengths.max()}; expected 1 to {tokens.shape[1]}."
            )
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        logprobs = self._report("logprobs", logprobs, mask)
        values = None if values is None else self._report("values", values, mask)
        ref_logprobs = np.zeros(tokens.shape)
        kl = np.zeros(tokens.shape)
        config = self.rules.kl
        rows = tokens.tolist()
        turns = [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
        with self._whole_or_not_at_all(turn):
            for episode, row in zip(self.episodes, turns, strict=True):
                episode.take(row)
            tokens = np.where(mask, tokens, 0)
            if config.mode != "off":
                assert self.reference is not None
                ref_logprobs = np.maximum(
                    self.reference.score(turn.contexts, tokens, lengths, turn.sampling), klmod.MIN_LOGPROB
                )
                if config.estimator == "full":
                    kl = self._full(turn, tokens, lengths, distributions, mask)
                elif logprobs is not None:
                    kl = np.where(mask, klmod.estimate(config.estimator, logprobs, ref_logprobs), 0.0)
            self._check_finite(ref_logprobs, kl)
            return self._finish(turn, tokens, lengths, mask, logprobs, ref_logprobs, kl, values)

    # ---------------------------------------------------------------- playing token by token
    @property
    def active(self) -> np.ndarray:
        """bool (B,): rows whose current turn is not finished; `step` ignores the tokens of the
        others."""
        if self.done:
            return np.zeros(self.batch_size, bool)
        return np.ones(self.batch_size, bool) if self._step is None else self._step.active.copy()

    def step(
        self, tokens: np.ndarray, logprobs: np.ndarray | None = None, *, distributions: np.ndarray | None = None
    ) -> np.ndarray:
        """Plays one token in every active row; when no row is active any more the next turn begins.

        Args:
            tokens: int (B,).
            logprobs: float (B,), required by the KL modes "reported" and "loss".
            distributions: float (B, V), for the estimator "full".

        Returns:
            float64 (B,): reward of each token for the agent that emitted it, 0 in inactive rows.
            The team reward of the last seat is paid when the whole batch has finished, on this
            call's rows, and to rows that finished earlier as well.
        """
        turn = self.begin_turn()
        if turn is None:
            raise ConfigError("step after the last turn of the batch; call reset() to start the next one.")
        if self._step is None:
            self._step = _StepState(self, turn)
        return self._step.push(np.asarray(tokens), logprobs, distributions)

    # ---------------------------------------------------------------- results
    def rollouts(self) -> list[Rollout]:
        """One rollout per agent, in the order of `agents`."""
        scores = self._finished("rollouts()")
        width = max(record.tokens.shape[1] for record in self._records)
        episodes = np.arange(self.episode, self.episode + self.batch_size)
        result = []
        for agent, controller in enumerate(self.controllers):
            rows = [np.nonzero(record.agents == agent)[0] for record in self._records]  # per seat
            seats = np.concatenate([np.full(len(r), seat) for seat, r in enumerate(rows)])
            order = np.argsort(np.concatenate(rows), kind="stable")
            row = np.concatenate(rows)[order]
            seats = seats[order]

            def gather(name: str, rows=rows, order=order):
                held = [(getattr(record, name), r) for record, r in zip(self._records, rows, strict=True)]
                parts = [_widen(array[r], width) for array, r in held if array is not None]
                return np.concatenate(parts)[order]

            lengths = gather("lengths")
            longest = int(lengths.max()) if len(lengths) else 0
            arrays = {
                name: gather(name)[:, :longest] for name in ("tokens", "logprobs", "ref_logprobs", "kl", "shaping")
            }
            known = all(record.values is not None for record, r in zip(self._records, rows, strict=True) if len(r))
            result.append(
                Rollout(
                    contexts=[self.episodes[r].turns[seat].context for r, seat in zip(row, seats, strict=True)],
                    lengths=lengths,
                    task_reward=scores.task[row, seats],
                    team_reward=scores.team[row, seats],
                    beta=controller.beta,
                    kl_in_loss=self.rules.kl.mode == "loss",
                    episodes=episodes[row],
                    seats=seats,
                    agents=np.full(len(row), agent),
                    groups=episodes[row] // self.rules.group_size,
                    states=[self._state(r, seat) for r, seat in zip(row, seats, strict=True)],
                    values=gather("values")[:, :longest] if known and len(row) else None,
                    **arrays,
                )
            )
        return result

    def transcripts(self, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Transcripts of the batch, or of some rows of it (see `coevo_env.game.transcript`)."""
        scores = self._finished("transcripts()")
        result = []
        for row in range(self.batch_size) if rows is None else rows:
            per_token = []
            for record in self._records:
                length = record.lengths[row]
                names = ("logprobs", "ref_logprobs", "kl", "shaping", "values")
                series = {
                    name: None if getattr(record, name) is None else getattr(record, name)[row, :length]
                    for name in names
                }
                per_token.append(series)
            result.append(make_transcript(self.episodes[row], self.agents, per_token, scores, row))
        return result

    def update_controllers(self, agents: Sequence[int] | None = None) -> list[float]:
        """Moves the betas by the KL of the batch just played. Agents that share a controller move
        it once.

        Args:
            agents: Numbers of the agents whose turns count; all by default.

        Returns:
            The new betas of all agents.
        """
        self._finished("update_controllers()")
        chosen = range(len(self.controllers)) if agents is None else agents
        totals = np.stack([record.kl.sum(1) for record in self._records], 1)  # (B, N)
        actors = np.stack([record.agents for record in self._records], 1)
        for controller in dict.fromkeys(self.controllers[agent] for agent in chosen):
            theirs = np.isin(actors, [agent for agent in chosen if self.controllers[agent] is controller])  # (B, N)
            if theirs.any():
                controller.update(
                    float(totals[theirs].mean()), int(theirs.any(1).sum())
                )  # agents who share one play the same episodes
        return [controller.beta for controller in self.controllers]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the next batch and the controllers. Everything else is a
        function of the seed."""
        return {"episode": self.episode, "controllers": [controller.state_dict() for controller in self.controllers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict` and restarts its batch."""
        for controller, saved in zip(self.controllers, state["controllers"], strict=True):
            controller.load_state_dict(saved)
        self.reset(state["episode"])

    # ---------------------------------------------------------------- internals
    @contextmanager
    def _whole_or_not_at_all(self, turn: TurnBatch) -> Iterator[None]:
        """If something fails inside, the turn can be played again from its start."""
        try:
            yield
        except BaseException:
            for episode in self.episodes:
                episode.rewind(turn.seat)
            self._step = None
            raise

    def _state(self, row: int, seat: int) -> list[int]:
        """What the seats before `seat` read and wrote."""
        return [
            token for turn in self.episodes[row].turns[:seat] for part in (turn.context, turn.tokens) for token in part
        ]

    def _report(self, name: str, array: np.ndarray | None, mask: np.ndarray) -> np.ndarray | None:
        required = name == "logprobs" and self.rules.kl.mode in klmod.STRICT
        if array is None:
            if required:
                raise ConfigError(
                    f"KL mode {self.rules.kl.mode!r} needs `logprobs`, the log-probs of the behaviour policy; got "
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
                f"submit_turn got non-finite {name} in row {row} (episode {self.episode + row}); expected finite "
                "numbers. "
                "The policy that sampled has probably diverged; nothing of this turn was played."
            )
        if name == "logprobs" and array.max() > 1e-3:
            row = int(np.argmax(array.max(1)))
            raise NonFiniteError(
                f"submit_turn got the log-prob {array[row].max():.6g} in row {row} (episode {self.episode + row}); "
                "expected natural log-probs, which "
                "are never above 0. Nothing of this turn was played."
            )
        return array

    def _check_finite(self, ref_logprobs: np.ndarray, kl: np.ndarray) -> None:
        """Of what is about to be paid, (B, T) each."""
        by_kl = (
            f"the KL is not finite by the estimator {self.rules.kl.estimator!r}; expected log-probs under which the "
            "tokens were sampled"
        )
        for array, what in ((ref_logprobs, "the reference policy gave a log-prob that is no number"), (kl, by_kl)):
            if not np.isfinite(array).all():
                row = int(np.argmin(np.isfinite(array).all(1)))
                raise NonFiniteError(f"row {row} (episode {self.episode + row}): {what}. Nothing of it was played.")

    def _full(self, turn: TurnBatch, tokens, lengths, distributions, mask) -> np.ndarray:
        if distributions is None:
            raise ConfigError(
                "KL estimator 'full' needs `distributions`, log pi over the vocabulary (B, T, V); got None."
            )
        assert self.reference is not None
        kl = np.zeros(tokens.shape)
        rows = max(1, (1 << 24) // max(1, tokens.shape[1] * self.rules.vocab_size))
        for start in range(0, self.batch_size, rows):
            part = slice(start, start + rows)
            ours = np.asarray(distributions(part) if callable(distributions) else distributions[part])
            if ours.shape != (expected := (*tokens[part].shape, self.rules.vocab_size)):
                raise ConfigError(
                    f"submit_turn got distributions of shape {ours.shape} for rows {start} on; expected {expected}."
                )
            if not klmod.normalised(ours[mask[part]]):
                raise ConfigError(
                    f"submit_turn got distributions for rows {start} on that do not sum to 1; expected normalised "
                    "log-probs (of logits: log_softmax)."
                )
            reference = self.reference.distributions(turn.contexts[part], tokens[part], lengths[part], turn.sampling)
            kl[part] = np.where(mask[part], klmod.full_kl(ours, reference), 0.0)
        return kl

    def _finish(self, turn: TurnBatch, tokens, lengths, mask, logprobs, ref_logprobs, kl, values) -> np.ndarray:
        beta = np.array([controller.beta for controller in self.controllers])[turn.agents][:, None]  # (B, 1)
        config = self.rules.kl
        shaping = klmod.shaping(config.mode, beta, kl, ref_logprobs)
        shaping = np.where(mask, shaping, 0.0)
        logprobs = np.zeros(tokens.shape) if logprobs is None else logprobs
        scores = score(self.rules, self.episodes) if turn.seat + 1 == self.rules.num_agents else None
        self._records.append(_TurnRecord(turn.agents, tokens, lengths, logprobs, ref_logprobs, kl, shaping, values))
        self._step = None
        rewards = shaping.copy()
        if scores is not None:
            self.scores = scores
            rewards[np.arange(self.batch_size), lengths - 1] += scores.team[:, -1]
        return rewards

    def _finished(self, what: str) -> Scores:
        if self.scores is None:
            raise ConfigError(f"{what} before the batch is done; play the remaining turns first.")
        return self.scores


class _StepState:
    """A turn played token by token: the same records, filled one column at a time."""

    def __init__(self, game: BatchEnv, turn: TurnBatch):
        self.game, self.turn, self.length = game, turn, 0
        size, budget = game.batch_size, turn.max_new_tokens
        self.active = np.ones(size, bool)
        self.tokens = np.zeros((size, budget), np.int64)
        self.lengths = np.zeros(size, np.int64)
        self.logprobs: np.ndarray | None = None
        self.ref_logprobs, self.kl = np.zeros((size, budget)), np.zeros((size, budget))
        mode = game.rules.kl.mode
        self.cursors: list[Any] = []  # none with KL off
        if mode != "off":
            assert game.reference is not None
            self.cursors = [game.reference.cursor(context, turn.sampling) for context in turn.contexts]

    def push(self, tokens: np.ndarray, logprobs, distributions) -> np.ndarray:
        game, config, t = self.game, self.game.rules.kl, self.length
        if tokens.shape != (game.batch_size,) or tokens.dtype.kind not in "iu":
            raise ConfigError(
                f"step got tokens of shape {tokens.shape} and type {tokens.dtype}; expected integers "
                f"({game.batch_size},)."
            )
        rows = np.nonzero(self.active)[0]
        report = game._report(
            "logprobs", None if logprobs is None else np.asarray(logprobs)[:, None], self.active[:, None]
        )
        full = config.estimator == "full" and config.mode != "off"
        if full and np.shape(distributions) != (expected := (game.batch_size, game.rules.vocab_size)):
            got = "None" if distributions is None else f"shape {np.shape(distributions)}"
            raise ConfigError(
                f"KL estimator 'full' needs `distributions`, log pi over the vocabulary (B, V) = {expected}; got {got}."
            )
        if full and not klmod.normalised(np.asarray(distributions)[rows]):
            raise ConfigError(
                "step got distributions that do not sum to 1; expected normalised log-probs (of logits: log_softmax)."
            )
        if not ((tokens[rows] >= 0) & (tokens[rows] < game.rules.vocab_size)).all():
            raise ConfigError(f"step got tokens outside [0, {game.rules.vocab_size}).")
        ref_logprobs, kl = np.zeros((game.batch_size, 1)), np.zeros((game.batch_size, 1))
        for row in rows.tolist() if self.cursors else ():
            reference = self.cursors[row].logprobs()
            ref_logprobs[row] = np.maximum(reference[tokens[row]], klmod.MIN_LOGPROB)
            if full:
                kl[row] = klmod.full_kl(np.asarray(distributions)[row], reference)
            elif report is not None:
                kl[row] = klmod.estimate(config.estimator, float(report[row, 0]), float(ref_logprobs[row, 0]))
        game._check_finite(ref_logprobs, kl)
        self.ref_logprobs[:, t], self.kl[:, t] = (
            ref_logprobs[:, 0],
            kl[:, 0],
        )  # nothing can fail any more until the turn is over
        if report is not None:
            self.logprobs = np.zeros(self.tokens.shape) if self.logprobs is None else self.logprobs
            self.logprobs[:, t] = report[:, 0]
        for row in rows.tolist():
            token = int(tokens[row])
            if self.cursors:
                self.cursors[row].push(token)
            self.tokens[row, t] = token
            self.lengths[row] = t + 1
            self.active[row] = not game.episodes[row].append(token)
        self.length += 1
        if not self.active.any():
            mask = np.arange(self.tokens.shape[1]) < self.lengths[:, None]
            record = (self.tokens, self.lengths, mask, self.logprobs, self.ref_logprobs, self.kl, None)
            with game._whole_or_not_at_all(self.turn):
                rewards = game._finish(self.turn, *record)[:, t]
            if game.scores is not None:  # rows that ended earlier are paid now
                rewards = np.where(self.lengths == t + 1, rewards, game.scores.team[:, -1])
            return rewards
        beta = np.array([controller.beta for controller in game.controllers])[self.turn.agents]
        now = np.zeros(game.batch_size, bool)
        now[rows] = True
        return np.where(now, klmod.shaping(config.mode, beta, self.kl[:, t], self.ref_logprobs[:, t]), 0.0)


def _widen(array: np.ndarray, width: int) -> np.ndarray:
    """Pads the second axis with zeros."""
    return array if array.ndim == 1 or array.shape[1] == width else np.pad(array, ((0, 0), (0, width - array.shape[1])))
