"""A causal language model as functions of tensors: ids in, states and logits out, with a KV cache
or without.

One idea: what an architecture is found to be able to do (`probe`) is settled when it is loaded, and
from then on there is one way to ask it. Nothing here knows turns, sampling or learning.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import ConfigError
from . import probe
from .cache import growing
from .gpt2 import GPT2, KeysAndValues
from .logits import BLOCK
from .pretrained import quietly
from .tally import Tally
from .tokenizer import TextTokenizer, ends_of

__all__ = ["SMALL", "Network", "positions_of"]

View = TypeVar("View", bound="Network")

SMALL = 10_000_000
"""Parameters below which the calls around tensor operations cost more than the operations, and CPU
threads wait for each other."""


class Network:
    """See `coevo_env.lm.model.LanguageModel`, which is one.

    Attributes:
        causal, backbone, head: The model without adapters around it, what makes its hidden states,
            and what makes logits of these.
        scale, cap: What the model does to the product of its head.
        gives_hidden: Whether states are hidden states. They are logits where nobody knows how the
            model makes those.
        fixed: Names of parameters that are no weights, such as tables of sines: the architecture
            freezes them.
        max_positions: Positions that may be used, None where the model does not say. Fewer than it
            has where its rotary factors switch with the longest row of a batch.
        takes_grid: Whether a cached step takes a ready-made mask.
        short: The short way through a small GPT-2.
        tally: What it has been asked to do, through this view.
    """

    def __init__(self, module: Any, tokenizer: TextTokenizer, adapter: str | None = None):
        self.tokenizer = tokenizer
        self.entered: list[str | None] = []
        self.short: GPT2 | None = None
        self._hold(module, adapter)
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
        self.fixed = frozenset(frozen if len(frozen) < len(list(module.parameters())) else ())
        config = self.causal.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self.tokenizer = tokenizer.with_ends(ends_of(getattr(self.causal, "generation_config", None), config))
        if self.tokenizer.vocab_size != self.vocab_size:
            raise ConfigError(
                f"the tokenizer knows {self.tokenizer.vocab_size} ids and the model {self.vocab_size}; they do not "
                "belong together."
            )
        self.is_small = sum(parameter.numel() for parameter in module.parameters()) < SMALL
        self.max_positions = getattr(config, "max_position_embeddings", None)
        with quietly():  # what is tried may look odd to transformers
            self.hidden_size, self.scale, self.cap, self.gives_hidden = probe.head(self)
            step = probe.check(self)
            self.max_positions = probe.positions(self)
            self.takes_grid = probe.takes_grid(self, step)
            self.short = probe.short_way(self)

    def _hold(self, module: Any, adapter: str | None) -> None:
        """Takes up a model, of which nothing is known yet, or everything by another one like it."""
        self.module, self.adapter, self.tally = module.eval(), adapter, Tally()
        self.is_peft = hasattr(module, "get_base_model")  # peft leaves other marks on what it has merged
        if self.is_peft and any(config.is_prompt_learning for config in module.peft_config.values()):
            raise ConfigError(
                "the model carries adapters that put something before the text (prompt learning); expected adapters of "
                "its layers, such as LoRA."
            )
        self.causal = module.get_base_model() if self.is_peft else module
        self.backbone, self.cache_name = probe.backbone(self.causal)
        taken = inspect.signature(self.causal.forward).parameters
        self._keep_logits = "logits_to_keep" in taken
        self.head = self.causal.get_output_embeddings()

    def around(self: View, module: Any, adapter: str | None = None) -> View:
        """A view of another module of the same architecture and configuration, which need not be
        tried again: a copy, or the model with adapters."""
        view = copy.copy(self)
        view.entered, short = [], self.short is not None
        view._hold(module, adapter)
        view.short = GPT2(view.backbone) if short and not view.is_peft else None
        return view

    @property
    def plain_head(self) -> bool:
        """Whether logits are the product of the head and nothing else."""
        transformed = self.scale != 1 or self.cap is not None
        return self.gives_hidden and not transformed and type(self.head) is torch.nn.Linear and self.head.bias is None

    @property
    def why_positions(self) -> str:
        """Why there are fewer positions than the configuration says, or nothing."""
        declared = getattr(self.causal.config.get_text_config(), "max_position_embeddings", None)
        if declared == self.max_positions:
            return ""
        return (
            f" of {declared} in which a row does not depend on how long its neighbours are (its rotary factors switch)"
        )

    @property
    def device(self) -> torch.device:
        """Where the model is, and ids have to be."""
        return self.head.weight.device

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Makes the module behave as this view while inside, and afterwards as the view inside
        which this one was asked for, if there is one."""
        if not self.is_peft:
            yield
            return
        outer = self.entered[-1] if self.entered else self.adapter
        tuner: Any = self.module.base_model
        self.entered.append(self.adapter)
        try:
            if self.adapter is None:
                with self.module.disable_adapter():
                    yield
            else:
                if outer is None:
                    tuner.enable_adapter_layers()
                self._switch(self.adapter)
                yield
        finally:
            self.entered.pop()
            if outer is not None and self.adapter is not None:
                self._switch(outer)
            elif outer is None and self.adapter is not None:
                tuner.disable_adapter_layers()
            if self.adapter is None or outer is None:
                self._thaw()

    def _switch(self, adapter: str) -> None:
        if self.module.active_adapter != adapter:
            self.module.set_adapter(adapter)
            self._thaw()

    def _thaw(self) -> None:
        """peft freezes what is not active, and a graph over two adapters would lose gradients."""
        for name, parameter in self.module.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(True)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits (M, V) of hidden states (M, H); to be asked while `active`, as the head
        may have adapters too."""
        return self.transformed(self.head(hidden)) if self.gives_hidden else hidden

    def transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """What the model does to the product of its head, in the order and precision in which
        models do it."""
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def left_padded(self, contexts, room: int = 0) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Ids (B, L), mask (None without padding) and positions of ragged contexts; refused where
        `room` more would be too many."""
        lengths = np.array([len(context) for context in contexts])
        width = int(lengths.max())
        self.check_length(width, room)
        ids = np.full((len(contexts), width), self.tokenizer.eos_id)
        for row, context in enumerate(contexts):
            ids[row, width - len(context) :] = context
        tensor = torch.as_tensor(ids, device=self.device)
        if lengths.min() == width:  # no padding, no mask: attention takes its fast causal path
            return tensor, None, positions_of(tensor, None)
        mask = torch.as_tensor((np.arange(width) >= width - lengths[:, None]).astype(np.int64), device=self.device)
        return tensor, mask, positions_of(tensor, mask)

    def check_length(self, width: int, room: int = 0) -> None:
        """Refuses sequences of `width` tokens, and `room` more to come, where they are too long."""
        if self.max_positions is not None and width + room > self.max_positions:
            response = f" and a response of up to {room}" if room else ""
            raise ConfigError(
                f"a sequence of {width} tokens{response}, but the model has {self.max_positions} positions"
                f"{self.why_positions}; lower max_context or max_new_tokens."
            )

    def new_cache(self, room: int = 0) -> Any:
        """An empty KV cache, for `room` positions if that is known."""
        if self.short:
            return KeysAndValues(0 if torch.is_grad_enabled() else room)
        if not torch.is_grad_enabled():
            return growing(room)
        from transformers import DynamicCache

        return DynamicCache()

    def states(self, ids, mask, positions, keep: int, cache=None) -> torch.Tensor:
        """States of the last `keep` columns, (B, keep, H): hidden states, or logits without
        `gives_hidden`."""
        if self.short:
            return self.short(ids, mask, positions, cache)[:, -keep:]
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": cache is not None,
        }
        if cache is not None:
            inputs[self.cache_name] = cache
        if self.gives_hidden:
            return self.backbone(**inputs).last_hidden_state[:, -keep:]
        if self._keep_logits:
            inputs["logits_to_keep"] = keep
        return self.causal(**inputs).logits[:, -keep:]

    def last(self, ids, mask, positions, cache) -> tuple[torch.Tensor, torch.Tensor]:
        """The state (B, H) of the last column, and its logits (B, V)."""
        state = self.states(ids, mask, positions, 1, cache)[:, 0]
        if (
            self.plain_head and self.vocab_size > 4 * BLOCK and state.device.type == "cpu"
        ):  # block by block, the weights stay in the cache
            return state, torch.cat([state @ part.T for part in self.head.weight.split(BLOCK)], -1)
        return state, self.logits(state)


def positions_of(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Position (B, L) of each id in its row, padding on the left not counted."""
    if mask is None:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    return (mask.cumsum(1) - 1).clamp_(min=0)
