"""What an architecture can do, found out by trying it on a few ids when it is loaded.

One idea: no list of architectures. A model is asked in the ways in which it is going to be asked
later, and what comes out is compared with its own plain pass: one row, without mask, positions or
cache. What must not depend on something, does not by its derivative, which is exactly 0 or is not,
however small the weights are. What cannot be trusted is refused before anything is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError, first_line, short_of_memory
from .gpt2 import GPT2

if TYPE_CHECKING:
    from .network import Network

__all__ = ["FAILURES", "apart", "backbone", "check", "head", "positions", "short_way", "takes_grid", "trial"]

LENGTH = 6
"""Ids of the longest row of a trial, where the model has as many positions."""

FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What models raise that cannot be asked in some way."""


def backbone(causal: Any) -> tuple[Any, str]:
    """What makes the hidden states of a model, and what it calls the KV cache that it is given:
    newer releases of transformers say "cache".

    Raises:
        ConfigError: It takes none.
    """
    decoder = getattr(causal, "get_decoder", lambda: None)()
    for model in (causal.base_model, decoder, getattr(causal, "model", None)):
        taken = () if model is causal or model is None else inspect.signature(model.forward).parameters
        for name in ("cache", "past_key_values"):
            if name in taken:
                return model, name
    raise ConfigError(
        f"{type(causal.base_model).__name__} takes no KV cache; expected a transformer with one. Use another model."
    )


@torch.no_grad()
def head(network: Network) -> tuple[int, float, float | None, bool]:
    """How logits come from the last hidden state: its width, what the product of the head is scaled
    and capped by, and whether that is all there is to it. What the configuration declares is tried
    first, as small logits look the same without it."""
    ids = _row(network)
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
        if ours.shape == logits.shape and not apart(network, ours, logits) > 0:
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


# -------------------------------------------------------------------- what it is asked
def _row(network: Network, start: int = 0) -> torch.Tensor:
    """Ids (1, 6), other ones for another start; the ids that the configuration has a use for are
    among them."""
    config = network.causal.config.get_text_config()
    length = min(LENGTH, getattr(config, "max_position_embeddings", None) or LENGTH)
    ids = (torch.arange(start, start + length) % network.vocab_size).tolist()
    for place, name in enumerate(("pad_token_id", "eos_token_id", "bos_token_id")):
        known = getattr(config, name, None)
        if isinstance(known, int) and 0 <= known < network.vocab_size and place + 1 < length:
            ids[place + 1] = known
    return torch.tensor([ids], device=network.device)


def trial(network: Network) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and positions (2, 6) to try a model with; the second row begins with padding."""
    ids = torch.cat([_row(network), _row(network, 3)])
    mask = torch.ones_like(ids)
    mask[1, : max(0, min(2, ids.shape[1] - 2))] = 0
    return ids, mask, (mask.cumsum(1) - 1).clamp_(min=0)


def _plain(network: Network, ids: torch.Tensor) -> torch.Tensor:
    """The model's own states (1, L, H) of a row."""
    if network.gives_hidden:
        return network.backbone(input_ids=ids, use_cache=False).last_hidden_state
    return network.causal(input_ids=ids, use_cache=False).logits


def apart(network: Network, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """By which share of their size states differ, 0 where that is no more than rounding can add
    up to. NaN on both sides is no difference: such a model is told when it is used."""
    ours, theirs = ours.double(), theirs.double()
    both = ours.isnan() & theirs.isnan()
    ours, theirs = ours.masked_fill(both, 0.0), theirs.masked_fill(both, 0.0)
    share = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))
    return 0.0 if share <= 2 * torch.finfo(network.head.weight.dtype).eps ** 0.6 else share


def _step(network: Network, last_mask: torch.Tensor | None = None) -> torch.Tensor:
    """The last states (2, 1, H) of `trial`, in a step of its own on a cache of the columns before,
    whose rows were exchanged and exchanged back."""
    (ids, mask, places), cache = trial(network), network.new_cache()
    network.states(ids[:, :-1], mask[:, :-1], places[:, :-1], 1, cache)
    for _ in range(2):
        cache.batch_select_indices(torch.tensor([1, 0], device=ids.device))
    return network.states(ids[:, -1:], mask if last_mask is None else last_mask, places[:, -1:], 1, cache)


# -------------------------------------------------------------------- whether it can be trusted
@torch.no_grad()
def check(network: Network) -> torch.Tensor:
    """Tries all the ways in which a model is going to be asked, and returns its states (2, 1, H) in
    a cached step after padding, for `takes_grid`.

    Raises:
        ConfigError: One of them does not give the states of the plain pass: the model would sample
            from one distribution and learn about another.
    """
    ids, mask, places = trial(network)
    expected = [_plain(network, row[None, first:]) for row, first in zip(ids, (~mask.bool()).sum(1), strict=True)]
    own = "is given the positions 0, 1, 2, ... in place of its own"
    _same(network, own, lambda: network.states(ids[:1], None, places[:1], ids.shape[1]), expected[0])
    slopes = _slopes(network)
    _blind(network, "a later token", torch.stack([slopes[0][0, -1], slopes[1][1, -1]]))
    _blind(network, "another row of the batch", torch.stack([slopes[0][1], slopes[1][0]]))
    ends = torch.cat([states[:, -1:] for states in expected])
    step = _same(network, "reads token by token behind padding instead of all at once", lambda: _step(network), ends)
    _same(
        network,
        "reads behind padding",
        lambda: network.states(ids, mask, places, ids.shape[1])[mask.bool()],
        torch.cat([states[0] for states in expected]),
    )
    if ids.shape[1] == LENGTH:
        _same(network, "reads several turns after one context", lambda: _turns(network, ids), expected[0][0, 2:])
    _blind(network, "padding", slopes[1][1][~mask[1].bool()])
    return step


def _same(network: Network, way: str, ask: Callable[[], torch.Tensor], theirs: torch.Tensor) -> torch.Tensor:
    """What a model says when it is asked in some way.

    Raises:
        ConfigError: It cannot, or says something else than it does in its plain pass.
    """
    kind = type(network.causal).__name__
    wanted = "expected a transformer with a KV cache that takes left padding. Use another model."
    try:
        ours = ask()
    except FAILURES as error:
        if short_of_memory(error):
            raise
        raise ConfigError(f"{kind} fails when it {way} ({first_line(error)}); {wanted}") from error
    if ours.shape != theirs.shape or (share := apart(network, ours, theirs)) > 0:
        off = "of another shape" if ours.shape != theirs.shape else f"{100 * share:.2g}% off"
        raise ConfigError(f"{kind} gives a state {off} when it {way}; {wanted}")
    return ours


def _turns(network: Network, ids: torch.Tensor) -> torch.Tensor:
    """States (4, H) of the last ids of row 0, when they are read at once after a context that two
    turns share, of which the other is shorter and the context of a third begins with padding."""
    context = torch.cat([ids[:1, :2], ids[1:, :2]])
    mask = torch.ones_like(context)
    mask[1, 0] = 0
    cache = network.new_cache()
    network.states(context, mask, (mask.cumsum(1) - 1).clamp_(min=0), 1, cache)
    rows = torch.tensor([1, 0, 0], device=ids.device)
    cache.batch_select_indices(rows)
    read = torch.ones(3, 4, dtype=mask.dtype, device=ids.device)
    read[1, 1:] = 0  # it has ended
    places = mask.sum(1)[rows, None] + torch.arange(4, device=ids.device)
    tokens = ids[:1, 2:].expand(3, -1).clone()
    return network.states(tokens, torch.cat([mask[rows], read], 1), places, 4, cache)[2]


def _slopes(network: Network) -> list[torch.Tensor]:
    """Derivatives (2, 6, H) by the embedded ids of `trial`: of the last state but one of row 0,
    and of that of row 1."""
    (ids, mask, places), seen = trial(network), []

    def hook(module, inputs, output):
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # some write into it

    handle = network.causal.get_input_embeddings().register_forward_hook(hook)
    try:
        with torch.enable_grad():
            states = network.states(ids, mask, places, ids.shape[1])
            weight = torch.linspace(-1, 1, states.shape[-1], device=ids.device, dtype=states.dtype)
            return [torch.autograd.grad(states[row, -2] @ weight, seen[0], retain_graph=True)[0] for row in (0, 1)]
    except FAILURES as error:
        if short_of_memory(error):
            raise
        raise ConfigError(
            f"{type(network.causal).__name__} has no derivative by the ids that it reads ({first_line(error)}); "
            "expected a model that can be trained. Use another model."
        ) from error
    finally:
        handle.remove()


def _blind(network: Network, what: str, slope: torch.Tensor) -> None:
    """Refuses a model in which something that no state may know has a derivative."""
    if slope.any():
        raise ConfigError(
            f"{type(network.causal).__name__}: {what} changes an earlier state; expected a model that reads from left "
            "to right. If it was made to fill gaps (BERT and its like), set is_decoder in its configuration, or use "
            "another model."
        )


@torch.no_grad()
def positions(network: Network) -> int | None:
    """How many positions a model has; None where it does not say. Rotary factors that switch when
    somebody in the batch is long ("longrope", "dynamic") end them: beyond, the same row would have
    another log-prob beside other rows, or token by token."""
    declared = getattr(network.causal.config.get_text_config(), "max_position_embeddings", None)
    if declared is None or int(declared) <= LENGTH:
        return declared
    ids = torch.cat([_row(network), _row(network, 3)])
    near = torch.arange(LENGTH, device=ids.device).expand(2, -1)

    def beside(end: int, ids: torch.Tensor = ids) -> torch.Tensor:
        """States of row 0 where the positions of row 1 end before `end`."""
        places = torch.stack([near[0], near[0] + end - LENGTH])
        return network.states(ids, None, places, LENGTH)[0]

    alone, bound = beside(LENGTH), int(declared)
    noise: float | None = None

    def switched(end: int) -> bool:
        nonlocal noise
        moved = float((beside(end) - alone).abs().max())
        if moved and noise is None:  # a mixture of experts rounds by what else is there
            others = [torch.cat([ids[:1], _row(network, start)]) for start in (1, 4, 5)]
            noise = max(float((beside(LENGTH, other) - alone).abs().max()) for other in others)
        return moved > 16 * (noise or 0.0)

    if not switched(bound):
        return bound
    low, high = LENGTH, bound  # a switch lies between them
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if switched(middle) else (middle, high)
    beside(LENGTH)  # some remember the longest row until they meet a short one
    return low


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
    _, mask, _ = trial(network)
    try:
        ready = _step(network, mask[:, None, None].bool())
    except FAILURES:
        return False
    return ready.shape == step.shape and not apart(network, ready, step) and bool(step.isfinite().all())


@torch.no_grad()
def short_way(network: Network) -> GPT2 | None:
    """The short way through the model, where it is a small GPT-2 and the way leads to the same
    states."""
    if network.is_peft or not (network.is_small and network.gives_hidden and GPT2.fits(network.backbone)):
        return None
    (ids, mask, places), short = trial(network), GPT2(network.backbone)
    ours, theirs = short(ids, mask, places), network.states(ids, mask, places, ids.shape[1])
    return None if apart(network, ours[mask.bool()], theirs[mask.bool()]) else short
