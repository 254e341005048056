"""What the token-level faces (AEC, parallel, gymnasium) share beyond the game itself.

One idea: a face holds a `TokenGame` and the names of its agents; everything that every face offers
under the same name is written here once. The API of each library is its face's own business.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError, unknown_name
from ..game.reference import ReferencePolicy
from ..game.rules import Rules
from .token_game import TokenGame

__all__ = ["RENDER_MODES", "Face", "check_max_cycles", "check_render_mode", "role_options", "shown"]

RENDER_MODES = ("ansi", "human", "rgb_array")


class Face:
    """Mixed into each face, before the class of its library.

    Attributes:
        game: The game being played.
        possible_agents: Names by agent index.
        render_mode: None, "ansi", "human" or "rgb_array".
    """

    game: TokenGame
    possible_agents: list[str]
    render_mode: str | None

    @property
    def rules(self) -> Rules:
        """The `coevo_env.Rules` being played."""
        return self.game.rules

    @property
    def reference(self) -> ReferencePolicy | None:
        """The reference policy, None with KL off."""
        return self.game.reference

    def report(self, logprob: float, distribution: Any = None) -> None:
        """In KL modes "reported" and "loss", tells log pi(a|s) of the action that the next `step`
        will bring; required before each one.

        Args:
            logprob: Natural log-prob under the game's temperature and mask.
            distribution: Log-probs of all tokens, shape (V,), for the estimator "full".

        Raises:
            ConfigError: A report too many, at the wrong time, or in another mode.
        """
        self.game.report(logprob, distribution)

    def transcript(self) -> dict[str, Any]:
        """The episode so far as plain data, see `coevo_env.game.transcript`."""
        return self.game.transcript(self.possible_agents)

    def render(self) -> str | np.ndarray | None:
        """The episode so far: returned as text ("ansi"), printed ("human"), or as a picture, uint8
        (480, 640, 3) ("rgb_array")."""
        return shown(self.transcript(), self.render_mode)

    def close(self) -> None:
        """Nothing to release."""

    def end_iteration(self, kl: Mapping[str, float], episodes: int) -> dict[str, float]:
        """Hands each agent's mean KL (nats per response) of `episodes` episodes to its controller.

        Returns:
            The KL coefficient of each agent from the next episode on.
        """
        names = self.possible_agents
        if set(kl) != set(names):
            raise ConfigError(f"end_iteration got the KL of {sorted(kl)}; expected one number for each of {names}.")
        return dict(zip(names, self.game.end_iteration([kl[name] for name in names], episodes), strict=True))


def shown(transcript: dict[str, Any], mode: str | None) -> str | np.ndarray | None:
    """An episode by a render mode, see `Face.render`."""
    if mode is None:
        raise ConfigError(
            "render() with render_mode=None; make the environment with render_mode='ansi', 'human' or 'rgb_array'."
        )
    if mode == "rgb_array":
        from ..view.picture import picture

        return picture(transcript)
    from ..view.render import ansi

    if mode == "ansi":
        return ansi(transcript)
    print(ansi(transcript, color=sys.stdout.isatty()))
    return None


def check_render_mode(mode: str | None) -> None:
    """Refuses a render mode that no face knows."""
    if mode is not None and mode not in RENDER_MODES:
        raise unknown_name("render_mode", mode, RENDER_MODES)


def check_max_cycles(max_cycles: int | None) -> None:
    """Turn-based play ends by itself, so `max_cycles` (which `pettingzoo.make` may pass) has
    nothing to limit; only its type is checked."""
    if max_cycles is not None and (not isinstance(max_cycles, (int, np.integer)) or max_cycles < 1):
        raise ConfigError(
            f"max_cycles={max_cycles!r}; expected None or a whole number >= 1 (it has no effect: every turn has a "
            "budget)."
        )


def role_options(agent_ids: str, options: dict[str, Any]) -> dict[str, Any]:
    """With agent_ids="role" agent k sits in seat k, so nobody ever changes seats."""
    if agent_ids != "role":
        return options
    if options.get("roles", "never") != "never":
        raise ConfigError(
            f"agent_ids='role' with roles={options['roles']!r}; agents that are roles keep their seats. Leave `roles` "
            "out."
        )
    return {**options, "roles": "never"}
