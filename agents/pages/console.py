"""Where the command prints: consoles that any stream, width and encoding can show.

One idea: a character that a stream cannot encode is replaced by the nearest one that it can, here
and nowhere else. Whoever prints writes the text as it should be read, and no character ends a run.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence

from rich.console import Console

__all__ = ["COLORS", "agent_colors", "open_consoles", "paints", "writes"]

COLORS = ("#8f63c7", "#a37a00", "#0d8984", "#cc5283", "#5d8f2b", "#727d8f")
"""Of the agents, in order: those of the pages (`--a0` and on in style.css), of a lightness that can
be read on white and on black."""

NEAREST = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "→": "->",
        "·": "|",
        "…": "...",
        "×": "x",
        "±": "+/-",
        "≥": ">=",
        "≤": "<=",
        "⏎": "\\n",
        "␍": "\\r",
        "⇥": "\\t",
        "∅": "-",
        "β": "beta",
        "λ": "lambda",
        "━": "-",
        "─": "-",
        "█": "#",
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "\u00a0": " ",
        "╸": "-",
        "╺": "-",
        "•": "*",
        "✓": "x",
    }
)
"""What stands for a character where it cannot be written. The dots of charts become stars, anything
else a question mark."""
HANDLER = "coevo-nearest"


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = (
        "*" if 0x2800 < ord(c) < 0x2900 else plain if (plain := c.translate(NEAREST)).isascii() else "?"
        for c in error.object[error.start : error.end]
    )
    return "".join(shown), error.end


codecs.register_error(HANDLER, _nearest)


def open_consoles() -> None:
    """Prepares the three standard streams: what cannot be written is replaced, and so is input that
    is no text in the encoding of the stream."""
    for stream, errors in ((sys.stdout, HANDLER), (sys.stderr, HANDLER), (sys.stdin, "replace")):
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors=errors)


def writes(console: Console, text: str) -> str:
    """The text as the console will show it, for whoever has to know how wide that is."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return text.encode(console.encoding, HANDLER).decode(console.encoding)
    return text


def paints(console: Console) -> bool:
    """Whether colours arrive: on a terminal that has some, unless NO_COLOR is set."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def agent_colors(names: Sequence[str]) -> dict[str, str]:
    """The colour of each agent, as pages have it too."""
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
