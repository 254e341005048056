"""From logits to tokens and log-probs: the warp, the draw, and a gradient that needs no logits.

One idea: sampling and scoring get their numbers from the same few functions of tensors, which know nothing of models, contexts or turns.
"""

from __future__ import annotations

import torch

from .sampling import Sampling

__all__ = ["FrozenHead", "invert", "warp_logits"]


def warp_logits(logits: torch.Tensor, sampling: Sampling, positions: torch.Tensor | int) -> torch.Tensor:
    """Unnormalised scores (float32, or float64 where the logits are) under a warp: temperature, mask, top-k, top-p, in this order (`reference.warp` in torch).

    Args:
        logits: (M, V), any float dtype; not changed.
        sampling: The warp.
        positions: Position in the turn: an int, or int64 (M,).
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if sampling.temperature not in (0.0, 1.0):
        scores = scores / sampling.temperature
    single = isinstance(positions, int)
    illegal = sampling.illegal(positions) if single else sampling.banned
    if illegal:
        scores = scores.index_fill(-1, _ids(illegal, scores.device), -torch.inf)
    if sampling.min_new_tokens and not single:
        eos = scores[:, sampling.eos_id]
        early = torch.where(positions < sampling.min_new_tokens, -torch.inf, eos)
        scores = scores.index_copy(-1, _ids((sampling.eos_id,), scores.device), early[:, None])
    if sampling.top_k and sampling.top_k < scores.shape[-1]:
        kth = scores.topk(sampling.top_k, -1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if sampling.top_p < 1:
        ranked, order = scores.sort(dim=-1, descending=True, stable=True)
        mass = ranked.softmax(-1)
        drop = mass.cumsum(-1) - mass >= sampling.top_p  # the mass of the more probable tokens already suffices
        scores = scores.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    return scores


def invert(mass: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token whose slice of the cumulative `mass` (B, V), not normalised, holds `uniform`, (B, 1); a token without mass is never taken."""
    cumulative = mass.cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    threshold = torch.minimum(threshold, torch.nextafter(cumulative[:, -1:], torch.zeros_like(threshold)))
    # of NaN every search ends behind the last token; its NaN log-prob is then reported and refused
    return torch.searchsorted(cumulative, threshold, right=True).clamp_(max=cumulative.shape[-1] - 1)


class FrozenHead(torch.autograd.Function):
    """Log-probs under output weights that are not trained (LoRA), where the gradient needs no logits: with z = W h / T,
    d log p(a) / dh = (W[a] - sum_v p(v) W[v]) / T. What is kept for the backward pass is (M, H), not (M, V)."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, positions, sampling: Sampling, size: int):
        logprobs, slopes = [], []
        for states, chosen, position in zip(hidden.split(size), targets.split(size), positions.split(size), strict=True):
            scores = warp_logits(states @ weight.T, sampling, position).log_softmax(-1)  # (size, V)
            logprobs.append(scores.gather(-1, chosen[:, None])[:, 0])
            slopes.append(weight[chosen] - scores.exp_().to(weight.dtype) @ weight)  # (size, H)
        slope = torch.cat(slopes)
        ctx.save_for_backward(slope if sampling.temperature in (0.0, 1.0) else slope / sampling.temperature)
        return torch.cat(logprobs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return (gradient[:, None] * slope).to(slope.dtype), None, None, None, None, None


def _ids(ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(ids, device=device)
