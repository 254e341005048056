"""Lists and dictionaries that cannot be changed: what a prompt carries is the same in each episode.

One idea: they are lists and dictionaries to whoever reads them, and whoever changes them is told to
take a copy; every way of copying gives one that can be changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

__all__ = ["FrozenDict", "FrozenList", "frozen"]


def frozen(value: Any) -> Any:
    """A value whose dictionaries, lists, sets and arrays cannot be changed, however deep they lie;
    they are copied on the way. Objects of other classes stay what they are.

    >>> frozen({"words": ["b", "a"]})["words"].sort()
    Traceback (most recent call last):
        ...
    TypeError: what a prompt carries is the same in all episodes; copy it before you change it.
    """
    if isinstance(value, (str, int, float, FrozenDict, FrozenList)) or value is None:
        return value
    if type(value) is dict:
        return FrozenDict({key: frozen(inner) for key, inner in value.items()})
    if type(value) is list:
        return FrozenList(map(frozen, value))
    if type(value) is tuple:
        return tuple(map(frozen, value))
    if type(value) is set:
        return frozenset(value)
    if type(value) is bytearray:
        return bytes(value)
    if type(value) is np.ndarray:
        value = value.copy()
        value.flags.writeable = False
    elif isinstance(value, Mapping) and not isinstance(value, dict):  # a view of a dictionary that may change
        return FrozenDict({key: frozen(inner) for key, inner in value.items()})
    return value


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError("what a prompt carries is the same in all episodes; copy it before you change it.")


class FrozenList(list[Any]):
    """A list that refuses to be changed."""

    __slots__ = ()
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [copy.deepcopy(one, memo) for one in self]

    def __reduce__(self):
        return (FrozenList, (list(self),))


class FrozenDict(dict[Any, Any]):
    """A dictionary that refuses to be changed."""

    __slots__ = ()
    update = setdefault = pop = popitem = clear = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {copy.deepcopy(key, memo): copy.deepcopy(value, memo) for key, value in self.items()}

    def __reduce__(self):
        return (FrozenDict, (dict(self),))
