"""What training does to held-out reward, KL and diversity: runs a preset over several seeds, and
draws and tabulates finished runs.

One idea: the unit of evidence is a seed. Each seed is one ordinary run folder of `coevo train`, so
anybody can look into any of them; the table and the figure are made from the folders alone, with a
95 % t-interval over seeds.

    python -m benchmarks.quality run --preset default --seeds 0 1 2 --out runs/quality
    python -m benchmarks.quality report runs/quality/default-* --name default
    python -m benchmarks.quality compare roles --seeds 0 1 2 --out runs/quality
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MEASURES = {
    "reward": "held-out reward",
    "kl": "KL, nats per response",
    "distinct_2": "distinct bigrams",
    "length": "tokens per response",
}


COMPARISONS: dict[str, dict[str, list[str]]] = {
    "roles": {
        "periodic": [],
        "never": ["roles=never"],
        "score": ["roles=score"],
        "bandit": ["roles=bandit"],
    },
    "learners": {
        "ppo": [],
        "reinforce": ["learner=reinforce"],
        "rloo": ["learner=rloo", "group_size=4"],
        "grpo": ["learner=grpo", "group_size=4"],
        "mappo": ["learner=mappo"],
        "best_of_n": ["learner=best_of_n"],
        "frozen": ["learner=frozen"],
    },
}
"""Arms of each comparison: what differs from the default preset. The first one is what the others
are compared with."""


def run(preset: str, seeds: list[int], out: Path, given: list[str], name: str = "") -> list[Path]:
    """Trains one run per seed, one after the other, each in a process of its own. A finished folder
    is kept where it is this run, of this code.

    Args:
        preset: Named settings.
        given: More of them, `NAME=VALUE`.
        out, name: A run's folder is `out/name-SEED`.

    Raises:
        ConfigError: A folder holds a run with other settings, or of another commit.
    """
    from coevo_agents.launch.executor import check_same
    from coevo_agents.runs.given import chosen, overrides

    folders = []
    for seed in seeds:
        folder = out / f"{name or preset}-{seed}"
        folders.append(folder)
        begun = (folder / "config.json").exists()
        if begun:
            check_same(folder, chosen(preset, None, overrides({}, [f"seed={seed}", *given])))
        if (folder / "summary.json").exists():
            continue
        words = ["--preset", preset, "--seed", str(seed), "--out", str(folder)]
        words = ["--resume", str(folder)] if begun else words + [w for one in given for w in ("--set", one)]
        subprocess.run([sys.executable, "-m", "coevo_agents.cli", "train", *words], check=True)
    return folders


def compare(name: str, seeds: list[int], out: Path) -> dict[str, Any]:
    """Runs every arm of a comparison on the same seeds; measures on the test split at the end, and
    their paired differences to the first arm."""
    arms = COMPARISONS[name]
    finals: dict[str, dict[str, np.ndarray]] = {}
    data: dict[str, Any] = {"seeds": seeds, "arms": {}}
    for arm, settings in arms.items():
        folders = run("default", seeds, out, settings, f"{name}-{arm}")
        collected = collect(folders)
        finals[arm] = {measure: np.array(found["after"]) for measure, found in collected["test"].items()}
        data["arms"][arm] = {"settings": settings, "curves": collected["curves"], "iterations": collected["iterations"]}
        data["provenance"] = collected["provenance"]
    first = next(iter(arms))
    for arm, measures in finals.items():
        data["arms"][arm]["after"] = {measure: interval(values) for measure, values in measures.items()}
        data["arms"][arm]["difference"] = {m: interval(values - finals[first][m]) for m, values in measures.items()}
    return data


def table(data: dict[str, Any]) -> list[str]:
    """A comparison as rows of Markdown: mean ± half width over seeds, and the paired difference to
    the first arm in brackets."""

    def cell(mean: float, half: float | None, sign: str = "") -> str:
        return f"{round(mean, 3) + 0.0:{sign}.3f}" + ("" if half is None else f" ± {half:.3f}")

    rows = ["| arm | " + " | ".join(MEASURES.values()) + " |", "|---|" + "---:|" * len(MEASURES)]
    for number, (arm, found) in enumerate(data["arms"].items()):
        cells = [
            cell(*found["after"][m]) + ("" if number == 0 else f" ({cell(*found['difference'][m], '+')})")
            for m in MEASURES
        ]
        rows.append(f"| `{arm}` | " + " | ".join(cells) + " |")
    return rows


def read(folder: Path) -> list[dict[str, Any]]:
    """Metrics of the iterations that were evaluated."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if any("/eval/" in key for key in line)]


def interval(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and half width of the 95 % t-interval over seeds (None for one seed)."""
    from scipy import stats

    if len(values) < 2:
        return float(values.mean()), None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def collect(folders: list[Path]) -> dict[str, Any]:
    """Curves (seeds, evaluations) of each measure on the validation split, averaged over the agents
    of a run, and the table of before and after on the test split, which was read once."""
    runs = [read(folder) for folder in folders]
    shortest = min(len(run) for run in runs)
    agents = sorted({key.split("/")[0] for key in runs[0][0] if "/eval/" in key})
    iterations = [line["iteration"] for line in runs[0][:shortest]]
    curves = {
        name: np.array(
            [[np.mean([line[f"{agent}/eval/{name}"] for agent in agents]) for line in run[:shortest]] for run in runs]
        )
        for name in MEASURES
    }
    per_agent = {
        agent: {name: [[line[f"{agent}/eval/{name}"] for line in run[:shortest]] for run in runs] for name in MEASURES}
        for agent in agents
    }
    summaries = [json.loads((folder / "summary.json").read_text())["agents"].values() for folder in folders]
    test = {
        name: {
            when: [float(np.mean([agent[when][name] for agent in found])) for found in summaries]
            for when in ("before", "after")
        }
        for name in MEASURES
    }
    table = {name: {when: interval(np.array(values)) for when, values in found.items()} for name, found in test.items()}
    first = json.loads((folders[0] / "config.json").read_text())
    return {
        "seeds": [json.loads((folder / "config.json").read_text())["config"]["seed"] for folder in folders],
        "iterations": iterations,
        "curves": {name: curve.tolist() for name, curve in curves.items()},
        "per_agent": per_agent,
        "test": test,
        "table": table,
        "provenance": {**first["provenance"], "platform": f"{platform.system()} {platform.machine()}"},
        "config": first["config"],
    }


def draw(data: dict[str, Any], path: Path, title: str) -> None:
    """One panel per measure: a line per seed (mean of the agents) and their mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "coevo"}
    ):
        figure, panels = plt.subplots(1, len(MEASURES), figsize=(11, 2.7), constrained_layout=True)
        for panel, (name, label) in zip(panels, MEASURES.items(), strict=True):
            curves = np.array(data["curves"][name])
            panel.plot(data["iterations"], curves.T, color="#8fb3d9", linewidth=1)
            panel.plot(data["iterations"], curves.mean(0), color="#1f5a96", linewidth=2)
            panel.set_title(label, fontsize=9, loc="left")
            panel.set_xlabel("iteration")
            panel.set_ylim(min(0.0, float(curves.min()) * 1.05), float(curves.max()) * 1.05)
        seeds = f"{len(data['seeds'])} seed" + "s" * (len(data["seeds"]) > 1)
        figure.suptitle(f"{title}: {seeds}, mean of the agents, each alone on the validation split", fontsize=9)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__.splitlines()[0] if __doc__ else None
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="train")
    runner.add_argument("--preset", default="default")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--out", type=Path, default=Path("runs/quality"))
    runner.add_argument("--set", dest="given", metavar="NAME=VALUE", action="append", default=[], help="a setting")
    comparer = commands.add_parser("compare", help="train every arm of a comparison and tabulate it")
    comparer.add_argument("name", choices=COMPARISONS)
    comparer.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    comparer.add_argument("--out", type=Path, default=Path("runs/quality"))
    reporter = commands.add_parser("report", help="tabulate and draw finished runs")
    reporter.add_argument("folders", type=Path, nargs="+")
    reporter.add_argument("--name", required=True, help="results go to results/NAME.json and images/NAME.svg")
    options = parser.parse_args(argv)
    if options.command == "run":
        run(options.preset, options.seeds, options.out, options.given)
        return
    if options.command == "compare":
        data = compare(options.name, options.seeds, options.out)
        (HERE / "results" / f"{options.name}.json").write_text(json.dumps(data, indent=1) + "\n")
        print("\n".join(table(data)))
        return
    data = collect(options.folders)
    for folder in ("results", "images"):
        (HERE / folder).mkdir(exist_ok=True)
    (HERE / "results" / f"{options.name}.json").write_text(json.dumps(data, indent=1) + "\n")
    draw(data, HERE / "images" / f"{options.name}.svg", options.name)
    for name, row in data["table"].items():
        before, after = (
            f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}") for mean, half in (row["before"], row["after"])
        )
        print(f"{name:12s} before {before}   after {after}")


if __name__ == "__main__":
    from coevo_env.errors import CoevoError

    try:
        main()
    except CoevoError as error:
        sys.exit(f"error: {error}")
