"""A judgement shown: in the terminal, as Markdown, and as one self-contained page.

One idea: a report is a list of sections (`coevo_agents.pages.parts`), and the three renderers here
know no statistics. Verdicts come first, for who decides; the rest is for who checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from coevo_env.errors import printable
from coevo_env.view.render import number, style

from ..referee.compare import Judgement
from ..referee.rows import Row
from ..referee.suite import Suite
from . import conclusion, evidence
from .charts import braille, svg
from .console import COLORS, writes
from .parts import Cell, Chart, Context, Section, Table, cleaned
from .words import LANGUAGES, WORDS, phrase

__all__ = ["LANGUAGES", "Report", "report"]

STYLES = {
    "": "dim",
    "claim": "bold",
    "warning": "bold yellow",
    "supported": "bold green",
    "contradicted": "bold red",
    "equivalent": "bold cyan",
}
"""Of lines in the terminal; other verdicts are bold."""


def report(
    judgement: Judgement,
    suite: Suite | None = None,
    trials: Sequence[Row] = (),
    probes: Mapping[str, Mapping[str, float]] | None = None,
    lang: str = "en",
    *,
    points: Sequence[Row] = (),
    price: float = 0.0,
) -> Report:
    """Makes a report.

    Args:
        judgement: What came of the runs.
        suite: What was to be done.
        trials: Runs that chose settings.
        probes: Task -> name of a probe -> reward.
        lang: "en" or "ja".
        points: Rows of a frontier before they became curves.
        price: Of a processor hour, for the projection.
    """
    of = Context(judgement, suite, lang, list(points) or judgement.rows)
    tasks = judgement.tasks
    sections = [
        conclusion.verdicts(of),
        conclusion.notes(of),
        conclusion.differed(of),
        *(conclusion.reached(of, task) for task in tasks),
        conclusion.differences(of),
        conclusion.failed(of),
        *(evidence.curves(of, task) for task in tasks),
        *(evidence.frontier(of, task) for task in tasks),
        evidence.collapse(of),
        evidence.cost(of, price, trials),
        evidence.probed(of, probes or {}),
        *(evidence.answers(of, task) for task in tasks),
        evidence.tried(of, trials),
        evidence.provenance(of),
    ]
    name = suite.name if suite else ", ".join(tasks)
    colors = {printable(arm): of.methods.index(of.method(arm)) for arm in (*of.arms, *of.methods)}
    shown = [cleaned(section) for section in sections if section is not None]
    plain = None if lang == "en" else report(judgement, suite, trials, probes, points=points, price=price)
    return Report(printable(phrase(lang, "title", name=name)), lang, shown, colors, plain)


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: Of the page.
        lang: "en" or "ja".
        sections: In order.
        colors: Arm -> number of its colour.
        plain: The same in English, for a terminal that cannot write the language.
    """

    title: str
    lang: str
    sections: list[Section]
    colors: dict[str, int] = field(default_factory=dict)
    plain: Report | None = None

    def terminal(self, console: Console) -> None:
        """Prints it; a table that is too wide for the terminal becomes a list."""
        sample = WORDS["claim"][LANGUAGES.index(self.lang)]
        if self.plain is not None and len(writes(console, sample).replace("?", "")) < len(sample):
            self.plain.terminal(console)
            return
        console.print(Text(writes(console, self.title), "bold underline"))
        for section in self.sections:
            console.print()
            console.print(Text(writes(console, section.title), "bold"))
            for line in section.lines:
                console.print(Text(writes(console, line.text), STYLES.get(line.kind, "bold")))
            self._charts(console, section.charts)
            for table in section.tables:
                _print(console, table, self.colors)

    def _charts(self, console: Console, charts: Sequence[Chart]) -> None:
        drawn = [chart for chart in charts if chart.areas or not chart.dots]
        if not drawn:
            return
        names = list(dict.fromkeys(name for chart in drawn for name in chart.lines))
        legend = [(f"━ {name}  ", COLORS[self.colors.get(name, 5) % len(COLORS)]) for name in names]
        console.print(Text.assemble(*((writes(console, name), color) for name, color in legend)))
        width = max(12, min(48, (console.width - 3) // 2 - 9 if console.width >= 70 else console.width - 10))
        console.print(Columns([self._chart(console, chart, width) for chart in drawn], padding=(0, 3)))

    def _chart(self, console: Console, chart: Chart, width: int) -> Group:
        rows = braille(chart.lines, width)
        values = [y for points in chart.lines.values() for y in points[1]]
        ends = (f"{number(max(values), sign=False):>8}", f"{number(min(values), sign=False):>8}")
        labels = [ends[0], *[" " * 8] * (len(rows) - 2), ends[1]]
        lines = [
            Text.assemble(
                (writes(console, label), "dim"),
                " ",
                *(
                    (writes(console, dot), COLORS[self.colors.get(who, 5) % len(COLORS)] if who else "")
                    for dot, who in row
                ),
            )
            for label, row in zip(labels, rows, strict=True)
        ]
        title = Text(writes(console, chart.title), "bold", overflow="ellipsis", no_wrap=True)
        title.truncate(width + 9, overflow="ellipsis" if writes(console, "…") == "…" else "crop")
        return Group(title, *lines)

    def markdown(self) -> str:
        """As Markdown."""
        parts = [f"# {_mark(self.title)}"]
        for section in self.sections:
            parts.append(f"## {_mark(section.title)}")
            for line in section.lines:
                parts.append(f"**{_mark(line.text)}**" if line.kind else _mark(line.text))
            for table in section.tables:
                parts += [f"*{_mark(table.caption)}*"] if table.caption else []
                rows = [[_mark(_joined(cell)) for cell in row] for row in [table.head, *table.rows]]
                rows.insert(1, ["---"] * len(table.head))
                parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """As one page that asks the network for nothing."""
        from markupsafe import Markup

        drawn = [[_drawn(chart) for chart in section.charts] for section in self.sections]
        first = next((number for number, section in enumerate(self.sections) if not section.top), -1)
        colon = ": " if self.lang == "en" else "："
        return _template().render(
            report=self,
            drawn=drawn,
            first=first,
            colon=colon,
            say=lambda key: phrase(self.lang, key),
            style=Markup(style()),
        )


def _drawn(chart: Chart) -> dict[str, Any]:
    found = svg(chart.lines, {}, chart.span, areas=chart.areas, dots=chart.dots) or {}
    names = list(dict.fromkeys((*chart.lines, *chart.dots)))
    return {"title": chart.title, "unit": chart.unit, "x": chart.x, "wide": chart.wide, "names": names, **found}


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("coevo_agents", "pages/templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template("verdict.html.j2")


def _joined(cell: Cell) -> str:
    return cell if isinstance(cell, str) else " ".join(part for part in cell if part)


def _mark(text: str) -> str:
    """Text that Markdown takes as text, in one line.

    >>> _mark("<b>a|b</b>"), _mark("1. *x*"), _mark("https://x")
    ('&lt;b&gt;a\\\\|b&lt;/b&gt;', '1\\\\. \\\\*x\\\\*', 'https\\\\://x')
    """
    text = " ".join(text.replace("\n", " ⏎ ").split())
    text = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("://", "\\://").replace("www.", "www\\.")
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)


def _print(console: Console, table: Table, colors: Mapping[str, int]) -> None:
    """A table: as one if it is no wider than the console, without the small print if it is for
    looking up, else as a list."""
    if table.caption:
        console.print(Text(writes(console, table.caption), "italic"))
    forms = [_joined, lambda cell: cell if isinstance(cell, str) else cell[0]][: 1 + table.fold]
    head = [writes(console, name) for name in table.head]
    paint = [
        COLORS[colors[row[0]] % len(COLORS)] if isinstance(row[0], str) and row[0] in colors else ""
        for row in table.rows
    ]
    rows: list[list[str]] = []
    for form in forms:
        rows = [[writes(console, form(cell).replace("\n", " ⏎ ")) for cell in row] for row in table.rows]
        shown = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for place, name in enumerate(head):
            shown.add_column(Text(name), justify="left" if place == 0 or table.texts else "right", no_wrap=True)
        for row, color in zip(rows, paint, strict=True):
            shown.add_row(Text(row[0], color), *map(Text, row[1:]))
        if console.measure(shown, options=console.options.update(max_width=10_000)).maximum <= console.width:
            console.print(shown)
            return
    for row, color in zip(rows, paint, strict=True):
        console.print(Text(row[0], color or "bold"))
        for name, cell in zip(head[1:], row[1:], strict=True):
            if cell:
                _print_below(console, Text.assemble((f"{name}: " if name else "", "dim"), cell))


def _print_below(console: Console, text: Text) -> None:
    """A text under a heading, each of its lines as long as what it says."""
    for line in text.wrap(console, max(1, console.width - 2)):
        line.rstrip()
        console.print(Text("  ").append_text(line))
