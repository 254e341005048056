"""A run as one HTML page: what changed, the curves, samples, transcripts and settings.

One idea: the page is a view of the run folder and can be made again at any time, also while the run
is going. It is one file that asks the network for nothing. How it looks is in
`templates/report.html.j2`; how transcripts look is `coevo_env.view.render`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from coevo_env.errors import CoevoError, ConfigError
from coevo_env.view.render import fragment, number, script, style

from ..learners.learner import LEARNERS
from ..methods.audit import sentence as sentence_of_alarm
from ..runs.checkpoint import hint
from ..runs.door import replace_file
from ..runs.record import CURVES, Record, conditions, read_record
from .charts import svg

__all__ = ["COLUMNS", "INTERVAL", "Change", "held_out", "page", "sentence"]

COLUMNS = (
    ("reward", "Reward", 3),
    ("kl", "KL, nats", 2),
    ("entropy", "Entropy", 2),
    ("distinct_2", "Distinct bigrams", 3),
    ("unique", "Unique", 2),
    ("length", "Length", 1),
)
"""Held-out metrics of the summary: key, heading, decimals."""

INTERVAL = "± half the width of a 95 % interval over prompts"
"""What stands behind a number."""

MAX_EPISODES, MAX_ALARMS = 24, 6

Change = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Agent -> "before" or "after" -> metric -> value, as `Record.change` gives it."""


def held_out(record: Record) -> tuple[str, str]:
    """On what the table of a run was measured, as its title, and a note to it."""
    if record.summary:
        return f"Each agent alone on {conditions(record.measured)}", INTERVAL if record.ci95() else ""
    split = "the validation split" if "eval_draws" in record.config else "held-out prompts"
    return f"Each agent alone on {split}", "First and latest evaluation; the run has not finished."


def page(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Writes the report of a run.

    Args:
        run_dir: The run folder, of a finished or an unfinished run.
        out: Where to write; by default `report.html` in the run folder.

    Returns:
        The path of the page.

    Raises:
        ConfigError: The folder holds no run, or the page cannot be written.
    """
    from markupsafe import Markup

    record = read_record(run_dir)
    path = Path(out) if out is not None else record.directory / "report.html"
    change = record.change()
    shown = record.transcripts[-MAX_EPISODES:][::-1]
    own, defaults = _settings(record.config)
    text = _template().render(
        name=record.directory.resolve().name,
        sentence=sentence(record),
        state=record.state,
        measured=held_out(record),
        split="validation" if "eval_draws" in record.config else "held out",
        notes=[*map(sentence_of_alarm, record.alarms[:MAX_ALARMS]), *record.notes],
        columns=[heading for _, heading, _ in _known(change)],
        summary=_summary(change, record.ci95()),
        samples=_samples(record),
        colors={name: i % 6 for i, name in enumerate(record.agents)},
        curves=_curves(record),
        others=_others(record),
        bands=len(record.exchanges()) > 1,
        settings=own,
        defaults=defaults,
        provenance=flatten(record.provenance),
        transcripts=Markup(fragment(shown, record.agents)) if shown else "",
        shown=len(shown),
        total=len(record.transcripts),
        style=Markup(style()),
        script=Markup(script()),
    )
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):  # the user's own words, such as /dev/stdout
            path.write_text(text, encoding="utf-8")
        else:
            with replace_file(path) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the report could not be written to {path}: {error}. {hint(error)}, or give another place with --html."
        ) from error
    return path


def sentence(record: Record) -> str:
    """What was run, in a sentence; what is not known is left out."""
    config, count = record.config, len(record.agents)
    agents = config.get("num_agents") or count
    if not config.get("task"):
        return f"A run of {agents} agents." if agents else "A run."
    who = "One agent learns" if agents == 1 else f"{agents} agents learn"
    by = f" by {config['learner']}" if config.get("learner") else ""
    model = config.get("model") or "the model that comes with the task"
    roles = {"periodic": "exchange roles every {} iterations", "rotation": "rotate roles every {} iterations"}
    every, kind = config.get("exchange_every"), roles.get(str(config.get("roles")))
    turns = f", and {kind.format(every)}" if kind and every and agents != 1 else ""
    batch = f", {config['batch_size']} episodes an iteration" if config.get("batch_size") else ""
    seed = f", seed {config['seed']}" if "seed" in config else ""
    return f"{who}{by} on the task {config['task']}, starting from {model}{batch}{seed}{turns}."


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text).

    >>> flatten({"kl": {"beta": 0.1}, "seed": 0})
    [('kl.beta', '0.1'), ('seed', '0')]
    """
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", "–" if value in (None, "", {}) else str(value)))
    return rows


def _known(change: Change) -> list[tuple[str, str, int]]:
    """Columns that any agent has a number for."""
    return [
        column for column in COLUMNS if any(column[0] in values for when in change.values() for values in when.values())
    ]


def _settings(config: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The settings that differ from the defaults, and those that do not."""
    from ..runs.config import Config, made
    from ..runs.settings import to_dict

    usual = to_dict(Config())
    with suppress(CoevoError, ValueError, TypeError):  # a learner of one's own is not imported to be looked at
        if config.get("learner") in LEARNERS:
            usual["learner_settings"] = asdict(made(config["learner"], {}))
    expected = dict(flatten(usual))
    rows = flatten(config)
    return [row for row in rows if expected.get(row[0]) != row[1]], [row for row in rows if row in expected.items()]


def _summary(change: Change, ci95: Mapping[str, Any]) -> list[dict[str, Any]]:
    def cell(name: str, when: str, key: str, digits: int) -> str:
        values = (change[name][when].get(key), ci95.get(name, {}).get(when, {}).get(key))
        shown, half = (number(value, sign=False, digits=digits, tiny=False) for value in values)
        return shown if values[1] is None else f"{shown} ± {half}"

    columns = _known(change)
    return [
        {
            "name": name,
            "cells": [
                tuple(cell(name, when, key, digits) for when in ("before", "after")) for key, _, digits in columns
            ],
        }
        for name in change
    ]


def _samples(record: Record) -> list[dict[str, Any]]:
    rows = []
    for name, agent in record.summary.get("agents", {}).items():
        for sample in agent.get("samples") or []:
            old, new = sample.get("reward") or (None, None)
            texts = {key: str(sample.get(key, "")) for key in ("prompt", "before", "after")}
            rows.append({"agent": name, **texts, "rewards": (number(old, digits=2), number(new, digits=2))})
    return rows


def _curves(record: Record) -> list[dict[str, Any]]:
    span = _span(record)
    exchanges = [(a, b, seat) for a, b, seat in record.exchanges()]
    bands = [(a - 0.5, b + 0.5) for a, b, seat in exchanges if seat > 0.5] if len(exchanges) > 1 else []
    charts = []
    for curve in CURVES:
        lines = {name: record.series(f"{name}/{curve.tag}") for name in record.agents}
        marked = {name: record.series(f"{name}/{curve.held_out}") for name in record.agents} if curve.held_out else {}
        if chart := svg(lines, marked, span, bands):
            charts.append({"title": curve.title, "unit": curve.unit, **chart})
    return charts


def _others(record: Record) -> list[dict[str, Any]]:
    """Charts of every other metric, one for each tag."""
    main = {curve.tag for curve in CURVES} | {curve.held_out for curve in CURVES} | {"seat"}
    tags: dict[str, dict[str, str]] = {}
    for row in record.metrics:
        for full in row:
            owner, _, tag = full.partition("/")
            if owner in record.agents and tag not in main:
                tags.setdefault(tag, {})[owner] = full
            elif owner not in record.agents and full != "iteration":
                tags.setdefault(full, {})[full] = full
    charts = []
    for tag in sorted(tags):
        series = {name: record.series(full) for name, full in tags[tag].items()}
        chart = svg({}, series, _span(record)) if tag.startswith("eval/") else svg(series, {}, _span(record))
        if chart:
            charts.append({"title": tag, "unit": "held out" if tag.startswith("eval/") else "", **chart})
    return charts


def _span(record: Record) -> tuple[float, float]:
    xs = [row["iteration"] for row in record.metrics]
    return (min(xs), max(xs)) if xs else (0.0, 1.0)


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("coevo_agents", "pages/templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")
