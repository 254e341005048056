"""What `coevo compare`, `sweep` and `pareto` print: progress while runs go, then the report.

One idea: the table that grows is the progress; what is left to do and how long that may take always
stands below it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from coevo_env.errors import ConfigError, printable, unknown_name, whole

from ..launch.executor import Outcome, run_all
from ..referee.command import Compared, carry_out, compare, forecast
from ..referee.suite import Suite, read_suite
from ..runs.door import replace_file
from .verdict import LANGUAGES, report

__all__ = ["judging"]


def judging(
    console: Console,
    what: Suite | Sequence[Path],
    out: Path | None,
    workers: int,
    executor: str,
    dry_run: bool,
    lang: str,
    html: Path | None,
    markdown: Path | None,
    price: float,
    margin: float = 0.0,
) -> None:
    """Compares, and shows what came of it.

    Args:
        console: The terminal.
        what: A suite, or what `coevo_agents.referee.command.compare` takes.
        out, workers, margin: See there.
        executor: "processes" or "ray".
        dry_run: Whether only what would be done is said.
        lang: Of the report.
        html, markdown: Where to write it; of a suite by default report.html and report.md in `out`.
        price: Per hour, for projections.

    Raises:
        ConfigError: Something given cannot work.
    """
    whole("workers", workers, 1)
    if lang not in LANGUAGES:
        raise unknown_name("language", lang, LANGUAGES)
    suite = what if isinstance(what, Suite) else _suite(what)
    if dry_run:
        if suite is None:
            raise ConfigError("--dry-run belongs to a suite; runs that exist are only read.")
        for line in forecast(suite, workers):
            _say(console, line)
        return
    if suite is not None:
        out = out or Path("runs") / suite.name
        found = carry_out(suite, out, workers, _Told(console), _runner(executor), lambda line: _say(console, line))
        html, markdown = html or out / "report.html", markdown or out / "report.md"
    else:
        assert not isinstance(what, Suite)
        found = compare(what, margin=margin, say=lambda line: _say(console, line))
    _show(console, found, lang, html, markdown, price)


def _suite(places: Sequence[Path]) -> Suite | None:
    return read_suite(places[0]) if len(places) == 1 and places[0].suffix == ".toml" else None


def _runner(executor: str) -> Any:
    if executor == "processes":
        return run_all
    if executor != "ray":
        raise unknown_name("executor", executor, ("processes", "ray"))
    from ..launch.ray import run_all as on_a_cluster

    return on_a_cluster


class _Told:
    """A line for each run that ended."""

    def __init__(self, console: Console):
        self.console, self.began, self.spent = console, time.monotonic(), 0

    def __call__(self, outcome: Outcome, done: int, total: int) -> None:
        self.spent += outcome.seconds > 0
        passed = time.monotonic() - self.began
        left = f", about {timedelta(seconds=int(passed / self.spent * (total - done)))} left" if self.spent else ""
        how = "failed: " + outcome.error if outcome.error else "done" if outcome.seconds else "was there"
        _say(self.console, f"{done} of {total}{left}: {outcome.job.name} {how}")


def _show(console: Console, found: Compared, lang: str, html: Path | None, markdown: Path | None, price: float) -> None:
    made = report(found.judgement, found.suite, found.trials, found.probes, lang, points=found.points, price=price)
    made.terminal(console)
    for path, text in ((html, made.html), (markdown, made.markdown)):
        if path is None:
            continue
        try:
            with replace_file(path) as partial:
                partial.write_text(text(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{path} could not be written: {error}. The runs are kept; give the same command again, or another "
                "place with --html and --markdown."
            ) from error
        _say(console, f"Report: {path}")


def _say(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
