"""Log-probs that go through the vocabulary block by block are those of whole logits, and their
gradient is the one that autograd finds."""

from __future__ import annotations

import pytest
import torch

import coevo_env.lm.logits
import coevo_env.lm.model
from coevo_env.game.sampling import Sampling
from coevo_env.lm.logits import stream
from coevo_env.lm.model import warp_logits
from coevo_env.testing import tiny_lm

WARPS = [
    Sampling(),
    Sampling(temperature=0.7, banned=(3, 5), min_new_tokens=2),
    Sampling(temperature=1.3),
    Sampling(temperature=0.0),
]


@pytest.fixture(params=[(4, 7), (4, 1 << 13), (11, 5), (1024, 1 << 13)], ids=str)
def blocks(request, monkeypatch):
    """Words and states taken at a time, of 11 and 23."""
    monkeypatch.setattr(coevo_env.lm.logits, "BLOCK", request.param[0])
    monkeypatch.setattr(coevo_env.lm.logits, "ROWS", request.param[1])


def drawn(width: int, dtype: torch.dtype = torch.float32):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, width, generator=draw, dtype=torch.float64).to(dtype)
    return hidden, torch.randint(6, 11, (23,), generator=draw), torch.arange(23) % 4, torch.randn(23, generator=draw)


@pytest.mark.parametrize("sampling", WARPS, ids=str)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_blocks_say_what_whole_logits_say(sampling, dtype, close, blocks):
    hidden, targets, positions, _ = drawn(6, dtype)
    weight = torch.randn(11, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    states = hidden.double().requires_grad_()
    scores = warp_logits(states @ weight.double().T, sampling, positions)
    expected = scores.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(expected.sum(), states)
    logprobs, slopes = stream(hidden, weight, targets, positions, sampling, slopes=True)
    assert slopes is not None
    assert (logprobs.double() - expected).abs().max() < close * 4
    assert (slopes.double() - gradient).abs().max() < close * 4
    alone, none = stream(hidden, weight, targets, positions, sampling)
    assert torch.equal(alone, logprobs) and none is None


def test_a_token_that_is_not_legal_has_no_probability(blocks):
    hidden, targets, positions, _ = drawn(6)
    logprobs, _ = stream(hidden, torch.ones(11, 6), targets, positions, Sampling(banned=tuple(range(6, 10))))
    assert (logprobs == -torch.inf).tolist() == (targets < 10).tolist()
    assert logprobs[targets == 10].isfinite().all()


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_do_not_overflow(size, blocks):
    hidden, weight = torch.ones(2, 1) * size, torch.linspace(-1, 1, 11)[:, None]
    logprobs, slopes = stream(hidden, weight, torch.tensor([10, 9]), torch.zeros(2), Sampling(), slopes=True)
    assert slopes is not None and slopes.isfinite().all()
    assert logprobs[0] == 0 and logprobs[1] == pytest.approx(-0.2 * size, rel=1e-3)


def test_not_a_number_is_passed_on(blocks):
    hidden, targets, positions, _ = drawn(6)
    hidden[3] = torch.nan
    logprobs, _ = stream(hidden, torch.ones(11, 6), targets, positions, Sampling())
    assert logprobs.isnan().nonzero().tolist() == [[3]]


@pytest.mark.parametrize("sampling", WARPS[:3], ids=str)
def test_gradient_is_that_of_autograd(sampling, blocks, monkeypatch):
    monkeypatch.setattr(coevo_env.lm.model, "BLOCK", 4)
    monkeypatch.setattr(coevo_env.lm.model, "CHUNK_ELEMENTS", 64)
    lm = tiny_lm(11, eos_id=0)
    hidden, targets, positions, weights = drawn(lm.hidden_size)
    found = []
    for trained in (True, False):
        lm.head.weight.requires_grad_(trained)
        states = hidden.clone().requires_grad_()
        logprobs = lm.token_logprobs(states, targets, positions, sampling)
        (logprobs * weights).sum().backward()
        assert states.grad is not None
        found.append((logprobs.detach(), states.grad))
    expected = (
        warp_logits(hidden @ lm.head.weight.detach().T, sampling, positions)
        .log_softmax(-1)
        .gather(-1, targets[:, None])[:, 0]
    )
    assert torch.allclose(found[1][0], expected, atol=1e-6)
    assert found[0][1].abs().max() > 0.01
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_what_truncates_is_scored_with_whole_logits(monkeypatch):
    monkeypatch.setattr(coevo_env.lm.model, "BLOCK", 4)
    lm = tiny_lm(11, eos_id=0)
    hidden, targets, positions, _ = drawn(lm.hidden_size)
    sampling = Sampling(top_k=3)
    with torch.no_grad():
        logprobs = lm.token_logprobs(hidden, targets, positions, sampling)
        expected = (
            warp_logits(lm.logits(hidden), sampling, positions).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        )
    assert torch.allclose(logprobs, expected, atol=1e-6) and logprobs.isneginf().any() and logprobs.isfinite().any()
