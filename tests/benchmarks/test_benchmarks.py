"""The speed suite runs and writes what it promises. No time is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_quick_run_of_the_rules_writes_results_with_their_circumstances(tmp_path):
    out = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--quick", "--only", "rules", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "bars met" in done.stdout
    item = json.loads(out.read_text())["items"]["rules"]
    assert {"date", "command", "cpu", "cores", "threads", "versions"} <= set(item["meta"])
    assert len({row["name"] for row in item["rows"]}) == len(item["rows"]) >= 5
    for row in item["rows"]:
        assert 0 < row["low"] <= row["value"] <= row["high"]
        assert row["verdict"] in (("",) if row["bar"] is None else ("pass", "FAIL"))


def test_committed_table_is_that_of_the_committed_results():
    from benchmarks.speed.results import BEGIN, END, load, markdown

    results = load(ROOT / "benchmarks" / "results" / "speed.json")
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    shown = readme.split(BEGIN)[1].split(END)[0].strip()
    assert shown == markdown(results).strip()


def test_agents_benchmark_measures_a_case():
    command = [sys.executable, "-m", "benchmarks.agents", "--case", "embedded", "3", "previous", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["agents"], row["context"]) == (3, "previous")
    assert row["seconds"] > 0
    assert 0 < row["adapter"] < row["parameters"]


def test_a_folder_enters_a_table_only_as_what_was_asked_for(tmp_path):
    from benchmarks.quality import collect, run
    from coevo_env.errors import ConfigError

    given = ["task=toy", "iterations=1", "batch_size=4"]
    [folder] = run("default", [0], tmp_path, given)
    before = (folder / "config.json").stat().st_mtime_ns
    assert run("default", [0], tmp_path, given) == [folder]
    assert (folder / "config.json").stat().st_mtime_ns == before
    agents = json.loads((folder / "summary.json").read_text())["agents"].values()
    assert collect([folder])["table"]["reward"]["after"][0] == np.mean([agent["after"]["reward"] for agent in agents])
    with pytest.raises(ConfigError, match=r"another run: batch_size is 4, not 8\. Choose"):
        run("default", [0], tmp_path, [*given[:2], "batch_size=8"])
    record = json.loads((folder / "config.json").read_text())
    record["provenance"]["git_commit"] = "0" * 40
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="made by commit 0000"):
        run("default", [0], tmp_path, given)


@pytest.mark.parametrize("name", ["learners", "roles"])
def test_committed_tables_are_those_of_the_committed_results(name):
    from benchmarks.quality import COMPARISONS, table

    data = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    page = (ROOT / "benchmarks" / "quality.md").read_text(encoding="utf-8")
    shown = page.split(f"<!-- {name} -->\n")[1].split("\n\n")[0]
    assert shown.splitlines() == table(data)
    assert list(data["arms"]) == list(COMPARISONS[name])
    for arm, found in data["arms"].items():  # the interval is that of the last evaluation
        last = np.array(found["curves"]["reward"])[:, -1]
        assert found["after"]["reward"][0] == pytest.approx(last.mean()), arm


def test_the_default_table_is_that_of_the_committed_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "default.json").read_text())["table"]
    lines = (ROOT / "benchmarks" / "quality.md").read_text(encoding="utf-8").splitlines()
    labels = {
        "reward": ("| reward (VADER", 3),
        "kl": ("| KL to the", 2),
        "distinct_2": ("| distinct bigrams", 3),
        "length": ("| tokens per", 2),
    }
    for name, (start, digits) in labels.items():
        line = next(line for line in lines if line.startswith(start))
        mean, half = found[name]["after"]
        assert line.split("|")[3].strip() == f"{mean:.{digits}f} ± {half:.{digits}f}", name


def test_committed_costs_of_agents_are_those_of_the_committed_results():
    from benchmarks.agents import table

    rows = json.loads((ROOT / "benchmarks" / "results" / "agents.json").read_text())
    page = (ROOT / "docs" / "beyond_two.md").read_text(encoding="utf-8")
    assert page.split("<!-- agents -->\n")[1].split("\n\n")[0].splitlines() == table(rows)
