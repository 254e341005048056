"""Every built-in task as it can be made without a network, and what reads it: for tests that run
over `BUILTIN_TASKS`.

One idea: a task is made by its name alone; what stands in `SAMPLES` needs data that are no part of
the package, and gets a few lines of it. Real text is read byte by byte, so a turn gets room for
eight bytes where the task counts a token.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from closed_forms import Unigram

from coevo_env.assets.tfidf import TfidfClassifier
from coevo_env.errors import CoevoError
from coevo_env.game.task import Task
from coevo_env.lm.load import load_tokenizer
from coevo_env.tasks import make_task
from coevo_env.testing import tiny_lm

BYTES = 8
"""Room for one token, where text is read byte by byte."""


def imdb(folder: Path) -> dict[str, Any]:
    """Eight reviews and a classifier that was fitted on them."""
    pytest.importorskip("sklearn")
    opinions = ["A great, wonderful and excellent", "An awful"]
    texts = [f"{opinion} film, take {i}, and I will say so again" for i in range(4) for opinion in opinions]
    TfidfClassifier.fit(texts, [1, 0] * 4).save(folder / "classifier")
    write(folder, [{"text": text, "label": 1 - i % 2} for i, text in enumerate(texts)])
    return {"source": str(folder), "reward": str(folder / "classifier"), "tokenizer": "words", "min_prompt_tokens": 8}


def gsm8k(folder: Path) -> dict[str, Any]:
    """Eight questions."""
    write(
        folder, [{"question": f"What is {i} plus 2?", "answer": f"{i} + 2 = {i + 2}\n#### {i + 2}"} for i in range(8)]
    )
    return {"source": str(folder)}


def reasoning_gym(folder: Path) -> dict[str, Any]:
    """Twelve sums."""
    pytest.importorskip("reasoning_gym")
    return {"size": 12}


def own(folder: Path) -> dict[str, Any]:
    """Forty questions with answers."""
    rows = [{"prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(40)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"prompts": str(folder / "sums.jsonl"), "reward": "exact", "name": "own"}


SAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "imdb": imdb,
    "gsm8k": gsm8k,
    "own": own,
    "reasoning-gym/chain_sum": reasoning_gym,
}
"""Name -> options with which a task can be made of files in an empty folder."""


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Six rows to train on, the others to test on, in the hub's format."""
    for split, part in (("train", rows[:6]), ("test", rows[6:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def made(name: str, folder: Path) -> tuple[Task, Any]:
    """A task and the reference policy that plays it in closed form; None where the task brings a
    tokenizer and needs none.

    Args:
        name: For `make_task`.
        folder: An empty folder.
    """
    options = SAMPLES[name](folder) if name in SAMPLES else {}
    try:
        task = make_task(name, **options)
    except CoevoError as error:
        pytest.fail(
            f"the task {name!r} cannot be made: {error}\nIf it needs data, give it a few in tests/helpers/builtin.py."
        )
    if task.tokenizer is not None:
        return task, None
    if task.model == "embedded":
        tokenizer: Any = load_tokenizer("embedded")
    else:
        tokenizer = tiny_lm(None).tokenizer
        room = {key: BYTES * getattr(task, key) for key in ("max_new_tokens", "max_context")}
        task = replace(task, **room)
    return task, Unigram(tokenizer.vocab_size, tokenizer=tokenizer)
