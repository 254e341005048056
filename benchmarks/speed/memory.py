"""Memory of two LoRA agents and their reference policy, against one model.

One idea: the adapters share one frozen base, and the reference is that base with its adapters off,
so a second agent costs an adapter and a value head. Bytes of parameters are counted exactly; the
peak resident memory is that of a fresh process that loads and samples once (both agents, and the
reference scores what they said), less what a process needs that only imports the libraries.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

import numpy as np

from .models import config, label, missing
from .results import Item, Row
from .timing import median_of

MODES = ("none", "one", "two")


def run(settings: Any) -> Item:
    item = Item()
    model, repeats = ("embedded", 1) if settings.quick else ("smollm2", 3)
    if reason := missing(model):
        return Item(skipped=[reason])
    runs: dict[str, list[dict[str, int]]] = {mode: [] for mode in MODES}
    for _ in range(repeats):
        for mode in MODES:
            done = subprocess.run(
                [sys.executable, "-m", __name__, model, mode], capture_output=True, text=True, check=True
            )
            runs[mode].append(json.loads(done.stdout.splitlines()[-1]))
    one, two = (runs[mode][0]["parameters"] for mode in ("one", "two"))
    peak = {mode: np.array([result["peak"] for result in runs[mode]]) for mode in MODES}
    what = f"{label(model)}, 2 LoRA agents + reference / 1 model"
    exact = {"value": two / one, "low": two / one, "high": two / one}
    note = f"{two:,} against {one:,} bytes, value heads included"
    item.rows.append(Row(f"bytes of parameters: {what}", **exact, bar=1.3, note=note))
    beyond = median_of((peak["two"] - peak["none"]) / (peak["one"] - peak["none"]))
    mib = {mode: int(np.median(values)) >> 20 for mode, values in peak.items()}
    note = (
        f"{mib['two'] - mib['none']} against {mib['one'] - mib['none']} MiB beyond the {mib['none']} MiB of the imports"
    )
    item.rows.append(Row.of(f"peak resident memory while sampling: {what}", beyond, bar=1.3, note=note))
    item.rows.append(
        Row.of(
            f"peak resident memory, imports included: {what}",
            median_of(peak["two"] / peak["one"]),
            note=f"{mib['two']} / {mib['one']} MiB",
        )
    )
    return item


def measure(model: str, mode: str) -> dict[str, int]:
    """Runs in a process of its own."""

    import peft  # noqa: F401  # imports are paid for in every mode
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from coevo_agents.learners.policy import LoRAConfig, make_policies
    from coevo_env.game.sampling import Sampling
    from coevo_env.lm.model import LanguageModel

    bytes_ = 0
    if mode != "none":
        base = LanguageModel.from_pretrained(config(model).model)
        contexts = [list(range(10, 18))] * 8
        sampling, noise = (
            Sampling(eos_id=base.tokenizer.eos_id, min_new_tokens=16),
            np.random.default_rng(0).random((8, 16)),
        )
        if mode == "one":
            base.generate(contexts, 16, sampling, noise)
            tensors = dict(base.module.named_parameters())
        else:
            policies, reference = make_policies(base, ["llm1", "llm2"], LoRAConfig(), 0)
            tensors = {}
            for number, policy in enumerate(policies):
                drawn = policy.generate(contexts, 16, sampling, noise)
                reference.score(contexts, drawn.tokens, drawn.lengths, sampling)
                tensors.update({f"{number}.{name}": p for name, p in policy.value_head.named_parameters()})
            tensors.update(reference.module.named_parameters())
        bytes_ = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return {"parameters": bytes_, "peak": peak()}


def peak() -> int:
    """Bytes that were resident at most. On Linux from the kernel's mark of this program:
    `ru_maxrss` begins with that of the parent."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
