"""Which prompts are trained on, chosen by and tested on: three splits that share no prompt.

One idea: whatever is split off goes by the SHA-256 of its text, so the same data fall the same way
on every machine, in any order of rows, and two equal prompts never fall on two sides. Equal are
prompts that read the same, see `likeness`.

Nothing here reads files or draws random numbers.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError

__all__ = ["SPLITS", "common", "held_out_from", "identity", "likeness", "normalised", "split_off", "three_splits"]

SPLITS = ("train", "validation", "test")
"""The prompts that agents learn on, that choices are made by, and that are read at the end."""
SHARE, MOST, FEWEST = 0.1, 512, 10
"""A task without a validation split has one in ten of its train prompts held out, at most 512;
from fewer than 10 none is taken."""


def identity(prompt: Any) -> Hashable:
    """What makes two prompts the same: their text, and the messages before it where there are
    any."""
    earlier = getattr(prompt, "earlier", None)
    return str(prompt) if earlier is None else (str(prompt), json.dumps(list(earlier), sort_keys=True, default=str))


def likeness(prompt: Any) -> Hashable:
    """What makes two prompts the same across splits: as `identity`, but of texts that read the same
    (`normalised`). A model that has seen one of them has seen the other.

    >>> likeness(" caf\\u00e9\\n") == likeness("cafe\\u0301")
    True
    """
    earlier = getattr(prompt, "earlier", None)
    if earlier is None:
        return normalised(str(prompt))
    said = [{key: normalised(str(value)) for key, value in message.items()} for message in earlier]
    return (normalised(str(prompt)), json.dumps(said, sort_keys=True))


def normalised(text: str) -> str:
    """A text in the composed form of Unicode (NFC), without white space around it."""
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def split_off(prompts: Sequence[Any], count: int, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Takes `count` different prompts out of a list, those with the smallest SHA-256 of seed and
    text.

    Returns:
        The rest and what was taken, each in the order of the list; prompts that occur several times
        stay together, also where they only read the same, and then the smallest SHA-256 counts.

    >>> rest, taken = split_off(["a", "b", "c", "a"], 1)
    >>> len(set(rest)), len(set(taken)), set(rest) & set(taken)
    (2, 1, set())
    """
    keys, ranks = [likeness(prompt) for prompt in prompts], {}
    for key, prompt in zip(keys, prompts, strict=True):
        rank = hashlib.sha256(f"{seed}\0{identity(prompt)}".encode(errors="replace")).digest()
        ranks[key] = min(rank, ranks.get(key, rank))
    chosen = set(sorted(ranks, key=ranks.__getitem__)[:count])
    sides = ([], [])
    for key, prompt in zip(keys, prompts, strict=True):
        sides[key in chosen].append(prompt)
    return sides


def common(one: Iterable[Any], other: Iterable[Any]) -> list[Any]:
    """The prompts of `one` that are also in `other`."""
    known = set(map(likeness, other))
    return [prompt for prompt in one if likeness(prompt) in known]


def held_out_from(
    train: Sequence[Any], validation: Sequence[Any], test: Sequence[Any]
) -> tuple[Sequence[Any], list[Any], tuple[str, ...]]:
    """Validation and test of a published data set that has no validation split, and whose train
    prompts are to stay as they are: one in ten of the test prompts, at most 512.

    Returns:
        validation, test without what is in the other two, and lines about what was done. Of fewer
        than 10 test prompts none is taken.
    """
    known = set(map(likeness, train))
    test = [prompt for prompt in test if likeness(prompt) not in known]
    if len(validation):
        validation = [prompt for prompt in validation if likeness(prompt) not in known]
        known = set(map(likeness, validation))
        return validation, [prompt for prompt in test if likeness(prompt) not in known], ()
    different = len(set(map(likeness, test)))
    if different < FEWEST:
        return (), test, ()
    rest, taken = split_off(test, min(MOST, round(SHARE * different)))
    note = (
        f"the data have no validation split: {len(taken)} of the {len(test)} test prompts are one, those with the "
        "smallest SHA-256 (one in ten, at most 512), and no longer test prompts."
    )
    return taken, rest, (note,)


def three_splits(
    task: str, train: Sequence[Any], validation: Sequence[Any], test: Sequence[Any]
) -> tuple[Sequence[Any], Sequence[Any], tuple[str, ...]]:
    """Checks the splits of a task, and splits validation off train where the task has none.

    Returns:
        train, validation, and lines about what was done; validation is empty where train is too
        short to take from it, and then train stands in for it.

    Raises:
        ConfigError: A split that is no list of texts or empty, or two that share a prompt.
    """
    for name, prompts in (("train", train), ("test", test), ("validation", validation)):
        _check(task, name, prompts)
    notes = ()
    if not len(validation):
        train, validation, notes = _validation(train)
        pairs = [("test", test, "train", [*train, *validation])]
    else:
        pairs = [
            ("validation", validation, "train", train),
            ("test", test, "train", train),
            ("test", test, "validation", validation),
        ]
    for name, prompts, other, known in pairs:
        if both := common(prompts, known):
            raise ConfigError(
                f"task {task!r}: the prompt {str(both[0])[:60]!r} is in the {name} split and in the {other} split"
                f"{f', and so are {len(both) - 1} others' if len(both) > 1 else ''}; expected splits without common "
                f"prompts, or what is measured on {name} is no held-out number. Take them out of one of the two. "
                "(Texts are common that differ in outer white space or in the form of Unicode only.)"
            )
    return train, validation, notes


def _check(task: str, split: str, prompts: Any) -> None:
    if isinstance(prompts, (str, bytes)):
        raise ConfigError(f"task {task!r}: the {split} split is the text {prompts[:60]!r}; expected a list of prompts.")
    if isinstance(prompts, Mapping) or not (hasattr(prompts, "__len__") and hasattr(prompts, "__getitem__")):
        raise ConfigError(
            f"task {task!r}: the {split} split is a {type(prompts).__name__}; expected a list of prompts, for they are "
            "read by their number and more than once. Write list(...) around it."
        )
    if len(prompts) == 0 and split != "validation":
        raise ConfigError(f"task {task!r}: the {split} split has no prompts; give at least one.")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ConfigError(
                f"task {task!r}: prompt {index} of the {split} split is {prompt!r}; expected text (a str or a Prompt)."
            )


def _validation(train: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], tuple[str, ...]]:
    different = len(set(map(likeness, train)))
    if different < FEWEST:
        note = (
            f"no validation split was given, and {different} train prompts are too few to take one from: what is "
            "chosen is chosen by the train prompts."
        )
        return train, (), (note,)
    rest, taken = split_off(train, min(MOST, round(SHARE * different)))
    note = (
        f"no validation split was given: {len(taken)} of the {len(train)} train prompts are held out as one, those "
        "with the smallest SHA-256 (one in ten, at most 512)."
    )
    return rest, taken, (note,)
