"""Notes: what is to be said of rows besides their numbers.

One idea: a note is an English sentence that also carries what it was made of, so that it can be
said in another language by whoever shows it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Note"]


class Note(str):
    """A sentence.

    Attributes:
        key: Which one; it tells translations apart.
        values: What stands in it.
        grave: Whether it touches what is claimed, not only how it was measured.

    >>> note = Note("seeds", "{task} has {count} seeds.", task="toy", count=3)
    >>> note, note.values["count"]
    ('toy has 3 seeds.', 3)
    """

    key: str
    values: dict[str, Any]
    grave: bool

    def __new__(cls, key: str, text: str, grave: bool = False, **values: Any) -> Note:
        note = super().__new__(cls, text.format(**values))
        note.key, note.values, note.grave = key, values, grave
        return note
