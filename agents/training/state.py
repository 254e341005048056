"""The state of a run between iterations: what a checkpoint holds, saved and restored.

One idea: prompts, roles and sampling noise are functions of the seed and the iteration, so that
little is left to keep: the learners, the KL controllers, what adaptive roles have observed, and a
few numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coevo_env.errors import short_of_memory
from coevo_env.game.kl import make_controller
from coevo_env.game.roles import AdaptiveRoles

from ..runs.checkpoint import CheckpointError, checkpoints, load, prune, save, sweep
from ..runs.config import Config
from ..runs.door import check_folder
from ..runs.folder import read_saved
from .assemble import Parts

__all__ = ["NONE", "State", "forget", "is_finite", "restore", "save_state"]

NONE = (-np.inf, -1)
"""No best yet."""


@dataclass
class State:
    """Where a run is.

    Attributes:
        iteration: Finished iterations.
        best: The highest validation reward so far, and its iteration, of agents that the collapse
            audit had nothing to say of.
        former: The same before the best one, to which an alarm can go back.
        before: {"metrics": ...} of each agent before training; {} until they have been measured.
        pending: What the iteration just finished still has to write down.
        offsets: Bytes of each log that belong to this state.
        spent: Of the budget: in all, and in the last iteration.
        audit: State of the collapse audit; None in a run that was begun before there was one.
        alarms: How many it has given.
    """

    iteration: int = 0
    best: tuple[float, int] = NONE
    former: tuple[float, int] = NONE
    before: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, Any] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    spent: tuple[float, float] = (0.0, 0.0)
    audit: dict[str, Any] | None = field(default_factory=dict)
    alarms: int = 0


def forget(parts: Parts, config: Config) -> None:
    """Where roles change with the batch that is about to be played: learners and controllers start
    anew, with the weights they have."""
    game = parts.game
    roles, first = game.rules.roles, game.episode
    if first and roles.assignment(first) != roles.assignment(first - config.batch_size):
        for learner in parts.learners:
            learner.forget()
        game.controllers = [make_controller(config.kl) for _ in parts.members]
        if config.shared:
            game.controllers *= len(parts.agents)


def is_finite(learners: list[Any]) -> bool:
    """Whether the weights are worth keeping: those of a policy that diverged would only hide the
    last good checkpoint."""
    values = (
        value for learner in learners for value in learner.state_dict().values() if isinstance(value, torch.Tensor)
    )
    return all(bool(torch.isfinite(value).all()) for value in values)


def save_state(directory: Path, state: State, parts: Parts, keep: int) -> None:
    """Writes a checkpoint, and removes those that are not to be kept.

    Raises:
        CheckpointError: It could not be written.
    """
    bests = {"best": state.best, "former": state.former}
    meta = {
        "controllers": [controller.state_dict() for controller in parts.game.controllers],
        **{name: list(one) if np.isfinite(one[0]) else None for name, one in bests.items()},
        "before": state.before,
        "pending": state.pending,
        "offsets": state.offsets,
        "spent": list(state.spent),
        "audit": state.audit,
        "alarms": state.alarms,
        "run": parts.rests_on["run"],
    }
    states = {name: learner.state_dict() for name, learner in parts.named_learners()}
    if parts.opponents:
        states["population"] = parts.opponents.population.state_dict()
    if isinstance(parts.game.rules.roles, AdaptiveRoles):
        meta["roles"] = parts.game.rules.roles.state_dict()
    save(directory / "checkpoints", state.iteration, states, meta)
    prune(directory / "checkpoints", state.iteration, keep, state.best[1])


def restore(directory: Path, parts: Parts, say: Callable[[str], None], keep: int = 1, tidy: bool = True) -> State:
    """Gives the parts the state of the newest checkpoint that is whole, and removes those before it
    that are not to be kept: a kill can come between the writing of one and that.

    Args:
        directory: The run folder.
        parts: Of the same run.
        say: Called with what a person should know.
        keep: How many checkpoints are to be kept.
        tidy: Whether what a killed process left is removed; not where another may be writing it.

    Raises:
        ConfigError: The folder holds links.
        CheckpointError: There are checkpoints, and none of them is whole.
    """
    check_folder(directory)
    folder = directory / "checkpoints"
    if tidy:
        for place in (folder, directory / "agents"):
            sweep(place)
    found, run = checkpoints(folder), (read_saved(directory / "config.json").get("inputs") or {}).get("run")
    for path in reversed(found):
        try:
            states, meta = load(path)
            if None not in (run, meta.get("run")) and meta["run"] != run:
                raise CheckpointError(f"checkpoint {path} is of another run: model, task or settings are others.")
            state = _adopted(parts, states, meta)
        except CheckpointError as error:
            say(f"skipped: {error}")
            continue
        if tidy:
            prune(folder, state.iteration, keep, state.best[1], later=True)
        say(f"resumed from {path}")
        if state.audit is None:
            say("the run was begun by a version without the collapse audit, and goes on without it")
        return state
    if found:
        raise CheckpointError(
            f"none of the {len(found)} checkpoints in {folder} is whole, so there is nothing to resume from; start the "
            "run "
            f"again in another folder. Its logs are still readable: coevo show {directory}"
        )
    say("no checkpoint had been written yet; starting from iteration 0")
    return State()


def _pair(saved: list[Any] | None) -> tuple[float, int]:
    score, iteration = saved or NONE
    return score, iteration


def _adopted(parts: Parts, states: dict[str, dict[str, Any]], meta: dict[str, Any]) -> State:
    """Takes the state of a checkpoint."""
    try:
        for name, learner in parts.named_learners():
            learner.load_state_dict(states[name])
        for controller, saved in zip(parts.game.controllers, meta["controllers"], strict=True):
            controller.load_state_dict(saved)
        if parts.opponents:
            parts.opponents.population.load_state_dict(states["population"])
        if isinstance(parts.game.rules.roles, AdaptiveRoles):
            parts.game.rules.roles.load_state_dict(meta["roles"])
        total, last = meta.get("spent") or (0.0, 0.0)
        return State(
            meta["iteration"],
            best=_pair(meta["best"]),
            former=_pair(meta.get("former")),
            before=meta["before"],
            pending=meta["pending"],
            offsets=meta["offsets"],
            spent=(total, last),
            audit=meta.get("audit"),
            alarms=meta.get("alarms", 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        if short_of_memory(error):
            raise
        raise CheckpointError(
            f"the checkpoint belongs to another run or version: {type(error).__name__}: {error}"
        ) from error
