"""Reads a run folder back, whatever state the run is in: finished, still going, or killed in the
middle of a line.

One idea: the JSON lines are the record, and everything that is shown of a run is made of them. What
is missing or broken is left out and noted in a sentence; only a folder that holds no run at all is
an error. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from coevo_env.errors import ConfigError, printable

from .door import Misfit, check_folder, check_plain, plain_json, read_end
from .schema import (
    ALARMS_BYTES,
    LARGEST,
    LINE_BYTES,
    METRICS_BYTES,
    TRANSCRIPTS_BYTES,
    Alarm,
    ConfigFile,
    Episode,
    Metrics,
    SummaryFile,
    misfit,
    read_json,
)

__all__ = ["CURVES", "Curve", "Record", "conditions", "read_record"]


@dataclass(frozen=True)
class Curve:
    """What to plot of every agent.

    Attributes:
        tag: Metric of a training iteration, without the agent's name, or "".
        held_out: Metric of an evaluation of the agent alone on held-out prompts, or "".
        title: Heading.
        unit: Unit, or what the number is.
    """

    tag: str
    held_out: str
    title: str
    unit: str


CURVES = (
    Curve("reward/task", "eval/reward", "Task reward", "mean of a batch"),
    Curve("kl", "eval/kl", "KL to the reference", "nats per response"),
    Curve("entropy", "eval/entropy", "Entropy", "nats per token"),
    Curve("kl_coef", "", "KL coefficient β", "reward per nat"),
    Curve(
        "", "eval/distinct_2", "Diversity", "distinct bigrams, held out"
    ),  # a batch has another number of responses, and does not compare
    Curve("length", "eval/length", "Response length", "tokens"),
)
"""The main curves; docs/metrics.md defines the tags."""


OWNERS = {"time", "cost", "population"}
"""What else than an agent can stand before the slash of a tag."""


@dataclass
class Record:
    """A run as it stands.

    Attributes:
        directory: The folder.
        config: Resolved settings, empty if unreadable.
        provenance: Versions, platform, commit; empty if unreadable.
        inputs: Digests of what the run rests on; empty if unreadable, or of a run of 0.1.
        metrics: One dictionary per iteration, in order; values are finite floats.
        transcripts: Episodes, in order of writing.
        alarms: Of the collapse audit, in order; see `audited`.
        summary: What the finished run wrote, or {}.
        notes: What is missing or broken, as sentences.
    """

    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    transcripts: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def agents(self) -> list[str]:
        """Names of the agents, `llm1` before `llm10`."""
        names = {tag.split("/", 1)[0] for row in self.metrics for tag in row if "/" in tag} - OWNERS
        names |= set(self.summary.get("agents", {}))
        return sorted(names, key=lambda name: (len(name), name))

    @property
    def iteration(self) -> int:
        """The last iteration that was written."""
        return int(self.metrics[-1]["iteration"]) if self.metrics else 0

    @property
    def audited(self) -> bool:
        """Whether the collapse audit has looked at the run, so that no alarm means that it found
        nothing; runs of earlier versions and those with too few answers have none."""
        return any(tag.endswith("/audit/score") for row in self.metrics for tag in row)

    @property
    def state(self) -> str:
        """One phrase: finished, or how far it is."""
        total = self.config.get("iterations")
        done = f"{self.iteration} of {total} iterations" if total else f"{self.iteration} iterations"
        return done if self.summary else f"{done}, unfinished"

    @property
    def measured(self) -> dict[str, Any] | None:
        """On what the summary was measured; None where that is not known."""
        found = self.summary.get("measured")
        kinds = {"split": str, "prompts": int, "asked": int, "draws": int}
        whole = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
        return found if whole else None

    def series(self, tag: str) -> tuple[list[float], list[float]]:
        """Iterations and values of a metric, where there are any."""
        points = [(row["iteration"], row[tag]) for row in self.metrics if tag in row]
        return [x for x, _ in points], [y for _, y in points]

    def change(self) -> dict[str, dict[str, dict[str, float]]]:
        """For each agent its held-out metrics "before" and "after": of the summary, or for an
        unfinished run of the first and the latest evaluation."""
        if self.summary.get("agents"):
            return {
                name: {when: _finite(agent.get(when) or {}) for when in ("before", "after")}
                for name, agent in self.summary["agents"].items()
            }
        result = {}
        for name in self.agents:
            prefix = f"{name}/eval/"
            rows = [
                {tag[len(prefix) :]: value for tag, value in row.items() if tag.startswith(prefix)}
                for row in self.metrics
            ]
            rows = [row for row in rows if row]
            if rows:
                result[name] = {"before": rows[0], "after": rows[-1] if len(rows) > 1 else {}}
        return result

    def ci95(self) -> dict[str, dict[str, dict[str, float]]]:
        """Agent -> "before" or "after" -> metric -> half width of its 95 % interval, where the
        summary has them."""
        found = {name: agent.get("ci95") for name, agent in self.summary.get("agents", {}).items()}
        return {
            name: {when: _finite(half[when]) for when in ("before", "after") if isinstance(half.get(when), dict)}
            for name, half in found.items()
            if isinstance(half, dict)
        }

    def exchanges(self) -> list[tuple[float, float, float]]:
        """Stretches in which the first agent kept its seat: (first iteration, last iteration,
        seat); fractional where it changed within."""
        if not self.agents:
            return []
        bands: list[tuple[float, float, float]] = []
        for x, seat in zip(*self.series(f"{self.agents[0]}/seat"), strict=True):
            if bands and bands[-1][2] == seat:
                bands[-1] = (bands[-1][0], x, seat)
            else:
                bands.append((x, x, seat))
        return bands


def conditions(measured: Mapping[str, Any] | None) -> str:
    """On what agents were measured, in words.

    >>> conditions({"split": "test", "prompts": 2, "asked": 128, "draws": 8})
    '2 prompts of the test split (128 asked, 2 there are), 8 draws each'
    >>> conditions(None)  # a run of 0.1, which did not write it down
    'held-out prompts'
    """
    if not measured:
        return "held-out prompts"
    prompts, asked, draws = measured["prompts"], measured["asked"], measured["draws"]
    fewer = f" ({asked} asked, {prompts} there are)" if prompts < asked else ""
    return (
        f"{prompts} prompt{'s' * (prompts != 1)} of the {measured['split']} split{fewer}, "
        f"{draws} draw{'s' * (draws != 1)} each"
    )


def read_record(directory: str | Path) -> Record:
    """Reads a run folder.

    Raises:
        ConfigError: The folder does not exist, holds no run, or holds links.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no folder; expected the run folder that `coevo train` printed.")
    for name in FILES:
        check_plain(directory / name)
    if not any((directory / name).is_file() for name in ("config.json", "metrics.jsonl")):
        raise ConfigError(
            f"{directory} holds no run: it has neither config.json nor metrics.jsonl. Expected the run folder that "
            "`coevo train` printed."
        )
    check_folder(directory)
    record = Record(directory)
    saved = _object(record, "config.json", ConfigFile, "It belongs to every run; the settings are not shown.")
    record.config, record.provenance = _shown(saved.get("config", {})), _shown(saved.get("provenance", {}))
    record.inputs = _shown(saved.get("inputs") or {})
    rows: dict[float, dict[str, float]] = {}
    for row in _lines(record, "metrics.jsonl", Metrics, METRICS_BYTES):
        # a resumed run may have written an iteration twice; the later one counts
        rows[row["iteration"]] = _finite(row)
    record.metrics = [rows[x] for x in sorted(rows)]
    record.transcripts = [_named(row) for row in _lines(record, "transcripts.jsonl", Episode, TRANSCRIPTS_BYTES)]
    record.alarms = [_shown(row) for row in _lines(record, "alarms.jsonl", Alarm, ALARMS_BYTES)]
    record.summary = _shown(_object(record, "summary.json", SummaryFile, ""))
    if not record.metrics:
        record.notes.append("No iteration has been written yet.")
    return record


FILES = ("config.json", "metrics.jsonl", "transcripts.jsonl", "alarms.jsonl", "summary.json")


def _object(record: Record, name: str, schema: Any, missing: str) -> dict[str, Any]:
    try:
        return read_json(record.directory / name, schema, ConfigError, advice="It was left out.")
    except FileNotFoundError:
        if missing:
            record.notes.append(f"{name} is missing. {missing}")
    except ConfigError as error:
        record.notes.append(str(error))
    return {}


def _lines(record: Record, name: str, schema: Any, most: int) -> list[dict[str, Any]]:
    """The lines of a log that hold what they should, of its last `most` bytes."""
    try:
        data, skipped = read_end(record.directory / name, most)
    except FileNotFoundError:
        return []
    except (OSError, Misfit) as error:
        record.notes.append(f"{name} could not be read ({error}) and was left out.")
        return []
    if skipped:
        data = data.partition(b"\n")[2]
        record.notes.append(f"{name} is long, and its first {skipped >> 20} MiB were left out.")
    rows, cut, wrong = [], 0, []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            if len(line) > LINE_BYTES:
                raise Misfit(f"it has {len(line)} bytes; expected at most {LINE_BYTES}")
            row = plain_json(line.decode("utf-8", errors="replace"))
        except Misfit:
            cut += 1
            continue
        try:
            misfit(row, schema)
            rows.append(row)
        except Misfit as error:
            wrong.append(f"line {number}: {error}")
    if cut:
        what = "1 line of" if cut == 1 else f"{cut} lines of"
        record.notes.append(
            f"{what} {name} was cut short or damaged, as when a run is killed while it writes, and was left out."
        )
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        record.notes.append(f"{name} has what a run does not write, and it was left out ({wrong[0]}{more}).")
    return rows


def _shown(data: Any) -> Any:
    """Plain data with every name and text in them as it can be printed."""
    if isinstance(data, dict):
        return {printable(key): _shown(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_shown(value) for value in data]
    return printable(data) if isinstance(data, str) else data


def _named(episode: dict[str, Any]) -> dict[str, Any]:
    """An episode with its names as they can be printed; what was said is shown by
    `coevo_env.view.render`, which has signs of its own for such characters."""

    def named(part: dict[str, Any], *keys: str) -> dict[str, Any]:
        return {**part, **_shown({key: part[key] for key in keys if key in part})}

    turns = [named(turn, "agent", "role", "terms") for turn in episode["turns"]]
    return {**named(episode, "task", "split"), "turns": turns}


def _finite(row: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a line by tag; a tag is a name, and is shown as such."""
    return {
        printable(tag): float(value)
        for tag, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
    }
