"""A learner that does not learn: the initial model as a partner, and as the line that every other
curve has to beat.

One idea: a control is an ordinary learner with an empty update, so that it runs through the same
games, evaluations and tables as the others.

Differs from the paper in:

1. Nothing, because there is none: this is a control and not a method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coevo_env.game.rollout import Rollout

from .learner import State
from .policy import ActorCritic

__all__ = ["Frozen"]


class Frozen:
    """Plays with the weights it was given."""

    @dataclass(frozen=True)
    class Settings:
        """There is nothing to set."""

    learns = False

    def __init__(self, policy: ActorCritic, reference: Any, settings: Settings, sampling: Any, seed: int = 0):
        policy.valued = False
        self.policy = policy

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Does nothing; reports what the policy earned."""
        return {"return": float(rollout.returns.mean())}

    def state_dict(self) -> State:
        """The weights, which may be those of a warm start or of an earlier run."""
        return {name: parameter.detach() for name, parameter in self.policy.named_parameters().items()}

    def load_state_dict(self, state: State) -> None:
        """Restores `state_dict`."""
        self.policy.load_state_dict(state)

    def forget(self) -> None:
        """There is nothing to forget."""
