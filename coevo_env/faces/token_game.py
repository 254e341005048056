"""The game played one token at a time: what the AEC, the parallel and the gymnasium face have in
common.

One idea: a face asks this object what an agent sees, may do and is paid, and only arranges the
answers in the shape its API wants. It adds to `Episode` the reference policy's log-prob of
each token, the reward of each token, and arrays. Agents are numbers here; names, like `pettingzoo`,
belong to the faces. It takes one token of one episode at a time: whole turns of many episodes are
`coevo_env.faces.batch`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
from gymnasium import spaces

from ..errors import ConfigError, NonFiniteError, unknown_name, whole
from ..game.kl import (
    ESTIMATORS,
    FULL,
    MIN_LOGPROB,
    STRICT,
    KLConfig,
    finite_kl,
    full_kl,
    make_controller,
    normalised,
    shaping,
)
from ..game.rules import Episode, Turn
from ..game.scoring import Scores, score
from ..game.transcript import make_transcript
from .build import build

__all__ = ["TokenGame"]

MASKS = ("observation", "info", "none")
DTYPES = ("int64", "float32")


class _Record:
    """What the tokens of one turn were paid; the lists are empty where nothing is known."""

    __slots__ = ("kl", "kls", "logprobs", "refs", "shaping")

    def __init__(self) -> None:
        self.kl = 0.0
        self.kls: list[float] = []
        self.logprobs: list[float] = []
        self.refs: list[float] = []
        self.shaping: list[float] = []


class TokenGame:
    """One episode at a time, one token at a time.

    Args:
        task, model, kl, options: As in `coevo_env.faces.build.build`; kl None is "off".
        mask: Where the mask of legal tokens goes: in the "observation", in the "info", or nowhere
            ("none").
        token_dtype: "int64", or "float32" for libraries that take no integers.
        attention_mask: Whether observations also carry a mask of the positions that hold a token.
        seed: Seed of prompts and roles; None takes one from the operating system.

    Attributes:
        rules, reference: The game and its frozen policy (None when KL is off).
        controllers: One KL controller for each agent.
        reports: Whether each token needs a `report` first (KL modes "reported" and "loss").
        episode: The `Episode` being played, None before `reset`.
        actor: Index of the agent whose turn it is, -1 when the episode is over.
        observation_space, action_space, state_space: The same objects for all agents and for ever.
    """

    def __init__(
        self,
        task: Any = "sentiment",
        model: Any = None,
        *,
        kl: KLConfig | str | None = None,
        mask: str = "observation",
        token_dtype: str = "int64",
        attention_mask: bool = False,
        seed: int | None = None,
        **options: Any,
    ):
        if mask not in MASKS:
            raise unknown_name("mask", mask, MASKS)
        if token_dtype not in DTYPES:
            raise unknown_name("token_dtype", token_dtype, DTYPES)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
        self.rules, self.reference = build(task, model, kl="off" if kl is None else kl, seed=seed, **options)
        rules = self.rules
        rules.check_alone()
        self.controllers = [make_controller(rules.kl) for _ in range(rules.num_agents)]
        self.mask, self.attention_mask = mask, bool(attention_mask)
        self._shapes = rules.kl.mode != "off"  # whether tokens are paid KL
        self._mode, self._estimator = rules.kl.mode, rules.kl.estimator
        self._estimate: Any = ESTIMATORS.get(self._estimator)  # None where whole distributions are compared
        self.reports = self._mode in STRICT
        self._dtype = np.dtype(token_dtype)

        vocab, self.length = rules.vocab_size, rules.max_context + rules.max_new_tokens
        self._early = rules.sampling.mask(vocab, 0)  # (V,) int8, before min_new_tokens
        self._late = rules.sampling.mask(vocab, rules.max_new_tokens)  # (V,) int8, from then on
        self._noop = np.zeros(vocab, np.int8)  # (V,)
        self._noop[rules.eos_id] = 1  # the one legal action of an agent that is not acting; it has no effect

        tokens = spaces.Box(0, vocab, (self.length,), self._dtype.type)
        parts: dict[str, spaces.Space] = {"observation": tokens}
        if mask == "observation":
            parts["action_mask"] = spaces.Box(0, 1, (vocab,), np.int8)
        if attention_mask:
            parts["attention_mask"] = spaces.Box(0, 1, (self.length,), np.int8)
        self.observation_space: spaces.Space = spaces.Dict(parts) if len(parts) > 1 else tokens
        self.action_space = spaces.Discrete(vocab)
        self.state_space = spaces.Box(0, vocab, (rules.num_agents, self.length), np.int64)

        self.episode: Episode | None = None
        self.actor = -1
        self._next = 0
        self._report: tuple[float, np.ndarray | None] | None = None

    # ---------------------------------------------------------------- playing
    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> None:
        """Starts an episode: number 0 of `seed`, number `options["episode"]` where given, else the
        one after the last."""
        pending, self._report = self._report, None
        if pending is not None:
            raise ConfigError(
                "reset() while a reported log-prob waits for its step; expected step(action) after each "
                "report(logprob). "
                "The report is dropped; call reset() again to start a new episode."
            )
        if seed is not None:
            self.rules, self._next = self.rules.reseeded(seed), 0
        number = (options or {}).get("episode")
        if number is not None:
            self._next = whole("reset option episode", number, 0)
        rules = self.rules
        self.episode = episode = rules.start(self._next)
        self._next += 1
        count, vocab = rules.num_agents, rules.vocab_size
        self.seat_of = [0] * count  # agent -> seat
        for seat, agent in enumerate(episode.seats):
            self.seat_of[agent] = seat
        self.betas = [controller.beta for controller in self.controllers]  # fixed for the episode
        self._rows = np.full((count, self.length), vocab, np.int64)  # (N, L), seats in order of play
        self._prompt = np.full(self.length, vocab, np.int64)  # (L,) what an agent sees before its turn
        self._prompt[: len(episode.turn.context)] = episode.turn.context
        self._sizes = [len(episode.turn.context)] * count  # by seat: how many ids its agent sees
        self._records = [_Record() for _ in range(count)]  # by seat
        zeros = np.zeros((1, count))
        self._publish(Scores(dict.fromkeys(rules.term_names, zeros), zeros, zeros))
        self._begin_turn()

    def report(self, logprob: float, distribution: Any = None) -> None:
        """Takes what the acting policy thinks of the token that the next `play` will bring.

        Args:
            logprob: log pi(a|s), natural log, under the temperature and mask of the game.
            distribution: log pi(.|s), shape (V,), for the estimator "full".

        Raises:
            ConfigError: KL is not in mode "reported", there is nothing to report now, or the
                numbers are no log-probs.
        """
        if not self.reports:
            raise ConfigError(
                f"report() with KL mode {self.rules.kl.mode!r}; it is for the modes 'reported' and 'loss'. Leave the "
                "call out."
            )
        if self.episode is None or self.episode.done:
            raise ConfigError(
                "report() while no episode is being played; expected it after reset() and before each step()."
            )
        if self._report is not None:
            raise ConfigError(
                "report() twice for one token; expected exactly one report(logprob) before each step(action)."
            )
        try:
            value = float(logprob)
        except (TypeError, ValueError):
            raise ConfigError(
                f"report({logprob!r}); expected the natural log-prob of the next action, one float."
            ) from None
        if not (math.isfinite(value) and value <= 1e-3):
            raise NonFiniteError(f"report({value!r}); expected a finite natural log-prob, which is never above 0.")
        if self._estimator == FULL:
            if distribution is None:
                raise ConfigError(
                    "report(logprob) with estimator 'full'; pass distribution=, the log-probs of all tokens, too."
                )
            distribution = np.asarray(distribution, np.float64)
            if distribution.shape != (self.rules.vocab_size,) or not normalised(distribution):
                raise ConfigError(
                    f"report(distribution=) of shape {distribution.shape} with total probability "
                    f"{np.exp(distribution).sum():.6g}; "
                    f"expected normalised log-probs of shape ({self.rules.vocab_size},)."
                )
        self._report = (value, distribution)

    def play(self, action: Any, pay: bool = True) -> list[float]:
        """Plays one token of the acting agent.

        Args:
            action: Any id in [0, V): a Python int, a NumPy integer or a 0-d array. A masked id is
                played as it is; its reference log-prob is `kl.MIN_LOGPROB`.
            pay: Whether KL is measured and paid for this token (a partner that nobody trains is not
                paid).

        Returns:
            The reward of each agent.

        Raises:
            ConfigError: The action is no id, no episode is being played, or a report is missing.
        """
        episode = self.episode
        if episode is None or episode.done:
            raise ConfigError("step() while no episode is being played; call reset() first.")
        try:
            token = index(action)
        except TypeError:
            raise ConfigError(
                f"action {action!r} is a {type(action).__name__}; expected a token id, a whole number."
            ) from None
        if not 0 <= token < self.rules.vocab_size:
            raise ConfigError(f"action {token}; expected a token id in [0, {self.rules.vocab_size}).")
        turn, actor = episode.turns[-1], self.actor
        seat, reward, paid = turn.seat, 0.0, pay and self._shapes
        if paid:
            reward = self._shape(turn, token)
        self._rows[seat, self._sizes[seat]] = token
        self._sizes[seat] += 1
        rewards = [0.0] * len(self.betas)
        if not episode.append(token):
            if paid:
                self._cursor.push(token)
        else:
            self._begin_turn()
            if episode.done:
                rewards = self.settle(score(self.rules, [episode]))
        rewards[actor] += reward
        return rewards

    # ---------------------------------------------------------------- playing many games at once
    def push(self, token: int, ref_logprob: float | None = None) -> float:
        """Plays a token of the acting agent like `play`, but asks no model and no reward function:
        whoever holds many games asks them for all at once. After the last one `settle` is due.

        Args:
            token: An id in [0, V).
            ref_logprob: log pi_ref of it, at least `kl.MIN_LOGPROB`; None where KL is not paid.

        Returns:
            What KL shaping pays for it in mode "reference".
        """
        turn, reward = self.episode.turn, 0.0  # type: ignore[union-attr]
        if ref_logprob is not None:
            reward = shaping(self._mode, self.betas[turn.agent], 0.0, ref_logprob)
            self._records[turn.seat].refs.append(ref_logprob)
            self._records[turn.seat].shaping.append(reward)
        self._write(turn.seat, [token])
        if self.episode.append(token):  # type: ignore[union-attr]
            self._begin_turn()
        return reward

    def take(self, tokens: list[int]) -> None:
        """Plays a whole turn of an agent that is not paid KL; see `push`."""
        seat = self.episode.turn.seat  # type: ignore[union-attr]
        self.episode.take(tokens)  # type: ignore[union-attr]
        self._write(seat, tokens)
        self._begin_turn()

    def settle(self, scores: Scores) -> list[float]:
        """Takes the scores of the finished episode, a batch of one; returns each agent's team
        reward."""
        self._publish(scores)
        return [self._earned[seat]["team_reward"] for seat in self.seat_of]

    def _write(self, seat: int, tokens: list[int]) -> None:
        size = self._sizes[seat]
        self._rows[seat, size : size + len(tokens)] = tokens
        self._sizes[seat] = size + len(tokens)

    def _begin_turn(self) -> None:
        """The turn that the last token has begun, or the end of the episode."""
        turn = self.episode.turn  # type: ignore[union-attr]
        if turn.done:
            self.actor = -1
            return
        self.actor = turn.agent
        self._cursor: Any = None  # made when the first token is scored
        self._sizes[turn.seat] = size = len(turn.context)
        self._rows[turn.seat, :size] = turn.context

    def _shape(self, turn: Turn, token: int) -> float:
        """The KL reward of a token, before it is played."""
        if self.reports and self._report is None:
            raise ConfigError(
                f"step() without a reported log-prob; KL mode {self._mode!r} needs report(logprob) before each "
                "step(action). "
                "Use kl='reference' if the learner cannot report, or kl='off'."
            )
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self.reference.cursor(turn.context, self.rules.sampling)  # type: ignore[union-attr]
        row = cursor.logprobs()  # (V,)
        ref = float(row[token])
        if not ref >= MIN_LOGPROB:
            if math.isnan(ref):
                raise NonFiniteError(
                    f"the reference policy gave log-prob {ref} for token {token} at position {len(turn.tokens)} of "
                    "prompt "
                    f"{self.episode.prompt_index} of task {self.rules.task.name!r}; expected a number."  # type: ignore[union-attr]
                )
            ref = MIN_LOGPROB
        record, kl = self._records[turn.seat], 0.0
        if self._report is not None:
            (logprob, distribution), self._report = self._report, None
            kl = self._estimate(logprob - ref) if distribution is None else float(full_kl(distribution, row))
            if not math.isfinite(kl):
                raise NonFiniteError(
                    f"the KL estimate {self._estimator!r} of the reported log-prob {logprob} against {ref:.4g} of the "
                    f"reference is {kl}; expected "
                    "a finite number. Nothing was played; report() the log-prob under which the action was sampled."
                )
            record.logprobs.append(logprob)
            record.kls.append(kl)
            record.kl += kl
        record.refs.append(ref)
        reward = shaping(self._mode, self.betas[turn.agent], kl, ref)
        record.shaping.append(reward)
        return reward

    def _publish(self, scores: Scores) -> None:
        self.scores = scores
        task, team = scores.task[0].tolist(), scores.team[0].tolist()
        terms = {f"reward/{name}": values[0].tolist() for name, values in scores.terms.items()}
        self._earned = [  # by seat
            {
                "task_reward": task[seat],
                "team_reward": team[seat],
                **{name: values[seat] for name, values in terms.items()},
            }
            for seat in range(len(task))
        ]

    # ---------------------------------------------------------------- seeing
    def observation(self, agent: int) -> Any:
        """What an agent sees: the prompt before its turn, then what it reads in its role followed
        by its own tokens. A fresh array."""
        episode = self.episode
        if episode is None:
            raise ConfigError("observe() before the first reset(); call reset() first.")
        seat = self.seat_of[agent]
        row = self._rows[seat] if seat < len(episode.turns) else self._prompt
        tokens = row.astype(self._dtype)  # (L,), a copy
        if self.mask != "observation" and not self.attention_mask:
            return tokens
        parts = {"observation": tokens}
        if self.mask == "observation":
            parts["action_mask"] = self.action_mask(agent)
        if self.attention_mask:
            parts["attention_mask"] = (row != self.rules.vocab_size).astype(np.int8)
        return parts

    def action_mask(self, agent: int) -> np.ndarray:
        """Legal tokens, int8 of shape (V,), never all zero: an agent that is not acting has EOS,
        which does nothing. A fresh array."""
        if agent != self.actor:
            return self._noop.copy()
        position = len(self.episode.turns[-1].tokens)  # type: ignore[union-attr]
        return (self._early if position < self.rules.sampling.min_new_tokens else self._late).copy()

    def info(self, agent: int) -> dict[str, Any]:
        """Numbers about an agent's turn, with constant keys; the docstring of `coevo_env.faces.aec`
        defines each."""
        episode = self.episode
        if episode is None:
            raise ConfigError("infos before the first reset(); call reset() first.")
        seat = self.seat_of[agent]
        begun = seat < len(episode.turns)
        turn = episode.turns[seat] if begun else None
        record = self._records[seat]
        info = {
            "episode_index": episode.index,  # not "episode": gymnasium and SB3 keep their statistics under that key
            "prompt_index": episode.prompt_index,
            "seat": seat,
            "acting": 1 if agent == self.actor else 0,
            "length": len(turn.tokens) if turn else 0,
            "cut": 1 if turn and turn.cut else 0,
            "beta": self.betas[agent],
            "kl": record.kl,
            "ref_logprob": record.refs[-1] if record.refs else 0.0,
            **self._earned[seat],
        }
        if self.mask == "info":
            info["action_mask"] = self.action_mask(agent)
        return info

    def state(self) -> np.ndarray:
        """What everybody has read and written: int64 (N, L), seats in order of play; a turn not
        begun is all padding. A fresh array."""
        if self.episode is None:
            raise ConfigError("state() before the first reset(); call reset() first.")
        return self._rows.copy()

    def transcript(self, names: Sequence[str]) -> dict[str, Any]:
        """The episode so far as plain data, see `coevo_env.game.transcript`; what is not known
        before the end is None.

        Args:
            names: Names of the agents.
        """
        episode = self.episode
        if episode is None:
            raise ConfigError("transcript() before the first reset(); call reset() first.")
        series = []
        for turn in episode.turns:
            record = self._records[turn.seat]
            known = {
                "logprobs": record.logprobs,
                "ref_logprobs": record.refs,
                "kl": record.kls,
                "shaping": record.shaping,
            }
            series.append({name: values or None for name, values in known.items()})
        data = make_transcript(episode, names, series, self.scores, 0)
        if not episode.done:
            data["turns"][-1]["text"] = self.rules.text(episode.turn.tokens, episode.turn.context)
            for turn in data["turns"]:
                turn.update(task_reward=None, team_reward=None, terms={})
        return data

    def end_iteration(self, kl: Sequence[float], episodes: int) -> list[float]:
        """Hands each agent's mean KL of an iteration (nats per response) to its controller; returns
        the new coefficients."""
        if len(kl) != len(self.controllers):
            raise ConfigError(
                f"end_iteration() got {len(kl)} KL values; expected {len(self.controllers)}, one for each agent."
            )
        values = [finite_kl(float(value)) for value in kl]  # all are checked before any beta moves
        for controller, value in zip(self.controllers, values, strict=True):
            controller.update(value, episodes)
        return [controller.beta for controller in self.controllers]
