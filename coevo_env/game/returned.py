"""What a reward function returned, read: how many values, and each as a float.

One idea: a value belongs to a response by its place, so what has no order of its own, or is gone
through by its keys (a mapping, a set, a table), is no list of values. Who asks says what is then
wrong; here nothing is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["number", "size"]


def size(raw: Any) -> int:
    """The length of a list, tuple, array, tensor or column; -1 of anything else.

    >>> size([0.5, 1.0]), size({0: 0.5}), size("ab")
    (2, -1, -1)
    """
    ordered = isinstance(raw, Sequence) or hasattr(raw, "tolist")  # arrays, tensors, columns; tables have no tolist
    try:
        return len(raw) if ordered and not isinstance(raw, (str, bytes, bytearray, memoryview)) else -1
    except TypeError:  # an array of no dimension
        return -1


def number(value: Any) -> float:
    """A real number of Python, numpy, torch or whoever knows float(); what is too large is
    infinite.

    Raises:
        TypeError: It is none; the message quotes it.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    try:
        if (
            value is None or isinstance(value, (str, bytes, bytearray)) or kind in "cmMSU"
        ):  # of these float() takes some
            raise TypeError
        return float(value)
    except OverflowError:  # of int and Fraction
        return math.inf if value > 0 else -math.inf  # pyright: ignore[reportOperatorIssue]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{value!r:.80}, a {type(value).__name__}, among the values") from None
