"""An episode as a picture, for tools that record what `render_mode="rgb_array"` returns.

One idea: frames of one size. What does not fit is cut at the top, under the first line, so that the
turn that is being played is always seen. Text is laid out in pixels by Pillow, with the font that
comes with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from .render import episode_view, heat_color, joint, scales_of

__all__ = ["HEIGHT", "WIDTH", "picture"]

WIDTH, HEIGHT = 640, 480
MARGIN, SIZE, LINE = 20, 15, 22
PAPER, INK, SOFT = (255, 255, 255), (27, 31, 36), (98, 105, 115)
AGENTS = ((115, 70, 168), (154, 116, 0), (11, 127, 123), (184, 63, 111), (77, 122, 31), (90, 101, 119))
"""The colours of agents on a light page, as in the style sheet of pages."""

MOST = 8000
"""Signs of a text that can be seen at all: the last ones."""

Piece = tuple[str, tuple[int, int, int], tuple[int, int, int] | None]
"""Text, its colour, the colour behind it."""


def picture(transcript: Mapping[str, Any]) -> np.ndarray:
    """One episode as it stands.

    Args:
        transcript: See `coevo_env.game.transcript`; an unfinished episode is fine.

    Returns:
        uint8 of shape (480, 640, 3). Behind each token is its KL, blue above zero and orange below.
        Signs that the font has not are boxes.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    head, *rows = [row for pieces in _paragraphs(transcript) for row in _wrapped(draw, pieces)]
    room = (HEIGHT - 2 * MARGIN) // LINE - 1
    if len(rows) > room:
        rows = [[("…", SOFT, None)], *rows[len(rows) - room + 1 :]]
    for number, row in enumerate([head, *rows]):
        x, y = float(MARGIN), MARGIN + LINE * number
        for text, color, behind in row:
            width = draw.textlength(text, font=_font())
            if behind:
                draw.rectangle((x, y, x + width, y + LINE - 3), fill=behind)
            draw.text((x, y), text.replace("−", "-"), fill=color, font=_font())
            x += width
    return np.asarray(image)


def _paragraphs(transcript: Mapping[str, Any]) -> Iterator[list[Piece]]:
    """What is to be read, each paragraph from the left."""
    episode = episode_view(transcript, scales_of([transcript]))
    names = sorted({turn["agent"] for turn in episode["turns"]}, key=lambda name: (len(name), name))
    yield [(" · ".join(episode["where"]), SOFT, None)]
    for label in ("prompt", "answer"):
        if episode[label] is not None:
            for number, line in enumerate(episode[label].split("\n")):
                yield [("" if number else f"{label}  ", SOFT, None), (line, INK, None)]
    for turn in episode["turns"]:
        yield []
        yield [(f"{turn['agent']} ({turn['role']})", AGENTS[names.index(turn["agent"]) % len(AGENTS)], None)]
        heats = [token["heat"].get("kl") for token in turn["tokens"]]
        gap = joint(["", ""], turn["spaced"])
        yield [
            (("" if number == 0 else gap) + token["shown"], INK, heat_color(heat) if heat else None)
            for number, (token, heat) in enumerate(zip(turn["tokens"], heats, strict=True))
        ] or [(turn["text"], INK, None)]
        yield [(" · ".join(" ".join(fact) for fact in turn["facts"]), SOFT, None)]


def _wrapped(draw: Any, pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Rows that fit the width: broken between pieces and words, and within a word where it is too
    long for a row."""
    row: list[Piece] = []
    x = float(MARGIN)

    def length(text: str) -> float:
        return draw.textlength(text, font=_font())

    for text, color, behind in pieces:
        for word in _words(text[-MOST:]):
            if row and x + length(word[:WIDTH]) > WIDTH - MARGIN:
                yield row
                row, x = [], float(MARGIN)
                word = word.lstrip(" ") or word
            while length(word[:WIDTH]) > WIDTH - 2 * MARGIN:
                fits = bisect_left(range(WIDTH), WIDTH / 2, key=lambda n, word=word: length(word[:n]))
                yield [(word[:fits], color, behind)]
                word = word[fits:]
            row.append((word, color, behind))
            x += length(word)
    yield row


def _words(text: str) -> list[str]:
    """A text in pieces after which it may be broken: each word with the spaces before it."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


@cache
def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(SIZE)
