"""AgileRL: the parallel face with observations that its networks read as names and not as
magnitudes.

One idea: AgileRL builds its networks from the observation space, so the tokens come one-hot, as
floats of shape (L (V + 1),); that is for small vocabularies. Masks are left out: its IPPO applies a
mask when it acts and forgets it when it learns, so the two probabilities of one action would
differ. A forbidden token is played as it is (`coevo_env.faces.aec`); tasks whose tokens are all
legal lose nothing.

AgileRL gives agents that are called `x_0` and `x_1` one
policy between them; ours are called `llm1`, `llm2`, and each has its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from coevo_env.errors import ConfigError
from coevo_env.faces.parallel import TextParallelEnv

from . import require

__all__ = ["MAX_INPUTS", "parallel_env"]

MAX_INPUTS = 1_000_000
"""The widest one-hot observation that is not refused."""


class OneHotTextEnv(TextParallelEnv):
    """The parallel face without masks and with one-hot tokens, float32 (L (V + 1),)."""

    def __init__(self, *args: Any, **options: Any):
        if options.get("mask", "none") != "none" or options.get("attention_mask"):
            raise ConfigError(
                "the AgileRL face with mask= or attention_mask=; its IPPO forgets masks when it learns. Leave both out."
            )
        super().__init__(*args, **{**options, "mask": "none"})
        length, words = self.game.length, self.rules.vocab_size + 1
        if length * words > MAX_INPUTS:
            raise ConfigError(
                f"task {self.rules.task.name!r} has {length} positions of {words} tokens, {length * words} one-hot "
                "inputs for AgileRL; expected at most "
                f"{MAX_INPUTS}. Use a task with a smaller vocabulary, or coevo_env.parallel_env(mask='none') with an "
                "encoder of your own."
            )
        self._one_hot = np.eye(words, dtype=np.float32)
        self.observation_spaces = dict.fromkeys(self.possible_agents, spaces.Box(0, 1, (length * words,), np.float32))

    def observations(self) -> dict[str, np.ndarray]:
        """What every agent sees now, as one-hot tokens."""
        return {agent: self._one_hot[tokens].reshape(-1) for agent, tokens in super().observations().items()}


def parallel_env(task: Any = "sentiment", **options: Any) -> OneHotTextEnv:
    """A game for AgileRL's multi-agent algorithms.

    Args:
        task, options: As in `coevo_env.parallel_env`, without `mask` and `attention_mask`.

    Raises:
        MissingExtraError, ConfigError: AgileRL is missing or of another version, the game could not
            be played, or it is too wide.
    """
    require("agilerl")
    return OneHotTextEnv(task, **options)
