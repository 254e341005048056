"""How many tokens a turn may have: the same number for all, or one that is drawn.

One idea: a drawn budget is a function of the seed, the episode and the seat, as everything else of
an episode is, so whoever plays an episode again, or goes on from a checkpoint, has the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, whole
from ..rng import rng

__all__ = ["Budgets"]


@dataclass(frozen=True)
class Budgets:
    """Token budgets of turns, uniform from `least` to `most`, both included.

    Attributes:
        most: Tokens of the longest turn.
        least: Of the shortest budget; equal to `most` where none is drawn.
        every: Episodes in a row that have the same budgets.
        shortest: Tokens before which a turn cannot end (`min_new_tokens`).
    """

    most: int
    least: int
    every: int = 1
    shortest: int = 0

    def __post_init__(self) -> None:
        low = max(1, self.shortest)
        if not low <= whole("max_new_tokens_low", self.least, 1) <= self.most:
            raise ConfigError(
                f"max_new_tokens_low={self.least} with min_new_tokens={self.shortest} and max_new_tokens={self.most}; "
                f"expected {low} to {self.most}: budgets are drawn from it to max_new_tokens, and no turn may end "
                "before min_new_tokens."
            )
        whole("budget_every", self.every, 1, "episodes in a row that have the same budgets")

    @property
    def drawn(self) -> bool:
        """Whether they differ at all."""
        return self.least < self.most

    def of(self, seed: int, episode: int, seat: int) -> int:
        """The budget of the turn of a seat in an episode.

        >>> Budgets(15, 15).of(0, 7, 1)
        15
        """
        if not self.drawn:
            return self.most
        return int(rng(seed, episode // self.every, seat, stream="budgets").integers(self.least, self.most + 1))

    def check_batch(self, episode: int, size: int) -> None:
        """Whether episodes that are played side by side have the same budgets.

        Raises:
            ConfigError: They could have different ones.
        """
        if self.drawn and episode // self.every != (episode + size - 1) // self.every:
            raise ConfigError(
                f"episodes {episode} to {episode + size - 1} in one batch, with budgets that are drawn for every "
                f"{self.every} episodes; expected all of a batch to have the same. Give budget_every={size}, the "
                "size of the batch, and begin at a multiple of it."
            )
