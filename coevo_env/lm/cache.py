"""A KV cache of transformers that grows in place.

One idea: `DynamicCache` copies all that it holds whenever a token is added, so that a turn of T
tokens copies as T^2, several times what attention itself reads. Here keys and values are written
behind those before, into room for more; only where that is used up, or rows have left, are they
copied. `coevo_env.lm.gpt2` has a cache of its own.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch

__all__ = ["growing"]


def growing(room: int = 0) -> Any:
    """An empty cache, for passes without gradients.

    Args:
        room: Positions that will be read in all; 0 if that is not known.
    """
    from transformers import DynamicCache

    made: Any = DynamicCache()
    if getattr(made, "layer_class_to_replicate", None) is not None:  # earlier releases have no layers
        made.layer_class_to_replicate = partial(_layer(), room)
    return made


@cache
def _layer() -> type:
    """The class of a layer; made when it is asked for, because transformers takes long to
    import."""
    from transformers.cache_utils import DynamicLayer

    class Growing(DynamicLayer):
        """Keys and values (B, heads, L, .), as views of larger tensors."""

        def __init__(self, room: int):
            super().__init__()
            self.room, self.whole = room, {}

        def update(self, key_states, value_states, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            assert self.keys is not None and self.values is not None
            self.keys = keys = self._behind("keys", self.keys, key_states)
            self.values = values = self._behind("values", self.values, value_states)
            return keys, values

        def _behind(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            before = held.shape[-2] if held.numel() else 0
            after, whole = before + new.shape[-2], self.whole.get(name)
            if whole is None or whole.data_ptr() != held.data_ptr() or whole.shape[-2] < after:
                most = after + after // 2
                room = min(most, self.room) if self.room >= after else most
                whole = self.whole[name] = new.new_empty(*new.shape[:-2], room, new.shape[-1])
                if before:
                    whole[..., :before, :] = held
            whole[..., before:after, :] = new
            return whole[..., :after, :]

    return Growing
