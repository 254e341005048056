"""What a learner is: a policy that generates, an update that takes a rollout, and a state that can
be saved.

One idea: a learner owns weights, moments and values, and nothing else. It never sees the
environment, the reward function or its partners' weights; token ids, log-probs, rewards and beta
reach it in the rollout, with the seats of its turns and what the seats before them said for
learners that want to know.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from coevo_env.errors import CoevoError, ConfigError, unknown_name
from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import Generation
from coevo_env.testing.learners import lacking

__all__ = ["LEARNERS", "Actor", "Learner", "LearnerError", "Policy", "State", "checked", "find_learner", "promised"]


class LearnerError(CoevoError):
    """A learner broke its promises: wrong metrics, or a state that is not one."""


State = Mapping[str, "torch.Tensor | float | int | str | bool"]
"""A flat state: tensors go to safetensors, everything else to JSON. Nothing is pickled."""


class Actor(Protocol):
    """Acts on token ids."""

    def generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, uniforms: np.ndarray
    ) -> Generation:
        """Samples a turn for each context; see `coevo_env.lm.model.LanguageModel.generate`."""
        ...


class Policy(Actor, Protocol):
    """What a learner trains: it acts, and can be saved as a plain model."""

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes a directory that `AutoModelForCausalLM.from_pretrained` loads."""
        ...


class Learner(Protocol):
    """An algorithm with its weights.

    Attributes:
        policy: What acts.
        inspection: Optional. Arrays (B, T) of the last update by transcript key, such as
            "advantages", for people to look at.
    """

    policy: Policy

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learns from the turns of one iteration; returns metrics with the same keys every time
        (defined in docs/metrics.md).

        Raises:
            NonFiniteError: A loss or gradient is NaN or infinite; the weights of the last good step
                are kept.
        """
        ...

    def state_dict(self) -> State: ...
    def load_state_dict(self, state: State) -> None: ...


LEARNERS = {
    "ppo": "coevo_agents.learners.ppo:make",
    "reinforce": "coevo_agents.learners.reinforce:make",
    "rloo": "coevo_agents.learners.rloo:make",
    "grpo": "coevo_agents.learners.grpo:make",
    "mappo": "coevo_agents.learners.mappo:make",
    "best_of_n": "coevo_agents.learners.best_of_n:make",
    "frozen": "coevo_agents.learners.frozen:make",
}
"""Name -> factory `(policy: ActorCritic, reference: LanguageModel, config: Config, sampling:
Sampling, seed: int) -> Learner`. A class whose constructor takes these five is a factory too."""

ARGUMENTS = ("policy", "reference", "config", "sampling", "seed")
"""What a factory is called with, by position."""


def find_learner(spec: str) -> Callable[..., Any]:
    """The factory that a name or `"package.module:Class"` (or `":function"`) stands for.

    Raises:
        ConfigError: There is none of that name, or it does not take the five arguments.
    """
    target = LEARNERS.get(spec, spec)
    module, _, attribute = target.partition(":")
    if not attribute:
        raise unknown_name("learner", spec, [*LEARNERS, "package.module:Class"])
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user's can fail in any way
        raise ConfigError(
            f"learner {spec!r} could not be imported: {type(error).__name__}: {error}. Expected 'package.module:Class'."
        ) from error
    try:
        inspect.signature(factory).bind(*ARGUMENTS)
    except TypeError as error:
        raise ConfigError(
            f"learner {spec!r} cannot be made from {', '.join(ARGUMENTS)}: {error}. Expected a class or function that "
            "takes these five arguments."
        ) from error
    except ValueError:  # what is written in C need not say what it takes
        pass
    return factory


def promised(spec: str, learner: Any) -> Any:
    """A learner that a factory made, if it has what the training loop calls.

    Raises:
        LearnerError: It lacks a method or a policy that generates.
    """
    if missing := lacking(learner):
        raise LearnerError(
            f"learner {spec!r}, a {type(learner).__name__}, has no {' and no '.join(missing)}; see "
            "docs/add_a_learner.md."
        )
    return learner


def checked(name: str, metrics: Any, keys: set[str] | None = None) -> dict[str, float]:
    """What an update returned, if it is what a learner has to return.

    Args:
        name: Whose learner it is.
        metrics: What `update` returned.
        keys: What it returned before; None if that is not known.

    Raises:
        LearnerError: It is no dict of finite floats, or its keys have changed.
    """
    if not isinstance(metrics, dict):
        raise LearnerError(
            f"the learner of {name} returned a {type(metrics).__name__} from update(); expected a dict of metrics, "
            "name -> float."
        )
    for key, value in metrics.items():
        if (
            not isinstance(key, str)
            or isinstance(value, (str, bytes))
            or not isinstance(value, (int, float, np.number))
        ):
            raise LearnerError(
                f"the learner of {name} returned {key!r}: {value!r}, a {type(value).__name__}; expected a name and a "
                "float."
            )
        if not math.isfinite(value):
            raise LearnerError(
                f"the learner of {name} returned {value} for its metric {key!r}; expected a finite number. Has it "
                "diverged?"
            )
    if keys is not None and set(metrics) != keys:
        raise LearnerError(
            f"the learner of {name} returned the metrics {sorted(metrics)} after {sorted(keys)}; expected the same "
            "keys in every update."
        )
    return dict(metrics)
