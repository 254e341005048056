"""Samples per second of one training iteration of two agents, against CoMLRL's MAGRPO on the same
work.

One idea: CoMLRL is the closest peer, cooperative reinforcement learning of several language models.
Both sides train two agents, all weights: 8 joint answers of exactly 16 tokens to each of 2 prompts,
k3 KL to a frozen reference taken from the reward, advantages within the 8 answers, one gradient
pass and one step of each agent. Agents answer side by side, as in MAGRPO's single turn
(`context="none"`), and share the sum of their rewards. CoMLRL runs as it ships but for what makes
the work the same; it logs nothing, ours writes its logs. What both make of the numbers differs
(MAGRPO has no importance ratio, ours is GRPO), what they compute with the model does not.

`comlrl` may live in another environment (`--comlrl-python`), because it is not needed for anything
else.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from coevo_agents.runs.settings import apply

from .grpo import BATCH, BETA, GENERATIONS, prompts_of
from .models import TOKENS, config, label, missing
from .peer import WorkerError, in_turn
from .results import Item, Row
from .timing import median_of, ratio_of

AGENTS, BAR = 2, 3.0
GAMES = {"embedded": 20, "smollm2": 4}
"""Pairs of steps that a game is measured in."""


def run(settings: Any) -> Item:
    probe = "import torch, transformers, comlrl; from importlib.metadata import version; " + (
        "print(version('comlrl'), torch.__version__, transformers.__version__)"
    )
    found = subprocess.run([settings.comlrl_python, "-c", probe], capture_output=True, text=True)
    if found.returncode:
        return Item(skipped=["CoMLRL: not installed in the environment of --comlrl-python; `pip install comlrl` there"])
    versions = found.stdout.split()[-3:]
    item = Item()
    for game, repeats in ({"embedded": 3} if settings.quick else GAMES).items():
        if reason := missing(game):
            item.skipped.append(reason)
            continue
        try:
            ours, theirs = _interleaved(game, repeats, settings)
        except WorkerError as error:
            item.skipped.append(f"{label(game)}: {error}")
            continue
        answers = AGENTS * BATCH
        note = (
            f"CoMLRL {versions[0]} (torch {versions[1]}, transformers {versions[2]}); {AGENTS} agents, all weights, "
            f"{BATCH // GENERATIONS} prompts with {GENERATIONS} joint answers of {TOKENS} tokens each, k3 KL, 1 pass; "
            f"{answers / np.median(ours):.3g} against {answers / np.median(theirs):.3g} samples/s"
        )
        name = f"samples per second, ours / CoMLRL's MAGRPO: {label(game)}"
        item.rows.append(Row.of(name, ratio_of(theirs, ours), sense=">=", bar=BAR, note=note))
        name = f"samples per second, ours: {label(game)}, {AGENTS} agents"
        item.rows.append(Row.of(name, median_of(answers / ours), unit="/s", sense=">="))
    return item


def _interleaved(game: str, repeats: int, settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of our iterations and of MAGRPO's, (R,) each."""
    from coevo_env.lm.names import resolve

    base = config(game)
    original, prompts = prompts_of(game)
    order = {
        "model": resolve(base.model),
        "prompts": [original.render(prompt) for prompt in prompts[: BATCH // GENERATIONS]],
        "agents": AGENTS,
        "tokens": TOKENS,
        "generations": GENERATIONS,
        "beta": BETA,
    }
    changed = {
        "task": "benchmarks.speed.grpo:task",
        "task_options.game": game,
        "num_agents": AGENTS,
        "context": "none",
        "batch_size": BATCH,
        "kl.beta": BETA,
        "kl.estimator": "k3",
        "learner": "grpo",
        "grpo.epochs": 1,
        "group_size": GENERATIONS,
        "eval_prompts": 1,
    }
    plain = apply(replace(base, task_options={}), changed)  # options of the original task do not apply
    warmup = 2 if game == "embedded" else 1
    return in_turn(settings.comlrl_python, "magrpo_worker.py", order, plain, repeats, warmup, settings.threads)


if __name__ == "__main__":
    sys.exit("run it with: python -m benchmarks.speed --only magrpo")
