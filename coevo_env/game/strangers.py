"""Who hears whom when texts are shuffled: for each row of a batch another one, about another
prompt.

One idea: a placebo is the text that a partner really wrote, only about something else. So the
assignment is a permutation, every text is read once, and no row ever hears of its own prompt; where
the prompts of a batch could forbid that, it is refused before anything is played.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError
from .splits import identity

__all__ = ["check_strangers", "strangers"]


def strangers(prompts: Sequence[Any], generator: np.random.Generator) -> list[int]:
    """For each of B rows the row that it hears: a drawn permutation without a pair of one prompt.

    Rows are put in drawn order, those about one prompt together, and moved on by a drawn number of
    places: at least as many as the most frequent prompt has rows, and as many short of a full
    circle, which leads out of every group.

    Args:
        prompts: B prompts; none of them of more than B / 2 rows.
        generator: Draws.

    Raises:
        ConfigError: A prompt has more rows than all others together.

    >>> strangers(["a", "b"], np.random.default_rng(0))
    [1, 0]
    """
    keys = [identity(prompt) for prompt in prompts]
    rows: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    size, most = len(keys), max(map(len, rows.values()))
    if 2 * most > size:
        raise _alike(f"a batch of {size} episodes has {most} about one prompt")
    groups = list(rows.values())
    order = np.concatenate([generator.permutation(groups[number]) for number in generator.permutation(len(groups))])
    heard = np.empty(size, np.int64)
    heard[order] = np.roll(order, -int(generator.integers(most, size - most + 1)))
    return heard.tolist()


def check_strangers(prompts: Sequence[Any], batch_size: int, group_size: int = 1) -> None:
    """Whether every batch can be shuffled, whatever is drawn.

    Args:
        prompts: Of the split, of which an epoch has each once, in drawn order.
        batch_size: B, episodes in a batch.
        group_size: G episodes in a row are about one prompt.

    Raises:
        ConfigError: Some batch could be about one prompt in more than half of its episodes.
    """
    if batch_size % group_size:
        raise ConfigError(
            f"context='shuffled' with batch_size={batch_size} and group_size={group_size}; expected a multiple, so "
            "that no group is cut."
        )
    asked, size = batch_size // group_size, len(prompts)
    copies = max(Counter(map(identity, prompts)).values())
    whole = size % asked == 0 or asked % size == 0  # no batch has parts of two epochs besides whole ones
    epochs = max(1, asked // size) if whole else -(-(asked - 1) // size) + 1
    if 2 * min(copies * epochs, asked) > asked:
        raise _alike(
            f"with batch_size={batch_size}, group_size={group_size} and a split of {size} prompts, "
            f"{copies * epochs * group_size} episodes of a batch can be about one prompt"
        )


def _alike(what: str) -> ConfigError:
    return ConfigError(
        f"context='shuffled': {what}; expected at most half of them, or some could not hear of another prompt. Use a "
        "larger batch, or more prompts."
    )
