"""A run that is killed again and again, before any operation on its files, in the middle of any
write and at any moment, is in the end the run that nobody touched, byte for byte.

Every cell of the grid is a real run of a tiny model, killed and resumed at least `KILLS` times.
Mutants at the end show that kills find what they are for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
from kills import HOW, assert_same_bytes, attempt, operations
from runs import config, train

from coevo_agents.learners.gradient import GradientLearner
from coevo_agents.learners.learner import LEARNERS
from coevo_agents.runs import checkpoint, logbook
from coevo_agents.runs.config import WEIGHTS
from coevo_env.game.kl import Fixed

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

KILLS = 3

LEARNER: dict[str, dict[str, Any]] = {
    "ppo": {},
    "reinforce": {"reinforce__learning_rate": 1e-2},
    "rloo": {"group_size": 4, "rloo__learning_rate": 1e-2},
    "grpo": {"group_size": 4, "grpo__learning_rate": 1e-2},
    "mappo": {"mappo__learning_rate": 1e-2, "context": "none"},
    "best_of_n": {"best_of_n__n": 2},
    "frozen": {},
}
POPULATION = {"population__capacity": 3, "population__every": 1, "population__share": 0.8}
OPTIONS: dict[str, dict[str, Any]] = {
    "warm start": {"warm_start__steps": 2},
    "warm start, lora": {"warm_start__steps": 2, "weights": "lora"},
    "population": POPULATION,
    "population, shared": {**POPULATION, "weights": "shared", "population__matchmaking": "elo"},
    "population, lora": {**POPULATION, "weights": "lora", "population__matchmaking": "recent"},
    "bandit": {"roles": "bandit", "eval_every": 1, "num_agents": 3},
    "score": {"roles": "score", "eval_every": 1},
    "elastic": {"elastic__every": 2},
    "sequential": {"updates": "sequential", "num_agents": 3},
    "alternating": {"updates": "alternating", "kl__controller": "dual", "kl__target": 0.1},
    "adaptive": {"kl__controller": "adaptive", "kl__horizon": 20, "kl__estimator": "full"},
    "annealed": {"mixing": "weighted", "mixing_anneal": 3, "reset_at_exchange": True},
    "communication": {"communication": True, "save_every": 0, "keep": 1},
}
CELLS = {
    f"{learner}, {weights}": {"learner": learner, "weights": weights} for learner in LEARNERS for weights in WEIGHTS
} | OPTIONS


def test_the_grid_is_whole():
    assert set(LEARNER) == set(LEARNERS)
    assert len(CELLS) * KILLS >= 100


def settings(model: Path, options: dict[str, Any]) -> Any:
    """A run of four iterations that writes as often as it can."""
    often = {"iterations": 4, "save_every": 1, "eval_every": 2, "eval_prompts": 2, "eval_draws": 1}
    return config(model, **often | LEARNER[options.get("learner", "ppo")] | options)


Mutant = Callable[[], contextlib.AbstractContextManager[None]]


def at_random(seed: int) -> Iterator[tuple[str, float]]:
    """Ways to kill in turn, and when: a share of all that a whole run does."""
    draw = random.Random(seed)
    for turn in itertools.count(seed):
        yield HOW[turn % len(HOW)], draw.random() / 2


def survives(
    the: Any,
    place: Path,
    plan: Iterator[tuple[str, float]],
    kills: int = KILLS,
    mutant: Mutant = contextlib.nullcontext,
) -> None:
    """Kills a run `kills` times before it comes to its end; one that comes there earlier is
    compared too, and another is started.

    Raises:
        AssertionError: It is not the run that nobody touched.
    """
    train(the, place / "alone")
    whole = operations(lambda: train(the, place / "counted"), place / "counted")
    for life in range(20):
        folder, killed = place / f"run{life}", True

        def go(folder=folder) -> None:
            with mutant():
                train(the, folder, resume=(folder / "config.json").exists())

        while killed and kills > 0:
            how, share = next(plan)
            killed = attempt(go, folder, how, share * whole[how])
            kills -= killed
        assert not (killed and attempt(go, folder))
        assert_same_bytes(folder, place / "alone")
        runs.assert_board_agrees(folder)
        if kills <= 0:
            return
    raise AssertionError("too few kills")


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_a_run_killed_again_and_again_is_the_run_left_alone(name, model, tmp_path):
    survives(settings(model, CELLS[name]), tmp_path, at_random(sorted(CELLS).index(name)))


def test_a_run_killed_in_each_of_three_ways_is_the_run_left_alone(model, tmp_path):
    survives(settings(model, {"iterations": 1}), tmp_path, at_random(0))


# -------------------------------------------------- mutants, by which kills show themselves
@contextlib.contextmanager
def planted(place: Any, name: str, other: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, other, raising=False)
        yield


@contextlib.contextmanager
def in_place(path: Path) -> Iterator[Path]:
    yield path


def early() -> Iterator[tuple[str, float]]:
    """In the middle of the first writes, one after another."""
    return (("within", n / 100) for n in range(100))


def late() -> Iterator[tuple[str, float]]:
    return at_random(0)


MUTANTS: dict[str, tuple[Mutant, dict[str, Any], Callable[[], Iterator[tuple[str, float]]]]] = {
    "JSON is written in place": (lambda: planted(checkpoint, "replace_file", in_place), {}, early),
    "logs are not cut": (lambda: planted(logbook, "min", lambda kept, size: size), {"save_every": 0}, late),
    "the controller is forgotten": (
        lambda: planted(Fixed, "load_state_dict", lambda self, state: None),
        {"kl__controller": "adaptive", "kl__horizon": 20},
        late,
    ),
    "the optimiser is forgotten": (
        lambda: planted(GradientLearner, "load_state_dict", lambda self, state: self.policy.load_state_dict(state)),
        {},
        late,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mutant_is_found(name, model, tmp_path):
    mutant, options, plan = MUTANTS[name]
    with pytest.raises(AssertionError, match=r"differs|the run failed"):
        survives(settings(model, options), tmp_path, plan(), 24, mutant)
