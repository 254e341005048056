"""PPO against slow oracles written by hand, and against the closed-form optimum of a game."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import CooperativePair

from coevo_agents.learners.objectives import gae
from coevo_agents.learners.policy import ActorCritic, LoRAConfig, make_policies
from coevo_agents.learners.ppo import PPO
from coevo_agents.training.play import play
from coevo_env.errors import ConfigError, NonFiniteError
from coevo_env.faces.batch import BatchEnv
from coevo_env.faces.build import build
from coevo_env.game.kl import KLConfig
from coevo_env.game.sampling import Sampling
from coevo_env.tasks.toy import optimum, value_of
from coevo_env.testing import tiny_lm


def game_and_learner(seed=0, batch=8, beta=0.3, mode="reported", lora=None, **settings):
    base = tiny_lm(5, seed=seed, eos_id=0)
    policies, reference = make_policies(base, ["llm1"], lora, seed)
    rules, _ = build("toy", reference, kl=KLConfig(mode=mode, beta=beta), seed=seed, num_agents=1)
    game = BatchEnv(batch, rules=rules, reference=reference)
    settings = PPO.Settings(**{"learning_rate": 1e-3, **settings})
    learner = PPO(policies[0], reference, settings, rules.sampling, seed)
    return game, learner


def rollout_of(game, learner, number=0):
    game.reset(number * game.batch_size)
    play(game, [learner.policy])
    return game.rollouts()[0]


def test_gae_against_its_definition():
    rng = np.random.default_rng(0)
    lengths = np.array([1, 3, 5, 2])
    mask = np.arange(5) < lengths[:, None]
    rewards, values = rng.normal(size=(2, 4, 5)) * mask
    gamma, lam = 0.9, 0.7
    got = gae(rewards, values, lengths, gamma, lam)
    for b, length in enumerate(lengths):
        for t in range(length):
            expected = 0.0
            for k in range(t, length):  # sum over l of (gamma lambda)^l delta_{t+l}
                following = values[b, k + 1] if k + 1 < length else 0.0
                expected += (gamma * lam) ** (k - t) * (rewards[b, k] + gamma * following - values[b, k])
            assert got[b, t] == pytest.approx(expected, abs=1e-12)
        assert (got[b, length:] == 0).all()


def test_gae_with_lambda_one_is_return_minus_value():
    rewards, values = np.array([[1.0, 2.0, 4.0]]), np.array([[0.5, 0.25, 0.125]])
    assert gae(rewards, values, np.array([3]), 1.0, 1.0).tolist() == [[6.5, 5.75, 3.875]]


def slow_loss(learner: PPO, rollout, config: PPO.Settings) -> float:
    """The PPO loss token by token in plain Python, from whole-sequence forward passes without
    padding."""
    lm, module = learner.policy.lm, learner.policy.lm.module
    size = len(rollout)
    rewards = rollout.rewards
    tokens = []
    for b in range(size):
        length = int(rollout.lengths[b])
        advantage = [0.0] * length
        running = 0.0
        for t in reversed(range(length)):
            following = rollout.values[b, t + 1] if t + 1 < length else 0.0
            delta = rewards[b, t] + config.gamma * following - rollout.values[b, t]
            running = delta + config.gamma * config.gae_lambda * running
            advantage[t] = running
        ids = torch.tensor([[*rollout.contexts[b], *rollout.tokens[b, :length].tolist()]])
        output = module(input_ids=ids, output_hidden_states=True)
        start = len(rollout.contexts[b]) - 1
        for t in range(length):
            logits = output.logits[0, start + t].double().tolist()
            if t < learner.sampling.min_new_tokens:
                logits[learner.sampling.eos_id] = -math.inf
            top = max(logits)
            normal = top + math.log(sum(math.exp(x - top) for x in logits))
            hidden = output.hidden_states[-1][0, start + t].double()
            head = learner.policy.value_head
            value = float((head.weight[0].double() @ hidden + head.bias[0].double()).detach())
            tokens.append(
                {
                    "logprob": logits[int(rollout.tokens[b, t])] - normal,
                    "old": rollout.logprobs[b, t],
                    "value": value,
                    "old_value": rollout.values[b, t],
                    "advantage": advantage[t],
                    "return": advantage[t] + rollout.values[b, t],
                }
            )
    assert lm.vocab_size == 5
    raw = [token["advantage"] for token in tokens]
    mean = sum(raw) / len(raw)
    spread = math.sqrt(sum((x - mean) ** 2 for x in raw) / len(raw))
    total = 0.0
    for token in tokens:
        advantage = (token["advantage"] - mean) / (spread + 1e-8)
        ratio = math.exp(token["logprob"] - token["old"])
        surrogate = min(ratio * advantage, min(max(ratio, 1 - config.clip), 1 + config.clip) * advantage)
        move = min(max(token["value"] - token["old_value"], -config.value_clip), config.value_clip)
        error = max((token["value"] - token["return"]) ** 2, (token["old_value"] + move - token["return"]) ** 2)
        total += -surrogate + config.value_coef * 0.5 * error
    return total / len(tokens)


def test_loss_against_the_slow_oracle():
    game, learner = game_and_learner(batch=12, epochs=3, clip=0.05, value_clip=0.01, learning_rate=3e-2)
    torch.nn.init.normal_(learner.policy.value_head.weight, generator=torch.Generator().manual_seed(1))
    rollout = rollout_of(game, learner)
    captured = []
    original = learner._step
    learner._step = lambda batch, rows: (
        captured.append((batch, slow_loss(learner, rollout, learner.settings))),
        original(batch, rows),
    )[1]
    learner.update(rollout)
    losses = [oracle for _, oracle in captured]
    assert (
        len(losses) == 3 and len({round(x, 4) for x in losses}) == 3
    )  # the weights moved, so that ratios and clips are exercised
    batch = captured[0][0]
    with torch.no_grad():
        now, parts = learner.loss(batch, np.arange(12), int(rollout.lengths.sum()))
    assert float(now) == pytest.approx(slow_loss(learner, rollout, learner.settings), abs=2e-6)
    assert parts["clip_fraction"] > 0


def test_gradient_against_finite_differences():
    game, learner = game_and_learner(batch=6, mode="loss", value_clip=0.0)
    rollout = rollout_of(game, learner)
    rollout = replace(rollout, logprobs=rollout.logprobs + 0.01 * np.where(rollout.mask, 1.0, 0.0))
    seen = {}
    learner._step = lambda batch, rows: seen.setdefault("batch", batch) and {"approx_kl": 0.0, "ratio_max": 1.0}
    learner.update(rollout)
    for parameter in learner.parameters.values():
        parameter.data = parameter.data.double()
    learner.policy.lm.module.double()
    learner.policy.value_head.double()
    rows, tokens = np.arange(6), int(rollout.lengths.sum())
    name = "model.transformer.h.0.mlp.c_fc.weight"
    weight = learner.parameters[name]
    with torch.no_grad():
        weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    loss, parts = learner.loss(seen["batch"], rows, tokens)
    loss.backward()
    assert parts["loss/kl"] > 0
    for row, column in ((0, 0), (3, 17), (11, 40)):
        step, values = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] += sign * step
                values.append(float(learner.loss(seen["batch"], rows, tokens)[0]))
                weight[row, column] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert weight.grad is not None
        assert float(weight.grad[row, column]) == pytest.approx(numeric, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("mode", ["reported", "loss"])
@pytest.mark.parametrize("micro", [1, 5, "auto"])
def test_micro_batches_change_memory_not_the_gradient(micro, mode, monkeypatch):
    monkeypatch.setattr("coevo_agents.learners.gradient.ROWS", 5)
    gradients = []
    for size in (0, micro):
        game, learner = game_and_learner(
            batch=12, mode=mode, minibatch_size=12, micro_batch_size=size, epochs=1, max_grad_norm=0.0
        )
        passes: list[int] = []

        def forward(batch, rows, forward=learner.forward, passes=passes):
            passes.append(len(rows))
            return forward(batch, rows)

        monkeypatch.setattr(learner, "forward", forward)
        learner.update(rollout_of(game, learner))
        assert passes == {0: [12], 1: [1] * 12, 5: [5, 5, 2], "auto": [4, 4, 4]}[size]
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters.values() if p.grad is not None]))
    assert gradients[0].abs().max() > 0.01
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)


def test_a_batch_that_one_pass_can_take_is_not_cut():
    weights = []
    for size in (0, "auto"):
        game, learner = game_and_learner(batch=256, micro_batch_size=size)
        learner.update(rollout_of(game, learner))
        weights.append(torch.cat([p.detach().flatten() for p in learner.parameters.values()]))
    assert torch.equal(*weights)
    assert [len(learner.slices(size)) for size in (1, 256, 257, 4096)] == [1, 1, 2, 16]
    for wrong in (-1, 2.5, "some"):
        with pytest.raises(ConfigError, match="micro_batch_size"):
            PPO.Settings(micro_batch_size=wrong)


def test_same_seed_same_weights_and_save_load_continue_equals_uninterrupted():
    def run(interrupt: bool):
        game, learner = game_and_learner(batch=8, minibatch_size=4, normalize_reward=True, decay_updates=10)
        for number in range(4):
            if interrupt and number == 2:
                state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in learner.state_dict().items()}
                _, learner = game_and_learner(batch=8, minibatch_size=4, normalize_reward=True, decay_updates=10)
                learner.load_state_dict(state)
            learner.update(rollout_of(game, learner, number))
        return torch.cat([p.detach().flatten() for p in learner.parameters.values()])

    straight, again, interrupted = run(False), run(False), run(True)
    assert torch.equal(straight, again)
    assert torch.equal(straight, interrupted)


def test_rewards_without_spread_stay_as_they_are():
    _, learner = game_and_learner(normalize_reward=True)
    assert learner._normalized(np.full(4, 0.7)).tolist() == [0.7] * 4
    assert learner._normalized(np.array([0.7, 0.7, 0.7, 1.7])) == pytest.approx(
        np.array([0.7, 0.7, 0.7, 1.7]) / np.std([0.7] * 7 + [1.7])
    )


def test_a_centred_reward_is_less_the_mean_of_all_so_far():
    _, learner = game_and_learner(centre_reward=True)
    assert learner._normalized(np.array([1.0, 3.0])).tolist() == [-1.0, 1.0]
    assert learner._normalized(np.array([5.0, 7.0])).tolist() == [1.0, 3.0]  # the mean of 1, 3, 5, 7 is 4
    _, both = game_and_learner(centre_reward=True, normalize_reward=True)
    assert both._normalized(np.array([1.0, 3.0])) == pytest.approx([-1.0, 1.0])  # deviation 1
    assert both._normalized(np.array([5.0, 7.0])) == pytest.approx(np.array([1.0, 3.0]) / 5**0.5)
    both.forget()
    assert both._normalized(np.array([5.0, 7.0])) == pytest.approx([-1.0, 1.0])


@pytest.mark.parametrize("micro", [0, 3])
def test_a_minibatch_whose_mean_ratio_is_over_the_threshold_moves_nothing(micro):
    def updated(threshold: float, factor: float = 1.0):
        """One step; the policy is said to have sampled the first rows with probabilities that were
        `factor` times smaller."""
        game, learner = game_and_learner(batch=8, epochs=1, micro_batch_size=micro, ratio_threshold=threshold)
        rollout = rollout_of(game, learner)
        before = {name: p.detach().clone() for name, p in learner.parameters.items()}
        far = (np.arange(8) < 3)[:, None] & rollout.mask
        metrics = learner.update(
            replace(rollout, logprobs=np.where(far, rollout.logprobs - np.log(factor), rollout.logprobs))
        )
        moved = any(not torch.equal(p, before[name]) for name, p in learner.parameters.items())
        return metrics, moved, learner, float(far.sum() / rollout.mask.sum())

    metrics, moved, plain, _ = updated(0)
    assert moved and "skipped" not in metrics and "ratio_mean" not in metrics
    metrics, moved, learner, share = updated(1.5)
    assert (metrics["skipped"], moved) == (0, True) and metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(p, plain.parameters[name]) for name, p in learner.parameters.items())
    mean = 1 + 19 * share  # by hand: a share of the tokens has the ratio 20, the others 1
    metrics, moved, learner, _ = updated(mean - 0.01, 20)
    assert (metrics["skipped"], moved) == (1, False) and not learner.optimizer.state
    assert metrics["steps"] == 0 and plain.updates == learner.updates == 1
    assert metrics["ratio_mean"] == pytest.approx(mean, rel=1e-4)
    metrics, moved, learner, _ = updated(mean + 0.01, 20)
    assert (metrics["skipped"], moved) == (0, True)


def test_recompute_equals_the_rollout_in_float32():
    game, learner = game_and_learner(recompute="always")
    metrics = learner.update(rollout_of(game, learner))
    assert 0 < metrics["logprob_mismatch"] < 1e-5


def test_early_stop_and_minibatch_errors():
    game, learner = game_and_learner(batch=8, epochs=20, learning_rate=5e-2, target_kl=0.01)
    assert learner.update(rollout_of(game, learner))["steps"] < 20
    game, learner = game_and_learner(batch=8, minibatch_size=3)
    with pytest.raises(ConfigError, match="does not divide into minibatches of 3"):
        learner.update(rollout_of(game, learner))


def test_truncated_sampling_is_refused():
    policy = ActorCritic(tiny_lm(5))
    with pytest.raises(ConfigError, match="support"):
        PPO(policy, None, PPO.Settings(), Sampling(top_k=2))


def test_non_finite_loss_stops_before_the_weights_are_touched():
    game, learner = game_and_learner()
    rollout = rollout_of(game, learner)
    before = [p.detach().clone() for p in learner.parameters.values()]
    with pytest.raises(NonFiniteError, match="not finite"):
        learner.update(replace(rollout, team_reward=np.full(len(rollout), np.nan)))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters.values(), strict=True))


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("c_attn", {"c_attn"}),
        ("c_attn, mlp.c_proj", {"c_attn", "c_proj"}),
        ("c_attn,c_fc", {"c_attn", "c_fc"}),
        ("all-linear", {"c_attn", "c_fc", "c_proj"}),
    ],
)
def test_lora_takes_the_modules_that_are_named(targets, layers):
    policies, _ = make_policies(tiny_lm(5, seed=0), ["llm1", "llm2"], LoRAConfig(targets=targets), 0)
    for policy in policies:
        paths = {name.partition(".lora_")[0] for name in policy.weights()}
        assert {path.rpartition(".")[2] for path in paths} == layers
        assert targets == "all-linear" or not any(path.endswith("attn.c_proj") for path in paths)


def test_lora_trains_only_its_adapter_and_the_reference_stays():
    base = tiny_lm(5, eos_id=0)
    policies, reference = make_policies(base, ["llm1", "llm2"], LoRAConfig(rank=4), 0)
    rules, _ = build("toy", reference, kl=KLConfig(beta=0.1), seed=0)
    game = BatchEnv(16, rules=rules, reference=reference)
    learners = [
        PPO(policy, None, PPO.Settings(learning_rate=1e-2), rules.sampling, i) for i, policy in enumerate(policies)
    ]
    frozen = {n: p.detach().clone() for n, p in reference.module.named_parameters() if "lora" not in n}
    contexts, tokens, lengths = [[1], [2, 1]], np.array([[1, 2, 0], [3, 0, 0]]), np.array([3, 2])
    at_start = reference.score(contexts, tokens, lengths, rules.sampling)
    assert np.array_equal(
        at_start, policies[0].lm.score(contexts, tokens, lengths, rules.sampling)
    )  # B = 0: the adapter does nothing yet
    game.reset(0)
    play(game, policies)
    learners[0].update(game.rollouts()[0])
    other = {n: p.detach().clone() for n, p in learners[1].parameters.items()}
    assert all(torch.equal(frozen[n], p) for n, p in reference.module.named_parameters() if "lora" not in n)
    assert np.array_equal(at_start, reference.score(contexts, tokens, lengths, rules.sampling))
    assert np.array_equal(at_start, policies[1].lm.score(contexts, tokens, lengths, rules.sampling))
    assert np.abs(at_start - policies[0].lm.score(contexts, tokens, lengths, rules.sampling)).max() > 1e-3
    learners[1].update(game.rollouts()[1])
    assert any(not torch.equal(other[n], p) for n, p in learners[1].parameters.items())


def test_learns_with_the_exact_kl_in_the_loss():
    game, learner = game_and_learner(batch=64, mode="loss", beta=0.3, learning_rate=3e-3, decay_updates=40)
    best = optimum(game.rules, game.reference, 0.3).value
    start = value_of(learner.policy.lm, game.rules, game.reference, 0.3).value
    for number in range(40):
        rollout = rollout_of(game, learner, number)
        assert not rollout.shaping.any()  # measured, but not paid
        learner.update(rollout)
    assert start < 0.75 * best
    assert value_of(learner.policy.lm, game.rules, game.reference, 0.3).value > 0.93 * best


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cory_reaches_the_closed_form_optimum(seed):
    """Two agents, cooperative rewards, role exchange: both reach J* within 2 % in both roles, by
    exact enumeration."""
    beta, batch, iterations = 0.3, 256, 120
    base = tiny_lm(5, seed=seed, eos_id=0)
    policies, reference = make_policies(base, ["llm1", "llm2"], None, seed)
    rules, _ = build(
        "toy", reference, kl=KLConfig(beta=beta), seed=seed, exchange_every=batch, task_options={"max_new_tokens": 2}
    )
    game = BatchEnv(batch, rules=rules, reference=reference)
    config = PPO.Settings(learning_rate=3e-3, epochs=2, decay_updates=iterations)
    learners = [PPO(policy, None, config, rules.sampling, 10 * seed + i) for i, policy in enumerate(policies)]
    for iteration in range(iterations):
        game.reset(iteration * batch)
        play(game, policies)
        for learner, rollout in zip(learners, game.rollouts(), strict=True):
            learner.update(rollout)
    pair = CooperativePair(rules, reference, beta)
    best, start = pair.optimum(), pair.reached(reference)
    for policy in policies:
        reached = pair.reached(policy.lm)
        for role in ("pioneer", "observer"):
            initial, final, optimal = (getattr(values, role) for values in (start, reached, best))
            assert initial < 0.9 * optimal  # there is something to learn
            assert 0.98 * optimal <= final <= optimal + 1e-6
