"""From logits to tokens and log-probs: the warp, the draw, and a gradient that needs no logits.

One idea: sampling and scoring get their numbers from the same few functions of tensors, which know
nothing of models, contexts or turns.
"""

from __future__ import annotations

import torch

from ..game.kl import MIN_LOGPROB
from ..game.sampling import Sampling

__all__ = ["BLOCK", "FrozenHead", "divergence", "invert", "stream", "warp_logits"]

BLOCK = 1024
"""Words of the vocabulary that a CPU takes at a time: their rows of the output weights, and their
logits, fit into its cache."""

ROWS = 8192
"""States that are scored at a time; with `BLOCK` this bounds the logits that exist at once, 32 MiB
of float32."""

LARGE = 1 << 14
"""Words of a vocabulary above which probabilities are summed in double precision."""

FEW = 1 << 18
"""Logits that are compared at a time; with what is made of them they fit into a CPU's cache."""


def warp_logits(logits: torch.Tensor, sampling: Sampling, positions: torch.Tensor | int) -> torch.Tensor:
    """Unnormalised scores (float32, or float64 where the logits are) under a warp: temperature,
    mask, top-k, top-p, in this order (`reference.warp` in torch).

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
        ends = _ids(sampling.eos_ids, scores.device)
        early = torch.where((positions < sampling.min_new_tokens)[:, None], -torch.inf, scores.index_select(-1, ends))
        scores = scores.index_copy(-1, ends, early)
    if sampling.top_k and sampling.top_k < scores.shape[-1]:
        kth = scores.topk(sampling.top_k, -1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if sampling.top_p < 1:
        ranked, order = scores.sort(dim=-1, descending=True, stable=True)
        mass = ranked.softmax(-1)
        drop = mass.cumsum(-1) - mass >= sampling.top_p  # the mass of the more probable tokens already suffices
        scores = scores.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    return scores


def divergence(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q) (M,) of log-distributions (M, V), and the sum (M,) of p: `kl.full_kl` in torch,
    without gradients. Rows are taken a few at a time, which stay in the cache of a CPU."""
    few = max(1, FEW // ours.shape[-1])
    found = [_divergence(*rows) for rows in zip(ours.split(few), theirs.split(few), strict=True)]
    return torch.cat([kl for kl, _ in found]), torch.cat([mass for _, mass in found])


def _divergence(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    probability = ours.exp()
    mass = probability.sum(-1)
    difference = ours.clamp(min=MIN_LOGPROB).sub(theirs.clamp(min=MIN_LOGPROB))  # what p cannot emit counts 0 * finite
    return probability.mul_(difference).sum(-1), mass


def invert(mass: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token whose slice of the cumulative `mass` (B, V), not normalised, holds `uniform`, (B,
    1); a token without mass is never taken."""
    # single precision loses the rare ones of a large vocabulary, one after the other
    cumulative = mass.cumsum(-1, dtype=torch.float64 if mass.shape[-1] > LARGE else None)
    threshold = uniform[:, None].to(cumulative.dtype) * cumulative[:, -1:]
    threshold = torch.minimum(threshold, torch.nextafter(cumulative[:, -1:], torch.zeros_like(threshold)))
    # of NaN every search ends behind the last token; its NaN log-prob is then reported and refused
    return torch.searchsorted(cumulative, threshold, right=True).clamp_(max=cumulative.shape[-1] - 1)


class FrozenHead(torch.autograd.Function):
    """Log-probs under output weights that are not trained (LoRA); the gradient is worked out on the
    way, and needs no logits: see `stream`."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, positions, sampling: Sampling):
        logprobs, slope = stream(hidden, weight, targets, positions, sampling, slopes=True)
        ctx.save_for_backward(slope)
        return logprobs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return (gradient[:, None] * slope).to(slope.dtype), None, None, None, None


@torch.no_grad()
def stream(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    positions: torch.Tensor,
    sampling: Sampling,
    *,
    slopes: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probs (M,) of `targets` where the logits are z = W h, in one pass over blocks of the
    vocabulary, whose logits are the only ones that exist.

    The normaliser is summed under a running maximum: Milakov & Gimelshein (2018), "Online
    normalizer calculation for softmax". On a CPU that is also faster than whole logits, because a
    block of the weights and its logits stay in the cache.

    Args:
        hidden: (M, H).
        weight: W, (V, H).
        targets, positions: int64 (M,).
        sampling: A warp that truncates nothing.
        slopes: Whether the derivative by `hidden` is wanted, (M, H): with p the probabilities and T
            the temperature it is (W[target] - sum_v p(v) W[v]) / T.
    """
    chunks = zip(hidden.split(ROWS), targets.split(ROWS), positions.split(ROWS), strict=True)
    found = [_stream(*chunk, weight, sampling, slopes) for chunk in chunks]
    return torch.cat([logprobs for logprobs, _ in found]), torch.cat([slope for _, slope in found]) if slopes else None


def _stream(hidden, targets, positions, weight, sampling: Sampling, slopes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
    column = {"dtype": exact, "device": hidden.device}
    own, mass = torch.zeros(len(hidden), 1, **column), torch.zeros(len(hidden), 1, **column)
    top = torch.full_like(mass, torch.finfo(exact).min)
    mean = torch.zeros(hidden.shape if slopes else (0,), **column)  # sum_v exp(z_v - top) W[v]
    temperature = sampling.temperature or 1.0
    size = BLOCK if hidden.device.type == "cpu" else max(BLOCK, ROWS * BLOCK // len(hidden))
    for start in range(0, len(weight), size):
        part = weight[start : start + size]
        scores = (hidden @ part.T).to(exact)  # (M, size)
        if temperature != 1.0:
            scores /= temperature
        if illegal := [token - start for token in sampling.banned if 0 <= token - start < len(part)]:
            scores.index_fill_(-1, _ids(tuple(illegal), scores.device), -torch.inf)
        for eos in sampling.eos_ids if sampling.min_new_tokens else ():
            if start <= eos < start + len(part):
                scores[:, eos - start].masked_fill_(positions < sampling.min_new_tokens, -torch.inf)
        here = (targets - start)[:, None]
        inside = (here >= 0) & (here < len(part))
        own = torch.where(inside, scores.gather(-1, here.clamp(0, len(part) - 1)), own)
        before, top = top, torch.maximum(top, scores.amax(-1, keepdim=True))
        fade = (before - top).exp_()
        scores.sub_(top).exp_()
        mass.mul_(fade).add_(scores.sum(-1, keepdim=True))
        if slopes:
            mean.mul_(fade).add_(scores.to(weight.dtype) @ part)
    logprobs = (own - top - mass.log())[:, 0]
    return logprobs, ((weight[targets] - mean / mass) / temperature).to(weight.dtype) if slopes else mean


def _ids(ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(ids, device=device)
