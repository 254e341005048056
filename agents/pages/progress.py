"""The progress of a run: a bar with the count and the time left, and what the agents do.

One idea: count and time left are always there; the metrics take what room is left, in the longest
form that fits, and where there is none they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from coevo_env.view.render import number

from .console import agent_colors

if TYPE_CHECKING:
    from ..runs.config import Config

__all__ = ["progress"]

TIME = len("00:00:00")


class Metrics(ProgressColumn):
    """The longest of the task's `forms` that fits beside the other columns."""

    def __init__(self, console: Console, taken: int):
        super().__init__()
        self.console, self.taken = console, taken

    def render(self, task: Task) -> Text:
        """A line without a break."""
        room = self.console.width - self.taken
        return next((form for form in task.fields["forms"] if form.cell_len <= room), Text())


@contextmanager
def progress(console: Console, config: Config) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar with live reward, KL and entropy of every agent, above which each evaluation
    is a line.

    Yields:
        `report(iteration, metrics)`, to be called after each iteration.
    """
    bar = 24 if console.width >= 100 else 12 if console.width >= 60 else 6
    taken = bar + 2 * len(str(config.iterations)) + 1 + TIME + 3  # a space between columns
    columns = (BarColumn(bar), MofNCompleteColumn(), TimeRemainingColumn(), Metrics(console, taken))
    names = [f"llm{i + 1}" for i in range(config.num_agents)]
    colors = agent_colors(names)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=config.iterations, forms=[Text("starting")])

        def report(iteration: int, metrics: dict[str, float]) -> None:
            forms = _forms(metrics, names, colors)
            shown.update(task, completed=iteration, forms=forms or [Text("starting")])
            if line := _validation(metrics, colors):
                left = shown.tasks[task].time_remaining
                time = "" if left is None or console.is_terminal else f", {timedelta(seconds=int(left))} left"
                head = f"iteration {iteration:>{len(str(config.iterations))}} of {config.iterations}{time}: "
                shown.console.print(Text(head).append("validation reward  ").append_text(line), highlight=False)

        yield report


def _forms(metrics: Mapping[str, float], names: Sequence[str], colors: Mapping[str, str]) -> list[Text]:
    """What the agents did in an iteration, from the longest form to the shortest."""
    playing = [name for name in names if f"{name}/kl" in metrics]
    rows = {
        name: [number(metrics[f"{name}/{tag}"], digits=2) for tag in ("reward/task", "kl", "entropy")]
        for name in playing
    }
    forms = []
    for pattern in ("reward {0} kl {1} entropy {2}", "{0} kl {1}", "{0}"):
        parts = [
            Text.assemble((name, colors[name]), " ", pattern.format(reward, kl.lstrip("+"), entropy.lstrip("+")))
            for name, (reward, kl, entropy) in rows.items()
        ]
        forms.append(Text("  ").join(parts))
    return forms if playing else []


def _validation(metrics: Mapping[str, float], colors: Mapping[str, str]) -> Text | None:
    """What each agent alone does on the validation split, if that was measured."""
    parts = [
        Text.assemble(
            (name, colors[name]),
            f" {number(metrics[f'{name}/eval/reward'])} "
            f"(KL {number(metrics.get(f'{name}/eval/kl'), sign=False, digits=2)})",
        )
        for name in colors
        if f"{name}/eval/reward" in metrics
    ]
    return Text("   ").join(parts) if parts else None
