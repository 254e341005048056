"""Draws turns from a language model, token by token on a KV cache.

One idea: rows leave. Equal contexts are read once and then spread, and a row whose turn has ended
leaves the batch and the cache, so that what is left is as small as what is still being said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..game.sampling import Sampling
from .logits import invert, warp_logits
from .network import Network
from .tape import Tape

__all__ = ["Generation", "distinct", "sample"]


@dataclass(frozen=True)
class Generation:
    """Sampled turns.

    Attributes:
        tokens: int64 (B, T), 0 behind `lengths`.
        lengths: int64 (B,).
        logprobs: float64 (B, T), of the tokens under the warp they were drawn with; 0 behind
            `lengths`.
        values: float64 (B, T) or None: what `value` said of the state in which each token was
            chosen.
        states: (B, T, H) or None: these states, where they were asked for; 0 behind `lengths`.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    values: np.ndarray | None = None
    states: torch.Tensor | None = None


@torch.no_grad()
def sample(
    network: Network,
    contexts: Sequence[Sequence[int]],
    budget: int,
    sampling: Sampling,
    uniforms: np.ndarray,
    value: Callable[[torch.Tensor], torch.Tensor] | None = None,
    tape: Tape | None = None,
    keep: bool = False,
) -> Generation:
    """A turn for each context; arguments and errors are those of `LanguageModel.generate`."""
    playing, device = _Rows(network, contexts, budget), network.device
    tokens = torch.zeros(len(contexts), budget, dtype=torch.int64, device=device)  # (B, T)
    logprobs = torch.zeros(len(contexts), budget, device=device)
    values = torch.zeros(len(contexts), budget, device=device)
    lengths = torch.full((len(contexts),), budget, dtype=torch.int64, device=device)
    states: torch.Tensor | None = None  # (B, T, H)
    noise = torch.as_tensor(np.asarray(uniforms), dtype=torch.float32, device=device)
    with network.active(), tape.recording(playing.reads) if tape else contextlib.nullcontext():
        for t in range(budget):
            rows = playing.rows
            if tape:
                tape.before(rows)
            hidden, logits = playing.read(t)
            scores = warp_logits(logits, sampling, t)  # (B', V)
            top = scores.amax(-1, keepdim=True)
            mass = (scores - top).exp()  # one pass over the vocabulary both normalises and draws
            normal = top + mass.sum(-1, keepdim=True).log()
            chosen = scores.argmax(-1, keepdim=True) if sampling.temperature == 0 else invert(mass, noise[rows, t])
            tokens[rows, t] = chosen[:, 0]
            logprobs[rows, t] = (scores.gather(-1, chosen) - normal)[:, 0]
            if value is not None:
                values[rows, t] = value(hidden).float()
            if keep:
                states = hidden.new_zeros(*tokens.shape, hidden.shape[-1]) if states is None else states
                states[rows, t] = hidden
            going = chosen[:, 0] != sampling.eos_id
            for end in sampling.eos_ids[1:]:
                going &= chosen[:, 0] != end
            lengths[rows[~going]] = t + 1
            if t + 1 == budget or not playing.go_on(chosen, going):
                break
    longest = int(lengths.max())
    said, ends = tokens[:, :longest].cpu().numpy(), lengths.cpu().numpy()
    if tape:
        tape.close(contexts, playing.different, playing.place, said, ends)
    return Generation(
        said,
        ends,
        logprobs[:, :longest].double().cpu().numpy(),
        values[:, :longest].double().cpu().numpy() if value is not None else None,
        None if states is None else states[:, :longest],
    )


class _Rows:
    """Rows that are still playing.

    Attributes:
        rows: int64 (B',), their numbers.
        different, place: The different contexts and which of them each row has, see `distinct`.
        reads: How many positions are read at most.
    """

    def __init__(self, network: Network, contexts: Sequence[Sequence[int]], budget: int):
        self.network, self.budget = network, budget
        self.different, self.place = distinct(contexts)  # equal contexts are read once
        self.ids, self.mask, self.positions = network.left_padded(self.different, room=budget)
        self.width = self.ids.shape[1]
        self.rows = torch.arange(len(contexts), device=network.device)
        self.cache = network.new_cache(self.width + budget)
        self.grid: torch.Tensor | None = None  # (B', 1, 1, L + T): what may be looked at, made once for the turn
        self.reads = len(self.different) * self.width + len(contexts) * (budget - 1)

    def read(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """States (B', H) and logits (B', V) from which token `t` is chosen."""
        seen = self.mask if self.grid is None else self.grid[..., : self.width + t]
        hidden, logits = self.network.last(self.ids, seen, self.positions, self.cache)
        if t == 0 and self.place is not None:
            spread = torch.as_tensor(self.place, device=self.network.device)
            self.cache.batch_select_indices(spread)
            hidden, logits, self.positions = hidden[spread], logits[spread], self.positions[spread]
            self.mask = None if self.mask is None else self.mask[spread]
        return hidden, logits

    def go_on(self, chosen: torch.Tensor, going: torch.Tensor) -> bool:
        """Takes the tokens (B', 1) that were chosen; rows that are not `going` leave. Returns
        whether any are left."""
        left = int(going.sum())
        if left == 0:
            return False
        self.ids, self.positions = chosen, self.positions[:, -1:] + 1
        if self.mask is not None and self.network.takes_grid:
            if self.grid is None:
                self.grid = torch.nn.functional.pad(self.mask, (0, self.budget), value=1)[:, None, None].bool()
        elif self.mask is not None:
            self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        if left < len(self.rows):
            keep = going.nonzero()[:, 0]
            self.cache.batch_select_indices(keep)
            self.rows, self.ids, self.positions = self.rows[keep], self.ids[keep], self.positions[keep]
            self.mask = None if self.mask is None else self.mask[keep]
            self.grid = None if self.grid is None else self.grid[keep]
        return True


def distinct(contexts: Sequence[Sequence[int]]) -> tuple[Sequence[Sequence[int]], np.ndarray | None]:
    """The different contexts, and for each row which of them it has; None where too few are equal
    for sharing to pay."""
    numbers: dict[tuple[int, ...], int] = {}
    place = [numbers.setdefault(tuple(context), len(numbers)) for context in contexts]
    if 2 * len(numbers) > len(contexts):
        return contexts, None
    return [list(context) for context in numbers], np.array(place)
