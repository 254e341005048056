"""Samples per second of one training iteration, against TRL's GRPOTrainer on the same work.

One idea: TRL waits in a process of its own and makes one step each time we have made one, so the
two take turns. Both do GRPO: 8 responses of 16 tokens (8 is TRL's default) to each of 2 prompts of
equal length, one scoring pass under the reference (KL on), advantages within groups, one gradient
pass over the batch. A single agent, the same model, the same prompts and reward function. Each is
timed in two settings of TRL's: as it ships (bfloat16 autocast and gradient checkpointing are its
defaults), which is what the bar is for; and tuned like ours, with float32 and without
checkpointing, for information. SmolLM2-135M trains LoRA adapters on both sides. Beside a TRL in
bfloat16 our frozen base is in bfloat16 too where the processor computes in it, and the adapters in
float32. The embedded model trains all its weights, which bfloat16 is too coarse to store: ours stay
in float32. Ours includes the logs of the training loop.

TRL has no PPO trainer any more, so PPO is timed too, with one pass and 16 different prompts, as a
row without a bar: it has a value head and cannot share the reading of prompts.

`trl` may live in another environment (`--trl-python`), because it is not needed for anything else.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from coevo_agents.runs.settings import apply
from coevo_env.game.task import Task
from coevo_env.tasks import make_task

from .models import TOKENS, config, label, missing
from .peer import WorkerError, in_turn
from .results import Item, Row
from .timing import median_of, ratio_of

BATCH, GENERATIONS = 16, 8
BETA = 0.05
SETTINGS = (("grpo", True), ("grpo", False), ("ppo", False))
"""(our learner, whether precision and the rest are as TRL ships them)."""
GAMES = {"embedded": (20, SETTINGS), "smollm2": (4, SETTINGS), "additions": (4, SETTINGS[1:2])}
"""Pairs of steps in each setting that a game is measured in. The additions are there for their
longer prompts."""


def run(settings: Any) -> Item:
    probe = [
        settings.trl_python,
        "-c",
        "import trl, peft, torch, transformers; print(trl.__version__, torch.__version__, transformers.__version__)",
    ]
    found = subprocess.run(probe, capture_output=True, text=True)
    if found.returncode:
        return Item(skipped=["TRL: not installed in the environment of --trl-python; `pip install trl peft` there"])
    versions = found.stdout.split()
    item = Item()
    for game, (repeats, pairings) in ({"embedded": (3, SETTINGS)} if settings.quick else GAMES).items():
        if reason := missing(game):
            item.skipped.append(reason)
            continue
        try:
            pairs = {
                (learner, shipped): _interleaved(game, repeats, settings, learner, shipped)
                for learner, shipped in pairings
            }
        except WorkerError as error:
            item.skipped.append(f"{label(game)}: {error}")
            continue
        for (learner, shipped), (ours, theirs) in pairs.items():
            how = "as shipped" if shipped else "tuned like ours"
            speeds = f"{BATCH / np.median(ours):.3g} against {BATCH / np.median(theirs):.3g} samples/s"
            if learner == "grpo":
                name = f"samples per second, ours / GRPOTrainer {how}: {label(game)}"
                note = (
                    f"TRL {versions[0]} (torch {versions[1]}, transformers {versions[2]}); 1 agent, "
                    f"{BATCH // GENERATIONS} prompts with {GENERATIONS} "
                    f"responses of {TOKENS} tokens each, 1 pass; {speeds}"
                )
                if shipped:
                    has = "has" if _computes_in_bfloat16() else "does not have"
                    note += f"; TRL in bfloat16, for which this processor {has} instructions"
            else:
                name = f"samples per second, our PPO / GRPOTrainer {how}: {label(game)}"
                note = (
                    f"TRL has no PPO trainer any more; ours has one pass too, and reads {BATCH} different prompts; "
                    f"{speeds}"
                )
            bar = 2.0 if learner == "grpo" and shipped else None
            item.rows.append(Row.of(name, ratio_of(theirs, ours), sense=">=", bar=bar, note=note))
        item.rows.append(
            Row.of(
                f"samples per second, ours: {label(game)}",
                median_of(BATCH / pairs["grpo", False][0]),
                unit="/s",
                sense=">=",
            )
        )
    return item


def prompts_of(game: str) -> tuple[Task, list[str]]:
    """The task that belongs to a game, and `BATCH` of its prompts whose contexts have the same
    number of tokens."""
    from coevo_env.lm.load import load_tokenizer

    settings = config(game)
    task, tokenizer = make_task(settings.task, **settings.task_options), load_tokenizer(settings.model)
    groups: dict[int, list[str]] = {}
    for index in range(min(2000, len(task.train))):
        prompt = str(task.prompt("train", index))
        group = groups.setdefault(len(tokenizer.encode(task.render(prompt))), [])
        if prompt not in group:
            group.append(prompt)
        if len(group) == BATCH:
            return task, group
    raise ValueError(f"fewer than {BATCH} prompts of {task.name} have the same length")


def variety(prompts: list[str], responses: list[str]) -> list[float]:
    """The reward on both sides, cheap and never constant: the share of different letters
    (grpo_worker.py has the same line)."""
    return [len(set(text)) / 32 for text in responses]


def task(game: str) -> Task:
    """The task of our side: plain prompts, the reward above."""
    original, prompts = prompts_of(game)
    templates = {"pioneer": original.templates["pioneer"], "observer": original.templates["observer"]}
    return Task(
        name="variety",
        train=prompts,
        test=["unused"],
        rewards={"variety": variety},
        templates=templates,
        max_context=64,
        model=config(game).model,
    )


def _interleaved(game: str, repeats: int, settings: Any, learner: str, shipped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of our iterations and of TRL's steps, (R,) each."""
    from coevo_env.lm.names import resolve

    base = config(game)
    original, prompts = prompts_of(game)
    order = {
        "model": resolve(base.model),
        "prompts": [original.render(prompt) for prompt in prompts],
        "batch": BATCH,
        "tokens": TOKENS,
        "generations": GENERATIONS,
        "beta": BETA,
        "lora": base.model == "smollm2",
        "shipped": shipped,
    }
    changed = {
        "task": f"{__name__}:task",
        "task_options.game": game,
        "num_agents": 1,
        "batch_size": BATCH,
        "kl.beta": BETA,
        "learner": learner,
        "dtype": "bfloat16" if shipped and order["lora"] and _computes_in_bfloat16() else "float32",
        f"{learner}.epochs": 1,
        "group_size": GENERATIONS if learner == "grpo" else 1,
        "weights": "lora" if order["lora"] else "separate",
        "eval_prompts": 1,
    }
    plain = apply(replace(base, task_options={}), changed)  # options of the original task do not apply
    warmup = 2 if game == "embedded" else 1
    return in_turn(settings.trl_python, "grpo_worker.py", order, plain, repeats, warmup, settings.threads)


def _computes_in_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16; where it has none they are
    many times slower than in float32."""
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


if __name__ == "__main__":
    sys.exit("run it with: python -m benchmarks.speed --only grpo")
