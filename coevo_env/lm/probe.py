"""What an architecture can do, found out by trying it on a few ids when it is loaded.

One idea: no list of architectures. A model is asked in the ways in which it is going to be asked
later, and what comes out is compared with its own plain pass; what cannot be trusted is refused
before anything is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError, first_line
from .gpt2 import GPT2

if TYPE_CHECKING:
    from .network import Network

__all__ = ["cache_name", "cached_state", "head", "short_way", "takes_grid"]


def cache_name(model: Any) -> str:
    """What a model calls the KV cache that it is given: newer releases of transformers say "cache".

    Raises:
        ConfigError: It takes none.
    """
    taken = inspect.signature(model.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in taken:
            return name
    raise ConfigError(f"{type(model).__name__} takes no KV cache; expected a transformer with one. Use another model.")


@torch.no_grad()
def head(network: Network) -> tuple[int, float, float | None, bool]:
    """How logits come from the last hidden state: its width, what the product of the head is scaled
    and capped by, and whether that is all there is to it. What the configuration declares is tried
    first, as small logits look the same without it."""
    ids = torch.arange(4, device=network.device)[None] % network.vocab_size
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    logits, hidden = network.causal(**inputs).logits, network.backbone(**inputs).last_hidden_state
    width = int(hidden.shape[-1])
    try:
        product = network.head(hidden)
    except RuntimeError:  # something stands between them
        product = hidden
    for scale, cap in _transformations(network.causal.config.get_text_config()):
        ours = product if scale == 1 else product * scale
        ours = ours if cap is None else torch.tanh(ours / cap) * cap
        if ours.shape == logits.shape and torch.allclose(
            ours.to(logits.dtype), logits, atol=1e-4, rtol=1e-4, equal_nan=True
        ):
            return width, scale, cap, True
    return width, 1.0, None, False


def _transformations(config: Any) -> Iterator[tuple[float, float | None]]:
    """What a model may do to the product of its head, as (scale, cap): Cohere, Granite and
    Falcon-H1 scale it, Gemma-2 and its like cap it. What the configuration declares comes first,
    (1, None) last."""

    def declared(name: str) -> float | None:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, (int, float)) and value > 0 else None

    divisor = declared("logits_scaling")
    scales = (declared("logit_scale"), divisor and 1 / divisor, declared("lm_head_multiplier"), 1.0)
    for cap in (declared("final_logit_softcapping"), None):
        yield from ((scale, cap) for scale in scales if scale is not None)


def _trial(network: Network) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and positions (2, 4) to try a model with; the second row begins with padding."""
    ids = torch.arange(8, device=network.device).reshape(2, 4) % network.vocab_size
    mask = torch.ones_like(ids)
    mask[1, 0] = 0
    return ids, mask, (mask.cumsum(1) - 1).clamp_(min=0)


def _cached_step(network: Network, last_mask: torch.Tensor) -> torch.Tensor:
    """The last states (2, 1, H) of `_trial`, in a step of its own on a cache of the columns
    before."""
    (ids, mask, positions), cache = _trial(network), network.new_cache()
    network.states(ids[:, :-1], mask[:, :-1], positions[:, :-1], 1, cache)
    return network.states(ids[:, -1:], last_mask, positions[:, -1:], 1, cache)


@torch.no_grad()
def cached_state(network: Network) -> torch.Tensor:
    """The state (2, 1, H) that a model gives in a cached step after padding.

    Raises:
        ConfigError: It is not that of a plain pass: the model would sample from one distribution
            and learn about another.
    """
    ids, mask, _ = _trial(network)
    kind, expected = (
        type(network.causal).__name__,
        "expected a transformer with a KV cache that takes left padding. Use another model.",
    )
    try:
        step = _cached_step(network, mask)
        row = ids[1:, 1:]
        plain = network.states(row, None, torch.arange(row.shape[1], device=row.device)[None], 1)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(
            f"{kind} cannot be asked for one token after another ({first_line(error)}); {expected}"
        ) from error
    apart = float((step[1:].double() - plain.double()).norm() / plain.double().norm())
    if apart > 4 * torch.finfo(network.head.weight.dtype).eps ** 0.5:  # more than rounding can add up to
        raise ConfigError(
            f"{kind} gives a state {apart:.0%} off when it reads token by token behind padding instead of all at once; "
            f"{expected}"
        )
    return step


@torch.no_grad()
def takes_grid(network: Network, step: torch.Tensor) -> bool:
    """Whether a ready-made boolean mask (B, 1, 1, L) does in a cached step what a 2-D mask does in
    `step`, so that the model need not derive it in every step. Models with sliding windows make
    masks of several kinds and are left alone."""
    config = network.causal.config.get_text_config()
    if getattr(config, "sliding_window", None) or set(getattr(config, "layer_types", None) or ["full_attention"]) != {
        "full_attention"
    }:
        return False
    _, mask, _ = _trial(network)
    try:
        ready = _cached_step(network, mask[:, None, None].bool())
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return bool(torch.allclose(step, ready, atol=1e-5, rtol=1e-4)) and bool(step.isfinite().all())


@torch.no_grad()
def short_way(network: Network) -> GPT2 | None:
    """The short way through the model, where it is a small GPT-2 and the way leads to the same
    states."""
    if network.is_peft or not (network.is_small and network.gives_hidden and GPT2.fits(network.backbone)):
        return None
    (ids, mask, positions), short = _trial(network), GPT2(network.backbone)
    ours, theirs = short(ids, mask, positions), network.states(ids, mask, positions, ids.shape[1])
    return short if torch.allclose(ours[mask.bool()], theirs[mask.bool()], atol=1e-4, rtol=1e-4) else None
