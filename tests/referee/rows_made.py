"""Rows made by hand, for the tests of what is computed from rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coevo_agents.referee.rows import Row


def row(arm: str, seed: int, reward: float, kl: float = 1.0, task: str = "toy", **more: Any) -> Row:
    """A row whose J is reward - 0.1 kl."""
    given: dict[str, Any] = {
        "measures": {"reward": reward, "kl": kl, "J": reward - 0.1 * kl, "distinct_2": 0.5, **more.pop("measures", {})},
        "before": {"reward": 0.0},
        "measured": {"split": "test", "prompts": 3, "asked": 3, "draws": 2},
        "by_prompt": {"asked": ["a", "b", "c"], "reward": [reward] * 3, "kl": [kl] * 3},
        "settings": {"kl": {"beta": 0.1}, "learner": "ppo", "task": task},
        "provenance": {"git_commit": "c0ffee", "versions": {"torch": "2.13.0"}, "platform": "here"},
        "inputs": {"task": {"prompts": "0" * 64}},
        "iterations": 6,
        **more,
    }
    return Row(arm, task, seed, **given)


def arms(effect: float, seeds: int, noise: float, draw: np.random.Generator, names: Sequence[str] = ("a", "b")):
    """Two arms whose runs differ by an effect and noise."""
    shared = draw.normal(0, 0.1, seeds)
    return [
        row(name, seed, float(0.5 + shared[seed] + (effect if name == names[0] else 0) + draw.normal(0, noise)))
        for name in names
        for seed in range(seeds)
    ]
