"""The loss of each learner against a slow oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_runs import BETA, LEARNING, make, rollout_of, slow_logprobs

from coevo_agents.training.play import play


def slow_reinforce(learner, rollout, usual):
    """Baselines are what earlier rollouts said of each position."""
    return [
        [sum(rollout.rewards[b, t:length]) - (usual[t] if t < len(usual) else 0.0) for t in range(length)]
        for b, length in enumerate(rollout.lengths)
    ]


def slow_groups(learner, rollout, kind):
    over, scale, average = kind
    keys = []
    for b in range(len(rollout)):
        key = [int(rollout.groups[b])]
        key += [("agent", int(rollout.agents[b]))] if "agent" in over else []
        key += [("seat", int(rollout.seats[b]))] if "role" in over else []
        keys.append(tuple(key))
    totals = [float(rollout.rewards[b].sum()) for b in range(len(rollout))]
    result = []
    for b in range(len(rollout)):
        same = [totals[j] for j in range(len(rollout)) if keys[j] == keys[b]]
        mean = sum(same) / len(same)
        advantage = totals[b] - mean
        if scale == "cell":
            advantage /= math.sqrt(sum((x - mean) ** 2 for x in same) / len(same))
        if average == "response":
            advantage *= float(rollout.lengths.mean()) / int(rollout.lengths[b])
        result.append([advantage] * int(rollout.lengths[b]))
    return result


def losses(learner, rollout):
    """The batch of an update, and the loss before each of its steps."""
    seen = []
    original = learner._step

    def spy(batch, rows):
        with torch.no_grad():
            seen.append(
                (
                    batch,
                    float(learner.loss(batch, rows, int(rollout.lengths[rows].sum()))[0]),
                    slow_logprobs(learner, rollout),
                )
            )
        return original(batch, rows)

    learner._step = spy
    try:
        learner.update(rollout)
    finally:
        learner._step = original
    return seen


def test_reinforce_loss_against_a_slow_oracle():
    game, learners = make(
        "reinforce", 2, True, 0, batch=12, **{"reinforce.learning_rate": 1e-2, "reinforce.baseline": 0.5}
    )
    first, learner = rollout_of(game, learners), learners[0]
    [(_, loss, logprobs)] = losses(learner, first)
    slow = slow_reinforce(learner, first, [])
    tokens = int(first.lengths.sum())
    assert loss == pytest.approx(
        -sum(a * float(p) for A, P in zip(slow, logprobs, strict=True) for a, p in zip(A, P, strict=True)) / tokens,
        abs=2e-6,
    )
    usual = [
        np.mean([first.rewards[b, t:].sum() for b in range(12) if first.lengths[b] > t])
        for t in range(int(first.lengths.max()))
    ]
    second = rollout_of(game, learners, 1)
    [(_, loss, logprobs)] = losses(learner, second)
    slow = slow_reinforce(
        learner, second, usual
    )  # after one update the corrected average is the mean of the first rollout
    tokens = int(second.lengths.sum())
    assert loss == pytest.approx(
        -sum(a * float(p) for A, P in zip(slow, logprobs, strict=True) for a, p in zip(A, P, strict=True)) / tokens,
        abs=2e-6,
    )


def test_rloo_loss_against_a_slow_oracle():
    game, learners = make("rloo", 2, True, 0, batch=12, group_size=4, **{"rloo.learning_rate": 1e-2})
    rollout, learner = rollout_of(game, learners), learners[0]
    [(_, loss, logprobs)] = losses(learner, rollout)
    totals = rollout.rewards.sum(1)
    expected = 0.0
    for b in range(12):
        others = [totals[j] for j in range(12) if j // 4 == b // 4 and j != b]
        expected -= (totals[b] - sum(others) / 3) * float(sum(logprobs[b]))
    assert loss == pytest.approx(expected / int(rollout.lengths.sum()), abs=2e-6)


@pytest.mark.parametrize("weights", ["separate", "shared"])
@pytest.mark.parametrize(
    "kind",
    [
        ("prompt", "cell", "token"),
        ("agent", "cell", "response"),
        ("role", "none", "token"),
        ("agent+role", "cell", "token"),
    ],
)
def test_grpo_loss_against_a_slow_oracle(weights, kind):
    over, scale, average = kind
    settings = {"grpo.over": over, "grpo.scale": scale, "grpo.average": average, "grpo.clip": 0.05}
    game, learners = make(
        "grpo",
        2,
        True,
        0,
        batch=12,
        group_size=4,
        weights=weights,
        **settings,
        **{"grpo.epochs": 3, "grpo.learning_rate": 3e-2},
    )
    rollout, learner = rollout_of(game, learners), learners[0]
    advantages = slow_groups(learner, rollout, kind)
    found = losses(learner, rollout)
    clipped = 0
    for _, loss, logprobs in found:
        expected = 0.0
        for b in range(len(rollout)):
            for t, logprob in enumerate(logprobs[b]):
                ratio = math.exp(float(logprob) - rollout.logprobs[b, t])
                cut = min(max(ratio, 0.95), 1.05)
                clipped += cut != ratio
                expected -= min(ratio * advantages[b][t], cut * advantages[b][t])
        assert loss == pytest.approx(expected / int(rollout.lengths.sum()), abs=2e-6)
    assert len(found) == 3
    assert clipped > 0


@pytest.mark.parametrize("scale", ["cell", "batch", "none"])
def test_grpo_counts_as_flat_what_has_no_spread_to_learn_from(scale):
    """A response at the mean of a group that differs is not flat; two groups of four, one of which
    earned the same four times."""
    game, learners = make("grpo", 1, False, 0, batch=8, group_size=4, **{"grpo.scale": scale, "kl.beta": 0.0})
    rollout = rollout_of(game, learners)
    for earned, flat in (([0, 0.5, 0.5, 1, 1, 2, 3, 4], 0.0), ([0, 0.5, 0.5, 1, 0.7, 0.7, 0.7, 0.7], 0.5)):
        _, metrics = learners[0].prepare(
            replace(rollout, team_reward=np.array(earned, float), shaping=np.zeros(rollout.tokens.shape))
        )
        assert metrics["flat"] == flat


@pytest.mark.parametrize("micro", [0, 2])
def test_grpo_averages_responses_in_any_minibatch(micro):
    """The mean over responses of the mean over their own tokens, and so for a KL in the loss,
    whatever lengths meet in a minibatch."""
    settings = {
        "average": "response",
        "minibatch_size": 4,
        "micro_batch_size": micro,
        "learning_rate": 3e-2,
        "clip": 0.05,
        "epochs": 2,
    }
    options = {f"grpo.{name}": value for name, value in settings.items()}
    game, learners = make(
        "grpo", 1, False, 0, batch=12, group_size=2, **options, **{"kl.mode": "loss", "task_options.max_new_tokens": 3}
    )
    rollout, learner = rollout_of(game, learners), learners[0]
    advantages, deviations = (
        slow_groups(learner, rollout, ("agent", "cell", "token")),
        slow_groups(learner, rollout, ("agent", "none", "token")),
    )
    original, found, lengths = learner._step, [], []

    def kl(b, t):
        """Exact, at one token."""
        ids = torch.tensor([[*rollout.contexts[b], *rollout.tokens[b, :t].tolist()]])
        legal = torch.tensor([e != learner.sampling.eos_id or t >= learner.sampling.min_new_tokens for e in range(5)])
        ours, theirs = (
            lm.module(input_ids=ids).logits[0, -1].double()[legal].log_softmax(0)
            for lm in (learner.policy.lm, learner.reference)
        )
        return float((ours.exp() * (ours - theirs)).sum())

    def spy(batch, rows):
        size = micro or len(rows)
        with torch.no_grad():
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            loss = sum(float(learner.loss(batch, part, int(rollout.lengths[rows].sum()))[0]) for part in parts)
            logprobs, expected = slow_logprobs(learner, rollout), 0.0
            for b in rows:
                own = 0.0
                for t, logprob in enumerate(logprobs[b]):
                    ratio, advantage = math.exp(float(logprob) - rollout.logprobs[b, t]), advantages[b][0]
                    own -= min(ratio * advantage, min(max(ratio, 0.95), 1.05) * advantage)
                    if deviations[b][0]:  # normalisation multiplied by this, so it multiplies the KL
                        own += BETA * advantage / deviations[b][0] * kl(b, t)
                expected += own / int(rollout.lengths[b]) / len(rows)
        found.append((loss, expected))
        lengths.append(rollout.lengths[rows].mean())
        return original(batch, rows)

    learner._step = spy
    learner.update(rollout)
    assert len(found) == 6
    assert [loss for loss, _ in found] == pytest.approx([slow for _, slow in found], abs=5e-6)
    assert len(set(lengths)) > 1


def test_mappo_values_read_the_joint_state():
    """The critic's value of each state is that of a plain forward pass over what the seats before
    read and wrote, the context and the tokens."""
    game, learners = make("mappo", 3, False, 0, batch=6, context="none")
    game.reset(0)
    play(game, [learner.policy for learner in learners])
    rollout, learner = game.rollouts()[2], learners[2]
    torch.nn.init.normal_(learner.centre.value_head.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = learner.values(rollout, np.arange(6))
    place = 0
    for b in range(6):
        turns = game.episodes[b].turns
        state = [*turns[0].context, *turns[0].tokens, *turns[1].context, *turns[1].tokens, *turns[2].context]
        assert len(turns[2].context) < len(state)  # the critic knows more than the policy
        ids = torch.tensor([[*state, *turns[2].tokens]])
        hidden = learner.centre.lm.module(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        for t in range(len(turns[2].tokens)):
            expected = learner.centre.value_head(hidden[len(state) - 1 + t])
            assert float(got[place]) == pytest.approx(expected.item(), abs=1e-5)
            place += 1
    assert place == len(got)


def test_mappo_loss_against_a_slow_oracle():
    settings = {
        "mappo.epochs": 3,
        "mappo.learning_rate": 3e-2,
        "mappo.clip": 0.05,
        "mappo.value_clip": 0.01,
        "mappo.gae_lambda": 0.9,
    }
    game, learners = make("mappo", 2, False, 0, batch=10, **settings)
    game.reset(0)
    play(game, [learner.policy for learner in learners])
    rollout, learner = game.rollouts()[1], learners[1]
    torch.nn.init.normal_(learner.centre.value_head.weight, generator=torch.Generator().manual_seed(0))
    mask = rollout.mask
    old = np.zeros(rollout.tokens.shape)
    with torch.no_grad():
        old[mask] = learner.values(rollout, np.arange(10)).numpy()
    advantages = np.zeros_like(old)
    for b in range(10):
        running = 0.0
        for t in reversed(range(int(rollout.lengths[b]))):
            following = old[b, t + 1] if t + 1 < rollout.lengths[b] else 0.0
            running = rollout.rewards[b, t] + following - old[b, t] + 0.9 * running
            advantages[b, t] = running
    returns = advantages + old
    white = (advantages - advantages[mask].mean()) / advantages[mask].std()
    original, found = learner._step, []

    def spy(batch, rows):
        with torch.no_grad():
            loss = float(learner.loss(batch, rows, int(rollout.lengths[rows].sum()))[0])
            now = np.zeros_like(old)
            now[mask] = learner.values(rollout, np.arange(10)).numpy()
            logprobs = slow_logprobs(learner, rollout)
        total = 0.0
        for b in range(10):
            for t in range(int(rollout.lengths[b])):
                ratio = math.exp(float(logprobs[b][t]) - rollout.logprobs[b, t])
                total -= min(ratio * white[b, t], min(max(ratio, 0.95), 1.05) * white[b, t])
                near = old[b, t] + min(max(now[b, t] - old[b, t], -0.01), 0.01)
                total += 0.5 * 0.5 * max((now[b, t] - returns[b, t]) ** 2, (near - returns[b, t]) ** 2)
        found.append((loss, total / int(rollout.lengths.sum())))
        return original(batch, rows)

    learner._step = spy
    learner.update(rollout)
    assert len(found) == 3
    assert [loss for loss, _ in found] == pytest.approx([slow for _, slow in found], rel=1e-6, abs=1e-5)
    assert abs(found[0][0] - found[2][0]) > 1e-3


@pytest.mark.parametrize("learner", LEARNING)
def test_importance_weights_scale_the_advantages(learner):
    game, learners = make(learner, 1, False, 0, batch=8, group_size=4)
    rollout = rollout_of(game, learners)
    plain = learners[0].prepare(rollout)[0].advantages
    _, again = make(learner, 1, False, 0, batch=8, group_size=4)
    weights = np.arange(8.0)
    weighted = again[0].prepare(replace(rollout, weights=weights))[0].advantages
    assert np.abs(plain).max() > 0
    assert weighted == pytest.approx(plain * weights[:, None])


@pytest.mark.parametrize("scale", ["cell", "batch", "none"])
def test_a_kl_in_the_loss_pulls_also_where_a_group_has_no_spread(scale):
    """With a constant reward nothing else is left: the gradient is that of beta times the KL."""
    options = {"grpo.scale": scale, "grpo.learning_rate": 1e-3, "kl.mode": "loss", "kl.beta": 1.0}
    game, learners = make("grpo", 1, False, 0, batch=16, group_size=4, **options)
    learner, generator = learners[0], torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.policy.named_parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    rollout = rollout_of(game, learners)
    flat = replace(rollout, team_reward=np.zeros_like(rollout.team_reward), shaping=np.zeros_like(rollout.shaping))
    seen = [learner.update(flat) for _ in range(40)]
    assert all(metrics["flat"] == 1.0 and metrics["grad_norm"] > 1e-3 for metrics in seen)
    assert seen[-1]["loss/kl"] < 0.7 * seen[0]["loss/kl"]
