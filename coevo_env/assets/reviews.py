"""Rows of a text dataset with a train and a test split: from the model hub, or from local files in
the hub's format.

One idea: a dataset is a dictionary of columns per row, wherever it comes from; columns are checked
here, so a task reads rows without care.

Local files are JSONL, CSV or Parquet. Nothing is downloaded except by the `datasets` library when
the source is the hub, and no dataset script is ever run.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CoevoError, ConfigError, MissingExtraError

__all__ = ["is_held_out", "load_splits", "read_rows"]

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".csv", ".parquet")


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the test split where there is none: one in ten, by SHA-256, so a
    duplicate is never in both."""
    return hashlib.sha256(text.encode()).digest()[0] * 10 < 256


def load_splits(source: str | Path, columns: Sequence[str], hub: tuple[str, str | None]) -> dict[str, list[Row]]:
    """The rows of the train and the test split.

    Args:
        source: "hub", a folder with files whose names start with `train` and `test` (at any depth),
            or one file, of which one row in ten is held out by the hash of its first column.
        columns: The columns that every row must have.
        hub: Name and configuration of the dataset on the hub.

    Raises:
        ConfigError: A path that does not exist, a folder without the splits, rows without the
            columns.
        MissingExtraError: The library that reads this source is not installed.
        CoevoError: The hub did not answer.
    """
    if str(source) == "hub":
        return _from_hub(hub, columns)
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
    splits = {}
    for split in ("train", "test"):
        files = sorted(f for f in path.rglob(f"{split}*") if f.suffix in SUFFIXES and f.is_file())
        if not files:
            found = sorted(f.name for f in path.iterdir())[:8]
            raise ConfigError(
                f"the folder {str(path)!r} has no file {split}*.jsonl, {split}*.csv or {split}*.parquet; it holds "
                f"{found or 'nothing'}. "
                "Expected one file or more for each of train and test."
            )
        splits[split] = [row for file in files for row in read_rows(file, columns)]
    return splits


def read_rows(file: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of one JSONL, CSV or Parquet file.

    Raises:
        ConfigError: Another kind of file, a damaged one, or a row without one of `columns`.
        MissingExtraError: A Parquet file, and pyarrow is not installed.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise ConfigError(f"{file}: got a {file.suffix or 'suffix-less'} file; expected one of {', '.join(SUFFIXES)}.")
    try:
        return _checked(readers[file.suffix](file), columns, str(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}. Expected UTF-8 text rows with the columns {list(columns)}."
        ) from error


def _checked(rows: Iterable[Row], columns: Sequence[str], where: str) -> list[Row]:
    result = []
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            raise ConfigError(
                f"{where}, row {number}: no value in the column {missing[0]!r}; got the columns "
                f"{[str(c) for c in row]}, expected {list(columns)}."
            )
        result.append(row)
    if not result:
        raise ConfigError(f"{where} has no rows; expected rows with the columns {list(columns)}.")
    return result


def _read_jsonl(file: Path) -> Iterable[Row]:
    with open(file, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(
                    f"{file}, line {number} is not JSON: {error}. Expected one JSON object per line."
                ) from None
            if not isinstance(row, dict):
                raise ConfigError(
                    f"{file}, line {number} is a JSON {type(row).__name__}; expected one JSON object per line."
                )
            yield row


def _read_csv(file: Path) -> Iterable[Row]:
    csv.field_size_limit(10_000_000)  # a review can be longer than the default of 128 kB
    with open(file, encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _read_parquet(file: Path) -> Iterable[Row]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError(f"reading {file.name}", "pyarrow", "hub") from None
    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{file} is not a Parquet file: {error}.") from error


def _from_hub(hub: tuple[str, str | None], columns: Sequence[str]) -> dict[str, list[Row]]:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError(f"the dataset {hub[0]!r} of the hub", "datasets", "hub") from None
    try:
        name: list[Any] = [part for part in hub if part]
        found: Any = load_dataset(*name)
        splits = {split: found[split] for split in ("train", "test")}
    except Exception as error:  # the library raises errors of half a dozen families here
        raise CoevoError(
            f"the dataset {hub[0]!r} could not be loaded from the hub: {type(error).__name__}: {str(error)[:200]}. "
            "Expected network or a "
            "filled hub cache; without them pass source=<folder with train.jsonl and test.jsonl>."
        ) from error
    return {split: _checked(rows, columns, f"{hub[0]} ({split})") for split, rows in splits.items()}
