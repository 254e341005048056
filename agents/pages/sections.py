"""A report as a list of sections, in the terminal, as Markdown and as one self-contained page.

One idea: a section is lines, a table or charts, so that three short renderers, which know nothing
of what is reported, show all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from coevo_env.view.render import script, style

__all__ = ["Report", "Section"]


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Heading.
        lines: Paragraphs.
        head, rows: A table of texts.
        charts: What `charts.svg` gave, with "title" and "unit".
        strong: Whether the lines are what the report is about.
    """

    title: str
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    charts: Sequence[Mapping[str, Any]] = ()
    strong: bool = False


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: Of the page.
        lang: "en" or "ja".
        sections: In order.
        arms: Names, each of which has a colour.
    """

    title: str
    lang: str
    sections: list[Section]
    arms: list[str] = field(default_factory=list)

    def terminal(self, console: Console) -> None:
        """Prints it; a table that is too wide for the terminal becomes a list."""
        for section in self.sections:
            console.print()
            console.print(Text(section.title, "bold"))
            for line in section.lines:
                console.print(Text(line, "bold green" if section.strong else ""))
            if section.rows:
                _print(console, section)

    def markdown(self) -> str:
        """As Markdown."""
        parts = [f"# {_mark(self.title)}"]
        for section in self.sections:
            parts.append(f"## {_mark(section.title)}")
            stars = "**" if section.strong else ""
            parts += [f"{stars}{_mark(line)}{stars}" for line in section.lines]
            if section.rows:
                rows = [[_mark(name) for name in section.head], ["---"] * len(section.head)]
                cells = [[_mark(cell) for cell in row] for row in section.rows]
                parts.append("\n".join("| " + " | ".join(row) + " |" for row in [*rows, *cells]))
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """As one page that asks the network for nothing."""
        from markupsafe import Markup

        colors = {name: number % 6 for number, name in enumerate(self.arms)}
        return _template().render(report=self, colors=colors, style=Markup(style()), script=Markup(script()))


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("coevo_agents.pages", "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template("verdict.html.j2")


def _mark(text: str) -> str:
    """Text that Markdown takes as text."""
    for sign in "\\`*_{}[]<>#|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _print(console: Console, section: Section) -> None:
    table = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, name in enumerate(section.head):
        table.add_column(Text(name), justify="left" if number == 0 else "right", no_wrap=True)
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))
    if console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width:
        console.print(table)
        return
    for row in section.rows:
        console.print(Text(row[0], "bold"))
        for name, cell in zip(section.head[1:], row[1:], strict=True):
            if cell:
                console.print(Text(f"  {name}: {cell}" if name else f"  {cell}"))
