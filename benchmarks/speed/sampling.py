"""`LanguageModel.generate` against transformers' `model.generate`: same model, same prompts, same
tokens.

One idea: both sample 16 tokens for 32 prompts at temperature 1, without top-k or top-p, and refuse
the same ids; first with EOS refused, so that both emit the same number of tokens, then as in
training, where a response ends by itself. Ours also returns the log-prob of each token, which
theirs does not. Above 1 ours is faster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .models import BATCH, TOKENS, config, label, missing
from .results import Item, Row
from .timing import clock_for, interleave, ratio_of


def run(settings: Any) -> Item:
    item = Item()
    cases = [("embedded", 1.5, 5 if settings.quick else 40)]
    if not settings.quick:
        cases.append(("smollm2", 1.0, 5))
    for model, bar, repeats in cases:
        if reason := missing(model):
            item.skipped.append(reason)
            continue
        for full in (True, False):
            item.rows.append(_row(model, full, bar if full else None, repeats, settings.threads))
    return item


def _row(model: str, full: bool, bar: float | None, repeats: int, threads: int) -> Row:
    from coevo_env.faces.build import build
    from coevo_env.lm.model import LanguageModel
    from coevo_env.tasks import make_task

    settings = config(model, num_agents=1, min_new_tokens=TOKENS if full else 1)
    lm = LanguageModel.from_pretrained(model)
    options = {**settings.game(), "task_options": None}
    rules, _ = build(make_task(settings.task, **settings.task_options), lm, **options)
    contexts = [rules.start(episode).turn.context for episode in range(BATCH)]
    width, eos = max(map(len, contexts)), rules.eos_id
    ids = torch.tensor([[eos] * (width - len(row)) + row for row in contexts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in contexts])
    draw = np.random.default_rng(0)
    tokens = {"ours": 0, "theirs": 0}

    def ours() -> None:
        drawn = lm.generate(contexts, TOKENS, rules.sampling, draw.random((BATCH, TOKENS)))
        tokens["ours"] += int(drawn.lengths.sum())

    def theirs() -> None:
        out = lm.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            min_new_tokens=rules.sampling.min_new_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            suppress_tokens=list(rules.sampling.banned) or None,
            pad_token_id=eos,
            eos_token_id=eos,
        )[:, width:]
        ends = (out == eos).long().argmax(1)
        tokens["theirs"] += int(torch.where((out == eos).any(1), ends + 1, out.shape[1]).sum())

    seconds = interleave({"theirs": theirs, "ours": ours}, repeats, warmup=2, clock=clock_for(threads))
    count = {side: number / (repeats + 2) for side, number in tokens.items()}
    note = f"{np.median(seconds['ours']) * 1e3:,.0f} against {np.median(seconds['theirs']) * 1e3:,.0f} ms; "
    note += f"{count['ours']:.0f} and {count['theirs']:.0f} tokens a call, padding not counted"
    what = "full-length responses" if full else "responses of their own length"
    return Row.of(
        f"{label(model)}, {what}: model.generate / ours",
        ratio_of(seconds["theirs"], seconds["ours"]),
        sense=">=",
        bar=bar,
        note=note,
    )
