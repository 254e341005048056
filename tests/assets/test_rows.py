"""Data sets that are too much: lines of a million characters are read or refused by name, and what
unpacks to more than a machine holds is refused before its memory is gone."""

from __future__ import annotations

import gzip
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import spoken

from coevo_env.assets import rows
from coevo_env.assets.rows import read_file
from coevo_env.errors import CoevoError, ConfigError

LONG = "a" * 10**6


# ---------------------------------------------------------------- long lines
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz"])
def test_lines_of_a_million_characters_are_read(name, tmp_path):
    kinds = {
        ".jsonl": json.dumps({"prompt": LONG}) + "\n" + json.dumps({"prompt": "b"}),
        ".json": json.dumps([{"prompt": LONG}, {"prompt": "b"}]),
        ".csv": f"prompt\n{LONG}\nb\n",
        ".tsv": f"prompt\n{LONG}\nb\n",
        ".txt": f"{LONG}\nb\n",
    }
    data = kinds[name.removeprefix("a").removesuffix(".gz")].encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert [row["prompt"] for row in read_file(tmp_path / name)] == [LONG, "b"]


# ---------------------------------------------------------------- what is no text
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz"])
@pytest.mark.parametrize("bad", [b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"\x80"])
def test_invalid_utf_8_is_refused_with_its_line(bad, name, tmp_path):
    data = b'{"prompt": "a"}\n{"prompt": "' + bad + b'"}\n'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(ConfigError, match=rf"{name}, line 2 cannot be read: the byte 0x\w\w is not UTF-8"):
        read_file(tmp_path / name)


# ---------------------------------------------------------------- bombs
def zeros(path: Path, count: int, piece: bytes) -> None:
    """A gzip file of one piece again and again, without having it in memory."""
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(count):
            stream.write(piece)


BOMBS: dict[str, Callable[[Path], None]] = {
    "zeros.jsonl.gz": lambda path: zeros(path, 1500, bytes(2**20)),
    "spaces.csv.gz": lambda path: zeros(path, 1500, b" " * 2**20),
    "rows.jsonl.gz": lambda path: zeros(path, 200, b"{}\n" * 2**18),
    "lines.csv.gz": lambda path: path.write_bytes(gzip.compress(b"a\n" + b"b\n" * 3 * 10**7, 1)),
    "columns.csv.gz": lambda path: path.write_bytes(
        gzip.compress(b"".join(b"%d," % i for i in range(10**5)) + b"x\n" + (b"," * 10**5 + b"\n") * 400, 1)
    ),
    "lists.json.gz": lambda path: path.write_bytes(gzip.compress(b"[" + b"[]," * 10**8 + b"[]]", 1)),
    "one line.jsonl.gz": lambda path: path.write_bytes(gzip.compress(b'{"a": [' + b"[]," * 10**8 + b"[]]}", 1)),
    "deep.jsonl": lambda path: path.write_text("[" * 10**6),
    "large.jsonl": lambda path: path.touch() or os.truncate(path, 2**40),
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_memory_is_gone(name, tmp_path):
    """With 6 GB, which is little for who trains; some of these would take 50."""
    BOMBS[name](tmp_path / name)

    def reads() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 10**9, 6 * 10**9))
        try:
            read_file(tmp_path / name)
        except CoevoError as error:
            print("refused:", error)

    code, said = spoken(reads)
    assert code == 0 and said.startswith("refused: ") and name in said, said[-2000:]


def test_values_are_counted_while_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_VALUES", 10)
    monkeypatch.setattr(rows, "MAX_JSON", 30)
    (tmp_path / "a.csv").write_text("a,b,c\n" + "1,2,3\n" * 3)
    assert len(read_file(tmp_path / "a.csv")) == 3
    (tmp_path / "a.csv").write_text("a,b,c\n" + "1,2,3\n" * 10**5)
    with pytest.raises(ConfigError, match="has more than 10 values"):
        read_file(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": "x" * 30}))
    with pytest.raises(ConfigError, match=r"line 1 has 0 MiB of JSON in one piece; expected at most 0 MiB"):
        read_file(tmp_path / "a.jsonl")


def test_a_parquet_file_that_unpacks_a_million_times_is_refused(tmp_path, monkeypatch):
    """One value of 10 kB in every row, written down once."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(rows, "MAX_BYTES", 10**8)
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10**6, pyarrow.int8()), ["x" * 10**4])
    parquet.write_table(pyarrow.table({"prompt": column}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10**6
    with pytest.raises(ConfigError, match="unpacks to more than 95 MiB"):
        read_file(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["a", "b"] * 3000}), tmp_path / "b.parquet")
    assert len(read_file(tmp_path / "b.parquet")) == 6000


@pytest.mark.parametrize(("mark", "name"), [("\t", "tabs"), ("|", "bars")])
def test_a_table_with_other_marks_is_told_so(tmp_path, mark, name):
    (tmp_path / "other.csv").write_text(f"prompt{mark}answer\na{mark}1\n")
    with pytest.raises(ConfigError, match=f"separated by {name}; expected ','"):
        read_file(tmp_path / "other.csv")
