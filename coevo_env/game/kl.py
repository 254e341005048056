"""KL shaping: estimators of the divergence from the reference policy, the rule that pays them, and
the rules that move beta.

One idea: the environment always pays +beta log pi_ref(a|s); when the acting learner reported log
pi(a|s) it also pays -beta log pi(a|s). What is paid is what is logged. docs/rewards_and_kl.md
derives the rule and tabulates what the alternatives converge to. An estimator is a function and one
line of `ESTIMATORS`, a controller a class and one line of `CONTROLLERS`.

Nothing here knows of agents, text or torch: the functions take floats or numpy arrays of any one
shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, Protocol

import numpy as np

from ..errors import ConfigError, NonFiniteError, real, unknown_name

__all__ = [
    "CONTROLLERS",
    "ESTIMATORS",
    "Adaptive",
    "Controller",
    "DualAscent",
    "Fixed",
    "KLConfig",
    "MIN_LOGPROB",
    "estimate",
    "full_kl",
    "finite_kl",
    "make_controller",
    "normalised",
    "shaping",
]

Mode = Literal["reported", "reference", "loss", "off"]
MODES = ("reported", "reference", "loss", "off")
STRICT = ("reported", "loss")
"""Modes in which every token must come with the log-prob it was sampled with."""
FULL = "full"
"""The estimator that is none: the exact KL of whole distributions, see `full_kl`."""

MIN_LOGPROB = math.log(2.0**-149)
"""Floor of log pi_ref, about -103.3: the log of the smallest positive float32. A token that the
reference cannot emit (it was masked, and played all the same) is scored at the floor, so that its
reward is finite and never better than that of a legal token."""


def k1(difference):
    """d: unbiased, can be negative."""
    return difference


def k2(difference):
    """d^2 / 2: biased, low variance."""
    return 0.5 * difference * difference


def k3(difference):
    """exp(-d) - 1 + d: unbiased, never negative; infinite where it is more than a float can
    hold."""
    if isinstance(difference, float):
        return (
            (math.exp(-difference) if difference > -709 else math.inf) - 1.0 + difference
        )  # beyond that math.exp raises
    with np.errstate(over="ignore"):
        return np.exp(-difference) - 1.0 + difference


ESTIMATORS: dict[str, Callable[[Any], Any]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
}
"""Name -> sampled KL estimator. A function of d = log pi(a|s) - log pi_ref(a|s), a float or an
array for tokens that were drawn from pi, that returns nats of the same shape;
docs/rewards_and_kl.md says of each what it is worth as a measurement and as a reward."""


def estimate(estimator: str, logprob, ref_logprob):
    """A one-sample estimate of KL(pi || pi_ref) at each token that was drawn from pi.

    Args:
        estimator: A name of `ESTIMATORS` ("full" needs whole distributions: `full_kl`).
        logprob, ref_logprob: Natural-log probabilities, floats or arrays of one shape.

    Returns:
        Nats, of the same shape; infinite where an estimate is more than a float can hold.

    Source: Schulman, "Approximating KL divergence" (2020), http://joschu.net/blog/kl-approx.html.

    >>> estimate("k1", -1.0, -1.5), estimate("k2", -1.0, -1.5)
    (0.5, 0.125)
    """
    if estimator not in ESTIMATORS:
        raise unknown_name("sampled KL estimator", estimator, ESTIMATORS)
    return ESTIMATORS[estimator](logprob - ref_logprob)


def full_kl(logprobs: np.ndarray, ref_logprobs: np.ndarray) -> np.ndarray:
    """Exact KL(pi || pi_ref) over the vocabulary, the last axis; tokens that pi cannot emit count
    nothing, and tokens that pi_ref cannot emit are scored at `MIN_LOGPROB`, which keeps the sum
    finite.

    >>> float(full_kl(np.log([0.5, 0.5]), np.log([0.25, 0.75]))).__round__(4)
    0.1438
    """
    logprobs, ref_logprobs = (
        np.asarray(logprobs, np.float64),
        np.maximum(np.asarray(ref_logprobs, np.float64), MIN_LOGPROB),
    )
    probability = np.exp(logprobs)
    with np.errstate(invalid="ignore"):
        return np.where(probability == 0, 0.0, probability * (logprobs - ref_logprobs)).sum(-1)


def normalised(logprobs: np.ndarray) -> bool:
    """Whether each row sums to 1, over the vocabulary, the last axis. NaN is let through: that it
    is none is said where the KL is."""
    with np.errstate(over="ignore"):
        return not (np.abs(np.exp(np.asarray(logprobs, np.float64)).sum(-1) - 1.0) > 1e-3).any()


def shaping(mode: str, beta, kl, ref_logprob):
    """The reward that KL shaping pays at each token.

    Args:
        mode: "reported": -beta * kl; "reference": +beta * log pi_ref, the learner adds its own
            half; "loss" and "off": 0.
        beta: KL coefficient, a float or an array that broadcasts.
        kl: KL estimate at the token, from `estimate` or `full_kl`.
        ref_logprob: log pi_ref(a|s).
    """
    if mode == "reported":
        return -beta * kl
    if mode == "reference":
        return beta * ref_logprob
    return 0.0 * kl


class Controller(Protocol):
    """Owns the KL coefficient of one agent and moves it between iterations."""

    beta: float

    def update(self, kl: float, episodes: int) -> None:
        """Takes the mean KL of an iteration (nats per response) and the number of episodes it was
        measured on."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Fixed:
    """Beta never moves."""

    def __init__(self, beta: float = 0.1):
        self.beta = real("KL beta", beta, least=0)

    def update(self, kl: float, episodes: int) -> None:
        finite_kl(kl)

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.beta = float(state["beta"])


class Adaptive(Fixed):
    """Proportional control in log space: beta <- beta * (1 + clip(kl / target - 1, -0.2, 0.2) *
    min(1, episodes / horizon)).

    An iteration of more episodes than the horizon counts as the horizon: it moves beta by 20 % at
    most, and never below 0.

    Args:
        beta: Initial coefficient, more than 0.
        target: Wanted KL, nats per response.
        horizon: Episodes over which a sustained 20 % error moves beta by about 20 %.

    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), section
    2.2.
    """

    def __init__(self, beta: float = 0.1, target: float = 6.0, horizon: float = 10_000):
        super().__init__(beta)
        if not self.beta:
            raise ConfigError(
                f"KL beta={beta!r} with controller='adaptive', which multiplies beta and leaves 0 as it is; expected a "
                "beta > 0. controller='dual' starts from 0; for no KL at all use controller='fixed'."
            )
        self.target, self.horizon = real("KL target", target, above=0), real("KL horizon", horizon, above=0)

    def update(self, kl: float, episodes: int) -> None:
        error = min(max(finite_kl(kl) / self.target - 1.0, -0.2), 0.2)
        self.beta *= 1.0 + error * min(1.0, episodes / self.horizon)


class DualAscent(Fixed):
    """Beta as the Lagrange multiplier of the constraint kl <= target: beta <- max(0, beta + rate *
    (kl - target)).

    Args:
        beta: Initial coefficient.
        target: Largest wanted KL, nats per response.
        rate: Step of the ascent, per nat and iteration.
        maximum: Upper bound of beta.

    Source: Boyd & Vandenberghe, "Convex Optimization" (2004), section 5.
    """

    def __init__(self, beta: float = 0.1, target: float = 6.0, rate: float = 0.01, maximum: float = 10.0):
        super().__init__(beta)
        self.target, self.rate, self.maximum = (
            real("KL target", target, above=0),
            real("KL rate", rate, above=0),
            real("KL maximum", maximum, above=0),
        )

    def update(self, kl: float, episodes: int) -> None:
        self.beta = min(max(self.beta + self.rate * (finite_kl(kl) - self.target), 0.0), self.maximum)


CONTROLLERS: dict[str, Callable[..., Controller]] = {
    "fixed": Fixed,
    "adaptive": Adaptive,
    "dual": DualAscent,
}
"""Name -> class of a KL controller. Its constructor takes those settings of `KLConfig` that it
needs, under their names; docs/rewards_and_kl.md has a row for each."""


@dataclass(frozen=True)
class KLConfig:
    """How KL is measured, paid and controlled.

    Attributes:
        mode: "reported" (the learner reports log pi of every token; strict), "reference" (the
            environment pays only +beta log pi_ref; the learner must add -beta log pi, for example
            as an entropy bonus of beta), "loss" (measured and controlled as in "reported" but not
            paid: the learner adds beta * KL to its own loss), "off" (no reference policy is
            needed).
        estimator: A name of `ESTIMATORS`, or "full" (exact over the vocabulary; as a reward it has
            a wrong fixed point and exists to reproduce the paper).
        beta: Initial KL coefficient.
        controller: A name of `CONTROLLERS`.
        target: Wanted KL in nats per response (adaptive and dual).
        horizon: Episodes (adaptive).
        rate: Step size (dual).

    Raises:
        ConfigError: A name is unknown, a number is out of range, or "reference" is combined with
            another estimator than k1.
    """

    mode: Mode = "reported"
    estimator: str = "k1"
    beta: float = 0.1
    controller: str = "fixed"
    target: float = 6.0
    horizon: float = 10_000.0
    rate: float = 0.01

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("KL mode", self.mode, MODES)
        if self.estimator not in (*ESTIMATORS, FULL):
            raise unknown_name("KL estimator", self.estimator, [*ESTIMATORS, FULL])
        if self.mode == "reference" and self.estimator != "k1":
            raise ConfigError(
                f"KL mode 'reference' with estimator {self.estimator!r}: only k1 splits into a half that the "
                "environment can pay "
                "without the learner's log-prob; use estimator='k1' or mode='reported'."
            )
        for name in ("target", "horizon", "rate"):  # also where the controller at hand does not read them
            real(f"KL {name}", getattr(self, name), above=0)
        make_controller(self)


def make_controller(config: KLConfig) -> Controller:
    """A fresh controller, one for each agent."""
    if config.controller not in CONTROLLERS:
        raise unknown_name("KL controller", config.controller, CONTROLLERS)
    kind = CONTROLLERS[config.controller]
    return kind(**{name: getattr(config, name) for name in signature(kind).parameters if hasattr(config, name)})


def finite_kl(kl: float) -> float:
    """The KL that a controller is given, if it is finite."""
    if not math.isfinite(kl):
        raise NonFiniteError(
            f"the KL controller was given kl={kl!r}; expected a finite number. Beta is left as it was."
        )
    return float(kl)
