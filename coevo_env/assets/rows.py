"""Rows of data as people bring them: JSONL, JSON, CSV, TSV, text and Parquet files, also gzipped,
folders of them, and data sets of the hub.

One idea: whatever it is, it becomes a list of dictionaries, one a row, and what is wrong is said
with file, line and what was expected. Nothing is guessed: a file that is not one of a split by its
whole name is not read, and a row that lacks a column is an error.

Nothing is downloaded except by the `datasets` library where the source is the hub, and no dataset
script is ever run.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CoevoError, ConfigError, MissingExtraError, unknown_name
from .written import Written, as_written, shortened

__all__ = ["ENDINGS", "Row", "check_columns", "hub_splits", "read_file", "split_files"]

Row = Mapping[str, Any]
MAX_BYTES = 2**30
"""The largest file that is read, unpacked; prompts for training are a small part of it."""
MAX_VALUES = 10**7
"""Rows times columns; some 1 GB of memory where the values are short."""
MAX_JSON = 2**27
"""The largest piece of JSON, a line or a whole `.json` file, which may take 20 times its size."""
MAX_RATIO, FREE = 250, 2**26
"""A gzip file may unpack to so many times its size, or to 64 MiB whatever its size."""
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def read_file(file: Path) -> list[Row]:
    """All rows of a file; its kind goes by its ending, in any case, with or without `.gz`.

    Raises:
        ConfigError: Another kind of file, a damaged one, one that is not UTF-8, too large or
            without rows.
        MissingExtraError: A Parquet file, and pyarrow is not installed.
    """
    if file.is_dir():
        raise ConfigError(f"{file} is a folder; expected a file that ends with {', '.join(ENDINGS)}.")
    ending = _ending(file)
    if ending not in READERS:
        raise ConfigError(
            f"{file}: got a {''.join(file.suffixes[-2:]) or 'suffix-less'} file; expected one that ends with "
            f"{', '.join(ENDINGS)}, or with .gz behind it."
        )
    rows: list[Row] = []
    values = 0
    try:
        for row in READERS[ending](file):
            rows.append(row)
            values += max(1, len(row))
            if values > MAX_VALUES:
                raise ConfigError(f"{file} has more than {MAX_VALUES} values; take a part of it, or fewer columns.")
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Is it whole, and what its name says?") from error
    if not rows:
        raise ConfigError(f"{file} has no rows; expected at least one.")
    return rows


def check_columns(
    rows: Iterable[Row], columns: Sequence[str], where: str, *, text: bool = False, first: int = 1
) -> list[Row]:
    """The rows, each of which has a value in each of the columns; with `text`, one that is text or
    a number, because a list or an object would be read as Python writes it. The number of the
    first row is `first`.

    Raises:
        ConfigError: A row that has not; the nearest column is suggested.
    """
    result = []
    for number, row in enumerate(rows, start=first):
        for column in columns:
            value = row.get(column)
            if value is None:
                hint = ""
                if column not in row:
                    hint = str(unknown_name("column", column, map(str, row))).partition(".")[2]
                raise ConfigError(
                    f"{where}, row {number}: no value in the column {column!r}; got the columns "
                    f"{[str(c) for c in row]}, expected {list(columns)}.{hint}"
                )
            if text and isinstance(value, (list, dict)):
                raise ConfigError(
                    f"{where}, row {number}: the column {column!r} holds {value!r:.80}, a {type(value).__name__}; "
                    "expected text."
                )
        result.append(row)
    return result


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split in a folder: `train.jsonl`, or shards such as
    `train-00000-of-00002.parquet`, likewise `validation` and `test`, all of them at one depth.

    Raises:
        ConfigError: One split in several kinds of files, or in several folders.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if _ending(file) not in READERS or not file.is_file() or any(p.startswith(".") for p in file.parts[-1:]):
            continue
        stem = file.name.lower().removesuffix(".gz").removesuffix(_ending(file))
        for split, names in SPLIT_NAMES.items():
            if re.fullmatch(rf"(?:{'|'.join(names)})(?:[-_.]?\d+(?:[-_.]of[-_.]\d+)?)?", stem):
                found.setdefault(split, []).append(file)
    if not found:
        return {}
    top = min(len(file.parts) for files in found.values() for file in files)
    for split, files in list(found.items()):
        files = found[split] = [file for file in files if len(file.parts) == top]
        if not files:
            del found[split]
            continue
        for what, kinds in (("kinds", {_ending(f) for f in files}), ("folders", {str(f.parent) for f in files})):
            if len(kinds) > 1:
                raise ConfigError(
                    f"the folder {str(folder)!r} has the {split} split in several {what}: {', '.join(sorted(kinds))}. "
                    "Which of them is meant? Give the folder or file itself, or take the others away."
                )
        plain = [f for f in files if re.fullmatch("[a-z]+", f.name.lower().partition(".")[0])]
        if plain and len(files) > 1:
            raise ConfigError(
                f"the folder {str(folder)!r} has the {split} split in {files[0].name} and in {files[1].name}; expected "
                "one file, or numbered shards only."
            )
    return found


def hub_splits(name: str, config: str | None = None) -> dict[str, list[Row]]:
    """The splits of a hub data set that are there, of train, validation and test.

    Raises:
        MissingExtraError: `datasets` is not installed.
        CoevoError: The data set could not be loaded.
    """
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError(f"the dataset {name!r} of the hub", "datasets", "hub") from None
    try:
        found: Any = load_dataset(*[part for part in (name, config) if part])
        known = {
            split: next(found[n] for n in names if n in found)
            for split, names in SPLIT_NAMES.items()
            if any(n in found for n in names)
        }
        return {split: _of_the_hub(rows) for split, rows in known.items()}
    except Exception as error:  # the library raises errors of half a dozen families here
        raise CoevoError(
            f"the dataset {name!r} could not be loaded from the hub: {type(error).__name__}: {str(error)[:200]}. "
            "Expected network or a "
            "filled hub cache; without them pass source=<folder with train.jsonl and test.jsonl>."
        ) from error


def _of_the_hub(rows: Any) -> list[Row]:
    """The rows of a `datasets.Dataset`, whose columns have types."""
    schema = getattr(getattr(rows, "features", None), "arrow_schema", None)
    written = {} if schema is None else {field.name: as_written(field.type) for field in schema}
    return [shortened(row, written) for row in rows]


def _ending(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


# ------------------------------------------------------------------------------------------- text
def _text(file: Path) -> str:
    """The text of a file, unpacked, within bounds, and without a byte order mark."""
    packed, size = file.name.lower().endswith(".gz"), file.stat().st_size
    limit = min(MAX_BYTES, max(FREE, MAX_RATIO * size)) if packed else MAX_BYTES
    with gzip.open(file) if packed else open(file, "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        what = f"unpacks to more than {limit >> 20} MiB, from {size} bytes" if packed else f"has {size >> 20} MiB"
        raise ConfigError(
            f"{file} {what}; expected at most {limit >> 20} MiB of prompts. Take a part of it, or Parquet files."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        kind = " It looks like UTF-16." if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ConfigError(
            f"{file}, line {line} cannot be read: the byte {data[error.start]:#04x} is not UTF-8.{kind} Expected UTF-8 "
            "text; save it so."
        ) from None


def _object(text: str, where: str) -> Any:
    if len(text) > MAX_JSON:
        raise ConfigError(
            f"{where} has {len(text) >> 20} MiB of JSON in one piece; expected at most {MAX_JSON >> 20} MiB. Save it "
            "as JSON lines."
        )
    try:
        return json.loads(text, parse_float=Written, object_pairs_hook=lambda pairs: _once(pairs, where))
    except (ValueError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise ConfigError(f"{where} {what}. Expected one JSON object per line.") from None


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """A JSON object whose keys differ; `json` would silently take the last of equal ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ConfigError(f"{where}: the key {twice!r} stands twice in one object; expected different keys.")
    return found


def _each(text: str, pattern: str) -> Iterator[str]:
    """The pieces of a text one after the other: as a list they would take many times its size."""
    return (match[0] for match in re.finditer(pattern, text))


def _jsonl(file: Path) -> Iterable[Row]:
    return _lines(_text(file), file)


def _lines(text: str, file: Path) -> Iterable[Row]:
    for number, line in enumerate(_each(text, r"[^\n]*\n|[^\n]+"), start=1):
        if not line.strip():
            continue
        row = _object(line, f"{file}, line {number}")
        if not isinstance(row, dict):
            raise ConfigError(
                f"{file}, line {number} is a JSON {type(row).__name__}; expected one JSON object per line."
            )
        yield row


def _json(file: Path) -> Iterable[Row]:
    """A list of objects; JSON lines under this name are read as such."""
    text = _text(file)
    first = text.lstrip()[:1]
    if first == "{" and "\n" in text.strip():
        try:
            _object(text.lstrip().partition("\n")[0], str(file))
        except ConfigError:  # an object of several lines
            pass
        else:
            yield from _lines(text, file)
            return
    rows = _object(text, str(file)) if text.strip() else []
    if isinstance(rows, dict) and len(rows) == 1 and isinstance(inner := next(iter(rows.values())), list):
        rows = inner  # {"data": [...]}
    if not isinstance(rows, list):
        raise ConfigError(f"{file} is a JSON {type(rows).__name__}; expected a list of objects, one a row.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigError(f"{file}, row {number} is a JSON {type(row).__name__}; expected an object.")
        yield row


def _plain(file: Path) -> Iterable[Row]:
    return ({"prompt": line} for line in _each(_text(file), r"[^\r\n]+") if line.strip())


def _csv(file: Path) -> Iterable[Row]:
    text = _text(file)
    header = text.split("\n", 1)[0]
    return _table(text, ";" if ";" in header and "," not in header else ",", file)


def _tsv(file: Path) -> Iterable[Row]:
    return _table(_text(file), "\t", file)


def _table(text: str, delimiter: str, file: Path) -> Iterable[Row]:
    csv.field_size_limit(100_000_000)  # a review can be longer than the default of 128 kB
    reader = csv.reader(_each(text, r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+"), delimiter=delimiter, strict=True)
    try:
        header = next((line for line in reader if line), [])
        if twice := sorted(name for name, count in Counter(header).items() if count > 1):
            raise ConfigError(f"{file}, line 1: the column {twice[0]!r} stands there twice; expected different names.")
        for other, name in (("\t", "tabs"), ("|", "bars"), (";", "semicolons")):
            if len(header) == 1 and other in header[0]:
                raise ConfigError(
                    f"{file}, line 1: the columns {header[0]!r} are separated by {name}; expected {delimiter!r}. Save "
                    "it so, or with tabs under a name that ends with .tsv."
                )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ConfigError(
                    f"{file}, line {reader.line_num}: {len(cells)} values, and the first line names {len(header)} "
                    f"columns, {str(header)[:200]}. Expected as many; text that holds {delimiter!r} or a line break "
                    'stands in double quotes ("...").'
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ConfigError(
            f"{file}, line {reader.line_num} is not a table: {error}. Expected values between {delimiter!r}, and a "
            'quote inside quotes doubled ("").'
        ) from None


def _parquet(file: Path) -> Iterable[Row]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError(f"reading {file.name}", "pyarrow", "hub") from None
    try:
        about = parquet.read_metadata(file)
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if size > MAX_BYTES:
            raise ConfigError(
                f"{file} unpacks to {size >> 20} MiB; expected at most {MAX_BYTES >> 20} MiB of prompts. Take a part "
                "of it."
            )
        # a value can be written down once for all rows, so that few are unpacked at a time
        batch, size = max(1, min(1024, MAX_BYTES // max(1, size))), 0
        opened = parquet.ParquetFile(file)
        names, types = opened.schema_arrow.names, opened.schema_arrow.types
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{file}: the column {twice[0]!r} stands there twice; expected different names.")
        written = {name: as_written(kind) for name, kind in zip(names, types, strict=True)}
        for part in opened.iter_batches(batch):
            for row in part.to_pylist():
                size += _extent(row)
                if size > MAX_BYTES:
                    raise ConfigError(
                        f"{file} unpacks to more than {MAX_BYTES >> 20} MiB; expected at most that much of prompts. "
                        "Take a part of it."
                    )
                yield shortened(row, written)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a Parquet file: {error}.") from error


def _extent(value: Any) -> int:
    """About how many bytes a value takes."""
    if isinstance(value, (list, dict)):
        return 64 + sum(map(_extent, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, (str, bytes)) else 8


READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _plain,
    ".parquet": _parquet,
}
ENDINGS = tuple(READERS)
