"""Rows of a text dataset with a train and a test split: from the model hub, or from local files in
the hub's format.

One idea: a dataset is a dictionary of columns per row, wherever it comes from; columns are checked
here, so a task reads rows without care.

How files are read and found stands in `coevo_env.assets.rows`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import CoevoError, ConfigError
from ..game.splits import normalised
from .rows import Row, check_columns, hub_splits, read_file, split_files

__all__ = ["Row", "is_held_out", "load_splits", "read_rows"]


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the test split where there is none: one in ten, by the SHA-256 of
    its normalised form, so a text that reads the same is never in both."""
    return hashlib.sha256(normalised(text).encode()).digest()[0] * 10 < 256


def load_splits(source: str | Path, columns: Sequence[str], hub: tuple[str, str | None]) -> dict[str, list[Row]]:
    """The rows of the train and the test split, and of the validation split where there is one.

    Args:
        source: "hub", a folder with the files of the splits (see `rows.split_files`), or one file,
            of which one row in ten is held out by the hash of its first column.
        columns: The columns that every row must have, as text.
        hub: Name and configuration of the dataset on the hub.

    Raises:
        ConfigError: A path that does not exist, a folder without the splits, rows without the
            columns.
        MissingExtraError: The library that reads this source is not installed.
        CoevoError: The hub did not answer, or has no such splits.
    """
    if str(source) == "hub":
        found = hub_splits(*hub)
        if lacking := {"train", "test"} - set(found):
            raise CoevoError(f"the dataset {hub[0]!r} of the hub has no {min(lacking)} split; it has {sorted(found)}.")
        return {split: check_columns(rows, columns, f"{hub[0]} ({split})", text=True) for split, rows in found.items()}
    path = Path(source).expanduser()
    if path.is_file():
        rows = read_rows(path, columns)
        return {
            "train": [row for row in rows if not is_held_out(str(row[columns[0]]))],
            "test": [row for row in rows if is_held_out(str(row[columns[0]]))],
        }
    if not path.is_dir():
        raise ConfigError(
            f"no dataset at {str(source)!r}: expected 'hub', a folder with train.jsonl and test.jsonl (or .csv, "
            ".parquet), or one such file."
        )
    files = split_files(path)
    for split in ("train", "test"):
        if split not in files:
            found = sorted(f.name for f in path.iterdir())[:8]
            raise ConfigError(
                f"the folder {str(path)!r} has no file {split}.jsonl, {split}.csv or {split}.parquet, nor shards such "
                f"as {split}-00000-of-00002.parquet; it holds {found or 'nothing'}. Expected the train and the test "
                "split by these names."
            )
    return {split: [row for file in found for row in read_rows(file, columns)] for split, found in files.items()}


def read_rows(file: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of one file, each with text in each of `columns`.

    Raises:
        ConfigError, MissingExtraError: See `rows.read_file`; or a row without one of `columns`.
    """
    return check_columns(read_file(file), columns, str(file), text=True)
