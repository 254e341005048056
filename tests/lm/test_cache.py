"""The cache that grows in place holds what that of transformers holds, whatever happens to it, and
copies seldom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from coevo_env.game.sampling import Sampling
from coevo_env.lm import network
from coevo_env.lm.cache import growing
from coevo_env.testing import tiny_lm

HEADS, WIDTH = 2, 3


def added(cache, new: list[torch.Tensor]) -> list[torch.Tensor]:
    """Keys and values of two layers after new ones were added to them."""
    return [held.clone() for layer in (0, 1) for held in cache.update(new[2 * layer], new[2 * layer + 1], layer)]


@pytest.mark.parametrize("room", [0, 5, 60])
@pytest.mark.parametrize("seed", range(5))
def test_it_holds_what_the_other_holds(room, seed):
    rng = np.random.default_rng(seed)
    ours, theirs, rows = growing(room), DynamicCache(), 4
    for _ in range(40):
        match rng.integers(5):
            case 0 if rows > 1 and ours.get_seq_length():
                chosen = torch.as_tensor(rng.integers(0, rows, rng.integers(1, rows + 1)))
                rows = len(chosen)
                for cache in (ours, theirs):
                    cache.batch_select_indices(chosen)
            case 1 if ours.get_seq_length() > 2:
                for cache in (ours, theirs):
                    cache.crop(-1)
            case _:
                shape = (rows, HEADS, int(rng.integers(1, 4)), WIDTH)
                new = [torch.as_tensor(rng.normal(size=shape)) for _ in range(4)]
                for mine, other in zip(added(ours, new), added(theirs, new), strict=True):
                    assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize("room", [0, 300])
def test_it_copies_seldom_and_takes_no_more_than_was_asked_for(room):
    cache, places, token = growing(room), set(), torch.zeros(2, HEADS, 1, WIDTH)
    for _ in range(300):
        places.add(cache.update(token, token, 0)[0].data_ptr())
    assert len(places) <= 15
    assert cache.layers[0].whole["keys"].shape[-2] <= (room or 450)


def test_with_it_the_same_is_said(monkeypatch):
    lm = tiny_lm(23)
    lm.short = None  # a small GPT-2 has a cache of its own
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 23, size).tolist() for size in (3, 5, 5, 1, 9, 3)]
    said, used = [], []
    for make in (growing, lambda room=0: DynamicCache()):
        monkeypatch.setattr(network, "growing", lambda room=0, make=make: (used.append(make), make(room))[1])
        said.append(lm.generate(prompts, 30, Sampling(eos_id=0), np.random.default_rng(1).random((6, 30))))
    assert len(set(used)) == 2
    assert np.array_equal(said[0].tokens, said[1].tokens) and np.array_equal(said[0].logprobs, said[1].logprobs)
    assert len(set(said[0].lengths.tolist())) > 2  # rows left
