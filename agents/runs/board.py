"""What TensorBoard shows beside single curves: charts that belong together, and the settings.

One idea: dozens of cards in alphabetical order are no overview. The tab "Custom Scalars" has the
few charts by which a run is judged, with a line for each agent; the tab "HParams" has the settings
that are not the default beside the validation reward, to compare runs by.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import Config
from .settings import to_dict

__all__ = ["board_settings", "lay_out", "layout", "open_board"]

WAIT = 2.0
"""Seconds after which a clock that was set back is no longer waited for."""


def open_board(folder: Path, purge_step: int | None, say: Callable[[str], None]) -> Any:
    """A writer of TensorBoard events whose file is read last.

    TensorBoard reads the files of a folder in the order of their names, and these hold the second,
    the process and a count without leading zeros: of one second, file 10 would be read before
    file 9, and what it says about earlier steps would be lost.

    Args:
        folder: The folder of events.
        purge_step: The step from which on what earlier files say is void; None of a first one.
        say: Called where the clock stands before the files that are there.
    """
    from torch.utils.tensorboard import SummaryWriter

    begun = time.monotonic()
    while True:
        there = _events(folder)
        board = SummaryWriter(str(folder), purge_step=purge_step)
        made = _events(folder) - there
        if not there or not made or min(made) > max(there):
            return board
        if time.monotonic() - begun > WAIT:
            say(
                f"the clock stands before the TensorBoard file {max(there)} in {folder}; TensorBoard reads files in "
                "the order of their names and may draw this run wrongly. metrics.jsonl is right."
            )
            return board
        board.close()
        for name in made:
            (folder / name).unlink()
        time.sleep(1.001 - time.time() % 1)


def _events(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*tfevents*")}


CHARTS = {
    "On the validation split, each agent alone": {
        "reward": "eval/reward",
        "KL, nats per response": "eval/kl",
        "distinct bigrams": "eval/distinct_2",
        "length": "eval/length",
    },
    "In training": {
        "task reward": "reward/task",
        "KL, nats per response": "kl",
        "KL coefficient": "kl_coef",
        "entropy, nats per token": "entropy",
    },
    "Updates": {
        "policy loss": "loss/policy",
        "value loss": "loss/value",
        "clip fraction": "clip_fraction",
        "norm of the gradient": "grad_norm",
    },
}
"""Category -> chart -> tag of each agent (docs/metrics.md)."""


def layout(agents: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The charts, as `SummaryWriter.add_custom_scalars` takes them."""
    return {
        category: {chart: ["Multiline", [f"{agent}/{tag}$" for agent in agents]] for chart, tag in charts.items()}
        for category, charts in CHARTS.items()
    }


def board_settings(config: Config) -> dict[str, Any]:
    """The settings of a run that are not the default, and always task, learner and seed, by dotted
    name; those of the learner are compared with its own defaults."""
    default = to_dict(Config()) | {"learner_settings": dataclasses.asdict(type(config.settings)())}
    different = _different(to_dict(config), default)
    own = f"{config.learner.rpartition(':')[2]}."  # as in `--set ppo.clip=0.1`
    return {name.replace("learner_settings.", own): value for name, value in different.items()}


def _different(settings: Mapping[str, Any], default: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        usual = default.get(name)
        if isinstance(value, Mapping):
            found |= _different(value, usual if isinstance(usual, Mapping) else {}, f"{under}{name}.")
        elif value != usual or (not under and name in ("task", "learner", "seed")):
            found[under + name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


def lay_out(board: Any, agents: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Writes both into the event file of a run that begins.

    Args:
        board: A `SummaryWriter`.
        agents: Names of the agents.
        settings: What `board_settings` gave.
    """
    from torch.utils.tensorboard.summary import hparams

    board.add_custom_scalars(layout(agents))
    for summary in hparams(dict(settings), {f"{agent}/eval/reward": 0.0 for agent in agents}):
        board.file_writer.add_summary(summary)
