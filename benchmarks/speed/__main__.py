"""Runs the speed suite: `python -m benchmarks.speed [--only NAME ...] [--quick] [--out FILE]
[--publish]`.

One idea: every item is a module with `run(settings) -> Item`; this one only chooses, prints and
writes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
RESULTS, README, IMAGES = HERE / "results" / "speed.json", HERE / "README.md", HERE / "images"
ITEMS = {
    "rules": "cost of the rules and of the PettingZoo faces, without a language model",
    "sampling": "sampling against `model.generate`",
    "iteration": "one training iteration against the bare model calls in it",
    "memory": "two LoRA agents and the reference against one model",
    "kl": "the exact KL over the vocabulary against the sampled one",
    "scaling": "growth of the cost with batch, tokens and agents; memory over a long run",
    "growth": "cost of a token in long responses and in large batches",
    "grpo": "samples per second against TRL's GRPOTrainer",
    "magrpo": "samples per second of two agents against CoMLRL's MAGRPO",
}


def parse() -> argparse.Namespace:
    """The command line."""
    lines = "\n".join(f"  {name:<10} {what}" for name, what in ITEMS.items())
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed",
        description=f"Items:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(ITEMS),
        default=list(ITEMS),
        metavar="NAME",
        help="items to run (default: all)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few repeats and no real language model: checks that the suite works"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch, in every process (default: 1)")
    parser.add_argument(
        "--trl-python", default=sys.executable, help="Python of an environment that has trl (default: this one)"
    )
    parser.add_argument(
        "--comlrl-python", default=sys.executable, help="Python of an environment that has comlrl (default: this one)"
    )
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument(
        "--publish", action="store_true", help="update the committed results, pictures and table with these numbers"
    )
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="measure nothing: make pictures and table from the committed results again",
    )
    return parser.parse_args()


def main() -> int:
    settings = parse()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(
        settings.threads
    )  # before torch is imported, and for children
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    from .results import load, machine, table

    if settings.redraw:
        publish(load(RESULTS))
        return 0
    found: dict[str, dict] = {}
    for name in settings.only:
        print(f"{name}: {ITEMS[name]}", flush=True)
        meta, started = machine(settings.threads), time.perf_counter()
        item = importlib.import_module(f".{name}", __package__).run(settings)
        meta["minutes"] = round((time.perf_counter() - started) / 60, 1)
        print(table(item.rows))
        for reason in item.skipped:
            print(f"  not measured: {reason}")
        found[name] = item.to_json(meta)
        if settings.out:  # after each item, so that a later failure loses nothing
            settings.out.write_text(json.dumps({"items": found}, indent=1) + "\n")
        if settings.publish:
            known = load(RESULTS)["items"] | {name: found[name]}
            RESULTS.parent.mkdir(exist_ok=True)
            ordered = {"items": {key: known[key] for key in ITEMS if key in known}}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
            publish(ordered)
    failed = sum(row["verdict"] == "FAIL" for item in found.values() for row in item["rows"])
    barred = sum(row["bar"] is not None for item in found.values() for row in item["rows"])
    print(f"{barred - failed} of {barred} bars met")
    return 0


def publish(results: dict) -> None:
    """Draws the pictures and rewrites the table in the README."""
    from .plots import draw
    from .results import markdown, rewrite

    draw(results, IMAGES)
    rewrite(README, markdown(results))


if __name__ == "__main__":
    sys.exit(main())
