"""Supervised warm start: the initial model first learns to say what a teacher says, then agents and
the reference start from there.

One idea: reinforcement learning can only reinforce what is sampled, so a model that never answers
in the right form needs examples first. The examples are the task's scripted responses or lines of a
file; the loss is cross-entropy on the response. It happens before there are agents, so that the
reference policy is the warm-started model and KL is measured from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from coevo_env.assets.prompts import cell, read_prompt
from coevo_env.assets.rows import read_file
from coevo_env.errors import ConfigError, NonFiniteError
from coevo_env.game.rules import Rules
from coevo_env.game.task import Prompt
from coevo_env.lm.model import LanguageModel
from coevo_env.rng import rng

__all__ = ["WarmStartConfig", "examples", "warm_start"]


@dataclass(frozen=True)
class WarmStartConfig:
    """Settings of a warm start.

    Attributes:
        steps: Optimiser steps; 0 switches it off.
        batch_size: Examples per step.
        learning_rate: Of Adam, constant.
        file: Rows with "prompt" and "response", or "messages" that end with the assistant's, in any
            kind of file that `coevo_env.assets.rows` reads; prompts are text or chats as those of
            the task are. "" takes the task's scripted responses to its training prompts.
    """

    steps: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-4
    file: str = ""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or not self.learning_rate >= 0:
            raise ConfigError(
                f"warm_start.steps={self.steps}, batch_size={self.batch_size}, learning_rate={self.learning_rate}; "
                "expected steps >= 0, "
                "batch_size >= 1 and a learning rate >= 0."
            )


def examples(rules: Rules, file: str = "") -> list[tuple[list[int], list[int]]]:
    """Pairs (context, response and EOS; without it where the response fills the turn) in ids.

    Args:
        rules: The game, for its templates, tokenizer and budgets.
        file: See `WarmStartConfig`.

    Raises:
        ConfigError: The task has no scripted policy, the file is not what it should be, or
            responses are longer than a turn.
    """
    task = rules.task
    if file:
        pairs = _read(Path(file).expanduser(), getattr(task.prompt("train", 0), "earlier", None) is not None)
    elif task.scripted is None:
        raise ConfigError(
            f"task {task.name!r} has no scripted policy to learn from; give warm_start.file, JSON lines with prompt "
            "and response."
        )
    else:
        pairs = [
            (prompt, task.scripted(prompt, [])) for prompt in (task.prompt("train", i) for i in range(len(task.train)))
        ]
    made, long = [], []
    for number, (prompt, response) in enumerate(pairs, start=1):
        context = rules.encode(task.render(prompt))
        said = rules.tokenizer.encode(response)
        if len(said) > rules.max_new_tokens:
            long.append((number, response, len(said)))
        tokens = [*said, rules.eos_id][: rules.max_new_tokens]
        if 0 < len(context) <= rules.max_context:
            made.append((context, tokens))
        elif file:
            raise ConfigError(
                f"{file}, row {number}: the prompt {str(prompt)[:60]!r} has {len(context)} tokens as agents read it; "
                f"expected 1 to max_context={rules.max_context}."
            )
    if long:
        number, response, length = long[0]
        raise ConfigError(
            f"{file or f'the scripted policy of task {task.name!r}'}: {len(long)} of {len(pairs)} responses are longer "
            f"than a turn; that of row {number}, {response[:60]!r}, has {length} tokens. Expected at most "
            f"max_new_tokens={rules.max_new_tokens}, for the model would learn to stop in the midst of an answer. "
            f"Shorten them, or set max_new_tokens={max(one[2] for one in long) + 1}."
        )
    if not made:
        raise ConfigError(
            f"the warm start has no examples that fit max_context={rules.max_context}; expected at least one."
        )
    return made


def warm_start(
    base: LanguageModel,
    rules: Rules,
    config: WarmStartConfig,
    seed: int,
    report: Callable[[int, float], object] = lambda step, loss: None,
) -> list[float]:
    """Trains all weights of `base` in place.

    Args:
        base: The initial model.
        rules: See `examples`.
        config: Settings.
        seed: Seed of the order.
        report: Called with (step, loss).

    Returns:
        The loss of each step, nats per token.

    Raises:
        NonFiniteError: The loss became NaN or infinite.
    """
    pairs = examples(rules, config.file)
    base.module.requires_grad_(True)
    optimizer = torch.optim.Adam(base.module.parameters(), lr=config.learning_rate)
    losses = []
    for step in range(config.steps):
        chosen = rng(seed, step, stream="warm_start").integers(len(pairs), size=config.batch_size)
        lengths = np.array([len(pairs[i][1]) for i in chosen])
        tokens = np.zeros((len(chosen), int(lengths.max())), np.int64)
        for row, i in enumerate(chosen):
            tokens[row, : lengths[row]] = pairs[i][1]
        logprobs, _, _ = base.score_tensor([pairs[i][0] for i in chosen], tokens, lengths, rules.sampling)
        loss = -logprobs.mean()
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"the loss of the warm start is {float(loss)} in step {step}; lower warm_start.learning_rate, and "
                "check that no response is "
                "shorter than min_new_tokens."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        report(step + 1, losses[-1])
    return losses


def _read(path: Path, chats: bool) -> list[tuple[Prompt, str]]:
    """Prompts and responses of a file, read as the prompts of a task are."""
    pairs = []
    for number, row in enumerate(read_file(path), start=1):
        prompt = read_prompt(row, number, str(path), "messages" if "messages" in row else "prompt")
        response = prompt.answer if prompt.answer is not None else row.get("response")
        if (prompt.earlier is not None) != chats:
            have, want = ("text", "messages") if chats else ("messages", "text")
            raise ConfigError(
                f"{path}, row {number}: the prompt is {have}, and the prompts of the task are {want}, which agents "
                "read in another way; expected what they read."
            )
        if response is None:
            raise ConfigError(
                f"{path}, row {number}: no response; expected the columns prompt and response, or messages whose last "
                f"one is the assistant's; got the columns {[str(c) for c in row]}."
            )
        pairs.append((prompt, cell(response, f"{path}, row {number}, column 'response'")))
    return pairs
