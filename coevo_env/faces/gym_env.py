"""One agent learns, its partners are played for it: the game as a single-agent gymnasium
environment.

One idea: to a stock single-agent learner a partner is part of the world. `reset` and `step` play
the partners' turns, so the learner only ever sees steps in which it acts; which seat it has follows
the role schedule. Several learners take turns by handing their policies to `set_partner`.
Observations, actions, infos and episodes are those of `coevo_env.faces.aec`.

    >>> env = GymEnv(task="toy", seed=0)
    >>> env.set_partner(lambda context, tokens, mask, rng: 0)  # says EOS at once
    >>> observation, info = env.reset()
    >>> observation, reward, terminated, truncated, info = env.step(1)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from ..errors import ConfigError, unknown_name
from ..game.kl import Controller
from ..game.reference import ReferencePolicy
from ..game.task import Task
from ..rng import rng
from .build import agent_names
from .face import RENDER_MODES, Face, check_max_cycles, check_render_mode
from .token_game import TokenGame

__all__ = ["GymEnv", "Partner"]

Partner = Callable[[list[int], list[int], np.ndarray, np.random.Generator], int]
"""`(context ids, tokens of the turn so far, mask int8 (V,), generator) -> token id`: plays one
token of a partner's turn."""


class GymEnv(Face, gymnasium.Env):
    """The game seen by one agent.

    Args:
        task, model, num_agents, render_mode, max_cycles, options: As in
            `coevo_env.faces.aec.raw_env`, whose other keywords (`kl`, `mask`, `seed`, ...) are
            options here. KL is paid to the learner alone: partners report nothing.
        learner: The agent that learns, "llm1" .. "llmN". With `roles="never"` llm1 is always the
            pioneer.

    Attributes:
        rules, reference: The game and its reference policy (None with KL off).
        controllers: The learner's KL controller (and its idle partners'), by name.

    Raises:
        ConfigError: Anything that could not be played.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012  # gymnasium's way

    def __init__(
        self,
        task: str | Task = "sentiment",
        model: Any = None,
        *,
        num_agents: int = 2,
        learner: str = "llm1",
        render_mode: str | None = None,
        max_cycles: int | None = None,
        **options: Any,
    ):
        check_max_cycles(max_cycles)
        check_render_mode(render_mode)
        self.game = TokenGame(task, model, num_agents=num_agents, **options)
        self.possible_agents = agent_names(num_agents)
        if learner not in self.possible_agents:
            raise unknown_name("learner", learner, self.possible_agents)
        self.learner, self._learner = learner, self.possible_agents.index(learner)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.game.observation_space, self.game.action_space
        self.controllers: dict[str, Controller] = dict(zip(self.possible_agents, self.game.controllers, strict=True))
        self._partners: dict[int, Partner | ReferencePolicy | None] = {
            agent: self.game.reference for agent in range(num_agents) if agent != self._learner
        }

    def set_partner(self, policy: Partner | ReferencePolicy | None, agent: str | None = None) -> None:
        """Chooses who plays the partners from the next partner's turn on. At first that is the
        reference policy, or without one chance.

        Args:
            policy: A function `(context ids, tokens so far, mask, rng) -> token id`, or anything
                with the `cursor` of a `coevo_env.game.reference.ReferencePolicy`, which is sampled
                from; None plays legal tokens uniformly.
            agent: Which partner; None means all.

        Raises:
            ConfigError: No such partner, or a policy that is neither.
        """
        if policy is not None and not callable(policy) and not callable(getattr(policy, "cursor", None)):
            raise ConfigError(
                f"partner {policy!r} is a {type(policy).__name__}; expected a function (context, tokens, mask, rng) -> "
                "token id, "
                "or an object with `cursor(context, sampling)`."
            )
        names = {self.possible_agents[i]: i for i in self._partners}
        if agent is not None and agent not in names:
            raise unknown_name("partner", agent, names)
        for i in self._partners if agent is None else [names[agent]]:
            self._partners[i] = policy

    # ---------------------------------------------------------------- gymnasium
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode (see `raw_env.reset`) and plays it up to the learner's turn."""
        super().reset(seed=seed)
        self.game.reset(seed, options)
        self._play_partners()
        return self.game.observation(self._learner), self.game.info(self._learner)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Plays one token of the learner and, where that ended its turn, the partners that follow.

        Returns:
            Observation, reward (the token's KL shaping, and on the last token of the learner's turn
            the team reward as well), terminated, truncated (never), info.
        """
        reward = self.game.play(action)[self._learner]
        reward += self._play_partners()
        return self.game.observation(self._learner), reward, self.game.actor < 0, False, self.game.info(self._learner)

    def action_masks(self) -> np.ndarray:
        """Legal tokens now, bool of shape (V,), as sb3-contrib's MaskablePPO asks for them."""
        return self.game.action_mask(self._learner).astype(bool)

    def end_iteration(self, kl: float | Mapping[str, float], episodes: int) -> float:  # type: ignore[override]
        """Hands the learner's mean KL (nats per response) of `episodes` episodes to its controller;
        returns its new coefficient."""
        if isinstance(kl, Mapping):
            return super().end_iteration(kl, episodes)[self.learner]
        self.controllers[self.learner].update(float(kl), episodes)
        return self.controllers[self.learner].beta

    def _play_partners(self) -> float:
        """Plays until it is the learner's turn or the end; returns what the learner is paid
        meanwhile."""
        game, paid = self.game, 0.0
        while game.actor not in (self._learner, -1):
            paid += self._play_turn(game.actor)
        return paid

    def _play_turn(self, agent: int) -> float:
        """Plays a partner's whole turn; returns what the learner is paid."""
        game, policy = self.game, self._partners[agent]
        episode = game.episode
        assert episode is not None
        turn, rules, paid = episode.turn, game.rules, 0.0
        generator = rng(rules.seed, episode.index, turn.seat, stream="tokens")
        make = getattr(policy, "cursor", None)
        cursor: Any = make(turn.context, rules.sampling) if callable(make) else None
        while not turn.done:
            if cursor is not None:
                if turn.tokens:
                    cursor.push(turn.tokens[-1])
                token = _draw(np.exp(cursor.logprobs()), generator)
            else:
                mask = game.action_mask(agent)
                if policy is None:
                    token = _draw(mask.astype(np.float64), generator)
                else:
                    token = policy(list(turn.context), list(turn.tokens), mask, generator)  # type: ignore[operator]
            paid += game.play(token, pay=False)[self._learner]
        return paid


def _draw(weights: np.ndarray, generator: np.random.Generator) -> int:
    """A number drawn in proportion to weights (V,); one of weight 0 is never drawn."""
    total = np.cumsum(weights)
    token = int(np.searchsorted(total, generator.random() * total[-1], side="right"))
    return min(token, int(np.flatnonzero(weights)[-1]))  # rounding may have reached the total
