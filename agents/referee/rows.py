"""Rows: what is kept of each run, so that a report can be made again without the runs.

One idea: a row is plain data, one line of JSON, and everything that is said about runs is computed
from rows. Whatever would make an average wrong in silence (two rows for one run, other prompts,
another task, a line cut short) is refused here.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError

from ..runs.door import Misfit, plain_json
from ..runs.record import Record
from ..runs.schema import ByPrompt, Count, Measured, Name, Number, Numbers, Part, Sample, Text, misfit
from .measures import curves, measured
from .notes import Note

__all__ = ["Row", "check_rows", "read_rows", "row_of", "write_rows"]


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        arm, task, seed: Which run it is.
        error: Why it failed, or None; what it measured is then empty.
        measures: Measure -> value.
        by_prompt: "asked" (digests), "reward" and "kl" of each prompt, means over draws and agents.
        before: The initial model's held-out numbers.
        curves: The evaluations while it trained.
        samples: A few prompts with the answers before and after.
        measured: On what: split, prompts, draws.
        iterations: How many it had.
        settings: All of them.
        provenance: Versions, platform, commit.
        inputs: Digests of what it rests on.
        chosen: The settings that tuning chose.
        notes: What is to be said of it.
    """

    arm: str
    task: str
    seed: int
    error: str | None = None
    measures: dict[str, float] = field(default_factory=dict)
    by_prompt: dict[str, list[Any]] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    iterations: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, int]:
        """What no two rows share."""
        return self.arm, self.task, self.seed


def row_of(record: Record, arm: str, task: str, chosen: Mapping[str, Any] | None = None) -> Row:
    """The row of a finished run.

    Raises:
        ConfigError: It has not finished, or its summary cannot be read.
    """
    if not record.summary.get("agents"):
        why = f" {' '.join(record.notes)}" if record.notes else ""
        raise ConfigError(
            f"{record.directory} is {record.state}; expected finished runs.{why} Continue it with: coevo train "
            f"--resume {record.directory}"
        )
    tables = [table for name, table in record.summary.get("by_prompt", {}).items() if name != "reference"]
    by_prompt: dict[str, list[Any]] = {}
    if tables and all(table["asked"] == tables[0]["asked"] for table in tables):
        by_prompt = {tag: _means([table[tag] for table in tables]) for tag in ("reward", "kl")}
        by_prompt["asked"] = tables[0]["asked"]
    first = next(iter(record.summary["agents"].values()))
    return Row(
        arm=arm,
        task=task,
        seed=int(record.config.get("seed", 0)),
        measures=measured(record),
        by_prompt=by_prompt,
        before=dict(first.get("before", {})),
        curves=curves(record),
        samples=first.get("samples", [])[:5],
        measured=record.measured or {},
        iterations=record.iteration,
        settings=record.config,
        provenance=record.provenance,
        inputs=dict(record.inputs),
        chosen=dict(chosen or {}),
        notes=[note for note in record.notes if "No iteration" not in note],
    )


def _means(lists: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*lists, strict=True)]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows, one a line, whole or not at all; a name that ends in .gz is compressed."""
    text = "".join(json.dumps(asdict(row), sort_keys=True, allow_nan=False) + "\n" for row in rows).encode()
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} could not be written: {error}. The runs are kept; make room, then give the same command again."
        ) from error


LARGEST_FILE = 2**30


def read_rows(path: Path) -> list[Row]:
    """Rows that `write_rows` wrote.

    Raises:
        ConfigError: A line is cut short or no row, or two rows are of one run.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as stream:
                text = stream.read(LARGEST_FILE)
        else:
            text = path.read_bytes()
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path} could not be read: {error}. Expected rows that `coevo compare` wrote.") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            data = plain_json(line.decode("utf-8", errors="replace"))
            misfit(data, RowFile)
            rows.append(Row(**{name: value for name, value in data.items() if name in Row.__dataclass_fields__}))
        except Misfit as error:
            raise ConfigError(
                f"line {number} of {path} is no row ({error}); expected what `coevo "
                "compare` wrote. Was it cut short? Copy it again, or remove the line to compare the others."
            ) from error
    if not rows:
        raise ConfigError(f"{path} has no rows; expected one line of JSON for each run.")
    check_rows(rows)
    return rows


class RowFile(Part):
    """A line of a file of rows, which can come from anybody."""

    arm: Name
    task: Name
    seed: Count
    error: Text | None
    measures: Numbers
    by_prompt: ByPrompt
    before: Numbers
    curves: dict[Name, list[Number]]
    samples: list[Sample]
    measured: Measured | dict[Name, Any]
    iterations: Count
    settings: dict[Name, Any]
    provenance: dict[Name, Any]
    inputs: dict[Name, Any]
    chosen: dict[Name, Any]
    notes: list[Text]


def check_rows(rows: Sequence[Row]) -> list[str]:
    """Whether rows may stand in one table.

    Returns:
        What a report says about them.

    Raises:
        ConfigError: Two are of one run, or two of one task were measured on other prompts, with
            another number of draws, or on another version of the task.
    """
    seen: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        if row.key in seen:
            raise ConfigError(
                f"two rows are of arm {row.arm!r}, task {row.task!r}, seed {row.seed}; expected one for each run. "
                "Remove one of them."
            )
        seen[row.key] = row
    notes = []
    for task in dict.fromkeys(row.task for row in rows):
        fine = [row for row in rows if row.task == task and row.error is None]
        for row in fine[1:]:
            _check_same_task(fine[0], row)
        commits = sorted({str(row.provenance.get("git_commit")) for row in fine})
        if len(commits) > 1:
            text = "Runs of {task} were made by different commits of the package: {commits}."
            notes.append(Note("commits", text, task=task, commits=", ".join(commits)))
        for library in ("torch", "transformers", "numpy", "coevo-env"):
            versions = sorted({str(_versions(row).get(library)) for row in fine})
            if len(versions) > 1:
                text = "Runs of {task} were made with different versions of {library}: {versions}."
                notes.append(Note("versions", text, task=task, library=library, versions=", ".join(versions)))
        platforms = sorted({str(row.provenance.get("platform")) for row in fine})
        if len(platforms) > 1:
            text = "Runs of {task} were made on different platforms; their times do not compare."
            notes.append(Note("platforms", text, task=task))
    return notes


def _versions(row: Row) -> Mapping[str, Any]:
    found = row.provenance.get("versions")
    return found if isinstance(found, Mapping) else {}


def _check_same_task(one: Row, other: Row) -> None:
    def named(row: Row) -> str:
        return f"arm {row.arm!r}, seed {row.seed}"

    for key in ("split", "prompts", "draws"):
        if one.measured.get(key) != other.measured.get(key):
            raise ConfigError(
                f"{named(one)} and {named(other)} were measured otherwise: {key} is {one.measured.get(key)!r} and "
                f"{other.measured.get(key)!r}. Diversity and intervals depend on it; evaluate both alike."
            )
    if one.by_prompt.get("asked") != other.by_prompt.get("asked"):
        raise ConfigError(
            f"{named(one)} and {named(other)} answered different prompts of {one.task!r}; expected the same task and "
            "data in every run."
        )
    mine, its = (row.inputs.get("task") for row in (one, other))
    if None not in (mine, its) and mine != its:
        raise ConfigError(
            f"{named(one)} and {named(other)} are of different versions of the task {one.task!r} (prompts, templates "
            "or rewards differ); their numbers do not compare. Run them again with one version."
        )
