"""What a learner is: a policy that generates, an update that takes a rollout, and a state that can
be saved.

One idea: a learner owns weights, moments and values, and nothing else. It never sees the
environment, the reward function or its partners' weights; token ids, log-probs, rewards and beta
reach it in the rollout, with the seats of its turns and what the seats before them said for
learners that want to know.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from coevo_env.errors import CoevoError, ConfigError, unknown_name

if TYPE_CHECKING:
    import torch

    from coevo_env.game.rollout import Rollout
    from coevo_env.game.sampling import Sampling
    from coevo_env.lm.model import Generation

__all__ = [
    "LEARNERS",
    "Actor",
    "Learner",
    "LearnerError",
    "Policy",
    "State",
    "checked",
    "find_learner",
    "learner_name",
    "promised",
    "settings_class",
]


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
    """An algorithm with its weights, made from `(policy, reference, settings, sampling, seed)`.

    A class may have `Settings`, a frozen dataclass whose fields are its settings; `learns = False`
    if its updates change nothing; and `compares = True` if it compares responses to one prompt, and
    so needs a `group_size` of at least 2.

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
    "ppo": "coevo_agents.learners.ppo:PPO",
    "reinforce": "coevo_agents.learners.reinforce:Reinforce",
    "rloo": "coevo_agents.learners.rloo:RLOO",
    "grpo": "coevo_agents.learners.grpo:GRPO",
    "mappo": "coevo_agents.learners.mappo:MAPPO",
    "best_of_n": "coevo_agents.learners.best_of_n:BestOfN",
    "frozen": "coevo_agents.learners.frozen:Frozen",
}
"""Name -> class with one constructor `(policy: ActorCritic, reference: LanguageModel, settings:
Settings, sampling: Sampling, seed: int)`, where `Settings` is the frozen dataclass of that name in
the class. A class of one's own is made in the same way."""

ARGUMENTS = ("policy", "reference", "settings", "sampling", "seed")
"""What a learner is made from, by position."""


def learner_name(spec: str) -> str:
    """The short name of a learner of ours that was given as "module:Class"; anything else as it is.

    >>> learner_name("coevo_agents.learners.ppo:PPO"), learner_name("mine:Learner")
    ('ppo', 'mine:Learner')
    """
    return next((name for name, target in LEARNERS.items() if target == spec), spec)


def find_learner(spec: str) -> Callable[..., Any]:
    """The class that a name or `"package.module:Class"` stands for.

    Raises:
        ConfigError: There is none of that name, or it is not made from the five arguments.
    """
    target = LEARNERS.get(spec, spec)
    module, _, attribute = target.partition(":")
    if not attribute:
        raise unknown_name("learner", spec, [*LEARNERS, "package.module:Class"])
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user's can fail in any way
        raise ConfigError(
            f"learner {spec!r} could not be imported: {type(error).__name__}: {error}. Expected 'package.module:Class'."
        ) from error
    wanted = f"Expected a class whose constructor takes these five: ({', '.join(ARGUMENTS)})."
    try:
        signature = inspect.signature(found)
        signature.bind(*ARGUMENTS)
    except TypeError as error:
        raise ConfigError(f"learner {spec!r} cannot be made: {error}. {wanted}") from error
    except ValueError:  # what is written in C need not say what it takes
        return found
    if list(signature.parameters)[2:3] == ["config"]:  # as in 0.1: it would find none of the settings it looks for
        raise ConfigError(
            f"learner {spec!r} takes `config`, every setting of the run; since 0.2 it is given `settings`, those of "
            "its own "
            f"class `Settings`, a frozen dataclass (docs/add_a_learner.md). {wanted}"
        )
    return found


def settings_class(spec: str) -> type:
    """The class `Settings` of a learner: a frozen dataclass, without fields where there is nothing
    to set.

    Raises:
        ConfigError: There is no such learner, or its `Settings` is no dataclass.
    """
    settings = getattr(find_learner(spec), "Settings", NoSettings)
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        raise ConfigError(f"learner {spec!r}: its `Settings` is {settings!r}; expected a frozen dataclass.")
    return settings


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Settings of a learner that has none."""


def promised(spec: str, learner: Any) -> Any:
    """A learner that a factory made, if it has what the training loop calls.

    Raises:
        LearnerError: It lacks a method or a policy that generates.
    """
    from coevo_env.testing.learners import lacking

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
