"""Ways to spoil a file: what somebody who sends a folder can put into it.

One idea: a way is a function of a path, whatever the file is, so that tables of files and ways are
tried whole.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["ESC", "MARKUP", "SPOIL", "link", "sparse", "spoil"]

ESC = "\x1b[31m"
MARKUP = "[bold red]x[/nothing] <script>alert(1)</script> {{7*7}} %s {0}"
NASTY = (None, True, -1, 1e308, float("nan"), 2**70, "x", "../../x", [], {}, [[1]], {"a": None})


def sparse(path: Path) -> None:
    """20 TB of zeros that take no place; or as much as the file system lets a file have."""
    for size in (20 * 2**40, 12 * 2**40, 9 * 2**30):
        try:
            os.truncate(path, size)
            return
        except OSError:
            continue
    pytest.skip("no large files here")


def rewritten(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Changes the data in a file: JSON, JSON lines, or the header of safetensors; another file gets
    what the change makes of a text in front of it."""

    def spoil(path: Path) -> None:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            (size,) = struct.unpack("<Q", data[:8])
            header = json.dumps(change(json.loads(data[8 : 8 + size]))).encode()
            path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
        elif path.suffix == ".jsonl":
            rows = [json.dumps(change(json.loads(line))) for line in data.splitlines() if line.strip()]
            path.write_text("\n".join(rows) + "\n")
        elif path.suffix == ".json":
            path.write_text(json.dumps(change(json.loads(data))))
        else:
            path.write_bytes(str(change("a")).encode("utf-8", "surrogatepass") + data)

    return spoil


def texts(text: str) -> Callable[[Any], Any]:
    """Puts a text in front of every text and every name of an agent."""

    def change(data: Any) -> Any:
        if isinstance(data, dict):
            return {f"{text}{key}" if key.startswith("llm") else key: change(value) for key, value in data.items()}
        if isinstance(data, list):
            return [change(value) for value in data]
        return f"{text}{data}" if isinstance(data, str) else data

    return change


def leaf(seed: int) -> Callable[[Any], Any]:
    """Puts something else in the place of one value, wherever it is."""

    def change(data: Any) -> Any:
        draw, box = random.Random(seed), [data]
        holder, key = box, 0
        while (inner := holder[key]) and isinstance(inner, (dict, list)) and (holder is box or draw.random() < 0.9):
            holder = inner
            key = draw.choice(sorted(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
        holder[key] = draw.choice(NASTY)
        return box[0]

    return change


def swapped(path: Path) -> None:
    """Another file of the same folder, or else of the folder above."""
    places = [*sorted(path.parent.iterdir()), *sorted(path.parent.parent.iterdir())]
    path.write_bytes(next(other for other in places if other.is_file() and other != path).read_bytes())


def flipped(path: Path) -> None:
    """The last bit that counts: of safetensors the sign of the last weight."""
    data = bytearray(path.read_bytes() or b"0")
    data[-1] ^= 0x80
    path.write_bytes(data)


def halves(data: Any) -> Any:
    """Half of a surrogate pair in every text."""
    return texts("\ud800")(data)


SPOIL: dict[str, Callable[[Path], None]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "swapped": swapped,
    "other data": lambda path: path.write_text('{"iteration": 1, "turns": [], "agents": 3}'),
    "huge": sparse,
    "nested": lambda path: path.write_text("[" * 200_000 + "]" * 200_000),
    "deep": lambda path: path.write_text('{"config": ' * 400 + "1" + "}" * 400),
    "nested header": lambda path: path.write_bytes(struct.pack("<Q", 400_000) + b"[" * 200_000 + b"]" * 200_000),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a number": lambda path: path.write_text("1e308"),
    "a bit": flipped,
    "bytes": lambda path: path.write_bytes(random.Random(0).randbytes(3000)),
    "half characters": rewritten(halves),
    "escapes": rewritten(texts(ESC)),
    "markup": rewritten(texts(MARKUP)),
    **{f"a leaf ({seed})": rewritten(leaf(seed)) for seed in range(3)},
}


def spoil(path: Path, how: str, outside: Path) -> None:
    """Spoils a file in one of the ways of `SPOIL`, or as "linked" to one of the same name
    outside."""
    link(path, outside) if how == "linked" else SPOIL[how](path)


def link(path: Path, outside: Path) -> None:
    """A link in the place of a file or folder, to one of the same name outside."""
    target = outside / path.name
    if not target.exists():
        target = outside if path.is_dir() else outside / "000001" / "thesis.txt"
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)
