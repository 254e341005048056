"""What a model's linear layers said while turns were sampled, so that the first gradient pass over
those turns need not ask them again.

One idea: a gradient pass right after sampling computes what sampling has just computed, from the
same weights, contexts and tokens, and nearly all of that work is products with weight matrices. A
`Tape` keeps the products. The pass then runs the model's own code once more, but looks each product
up; norms, attention and adapters, which are cheap, are computed as ever, and so are all
derivatives. Nothing here knows the architecture: a layer that is not one of the plain linear ones,
or is called more than once in a pass, is simply computed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

__all__ = ["Tape", "find"]


class Tape:
    """The record of one call of `LanguageModel.generate`. It belongs to the weights that it was
    made with: whoever changes them drops it.

    Args:
        model: The transformer without its output layer.
        limit: Bytes that it may take; a call that needs more is not recorded.

    Attributes:
        contexts: B lists of ids.
        tokens, lengths: int64 (B, T) and (B,), as sampled.
        different, spread: The U different contexts, and which of them each row has, int64 (B,).
        kept: Whether the call was recorded.
    """

    def __init__(self, model: torch.nn.Module, limit: int):
        from transformers.pytorch_utils import Conv1D

        self.layers: list[Any] = [
            layer
            for name, layer in model.named_modules()
            if type(layer) in (torch.nn.Linear, Conv1D) and ".lora_" not in name
        ]
        self.limit, self.kept = limit, False
        self._outputs: list[list[torch.Tensor]] = []  # of each layer, one for each pass
        self._rows: list[torch.Tensor] = []  # rows still playing in each pass
        self.contexts: Sequence[Sequence[int]] = []
        self.different: Sequence[Sequence[int]] = []
        self.spread, self.tokens, self.lengths = (
            np.zeros(0, np.int64),
            np.zeros((0, 0), np.int64),
            np.zeros(0, np.int64),
        )

    # ---------------------------------------------------------------- while sampling
    @contextlib.contextmanager
    def recording(self, states: int) -> Iterator[None]:
        """Keeps what the layers return inside; `states` is how many positions are read at most."""
        self._outputs, self._rows, self.kept = [], [], False
        widths = sum(
            layer.weight.numel() // layer.weight.shape[1 - _side(layer)] * layer.weight.element_size()
            for layer in self.layers
        )
        if states * widths > self.limit:
            yield
            return
        self._outputs = [[] for _ in self.layers]
        with _patched(
            self.layers,
            [partial(_kept, layer.forward, into) for layer, into in zip(self.layers, self._outputs, strict=True)],
        ):
            yield

    def before(self, rows: torch.Tensor) -> None:
        """A pass is about to be made, of these rows; the first pass reads the different
        contexts."""
        self._rows.append(rows)

    def close(self, contexts, different, spread: np.ndarray | None, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """What the passes were about."""
        if not self._outputs:
            return
        self.contexts, self.different, self.tokens, self.lengths = contexts, different, tokens, lengths
        self.spread = np.arange(len(contexts)) if spread is None else spread
        whole = [self._whole(kept) for kept in self._outputs]
        self.layers = [layer for layer, good in zip(self.layers, whole, strict=True) if good]
        self._outputs = [kept for kept, good in zip(self._outputs, whole, strict=True) if good]
        self.kept = True

    def _whole(self, kept: list[torch.Tensor]) -> bool:
        """Whether a layer was asked once in each pass, for rows and their columns; some flatten the
        two, and cannot be looked up. An output that was changed in place afterwards is no longer
        what the layer said."""
        first = (len(self.different), max(map(len, self.different)))
        shapes = [first, *((len(rows), 1) for rows in self._rows[1:])]
        return len(kept) == len(shapes) and all(
            output.dim() == 3 and output.shape[:2] == shape and not output._version
            for output, shape in zip(kept, shapes, strict=True)
        )

    # ---------------------------------------------------------------- while learning
    @contextlib.contextmanager
    def playing(self, part: str) -> Iterator[None]:
        """Layers return what they did for the different "contexts", (U, L, .), or for the "tokens"
        but the last of each row, (B, T - 1, .)."""
        take = _first if part == "contexts" else self._tokenwise
        with _patched(
            self.layers,
            [
                partial(_looked_up, layer, partial(take, kept))
                for layer, kept in zip(self.layers, self._outputs, strict=True)
            ],
        ):
            yield

    def _tokenwise(self, kept: list[torch.Tensor]) -> torch.Tensor:
        """Outputs at the tokens as (B, T - 1, .), 0 where a row had ended."""
        size, steps = len(self.contexts), kept[1:]
        if all(len(step) == size for step in steps):
            return torch.cat(steps, 1)
        result = steps[0].new_zeros(size, len(steps), steps[0].shape[-1])
        for number, (rows, step) in enumerate(zip(self._rows[1:], steps, strict=True)):
            result[rows, number] = step[:, 0]
        return result


def find(
    tapes: Sequence[Tape], contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray
) -> list[np.ndarray] | None:
    """Where turns stand on tapes: which tape and which of its rows, int64 (B,) each; None if one of
    them is on none."""
    places: dict[tuple, tuple[int, int]] = {}
    for number, tape in enumerate(tapes):
        if tape.kept:
            for row, key in enumerate(_keys(tape.contexts, tape.tokens, tape.lengths)):
                places[key] = (number, row)
    found = [places.get(key) for key in _keys(contexts, tokens, lengths)]
    if any(place is None for place in found):
        return None
    return list(np.array(found).T)


def _keys(contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray) -> list[tuple]:
    return [
        (tuple(context), tuple(row[:length]))
        for context, row, length in zip(contexts, tokens.tolist(), lengths, strict=True)
    ]


class _Product(torch.autograd.Function):
    """x W^T + b of a linear layer, where the result is known."""

    @staticmethod
    def forward(ctx, x, weight, bias, known, side: int):
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.side = side
        return known.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):  # type: ignore[override]
        x, weight = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = slope @ (weight if ctx.side == 0 else weight.T)
        flat = slope.reshape(-1, slope.shape[-1])
        if ctx.needs_input_grad[1]:
            inputs = x.reshape(-1, x.shape[-1])
            dw = flat.T @ inputs if ctx.side == 0 else inputs.T @ flat
        if ctx.needs_input_grad[2]:
            db = flat.sum(0)
        return dx, dw, db, None, None


def _side(layer: Any) -> int:
    """Which side of its weight matrix a layer's outputs are on: 0 for `torch.nn.Linear`, 1 for the
    transposed one of GPT-2."""
    return 0 if type(layer) is torch.nn.Linear else 1


def _kept(forward: Any, into: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    into.append(forward(x))
    return into[-1]


def _first(kept: list[torch.Tensor]) -> torch.Tensor:
    return kept[0]


def _looked_up(layer: Any, look: Callable[[], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    known = look()
    if x.shape[:-1] != known.shape[:-1]:  # the pass is not the one that was recorded
        return type(layer).forward(layer, x)
    result: Any = _Product.apply(x, layer.weight, layer.bias, known, _side(layer))
    return result


@contextlib.contextmanager
def _patched(layers: Sequence[Any], forwards: Sequence[Any]) -> Iterator[None]:
    """Layers with another `forward` inside."""
    own = [vars(layer).get("forward") for layer in layers]  # other libraries do this too
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = forward
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
