"""Elastic Reset: now and then a policy goes back to its own moving average, and the average to
where training began.

One idea: an option of any learner, because it only looks at weights. It follows the learner's
weights with an exponential moving average; every `every` updates the policy is set to the average
and the average to the initial weights. Reward found since then is kept in part, and drift from the
initial model is taken back without a KL term. Moments of the optimiser and value heads go on as
they are.

It is the paper's own baseline. Source: Noukhovitch et al. (2023), arXiv 2312.07551, algorithm 1.

Differs from the paper in:

1. An update is that of the learner inside, a whole rollout with all its epochs and minibatches;
   `every` and `decay` count those.
2. KL to the initial model stays as the run sets it. The paper resets in order to do without that
   penalty, which is `kl.beta=0` here.
3. With several agents, each has an average of its own, which counts its own updates and survives a
   role exchange.
4. With LoRA the average is over the tensors of the adapter, whose product is not the average of
   products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from coevo_env.errors import ConfigError
from coevo_env.game.rollout import Rollout

from ..learners.learner import Learner, State

__all__ = ["ElasticConfig", "ElasticReset"]


@dataclass(frozen=True)
class ElasticConfig:
    """Settings of Elastic Reset.

    Attributes:
        every: Updates between resets; 0 switches it off.
        decay: Share of the old average that is kept in each update.
    """

    every: int = 0
    decay: float = 0.99

    def __post_init__(self) -> None:
        if self.every < 0 or not 0 <= self.decay < 1:
            raise ConfigError(
                f"elastic.every={self.every!r}, elastic.decay={self.decay!r}; expected every >= 0 and 0 <= decay < 1."
            )


class ElasticReset:
    """A learner around a learner.

    Args:
        learner: What learns. Its policy must have `named_parameters`.
        config: Settings.

    Raises:
        ConfigError: The learner's weights cannot be seen.
    """

    def __init__(self, learner: Learner, config: ElasticConfig):
        if not callable(getattr(learner.policy, "named_parameters", None)):
            raise ConfigError(
                f"elastic.every={config.every} needs a learner whose policy has named_parameters(); "
                f"{type(learner).__name__} has none."
            )
        self.learner, self.config, self.policy = learner, config, learner.policy
        self.updates = 0
        self.initial = {name: parameter.detach().clone() for name, parameter in self._weights().items()}
        self.average = {name: tensor.clone() for name, tensor in self.initial.items()}

    @property
    def inspection(self) -> dict[str, Any]:
        """What the inner learner lets people look at."""
        return getattr(self.learner, "inspection", {})

    @torch.no_grad()
    def update(self, rollout: Rollout) -> dict[str, float]:
        """Updates the learner, then the average; resets both when it is time."""
        with torch.enable_grad():
            metrics = self.learner.update(rollout)
        self.updates += 1
        weights = self._weights()
        for name, parameter in weights.items():
            self.average[name].lerp_(parameter.detach(), 1 - self.config.decay)
        due = self.updates % self.config.every == 0
        if due:
            for name, parameter in weights.items():
                parameter.copy_(self.average[name])
                self.average[name].copy_(self.initial[name])
        return {**metrics, "elastic_reset": float(due)}

    def forget(self) -> None:
        """Passes the call on; the average is not forgotten."""
        self.learner.forget()  # type: ignore[attr-defined]  # the loop asks for it only where it is there

    def state_dict(self) -> State:
        """State of the learner, the average and the counter. The initial weights are those of the
        initial model."""
        average = {f"elastic.{name}": tensor for name, tensor in self.average.items()}
        return {**self.learner.state_dict(), **average, "elastic.updates": self.updates}

    def load_state_dict(self, state: State) -> None:
        """Restores `state_dict` bit for bit, on a learner that was made from the same initial
        model."""
        self.learner.load_state_dict({name: value for name, value in state.items() if not name.startswith("elastic.")})
        for name, tensor in self.average.items():
            saved: Any = state[f"elastic.{name}"]
            tensor.copy_(saved)
        self.updates = int(state["elastic.updates"])  # type: ignore[arg-type]

    def _weights(self) -> dict[str, torch.nn.Parameter]:
        """The policy's weights, without the value head."""
        # checked at the start
        named: dict[str, torch.nn.Parameter] = self.policy.named_parameters()  # type: ignore[attr-defined]
        return {name: parameter for name, parameter in named.items() if not name.startswith("value_head.")}
