"""KL: estimators against enumeration, controllers against a table worked by hand, and where each
shaping rule leads a free policy."""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
from closed_forms import Tabular
from hypothesis import given
from hypothesis import strategies as st

from coevo_env.errors import ConfigError, NonFiniteError
from coevo_env.game.kl import (
    CONTROLLERS,
    MIN_LOGPROB,
    Adaptive,
    DualAscent,
    Fixed,
    KLConfig,
    estimate,
    full_kl,
    make_controller,
    shaping,
)

weights = st.lists(st.floats(-4, 4), min_size=2, max_size=7)


def normalised(logits) -> np.ndarray:
    logits = np.asarray(logits, float)
    return logits - np.log(np.exp(logits).sum())


# ---------------------------------------------------------------- estimators
@given(weights, st.randoms(use_true_random=False))
def test_k1_and_k3_are_unbiased_and_full_is_exact(logits, random):
    policy = normalised(logits)
    reference = normalised([random.uniform(-4, 4) for _ in logits])
    exact = sum(math.exp(p) * (p - q) for p, q in zip(policy, reference, strict=True))
    mean = {name: float((np.exp(policy) * estimate(name, policy, reference)).sum()) for name in ("k1", "k2", "k3")}
    assert mean["k1"] == pytest.approx(exact, abs=1e-12)
    assert mean["k3"] == pytest.approx(exact, abs=1e-12)
    assert float(full_kl(policy, reference)) == pytest.approx(exact, abs=1e-12)
    assert (estimate("k2", policy, reference) >= 0).all()
    assert (estimate("k3", policy, reference) >= -1e-15).all()
    second_moment = sum(math.exp(p) * (p - q) ** 2 for p, q in zip(policy, reference, strict=True))
    assert mean["k2"] == pytest.approx(second_moment / 2, abs=1e-12)


def test_estimators_by_hand_and_in_both_shapes():
    # d = log(1/2) - log(1/4) = log 2
    a, b, d = math.log(0.5), math.log(0.25), math.log(2)
    assert estimate("k1", a, b) == pytest.approx(d)
    assert estimate("k2", a, b) == pytest.approx(d * d / 2)
    assert estimate("k3", a, b) == pytest.approx(0.5 - 1 + d)
    for name in ("k1", "k2", "k3"):
        assert estimate(name, np.full((2, 3), a), np.full((2, 3), b)) == pytest.approx(
            np.full((2, 3), estimate(name, a, b))
        )


def test_k3_of_what_cannot_have_been_sampled_is_infinite_in_both_shapes():
    assert estimate("k3", -1000.0, -1.0) == float("inf")
    assert estimate("k3", np.array([-1000.0, -1.0]), np.array([-1.0, -1.0])).tolist() == [float("inf"), 0.0]


def test_full_kl_where_a_policy_has_no_mass():
    half = np.log([0.5, 0.5])
    sure = np.array([0.0, -np.inf])
    assert full_kl(sure, half) == pytest.approx(math.log(2))  # 1 * (0 - log 1/2)
    assert full_kl(half, sure) == pytest.approx(0.5 * math.log(0.5) + 0.5 * (math.log(0.5) - MIN_LOGPROB))


def test_shaping_by_hand():
    assert shaping("reported", 0.1, 2.0, -3.0) == pytest.approx(-0.2)
    assert shaping("reference", 0.1, 2.0, -3.0) == pytest.approx(-0.3)
    assert shaping("off", 0.1, 2.0, -3.0) == shaping("loss", 0.1, 2.0, -3.0) == 0.0


def test_the_floor_is_the_smallest_positive_float32():
    assert math.exp(MIN_LOGPROB) == pytest.approx(float(np.finfo(np.float32).smallest_subnormal))


# ---------------------------------------------------------------- controllers
def test_adaptive_controller_against_a_table():
    # target 2, horizon 100, 10 episodes an iteration: beta *= 1 + clip(kl / 2 - 1, -0.2, 0.2) / 10
    controller = Adaptive(beta=0.5, target=2.0, horizon=100)
    for kl, expected in [(2.0, 0.5), (2.2, 0.505), (9.0, 0.5151), (0.0, 0.504798), (1.9, 0.50227401)]:
        controller.update(kl, 10)
        assert controller.beta == pytest.approx(expected, abs=1e-12)


def test_more_episodes_than_the_horizon_never_turn_beta_around():
    controller = Adaptive(beta=0.5, target=2.0, horizon=10)
    for expected in (0.4, 0.32, 0.256):
        controller.update(0.0, 640)
        assert controller.beta == pytest.approx(expected, abs=1e-12)


def test_dual_ascent_against_a_table():
    controller = DualAscent(beta=0.05, target=2.0, rate=0.1, maximum=0.3)
    for kl, expected in [
        (2.0, 0.05),
        (3.0, 0.15),
        (2.5, 0.2),
        (9.0, 0.3),
        (1.0, 0.2),
        (0.0, 0.0),
        (1.0, 0.0),
        (2.1, 0.01),
    ]:
        controller.update(kl, 10)
        assert controller.beta == pytest.approx(expected, abs=1e-12)


def test_fixed_never_moves():
    controller = Fixed(0.1)
    controller.update(100.0, 10)
    assert controller.beta == 0.1


@pytest.mark.parametrize("config", [KLConfig(controller="adaptive"), KLConfig(controller="dual"), KLConfig()])
def test_controllers_resume_bit_for_bit_and_refuse_nan(config):
    one, two = make_controller(config), make_controller(config)
    one.update(7.3, 64)
    two.load_state_dict(one.state_dict())
    assert two.beta == one.beta
    one.update(3.1, 64)
    two.update(3.1, 64)
    assert two.beta == one.beta
    before = one.beta
    with pytest.raises(NonFiniteError, match="Beta is left as it was"):
        one.update(float("nan"), 64)
    assert one.beta == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "report"}, "Did you mean 'reported'"),
        ({"estimator": "k4"}, "unknown KL estimator 'k4'"),
        ({"controller": "adaptiv"}, "Did you mean 'adaptive'"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"controller": "adaptive", "target": 0.0}, "target=0.0"),
        ({"controller": "adaptive", "horizon": 0.0}, "horizon=0.0"),
        ({"controller": "dual", "rate": -0.1}, "rate=-0.1"),
        ({"controller": "adaptive", "beta": 0}, "beta=0 with controller='adaptive', which multiplies beta"),
        ({"target": -1.0}, "target=-1.0"),  # nobody reads it here, and it is wrong all the same
        ({"mode": "reference", "estimator": "k3"}, "only k1 splits"),
    ],
)
def test_clear_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        KLConfig(**options)


@pytest.mark.parametrize("beta", [0.0, 1e-12, 0.1, 5.0])
@pytest.mark.parametrize("name", sorted(set(CONTROLLERS) - {"fixed"}))
def test_a_controller_that_is_taken_answers_to_the_kl(name, beta):
    """The fault: adaptive with beta=0 was taken, and stayed at 0 however far the KL went."""
    try:
        controller = make_controller(KLConfig(controller=name, beta=beta, target=2.0, horizon=64))
    except ConfigError:
        if beta:
            raise
        return
    for _ in range(3):
        before = controller.beta
        controller.update(20.0, 64)
        assert controller.beta > before


# ---------------------------------------------------------------- fixed points, V = 3, T = 3
BETA = 0.3


class Problem:
    """One context, three tokens (0 ends), at most three steps; rewards and reference are fixed by
    hand. All 15 responses are written down."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.policy = Tabular(3, 3, starts=[0])
        rows, index = self.policy.rows, self.policy.index
        ref = np.array(
            [normalised([0.3, 0.8, -0.2]), normalised([0.0, -0.5, 0.4]), normalised([0.2, 0.6, 0.0])]
        )  # by last token
        self.where = torch.zeros((len(rows), 3), dtype=torch.long)  # (R, T) row of the table
        self.token = torch.zeros((len(rows), 3), dtype=torch.long)
        self.played = torch.zeros((len(rows), 3), dtype=torch.float64)
        self.ref = torch.zeros((len(index), 3), dtype=torch.float64)
        for (_, prefix), i in index.items():
            self.ref[i] = torch.tensor(ref[prefix[-1] if prefix else 0])
        for r, row in enumerate(rows):
            for t, token in enumerate(row):
                self.where[r, t], self.token[r, t], self.played[r, t] = index[0, row[:t]], token, 1.0
        # a 2 is worth 0.4, a 1 right after a 2 another 0.7
        self.reward = torch.tensor(
            [0.4 * row.count(2) + 0.7 * sum(a == 2 and b == 1 for a, b in pairwise(row)) for row in rows]
        ).double()
        log_ref = (self.gather(self.ref) * self.played).sum(1)
        self.best = float(BETA * self.torch.logsumexp(log_ref + self.reward / BETA, 0))

    def gather(self, table):
        """(R, T): the table's entry at each token of each response."""
        return table[self.where, self.token]

    def value(self, table) -> float:
        """J of a policy."""
        token = self.gather(table) * self.played
        log_policy, log_ref = token.sum(1), (self.gather(self.ref) * self.played).sum(1)
        return float((log_policy.exp() * (self.reward - BETA * (log_policy - log_ref))).sum())

    def entropy(self, table) -> float:
        log_policy = (self.gather(table) * self.played).sum(1)
        return float(-(log_policy.exp() * log_policy).sum())

    def learn(self, pay, bonus: float = 0.0):
        """Where exact policy gradients with detached rewards lead.

        Args:
            pay: `(table) -> (R, T)`, shaping of each token.
            bonus: Coefficient of the entropy bonus; like every implementation's, it does not
                differentiate through the states visited.
        """
        self.policy = Tabular(3, 3, starts=[0])

        def objective(table):
            log_policy = (self.gather(table) * self.played).sum(1)
            probability = log_policy.exp().detach()
            earned = self.reward + (pay(table.detach()) * self.played).sum(1)
            entropy = -(table.exp() * table).sum(1)[self.where] * self.played  # (R, T)
            return (probability * log_policy * earned).sum() + bonus * (probability * entropy.sum(1)).sum()

        self.policy.ascend(objective, steps=800)
        return self.policy.table().detach()


@functools.cache
def fixed_point(rule: str) -> tuple[float, float, float]:
    """(J reached, best J, entropy of the response) of a rule, each from the functions of
    `coevo_env.game.kl`."""
    problem = Problem()
    ref = problem.gather(problem.ref).numpy()

    def sampled(table, mode="reported"):
        kl = estimate("k1", problem.gather(table).numpy(), ref)
        return problem.torch.tensor(shaping(mode, BETA, kl, ref))

    def whole(table):
        kl = problem.torch.tensor(full_kl(table.numpy(), problem.ref.numpy()))  # (prefixes,)
        return shaping("reported", BETA, kl[problem.where], None)

    table = {
        "k1": lambda: problem.learn(sampled),
        "reference and bonus": lambda: problem.learn(functools.partial(sampled, mode="reference"), bonus=BETA),
        "reference alone": lambda: problem.learn(functools.partial(sampled, mode="reference")),
        "full": lambda: problem.learn(whole),
    }[rule]()
    return problem.value(table), problem.best, problem.entropy(table)


def test_k1_paid_as_reward_reaches_the_optimum():
    reached, best, _ = fixed_point("k1")
    assert reached == pytest.approx(best, abs=1e-4)
    assert reached <= best + 1e-9


def test_the_reference_half_with_an_entropy_bonus_comes_close():
    reached, best, entropy = fixed_point("reference and bonus")
    assert 0.95 * best < reached < best - 1e-3  # close, and measurably not there
    assert entropy > 0.5 * fixed_point("k1")[2]


def test_the_reference_half_alone_collapses():
    reached, best, entropy = fixed_point("reference alone")
    assert entropy < 0.05
    assert reached < 0.9 * best


def test_full_kl_as_a_detached_reward_has_another_fixed_point():
    reached, best, entropy = fixed_point("full")
    assert reached < 0.9 * best
    assert entropy < fixed_point("k1")[2]
