"""Tables of what agents alone do on prompts that they did not learn from.

One idea: a number that was measured on a sample says of what: the split, how many prompts and
draws, and how far it can be trusted. A table that is wider than the terminal becomes a taller one,
and no word is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from coevo_env.view.render import number

from ..runs.record import conditions
from .console import agent_colors, writes
from .report import COLUMNS, INTERVAL, Change

if TYPE_CHECKING:
    from ..training.assess import Assessment

__all__ = ["change_table", "evaluation_table", "summary_table"]


class Fitting:
    """The first of several forms that is no wider than the terminal, or the last one, with a title
    above and a note below."""

    def __init__(self, title: str, note: str, *forms: Callable[[Console], RenderableType]):
        self.title, self.note, self.forms = title, note, forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, "bold")
        boundless = options.update(max_width=10_000)
        made = (make(console) for make in self.forms)
        fits = (form for form in made if Measurement.get(console, boundless, form).maximum <= options.max_width)
        yield next(fits, None) or self.forms[-1](console)
        if self.note:
            yield Text(self.note, "dim")


def change_table(change: Change, title: str, note: str, widths: Mapping[str, Any] | None = None) -> Fitting:
    """Each agent alone, before and after.

    Args:
        change: As `Record.change` gives it.
        title: On what it was measured.
        note: A line below, or "".
        widths: Agent -> "before" or "after" -> metric -> half width of an interval.
    """
    colors = agent_colors(list(change))
    known = [
        column for column in COLUMNS if any(column[0] in values for when in change.values() for values in when.values())
    ]

    def cell(name: str, when: str, key: str, digits: int) -> str:
        half = ((widths or {}).get(name) or {}).get(when, {}).get(key)
        shown = number(change[name][when].get(key), sign=False, digits=digits, tiny=False)
        return shown if half is None else f"{shown} ± {number(half, sign=False, digits=digits, tiny=False)}"

    def wide(console: Console) -> Table:
        table = Table()
        table.add_column("agent", no_wrap=True)
        for _, heading, _ in known:
            table.add_column(heading, justify="right", no_wrap=True)
        for name in change:
            cells = [
                Text.assemble(
                    (writes(console, f"{cell(name, 'before', key, digits)} → "), "dim"),
                    (writes(console, cell(name, "after", key, digits)), "bold"),
                )
                for key, _, digits in known
            ]
            table.add_row(Text(name, colors[name]), *cells)
        return table

    def tall(console: Console) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "before", "after"):
            table.add_column(heading, justify="right" if heading else "left")
        for name in change:
            table.add_row(Text(name, colors[name]))
            for key, heading, digits in known:
                before, after = (writes(console, cell(name, when, key, digits)) for when in ("before", "after"))
                table.add_row(f" {heading}", Text(before, "dim"), Text(after, "bold"))
        return table

    def slim(console: Console) -> Table:
        table = Table.grid()
        for name in change:
            table.add_row(Text(name, colors[name]))
            for key, heading, digits in known:
                before, after = (cell(name, when, key, digits) for when in ("before", "after"))
                table.add_row(Text(f" {heading}"))
                table.add_row(Text.assemble((f"  {before} → ", "dim"), (after, "bold")))
        return table

    return Fitting(f"{title}, before → after", note, wide, tall, slim)


def summary_table(summary: Mapping[str, Any]) -> Group:
    """What ends a run: each agent alone, before and after, with samples.

    Args:
        summary: What `Run.train` returned, or `summary.json` holds.
    """
    agents = summary.get("agents", {})
    colors = agent_colors(list(agents))
    change = {name: {when: agent.get(when) or {} for when in ("before", "after")} for name, agent in agents.items()}
    widths = {name: agent.get("ci95") or {} for name, agent in agents.items()}
    table = change_table(
        change,
        f"Each agent alone on {conditions(summary.get('measured'))}",
        INTERVAL if any(widths.values()) else "",
        widths,
    )
    rows = [
        (name, *(str(sample.get(key, "")) for key in ("prompt", "before", "after")))
        for name, agent in agents.items()
        for sample in (agent.get("samples") or [])[:2]
    ]
    return Group(table, *(["", _samples(rows, colors)] if rows else []))


def _samples(rows: Sequence[tuple[str, ...]], colors: Mapping[str, str]) -> Fitting:
    """The same prompts before and after: side by side, or one below the other."""

    def wide(console: Console) -> Table:
        table = Table("agent", "prompt", "before", "after", box=None, header_style="dim", pad_edge=False)
        for name, *texts in rows:
            table.add_row(Text(name, colors[name]), *map(Text, texts))
        return table

    def tall(console: Console) -> Table:
        table = Table("agent", "", box=None, header_style="dim", pad_edge=False, show_header=False)
        for name, *texts in rows:
            table.add_row(Text(name, colors[name]))
            for label, text in zip(("prompt", "before", "after"), texts, strict=True):
                table.add_row(Text(f" {label}", "dim"), Text(text))
        return table

    return Fitting("", "", wide, tall)


def evaluation_table(assessed: Assessment) -> Fitting:
    """Saved models side by side."""
    metrics, widths = assessed.metrics(), assessed.ci95()
    title = f"{assessed.task}, paid by {assessed.reward}: {conditions(assessed.measured())}, each agent alone"
    note = INTERVAL if any(widths.values()) else ""

    def cell(name: str, key: str) -> str:
        half = widths[name].get(key)
        value = metrics[name][key]
        return f"{0.0 if abs(value) < 5e-5 else value:.4f}" + ("" if half is None else f" ± {half:.4f}")

    def wide(console: Console) -> Table:
        table = Table()
        table.add_column("metric", no_wrap=True)
        for name in metrics:
            table.add_column(Text(name), justify="right", no_wrap=True)
        for key in next(iter(metrics.values())):
            table.add_row(Text(key), *(Text(writes(console, cell(name, key))) for name in metrics))
        return table

    def tall(console: Console) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        table.add_column("", justify="right")
        for name, values in metrics.items():
            table.add_row(Text(name, "bold"))
            for key in values:
                table.add_row(Text(f" {key}"), Text(writes(console, cell(name, key))))
        return table

    return Fitting(title, note, wide, tall)
