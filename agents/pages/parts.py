"""What reports of comparisons are put together from: lines, tables and charts under a heading.

One idea: a section is plain data in one language, so that whoever makes one knows nothing of
terminals, Markdown or HTML, and whoever shows one knows no statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from coevo_env.errors import printable
from coevo_env.view.render import number

from ..referee.compare import Judgement
from ..referee.frontier import method_of
from ..referee.notes import Note
from ..referee.rows import Row
from ..referee.statistics import Interval
from ..referee.suite import Suite
from .charts import Points
from .words import measure_title, measure_unit, note_text, phrase

__all__ = ["Cell", "Chart", "Context", "Line", "Section", "Table", "about", "brief", "cleaned", "counted", "stacked"]

Cell = str | tuple[str, ...]
"""A text, or the main text and smaller ones below it."""
Band = tuple[Sequence[float], Sequence[float], Sequence[float]]


class Line(NamedTuple):
    """A paragraph. Its kind is "" (a remark), "claim", "warning", or that of a verdict."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Of the columns.
        rows: As long as the head.
        caption: Above it.
        texts: Whether its cells are prose.
        fold: Whether it is for looking up: a page shows it when it is asked for.
        solid: Whether its small print keeps its line, all signs of one width.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    texts: bool = False
    fold: bool = False
    solid: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart before it is drawn.

    Attributes:
        title, unit, x: What stands above it, and the name of x.
        span: First and last x.
        lines, areas, dots: By name, as `charts.svg` takes them.
        wide: Whether it is the only one of its section.
    """

    title: str
    unit: str
    x: str
    span: tuple[float, float]
    lines: Mapping[str, Points]
    areas: Mapping[str, Band] = field(default_factory=dict)
    dots: Mapping[str, Points] = field(default_factory=dict)
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report; `top` says that it is for who decides."""

    title: str
    lines: Sequence[Line] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    top: bool = False


def cleaned(section: Section) -> Section:
    """The same, with texts as they can be printed: rows can come from anywhere."""

    def cell(given: Cell) -> Cell:
        return printable(given) if isinstance(given, str) else tuple(printable(part) for part in given)

    return replace(
        section,
        title=printable(section.title),
        lines=[Line(printable(line.text), line.kind) for line in section.lines],
        tables=[
            replace(
                table,
                head=[printable(name) for name in table.head],
                rows=[[cell(one) for one in row] for row in table.rows],
                caption=printable(table.caption),
            )
            for table in section.tables
        ],
        charts=[
            replace(
                chart,
                title=printable(chart.title),
                lines={printable(name): points for name, points in chart.lines.items()},
                areas={printable(name): band for name, band in chart.areas.items()},
                dots={printable(name): points for name, points in chart.dots.items()},
            )
            for chart in section.charts
        ],
    )


@dataclass(frozen=True)
class Context:
    """What every section is made from.

    Attributes:
        judgement, suite, lang: See `coevo_agents.pages.verdict.report`.
        rows: Of all runs: those that were judged, or the points of a frontier.
    """

    judgement: Judgement
    suite: Suite | None
    lang: str
    rows: Sequence[Row]

    @property
    def runs(self) -> list[Row]:
        """Those that did not fail."""
        return [row for row in self.rows if row.error is None]

    @property
    def arms(self) -> list[str]:
        """Of all runs, in order; of a frontier its points."""
        return list(dict.fromkeys(row.arm for row in self.rows))

    @property
    def methods(self) -> list[str]:
        """What has a colour: arms, or the curves of a frontier."""
        if self.suite is None or self.suite.frontier is None:
            return self.arms
        return list(dict.fromkeys(map(method_of, self.arms)))

    def method(self, arm: str) -> str:
        """Whose colour an arm has."""
        return arm if arm in self.methods else method_of(arm)

    def of(self, arm: str, task: str) -> list[Row]:
        """The finished runs of an arm on a task."""
        return [row for row in self.runs if (row.arm, row.task) == (arm, task)]

    def say(self, key: str, **values: object) -> str:
        """A phrase."""
        return phrase(self.lang, key, **values)

    def on(self, task: str) -> str:
        """The name of a task, where there are several."""
        return self.say("on", task=task) if len(self.judgement.tasks) > 1 else ""

    def measure(self, name: str) -> str:
        """The title of a measure."""
        return measure_title(self.lang, name)

    def with_unit(self, name: str) -> str:
        """The title of a measure with its unit."""
        unit = self.unit(name)
        return self.say("with unit", title=self.measure(name), unit=unit) if unit else self.measure(name)

    def unit(self, name: str) -> str:
        """The unit of a measure, or ""."""
        return measure_unit(self.lang, name)

    def listed(self, parts: Iterable[str]) -> str:
        """Parts as one text."""
        return self.say("comma").join(parts)

    def note(self, note: str) -> Line:
        """A note of the judgement; those that touch the claim itself are warnings."""
        text = note_text(self.lang, note)
        return Line(text, "warning" if isinstance(note, Note) and note.grave else "")


# ---------------------------------------------------------------- numbers
def brief(value: float | None, sign: bool = False) -> str:
    """A number of any size, short.

    >>> brief(1234567.0), brief(12.345), brief(-0.5, sign=True)
    ('1.23e6', '12.345', '−0.500')
    """
    if value is None or abs(value) < 1e6:
        return number(value, sign=sign)
    text = f"{abs(value):.2e}".replace("e+0", "e").replace("e+", "e")
    return ("−" if value < 0 else "+" if sign else "") + text


def counted(value: float) -> str:
    """A number that is often a whole one.

    >>> counted(96.0), counted(0.5)
    ('96', '0.500')
    """
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e6 else brief(value)


def stacked(found: Interval | None, sign: bool = False) -> Cell:
    """An estimate, and its interval as small print."""
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return brief(found.estimate, sign)
    return brief(found.estimate, sign), f"[{brief(found.low, sign)}, {brief(found.high, sign)}]"


def about(found: Interval | None, sign: bool = False) -> str:
    """An estimate and its interval.

    >>> about(Interval(0.5, 0.4, 0.6)), about(Interval(-1.0), sign=True)
    ('0.500 [0.400, 0.600]', '−1.000')
    """
    cell = stacked(found, sign)
    return cell if isinstance(cell, str) else " ".join(cell)
