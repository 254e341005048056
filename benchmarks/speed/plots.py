"""Pictures of the results: how cost and memory grow, and where each ratio stands against its bar.

One idea: pictures are made from the committed JSON alone, so they can be drawn again without
measuring anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw"]

INK, BLUE, GREY, RED = "#22272e", "#1f6feb", "#8b949e", "#cf222e"


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draws whatever the results have the numbers for."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "font.size": 10,
            "axes.edgecolor": GREY,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "text.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "savefig.dpi": 160,
            "figure.facecolor": "white",
            "svg.hashsalt": "speed",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    items = results["items"]
    if items.get("scaling", {}).get("series"):
        _scaling(items["scaling"], folder / "scaling.png")
    ratios = [row for item in items.values() for row in item["rows"] if row["bar"] is not None and row["unit"] == "x"]
    if ratios:
        _ratios(ratios, folder / "ratios.png")


def _scaling(item: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    series = item["series"]
    titles = {"batch": "Episodes", "tokens": "Tokens", "agents": "Agents"}
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.3), layout="constrained")
    for axis, (key, title) in zip(axes, titles.items(), strict=False):
        data = series[key]
        x, y = np.array(data["x"], float), np.array(data["seconds"]) * 1e3
        spread = np.abs(np.array([data["low"], data["high"]]) * 1e3 - y)
        slope, offset = np.polyfit(x, y, 1)
        r2 = 1 - ((y - slope * x - offset) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        line = np.array([0, x.max() * 1.05])
        axis.plot(line, slope * line + offset, color=GREY, linewidth=1.2, zorder=1)
        axis.errorbar(x, y, yerr=spread, fmt="o", color=BLUE, markersize=5, elinewidth=1.2, capsize=0, zorder=2)
        axis.set(title=title, xlabel=data["unit"], xlim=(0, x.max() * 1.08), ylim=(0, y.max() * 1.15))
        axis.text(0.05, 0.93, f"R² = {r2:.4f}\n{slope:.3g} ms each", transform=axis.transAxes, va="top")
        axis.set_xticks([v for v, following in zip(x, [*x[1:], np.inf], strict=True) if following - v > 0.07 * x.max()])
    axes[0].set_ylabel("one iteration, ms")
    memory = series["memory"]
    episodes, mib = np.array(memory["episodes"]), np.array(memory["mib"])
    axes[3].plot(episodes, mib, color=BLUE, linewidth=1.6)
    axes[3].set(
        title="Memory", xlabel="episodes run", ylabel="resident memory, MiB", xlim=(0, None), ylim=(0, mib.max() * 1.25)
    )
    figure.savefig(path)
    plt.close(figure)


def _ratios(rows: list[dict[str, Any]], path: Path) -> None:
    """Each ratio over its bar, so that every row reads the same way: right of the line is better
    than asked."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(11, 0.42 * len(rows) + 1.2), layout="constrained")
    for y, row in enumerate(reversed(rows)):
        better = (lambda v, bar=row["bar"]: v / bar) if row["sense"] == ">=" else (lambda v, bar=row["bar"]: bar / v)
        value, ends = better(row["value"]), sorted((better(row["low"]), better(row["high"])))
        color = BLUE if row["verdict"] == "pass" else RED
        axis.plot(ends, [y, y], color=color, linewidth=2, solid_capstyle="round")
        axis.plot(value, y, "o", color=color, markersize=6)
        asked = f"{'at least' if row['sense'] == '>=' else 'at most'} {row['bar']:g}"
        text = f"{value:.2f}×   ({row['value']:.2f}, {asked})"
        white = {
            "facecolor": "white",
            "edgecolor": "none",
            "pad": 1.5,
        }  # the line of the bar does not go through the number
        axis.annotate(
            text, (max(ends), y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, bbox=white
        )
    axis.axvline(1, color=GREY, linewidth=1, zorder=0)
    axis.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)], fontsize=9)
    axis.set(xlabel="times as good as asked (measured, bar)", ylim=(-0.6, len(rows) - 0.4), xscale="log")
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.5), 5 * high)  # the numbers stand to the right of the points
    axis.set_xticks([tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16) if min(low, 0.5) <= tick <= high])
    axis.xaxis.set_major_formatter("{x:g}×")
    axis.minorticks_off()
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
