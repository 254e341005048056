"""What a benchmark found: rows with an interval and, where the project set one, a bar; as a table,
as JSON, as Markdown in the README.

One idea: the JSON is the result and everything else is made from it. Each item carries its own
date, command and machine, so a part of the suite can be measured again without pretending that the
rest was.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coevo_agents.runs.folder import provenance

from .timing import Estimate

__all__ = ["Item", "Row", "machine", "markdown", "rewrite", "table"]

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
PACKAGES = ("coevo-env", "torch", "transformers", "peft", "numpy", "pettingzoo", "gymnasium")


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: What was measured.
        value, low, high: The median and its 95 % interval (equal where the number is exact).
        unit: "x" for ratios.
        sense, bar: "<=" or ">=" and the bar; None where the number is for information.
        repeats: Timed repeats behind it.
        note: What a reader must know to trust it.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = "x"
    sense: str = "<="
    bar: float | None = None
    repeats: int = 1
    note: str = ""

    @classmethod
    def of(cls, name: str, estimate: Estimate, **rest: Any) -> Row:
        return cls(name, estimate.value, estimate.low, estimate.high, repeats=estimate.repeats, **rest)

    @property
    def verdict(self) -> str:
        """ "pass", "FAIL", or "" without a bar; the median decides."""
        if self.bar is None:
            return ""
        return "pass" if (self.value <= self.bar if self.sense == "<=" else self.value >= self.bar) else "FAIL"


@dataclass
class Item:
    """The rows of one benchmark, the series its pictures are drawn from, and why parts of it were
    left out."""

    rows: list[Row] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def to_json(self, meta: dict[str, Any]) -> dict[str, Any]:
        rows = [{**asdict(row), "verdict": row.verdict} for row in self.rows]
        return {"meta": meta, "rows": rows, "series": self.series, "skipped": self.skipped}


def machine(threads: int) -> dict[str, Any]:
    """When, where and with what a measurement was made."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": _command(sys.argv[1:]),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "commit": provenance()["git_commit"],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def table(rows: list[Row]) -> str:
    """Rows for a terminal."""
    width = max([len(row.name) for row in rows], default=0)
    lines = []
    for row in rows:
        bar = "" if row.bar is None else f"{row.sense} {row.bar:g}"
        lines.append(f"  {row.name:<{width}}  {_value(row):>16}  {_interval(row):<18} {bar:<8} {row.verdict}".rstrip())
    return "\n".join(lines)


def markdown(results: dict[str, Any]) -> str:
    """The committed table: one section per item."""
    lines = []
    for name, item in results["items"].items():
        meta = item["meta"]
        commit = f"; commit {meta['commit'][:7]}" if meta.get("commit") else ""
        versions = ", ".join(f"{k} {v}" for k, v in meta["versions"].items())
        lines += [
            f"#### {name}",
            "",
            "| measured | median | 95 % interval | bar | | repeats |",
            "|---|---:|---|---|---|---:|",
        ]
        for data in item["rows"]:
            row = Row(**{key: value for key, value in data.items() if key != "verdict"})
            bar = "" if row.bar is None else f"{'≤' if row.sense == '<=' else '≥'} {row.bar:g}"
            verdict = {"pass": "pass", "FAIL": "**missed**", "": ""}[row.verdict]
            what = row.name + (f" <br><sub>{row.note}</sub>" if row.note else "")
            lines.append(f"| {what} | {_value(row)} | {_interval(row)} | {bar} | {verdict} | {row.repeats} |")
        lines += [""] + [f"Not measured: {reason}" for reason in item["skipped"]]
        lines += [
            f"<sub>{meta['date']}; `{meta['command']}`; {meta['cpu']}, {meta['cores']} cores, {meta['threads']} "
            "thread(s), "
            f"load average before {meta['load_before']}; {versions}{commit}.</sub>",
            "",
        ]
    return "\n".join(lines)


def rewrite(readme: Path, text: str) -> None:
    """Puts `text` between the markers of a README."""
    old = readme.read_text()
    head, rest = old.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def load(path: Path) -> dict[str, Any]:
    """Results measured earlier, or none."""
    return json.loads(path.read_text()) if path.exists() else {"items": {}}


def _command(arguments: list[str]) -> str:
    """The command line, without the paths in it, which are this machine's business."""
    shown = ["python -m benchmarks.speed"]
    for word, before in zip(arguments, ["", *arguments], strict=False):
        shown.append({"--trl-python": "PYTHON", "--comlrl-python": "PYTHON", "--out": "FILE"}.get(before, word))
    return " ".join(shown)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _value(row: Row) -> str:
    return f"{_number(row.value)}{'×' if row.unit == 'x' else ' ' + row.unit if row.unit else ''}"


def _interval(row: Row) -> str:
    return "exact" if row.low == row.high else f"{_number(row.low)} to {_number(row.high)}"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown CPU"
