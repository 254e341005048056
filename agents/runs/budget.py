"""What a run may cost, so that runs of different methods are compared at equal cost.

One idea: a cost is a running sum of numbers that every iteration writes down, and a run ends with
the iteration that brings it nearest to its budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coevo_env.errors import ConfigError, real, unknown_name

__all__ = ["KINDS", "BudgetConfig"]

KINDS: dict[str, tuple[str, ...]] = {
    "episodes": ("cost/episodes",),
    "generated": ("cost/generated_tokens",),
    "tokens": (
        *("cost/prompt_tokens", "cost/generated_tokens", "cost/reference_tokens"),
        *("cost/trained_tokens", "cost/value_tokens"),
    ),
    "flops": ("cost/flops",),
    "cpu_seconds": ("time/cpu_s",),
}
"""What a budget can be of, and the tags (docs/metrics.md) whose sum it is."""


@dataclass(frozen=True)
class BudgetConfig:
    """What training may cost; evaluations are not counted.

    Attributes:
        by: "" (only `iterations` counts), "episodes", "generated" (tokens), "tokens" (all that are
            read or written by any model), "flops" (by torch's counter, which slows a small model
            down), or "cpu_seconds", with which no two runs are equal.
        amount: How much. The run ends with the iteration that comes nearest to it, at the latest
            after `iterations`.
    """

    by: str = ""
    amount: float = 0.0

    def __post_init__(self) -> None:
        if self.by and self.by not in KINDS:
            raise unknown_name("budget.by", self.by, KINDS)
        real("budget.amount", self.amount)
        if bool(self.by) != (self.amount > 0):
            raise ConfigError(
                f"budget.by={self.by!r} with budget.amount={self.amount!r}; expected both, an amount above 0, or "
                "neither."
            )

    def spends(self, metrics: Mapping[str, float]) -> float:
        """What an iteration with these metrics cost."""
        return sum(metrics.get(tag, 0.0) for tag in KINDS[self.by]) if self.by else 0.0

    def is_spent(self, spent: float, last: float) -> bool:
        """Whether one more iteration like the last one would bring the sum no nearer to the
        budget."""
        return bool(self.by) and spent + last / 2 >= self.amount
