"""The parallel view of the game: every agent acts at every step, and only the acting agent's action
counts (PettingZoo ParallelEnv).

One idea: a library that wants all agents at once sees the same turns as the AEC face; whoever is
not acting has a mask with one legal action, EOS, which does nothing (info `acting` is 0). It is a
face of `coevo_env.faces.token_game` of its own and not a conversion, because PettingZoo's
turn-based conversion puts a string into the infos. Observations, rewards, infos and episodes are
described in `coevo_env.faces.aec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from ..errors import ConfigError
from ..game.kl import Controller
from ..game.task import Task
from .build import agent_names
from .face import RENDER_MODES, Face, check_max_cycles, check_render_mode, role_options
from .token_game import TokenGame

__all__ = ["TextParallelEnv", "parallel_env"]


class TextParallelEnv(Face, ParallelEnv):
    """All agents act; the acting agent's token is played.

    Args:
        task, model, num_agents, agent_ids, render_mode, max_cycles, options: As in
            `coevo_env.faces.aec.raw_env`, whose other keywords (`kl`, `mask`, `seed`, ...) are
            options here.

    Attributes:
        rules, reference: The game and its reference policy (None with KL off).
        controllers: One KL controller per agent, by name.

    Raises:
        ConfigError: Anything that could not be played.
    """

    # PettingZoo's way
    metadata = {"name": "coevo_text_v0", "render_modes": list(RENDER_MODES), "is_parallelizable": True, "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        task: str | Task = "sentiment",
        model: Any = None,
        *,
        num_agents: int = 2,
        agent_ids: str = "agent",
        render_mode: str | None = None,
        max_cycles: int | None = None,
        **options: Any,
    ):
        check_max_cycles(max_cycles)
        check_render_mode(render_mode)
        self.game = TokenGame(task, model, num_agents=num_agents, **role_options(agent_ids, options))
        self.render_mode = render_mode
        self.possible_agents = agent_names(num_agents, agent_ids)
        self.agents = []
        self.observation_spaces = dict.fromkeys(self.possible_agents, self.game.observation_space)
        self.action_spaces = dict.fromkeys(self.possible_agents, self.game.action_space)
        self.state_space = self.game.state_space
        self.controllers: dict[str, Controller] = dict(zip(self.possible_agents, self.game.controllers, strict=True))

    def observation_space(self, agent: str) -> spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Starts an episode: number 0 of `seed`, number `options["episode"]`, or the next one.
        Other options are ignored.

        Returns:
            Observations and infos of all agents.
        """
        self.game.reset(seed, options)
        self.agents = self.possible_agents[:]
        return self.observations(), self._infos()

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict[str, float], dict[str, bool], dict[str, bool], dict]:
        """Plays the acting agent's token; what the others do is ignored.

        Args:
            actions: A token id for the acting agent, at least.

        Returns:
            Observations, rewards, terminations, truncations (all False) and infos of all agents.

        Raises:
            ConfigError: No action of the acting agent, no token id, or no episode.
        """
        if not self.agents:
            raise ConfigError("step() while no episode is being played; call reset() first.")
        actor = self.possible_agents[self.game.actor]
        if actor not in actions:
            raise ConfigError(
                f"step() with actions of {sorted(actions)}; expected one of {actor!r}, whose turn it is (info `acting` "
                "is 1)."
            )
        rewards = dict(zip(self.possible_agents, self.game.play(actions[actor]), strict=True))
        over = self.game.actor < 0
        if over:
            self.agents = []
        names = self.possible_agents
        return self.observations(), rewards, dict.fromkeys(names, over), dict.fromkeys(names, False), self._infos()

    def state(self) -> np.ndarray:
        """int64 (N, L): what each seat has read and written, in order of play, V where there is
        nothing."""
        return self.game.state()

    @property
    def acting(self) -> str | None:
        """The agent whose turn it is; None between episodes."""
        return self.possible_agents[self.game.actor] if self.agents else None

    def observations(self) -> dict[str, Any]:
        """What every agent sees now, in fresh arrays."""
        return {name: self.game.observation(i) for i, name in enumerate(self.possible_agents)}

    def _infos(self) -> dict[str, dict[str, Any]]:
        return {name: self.game.info(i) for i, name in enumerate(self.possible_agents)}


def parallel_env(**kwargs: Any) -> TextParallelEnv:
    """Makes the parallel view. Keywords as in `coevo_env.faces.aec.raw_env`."""
    return TextParallelEnv(**kwargs)
