"""Numbers of data that as text are what was written, and not what their nearest float would print.

One idea: 0.1 that was stored in 32 bits is 0.1, and 0.10 in a JSON file is 0.10; what Python makes
of them, 0.10000000149011612 and 0.1, would be another prompt, and another gold answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["Written", "as_written", "shortened"]

SHORT = {"float": np.float32, "halffloat": np.float16}
"""The types of Arrow whose numbers have less digits than Python's."""


class Written(float):
    """A number of a JSON file, which as text is what stands there: `0.10`, or more digits than a
    float holds."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Written:
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text

    def __reduce__(self):
        return (Written, (self.text,))


def as_written(kind: Any) -> Callable[[Any], Any] | None:
    """What makes the values of an Arrow type into what was stored: the shortest text that is the
    same number in as many bits. None where they are so already; lists, structs, maps and
    dictionaries are gone through.

    Args:
        kind: A `pyarrow.DataType`.
    """
    if (number := SHORT.get(str(kind))) is not None:
        return lambda value: Written(str(number(value))) if isinstance(value, float) else value
    count = getattr(kind, "num_fields", 0)
    if hasattr(kind, "index_type"):  # of a dictionary the type of the values
        return as_written(kind.value_type)
    if not count:
        return None
    if hasattr(kind, "key_type"):
        key, item = as_written(kind.key_type), as_written(kind.item_type)
        return _each(lambda pair: (_one(pair[0], key), _one(pair[1], item))) if key or item else None
    if hasattr(kind, "value_type"):
        inner = as_written(kind.value_type)
        return inner and _each(inner)
    fields = {kind.field(i).name: as_written(kind.field(i).type) for i in range(count)}
    if not any(fields.values()):
        return None
    return lambda value: shortened(value, fields) if isinstance(value, Mapping) else value


def shortened(row: Mapping[str, Any], columns: Mapping[str, Callable[[Any], Any] | None]) -> dict[str, Any]:
    """A row with the values that its columns make of them, see `as_written`."""
    return {name: _one(value, columns.get(name)) for name, value in row.items()}


def _one(value: Any, change: Callable[[Any], Any] | None) -> Any:
    return value if change is None or value is None else change(value)


def _each(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [_one(one, change) for one in values] if isinstance(values, (list, tuple)) else values
