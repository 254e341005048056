"""Log-probs under frozen output weights: the gradient worked out by hand is the one that autograd finds."""

from __future__ import annotations

import pytest
import torch

import coevo_env.lm as lm_module
from coevo_env.lm import warp_logits
from coevo_env.sampling import Sampling
from coevo_env.testing import tiny_lm


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, banned=(3, 5), min_new_tokens=2), Sampling(temperature=1.3)])
@pytest.mark.parametrize("chunk", [1 << 24, 64])
def test_gradient_is_that_of_autograd(sampling, chunk, monkeypatch):
    monkeypatch.setattr(lm_module, "CHUNK_ELEMENTS", chunk)
    lm = tiny_lm(11, eos_id=0)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, lm.hidden_size, generator=draw)
    targets, positions = torch.randint(6, 11, (23,), generator=draw), torch.arange(23) % 4
    weights = torch.randn(23, generator=draw)
    found = []
    for trained in (True, False):
        lm.head.weight.requires_grad_(trained)
        states = hidden.clone().requires_grad_()
        logprobs = lm.token_logprobs(states, targets, positions, sampling)
        (logprobs * weights).sum().backward()
        found.append((logprobs.detach(), states.grad))
    expected = warp_logits(hidden @ lm.head.weight.detach().T, sampling, positions).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert torch.allclose(found[1][0], expected, atol=1e-6)
    assert found[0][1].abs().max() > 0.01
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)
