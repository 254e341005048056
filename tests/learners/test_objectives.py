"""Every formula that learners share, against a slow version of itself in plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_agents.learners.objectives import (
    cells,
    clipped_policy_loss,
    clipped_value_loss,
    flat,
    leave_one_out,
    normalized,
    returns_to_go,
    whiten,
)
from coevo_env.errors import ConfigError
from coevo_env.faces.batch import BatchEnv


def rollout(**options):
    game = BatchEnv(8, task="toy", seed=0, **options)
    while game.begin_turn() is not None:
        game.submit_turn(np.zeros((8, 1), int), np.ones(8, int), np.full((8, 1), -1.0))
    return game.rollouts()


@given(st.integers(1, 5), st.integers(1, 6), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_returns_to_go_against_their_definition(batch, length, gamma, seed):
    rewards = np.random.default_rng(seed).normal(size=(batch, length))
    got = returns_to_go(rewards, gamma)
    for b in range(batch):
        for t in range(length):
            assert got[b, t] == pytest.approx(sum(gamma ** (k - t) * rewards[b, k] for k in range(t, length)), abs=1e-9)


def test_whitened_tokens_have_mean_0_and_variance_1_and_the_rest_is_0():
    mask = np.array([[True, True, False], [True, False, False], [True, True, True]])
    advantages = np.arange(9.0).reshape(3, 3)
    white, scale = whiten(advantages, mask)
    assert white[mask].mean() == pytest.approx(0, abs=1e-12)
    assert white[mask].std() == pytest.approx(1, abs=1e-6)
    assert scale == pytest.approx(1 / advantages[mask].std(), rel=1e-6)
    assert not white[~mask].any()


def test_rounding_is_not_blown_up_to_advantages():
    """Until a sparse reward is seen, all that tells tokens apart is the rounding of a KL of 0."""
    mask = np.ones((4, 6), bool)
    noise = np.random.default_rng(0).normal(size=(4, 6)) * 2e-8
    white, scale = whiten(noise, mask)
    assert scale == 1.0 and np.abs(white).max() < 1e-7


@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_leave_one_out_against_its_definition(size, groups, seed):
    rng = np.random.default_rng(seed)
    cell = rng.permutation(np.repeat(np.arange(groups), size))
    returns = rng.normal(size=len(cell))
    expected = [
        np.mean([returns[j] for j in range(len(cell)) if cell[j] == cell[i] and j != i]) for i in range(len(cell))
    ]
    assert leave_one_out(returns, cell) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", ["cell", "batch", "none"])
def test_normalized_against_its_definition(scale):
    returns, cell = np.array([1.0, 3.0, 8.0, 2.0, 2.0, 5.0]), np.array([0, 0, 0, 1, 1, 1])
    centred = [1 - 4, 3 - 4, 8 - 4, 2 - 3, 2 - 3, 5 - 3]
    spread = {
        "cell": [math.sqrt((9 + 1 + 16) / 3)] * 3 + [math.sqrt((1 + 1 + 4) / 3)] * 3,
        "batch": [math.sqrt((9 + 1 + 16 + 1 + 1 + 4) / 6)] * 6,
        "none": [1.0] * 6,
    }[scale]
    advantages, factors = normalized(returns, cell, scale)
    assert advantages == pytest.approx([c / s for c, s in zip(centred, spread, strict=True)])
    assert factors == pytest.approx([1 / s for s in spread])


def test_a_group_without_spread_teaches_nothing():
    advantages, factors = normalized(np.array([2.0, 2.0, 1.0, 3.0]), np.array([0, 0, 1, 1]), "cell")
    assert advantages.tolist() == [0, 0, -1, 1]
    assert factors.tolist() == [1, 1, 1, 1]  # what is scaled beside it, a KL in the loss, counts as it is
    for scale in ("cell", "batch"):
        noise, factors = normalized(np.array([0.5, 0.5 + 1e-9, 0.5 - 1e-9, 0.5]), np.zeros(4, int), scale)
        assert noise.tolist() == [0, 0, 0, 0] and factors.tolist() == [1, 1, 1, 1]
    assert flat(np.array([2.0, 2.0, 1.0, 3.0]), np.array([0, 0, 1, 1])).tolist() == [True, True, False, False]


def test_cells_split_a_prompt_by_agent_and_by_role():
    first, second = rollout(group_size=4, roles="rotation", exchange_every=2)
    assert first.groups.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert first.seats.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert cells(first, "prompt").tolist() == cells(first, "agent").tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert cells(first, "role").tolist() == cells(first, "agent+role").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    both = first.merge([first, second])
    assert both.agents.tolist() == [0, 1] * 8  # stable: episode by episode, in the order of agents
    assert len(set(cells(both, "prompt"))) == 2
    assert len(set(cells(both, "agent"))) == len(set(cells(both, "role"))) == 4
    assert len(set(cells(both, "agent+role"))) == 8
    with pytest.raises(ConfigError, match="unknown normalisation 'rôle'"):
        cells(first, "rôle")


def test_a_group_of_one_is_refused():
    for function in (lambda r, c: leave_one_out(r, c), lambda r, c: normalized(r, c, "cell")):
        with pytest.raises(ConfigError, match=r"1 of 2 groups .* single member; expected at least 2"):
            function(np.zeros(3), np.array([0, 0, 1]))


def test_clipped_losses_against_plain_python():
    rng = np.random.default_rng(0)
    new, old, advantages, values, old_values, returns = rng.normal(size=(6, 40)) * 0.5
    loss, stats = clipped_policy_loss(*(torch.tensor(x) for x in (new, old, advantages)), clip=0.2)
    expected = clipped = 0.0
    for n, o, a in zip(new, old, advantages, strict=True):
        ratio = math.exp(n - o)
        expected -= min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
        clipped += abs(ratio - 1) > 0.2
    assert float(loss) == pytest.approx(expected)
    assert float(stats["clip_fraction"]) == clipped > 0
    assert float(stats["approx_kl"]) == pytest.approx(
        sum(math.exp(n - o) - 1 - (n - o) for n, o in zip(new, old, strict=True))
    )
    got = clipped_value_loss(*(torch.tensor(x) for x in (values, old_values, returns)), clip=0.1)
    slow = 0.0
    for v, o, r in zip(values, old_values, returns, strict=True):
        near = o + min(max(v - o, -0.1), 0.1)
        slow += 0.5 * max((v - r) ** 2, (near - r) ** 2)
    assert float(got) == pytest.approx(slow)
    assert float(
        clipped_value_loss(*(torch.tensor(x) for x in (values, old_values, returns)), clip=0.0)
    ) == pytest.approx(0.5 * ((values - returns) ** 2).sum())


def test_a_merged_rollout_keeps_every_response():
    parts = rollout(group_size=2, roles="rotation")
    both = parts[0].merge(parts)
    assert len(both) == 16
    assert sorted(zip(both.episodes, both.agents, both.seats, strict=True)) == sorted(
        (e, a, s) for part in parts for e, a, s in zip(part.episodes, part.agents, part.seats, strict=True)
    )
    for row in range(16):
        part = parts[both.agents[row]]
        where = int(np.nonzero(part.episodes == both.episodes[row])[0][0])
        assert both.contexts[row] == part.contexts[where]
        assert both.states[row] == part.states[where]
        assert both.returns[row] == part.returns[where]
    weighted = replace(parts[0], weights=np.full(8, 2.0))
    assert (weighted.weighted(np.ones((8, 3))) == 2).all()
    assert weighted.rows(np.array([1, 3])).weights.tolist() == [2.0, 2.0]
    assert both.merge([weighted, parts[1]]).weights is None
