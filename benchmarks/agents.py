"""What one more agent costs: time, memory and disk of N agents, for each way of reading one
another.

One idea: every case is a training run of a few iterations in a process of its own, so that its peak
memory is its own. LoRA adapters on one frozen base; rotation; seconds are of the processor, medians
over iterations.

    python -m benchmarks.agents --smollm2 --out benchmarks/results/agents.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

COUNTS = (1, 2, 3, 4, 8)
CONTEXTS = ("all", "previous", "none")


def measure(model: str, agents: int, context: str, iterations: int) -> dict[str, Any]:
    """One case, in this process."""
    import torch

    from coevo_agents.runs.config import Config
    from coevo_agents.runs.settings import apply
    from coevo_agents.training.loop import Run

    torch.set_num_threads(1)
    options = {
        "model": model,
        "num_agents": agents,
        "context": context if agents > 1 else "all",
        "roles": "rotation",
        "exchange_every": 1,
        "weights": "lora",
        "batch_size": 32,
        "iterations": iterations,
        "eval_prompts": 8,
        "max_context": 112,
        "threads": 1,
        "max_new_tokens": 12,
        "eval_every": 0,
        "save_every": 0,
    }
    if model == "smollm2":
        options.update({"task": "arithmetic", "batch_size": 8})
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(apply(Config(), options), Path(folder) / "run", report=lambda *_: marks.append(time.process_time()))
        run.train()
        saved = sum(file.stat().st_size for file in (Path(folder) / "run" / "checkpoints").rglob("*") if file.is_file())
    module = run.parts.reference.module
    lora = sum(p.numel() for name, p in module.named_parameters() if "lora" in name)
    return {
        "model": model,
        "agents": agents,
        "context": context,
        "seconds": float(np.median(np.diff(marks)[1:])) if iterations > 2 else float(np.diff(marks)[-1]),
        "parameters": sum(p.numel() for p in module.parameters()) - lora,
        "adapter": lora // agents,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "checkpoint_mib": saved / 2**20,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown."""
    lines = [
        "| model | agents | reads | s / iteration | s / agent | peak memory, MiB | checkpoint, MiB |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        each = row["seconds"] / row["agents"]
        lines.append(
            f"| {row['model']} | {row['agents']} | {row['context'] if row['agents'] > 1 else '-'} | "
            f"{row['seconds']:.3g} | {each:.3g} | "
            f"{row['peak_mib']:.0f} | {row['checkpoint_mib']:.3g} |"
        )
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--case",
        nargs=4,
        metavar=("MODEL", "AGENTS", "CONTEXT", "ITERATIONS"),
        help="measure one case and print it as JSON",
    )
    parser.add_argument("--quick", action="store_true", help="two cases, to see that it works")
    parser.add_argument("--smollm2", action="store_true", help="measure SmolLM2-135M too (needs `coevo assets`)")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args()
    if options.case:
        model, agents, context, iterations = options.case
        print(json.dumps(measure(model, int(agents), context, int(iterations))))
        return
    cases = [("embedded", n, c, 8) for n in COUNTS for c in CONTEXTS[: 3 if n > 1 else 1]]
    if options.smollm2:
        cases += [("smollm2", n, "previous", 3) for n in (1, 2, 8)]
    rows = []
    for case in cases[:2] if options.quick else cases:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.agents", "--case", *map(str, case)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{case}: {done.stderr[-400:]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(table(rows[-1:])[-1], flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
