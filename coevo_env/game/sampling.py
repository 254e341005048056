"""What warps a next-token distribution: temperature, top-k, top-p, and the mask of legal tokens.

One idea: the warp is data that travels with the tokens, so that sampling and scoring apply the same
one and agree. The mask and the temperature belong to the game and also renormalise the reference
policy; top-k and top-p belong to the sampler alone, because a truncated reference would make the KL
infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..errors import ConfigError, whole

__all__ = ["Sampling"]


@dataclass(frozen=True)
class Sampling:
    """A warp of next-token distributions.

    Attributes:
        temperature: Divides the logits; 0 means greedy (for evaluation: its log-probs are those of
            temperature 1).
        top_k: Keep the k most probable tokens; 0 keeps all.
        top_p: Keep the smallest set of most probable tokens whose mass reaches p; 1 keeps all.
        min_new_tokens: What ends a turn is masked until the response has this many tokens.
        eos_id: The token that ends a turn, the first of `eos_ids`.
        banned: Ids that are never legal (padding, unused rows of the embedding).
        eos_ids: All tokens that end a turn; by default `eos_id` alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_new_tokens: int = 0
    eos_id: int = 0
    banned: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature={self.temperature!r}; expected a finite number >= 0 (0 is greedy).")
        whole("top_k", self.top_k, 0, "0 keeps all tokens")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p!r}; expected a number in (0, 1] (1 keeps all tokens).")
        object.__setattr__(self, "eos_ids", tuple(self.eos_ids) or (self.eos_id,))
        if self.eos_ids[0] != self.eos_id:
            raise ConfigError(f"eos_id={self.eos_id} and eos_ids={self.eos_ids}; expected eos_id as the first of them.")
        for end in self.eos_ids:
            if end in self.banned:
                raise ConfigError(f"token {end} is EOS and banned; a turn could then never end before its budget.")

    @property
    def truncates(self) -> bool:
        """Whether top-k or top-p cuts the support."""
        return self.top_k > 0 or self.top_p < 1

    @cached_property
    def reference(self) -> Sampling:
        """The warp under which the reference policy is scored: the same mask and temperature, no
        truncation."""
        return replace(self, top_k=0, top_p=1.0)

    def illegal(self, position: int) -> tuple[int, ...]:
        """Ids that are masked at `position` (0 is the first token of the response)."""
        return (*self.banned, *self.eos_ids) if position < self.min_new_tokens else self.banned

    def mask(self, vocab_size: int, position: int) -> np.ndarray:
        """Legal tokens at `position` as an int8 array of shape (V,)."""
        mask = np.ones(vocab_size, np.int8)
        mask[list(self.illegal(position))] = 0
        return mask
