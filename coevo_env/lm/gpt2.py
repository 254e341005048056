"""The forward pass of GPT-2 in as few tensor operations as it needs, for models so small that the
calls around the operations cost more than they do.

One idea: it computes what `transformers.GPT2Model` computes, from the same tensors and with the
same derivatives, and `LanguageModel` uses it only after it has compared the two on the model at
hand. Models of any size would do; large ones gain nothing by it.

Source: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

__all__ = ["GPT2", "KeysAndValues"]


class KeysAndValues:
    """What attention has already read: for each layer keys and values (B, heads, L, H / heads).

    Args:
        room: Positions that will be read in all, which are then written into place; 0 if that is
            not known, or if gradients are to flow.
    """

    def __init__(self, room: int = 0) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.room, self.read = room, 0

    def extend(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds those of new positions to a layer and returns all; a pass that has been through all
        layers raises `read`."""
        past, after = self.layers.get(layer), self.read + keys.shape[2]
        if self.room:
            if past is None:
                shape = (*keys.shape[:2], self.room, keys.shape[3])
                past = (keys.new_empty(shape), keys.new_empty(shape))
            past[0][:, :, self.read : after], past[1][:, :, self.read : after] = keys, values
        else:
            past = (keys, values) if past is None else (torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2))
        self.layers[layer] = past
        return past[0][:, :, :after], past[1][:, :, :after]

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """Keeps some rows, in the order given; the name is that of transformers' caches."""
        self.layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()}


class GPT2:
    """The pass; it reads the parameters of a model, and has none of its own.

    Args:
        model: A `transformers.GPT2Model`.
    """

    def __init__(self, model: Any):
        self.heads, self.width = model.config.n_head, model.config.n_embd
        self.words, self.places = model.wte.weight, model.wpe.weight
        self.layers = [
            (
                *(
                    (block.ln_1.weight, block.ln_1.bias, block.ln_1.eps),
                    (block.attn.c_attn.bias, block.attn.c_attn.weight),
                ),
                *(
                    (block.attn.c_proj.bias, block.attn.c_proj.weight),
                    (block.ln_2.weight, block.ln_2.bias, block.ln_2.eps),
                ),
                *((block.mlp.c_fc.bias, block.mlp.c_fc.weight), (block.mlp.c_proj.bias, block.mlp.c_proj.weight)),
            )
            for block in model.h
        ]
        self.final = (model.ln_f.weight, model.ln_f.bias, model.ln_f.eps)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model is a GPT-2 without any of the variations that its configuration
        allows."""
        config = model.config
        return (
            type(model).__name__ == "GPT2Model"
            and config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
            and config.scale_attn_weights
            and not (
                config.scale_attn_by_inverse_layer_idx or config.reorder_and_upcast_attn or config.add_cross_attention
            )
        )

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: KeysAndValues | None = None
    ) -> torch.Tensor:
        """Last hidden states (B, L, H).

        Args:
            ids, positions: int64 (B, L).
            mask: Over all positions, those in the cache included, 1 where there is a token: (B, S);
                or bool (B, 1, 1, S) where L = 1; None is ones.
            cache: Grows by the L positions.
        """
        (rows, length), width, heads = ids.shape, self.width, self.heads
        before = 0 if cache is None else cache.read
        allowed = _allowed(mask, before, length, ids.device)
        causal = allowed is None and length > 1
        h = functional.embedding(ids, self.words) + functional.embedding(positions, self.places)
        h = h.view(-1, width)  # (B * L, H)
        for number, (norm, joint, out, norm_2, wide, narrow) in enumerate(self.layers):
            x = torch.addmm(joint[0], functional.layer_norm(h, (width,), *norm), joint[1])  # (B * L, 3 H)
            q, k, v = (
                x.view(rows, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
            )  # (B, heads, L, H / heads)
            if cache is not None:
                k, v = cache.extend(number, k, v)
            x = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal)
            h = h + torch.addmm(out[0], x.transpose(1, 2).reshape(-1, width), out[1])
            x = torch.addmm(wide[0], functional.layer_norm(h, (width,), *norm_2), wide[1])
            h = h + torch.addmm(narrow[0], functional.gelu(x, approximate="tanh"), narrow[1])
        if cache is not None:
            cache.read += length
        return functional.layer_norm(h, (width,), *self.final).view(rows, length, width)


def _allowed(mask: torch.Tensor | None, before: int, length: int, device: torch.device) -> torch.Tensor | None:
    """What each new position may look at, bool broadcasting to (B, 1, L, S); None where that is
    everything up to itself and `before` is 0 or L is 1."""
    if mask is None and (length == 1 or before == 0):
        return None
    if mask is not None and mask.dim() == 4:
        return mask
    places = torch.arange(before + length, device=device)
    new = places[before:, None]  # (L, 1)
    reads = True if mask is None else mask.bool()[:, None, None]  # (B, 1, 1, S)
    return (reads & (places <= new)) | (places == new)  # padding looks at itself: a softmax over nothing would be NaN
