"""The batched engine: B episodes at once, a whole turn at a time. What fast learners drive.

One idea: every row plays the same seat at the same time, so contexts are handed out together, the
reference policy scores a turn in one pass, and the reward function sees all responses in one call.
The rules are `Episode`'s; tests/faces/test_equivalence.py proves that B rows here and B AEC
environments pay the same.

With context "own" an observer first says what it would say itself (`begin_rehearsal` /
`submit_rehearsal`), and reads that.

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
from typing import Any

import numpy as np

from ..errors import ConfigError, whole
from ..game import kl as klmod
from ..game.reference import ReferencePolicy
from ..game.rollout import Rollout
from ..game.rules import Rules
from ..game.scoring import Scores, score
from ..game.strangers import check_strangers, strangers
from ..game.transcript import make_transcript
from ..rng import rng
from .build import agent_names, build
from .columns import Columns
from .turns import TurnBatch, TurnRecord, check_turn, checked_report, measured

__all__ = ["BatchEnv", "TurnBatch"]


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
        if rules.context == "shuffled" and rules.num_agents > 1:
            check_strangers(rules.prompts, self.batch_size, rules.group_size)
        if rules.budgets.every % self.batch_size:
            rules.budgets.check_batch(rules.budgets.every // self.batch_size * self.batch_size, self.batch_size)
        self.rules, self.reference = rules, reference
        self.agents = agent_names(rules.num_agents, agent_ids)
        self.controllers = [klmod.make_controller(rules.kl) for _ in self.agents]
        self.reset(0)

    # ---------------------------------------------------------------- playing whole turns
    def reset(self, episode: int | None = None) -> None:
        """Starts the batch of episodes `episode, ..., episode + B - 1`; by default those after the
        current ones."""
        first = self.episode + self.batch_size if episode is None else whole("episode", episode, 0)
        self.rules.budgets.check_batch(first, self.batch_size)
        self.episode = first
        self.episodes = [self.rules.start(self.episode + row) for row in range(self.batch_size)]
        self.scores: Scores | None = None
        self._records: list[TurnRecord] = []
        self._columns: Columns | None = None  # of a turn that `step` has begun

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
        if not all(turn.context for turn in turns):
            raise ConfigError(
                f"seat {seat} reads what it would say itself (context {self.rules.context!r}), and has not done so; "
                "expected begin_rehearsal() and submit_rehearsal() before its turn."
            )
        return TurnBatch(
            seat,
            np.array([turn.agent for turn in turns]),
            np.arange(self.episode, self.episode + self.batch_size),
            [turn.context for turn in turns],
            turns[0].budget,  # of all rows, see `Budgets.check_batch`
            self.rules.sampling,
            self.rules.seed,
        )

    def begin_rehearsal(self) -> TurnBatch | None:
        """With context "own", before a turn of observers: what they are asked in order to hear what
        they would say themselves, which is the pioneer's question. Nothing of the answer is paid or
        learned from. None where there is nothing to rehearse."""
        if self.done or all(episode.turns[len(self._records)].context for episode in self.episodes):
            return None
        seat = len(self._records)
        return TurnBatch(
            self.rules.num_agents - 1 + seat,  # beyond the seats that are played: noise of its own
            np.array([episode.turns[seat].agent for episode in self.episodes]),
            np.arange(self.episode, self.episode + self.batch_size),
            [episode.turns[0].context for episode in self.episodes],
            self.episodes[0].turns[0].budget,
            self.rules.sampling,
            self.rules.seed,
        )

    def submit_rehearsal(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Takes what `begin_rehearsal` asked for: the text of each row is what its observer reads.

        Args:
            tokens: int (B, T), T up to the budget; what stands behind `lengths` is ignored.
            lengths: int (B,); each row's last token is EOS unless the budget is full.

        Raises:
            ConfigError: Nothing was asked for, or the arrays are not one whole turn.
        """
        if (turn := self.begin_rehearsal()) is None:
            raise ConfigError("submit_rehearsal where nothing is rehearsed; expected it after begin_rehearsal().")
        tokens, lengths = np.asarray(tokens), np.asarray(lengths)
        check_turn(tokens, lengths, self.batch_size)
        alone = [self.rules.start(int(number)) for number in turn.episodes]
        for episode, row, length in zip(alone, tokens.tolist(), lengths.tolist(), strict=True):
            episode.take(row[:length])
        for episode, rehearsed in zip(self.episodes, alone, strict=True):
            episode.hear(rehearsed.responses)

    def submit_turn(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        logprobs: np.ndarray | None = None,
        *,
        distributions: np.ndarray | Callable[[slice], Any] | None = None,
        values: np.ndarray | None = None,
    ) -> np.ndarray:
        """Plays the current turn in all rows.

        Args:
            tokens: int (B, T), T up to the budget; what stands behind `lengths` is ignored.
            lengths: int (B,); each row's last token is EOS unless the budget is full.
            logprobs: float (B, T), log pi of the behaviour policy; required by the KL modes
                "reported" and "loss".
            distributions: For the estimator "full": log pi over the vocabulary, (B, T, V), or a
                function that gives it for a slice of tokens, (m, V), so that it never exists as a
                whole; see `coevo_env.game.reference.ReferencePolicy.compare`.
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
        if self._columns is not None and self._columns.length:
            raise ConfigError("submit_turn in a turn that step() has begun; finish it with step().")
        tokens, lengths, config = np.asarray(tokens), np.asarray(lengths), self.rules.kl
        check_turn(tokens, lengths, self.batch_size)
        mask = np.arange(tokens.shape[1]) < lengths[:, None]
        logprobs = checked_report("logprobs", logprobs, mask, turn, config.mode)
        values = checked_report("values", values, mask, turn, config.mode)
        ref_logprobs, kl = np.zeros(tokens.shape), np.zeros(tokens.shape)
        turns = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        with self._whole_or_not_at_all(turn):
            for episode, row in zip(self.episodes, turns, strict=True):
                episode.take(row)
            tokens = np.where(mask, tokens, 0)
            if config.mode != "off":
                assert self.reference is not None
                ref_logprobs, kl = measured(config, self.reference, turn, tokens, lengths, logprobs, distributions)
            return self._finish(turn, tokens, lengths, mask, logprobs, ref_logprobs, kl, values)

    # ---------------------------------------------------------------- playing token by token
    @property
    def active(self) -> np.ndarray:
        """bool (B,): rows whose current turn is not finished; `step` ignores the tokens of the
        others."""
        if self.done:
            return np.zeros(self.batch_size, bool)
        return np.ones(self.batch_size, bool) if self._columns is None else self._columns.active.copy()

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
        columns = self._columns or Columns(self.rules, self.reference, self.episodes, turn)
        self._columns = columns
        played = columns.push(np.asarray(tokens), logprobs, distributions)
        t, lengths = columns.length - 1, columns.lengths
        if columns.active.any():
            paid = klmod.shaping(self.rules.kl.mode, self._betas(turn), columns.kl[:, t], columns.ref_logprobs[:, t])
            return np.where(played, paid, 0.0)
        mask = np.arange(turn.max_new_tokens) < lengths[:, None]
        arrays = (columns.logprobs, columns.ref_logprobs, columns.kl)
        with self._whole_or_not_at_all(turn):
            rewards = self._finish(turn, columns.tokens, lengths, mask, *arrays, None)[:, t]
        if self.scores is not None:  # rows that ended earlier are paid now
            rewards = np.where(lengths == t + 1, rewards, self.scores.team[:, -1])
        return rewards

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
            per_token = [record.series(row) for record in self._records]
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
            self._columns = None
            raise

    def _betas(self, turn: TurnBatch) -> np.ndarray:
        """KL coefficient of the agent in each row, (B,)."""
        return np.array([controller.beta for controller in self.controllers])[turn.agents]

    def _state(self, row: int, seat: int) -> list[int]:
        """What the seats before `seat` read and wrote."""
        return [
            token for turn in self.episodes[row].turns[:seat] for part in (turn.context, turn.tokens) for token in part
        ]

    def _finish(self, turn: TurnBatch, tokens, lengths, mask, logprobs, ref_logprobs, kl, values) -> np.ndarray:
        shaping = klmod.shaping(self.rules.kl.mode, self._betas(turn)[:, None], kl, ref_logprobs)
        shaping = np.where(mask, shaping, 0.0)  # (B, T)
        logprobs = np.zeros(tokens.shape) if logprobs is None else logprobs
        scores = score(self.rules, self.episodes) if turn.seat + 1 == self.rules.num_agents else None
        if scores is None and self.rules.context == "shuffled":
            self._shuffle(turn.seat + 1)
        self._records.append(TurnRecord(turn.agents, tokens, lengths, logprobs, ref_logprobs, kl, shaping, values))
        self._columns = None
        rewards = shaping.copy()
        if scores is not None:
            self.scores = scores
            rewards[np.arange(self.batch_size), lengths - 1] += scores.team[:, -1]
        return rewards

    def _shuffle(self, seat: int) -> None:
        """Lets each row hear what was said in a row about another prompt."""
        generator = rng(self.rules.seed, self.episode, seat, stream="strangers")
        said = [episode.responses for episode in self.episodes]
        for episode, other in zip(
            self.episodes, strangers([episode.prompt for episode in self.episodes], generator), strict=True
        ):
            episode.hear(said[other])

    def _finished(self, what: str) -> Scores:
        if self.scores is None:
            raise ConfigError(f"{what} before the batch is done; play the remaining turns first.")
        return self.scores


def _widen(array: np.ndarray, width: int) -> np.ndarray:
    """Pads the second axis with zeros."""
    return array if array.ndim == 1 or array.shape[1] == width else np.pad(array, ((0, 0), (0, width - array.shape[1])))
