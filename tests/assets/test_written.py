"""Numbers that were stored in 32 or 16 bits are as text what was written, wherever they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coevo_env.assets.prompts import read_prompt
from coevo_env.assets.rows import hub_splits, read_file

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

KINDS = {
    "one": (pyarrow.float32(), 0.1),
    "half": (pyarrow.float16(), 0.1),
    "list": (pyarrow.list_(pyarrow.float32()), [0.1, None, 2.675]),
    "large list": (pyarrow.large_list(pyarrow.float32()), [0.1]),
    "fixed list": (pyarrow.list_(pyarrow.float32(), 2), [0.1, 0.3]),
    "struct": (pyarrow.struct([("a", pyarrow.float32()), ("b", pyarrow.string())]), {"a": 0.1, "b": "0.1"}),
    "deep": (pyarrow.list_(pyarrow.struct([("a", pyarrow.list_(pyarrow.float32()))])), [{"a": [0.1]}, {"a": None}]),
    "map": (pyarrow.map_(pyarrow.string(), pyarrow.float32()), [("a", 0.1)]),
    "dictionary": (pyarrow.dictionary(pyarrow.int32(), pyarrow.float32()), 0.1),
    "long": (pyarrow.float64(), 0.1),
    "whole": (pyarrow.int32(), 3),
    "text": (pyarrow.list_(pyarrow.string()), ["0.10000000149011612"]),
}


def numbers(value) -> list[float]:
    """All floats inside."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for one in value for number in numbers(one)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_a_parquet_file_is_what_was_written(kind, tmp_path: Path):
    type_, value = KINDS[kind]
    column = pyarrow.array([np.float16(value)] if kind == "half" else [value], type_)
    table = pyarrow.table({"prompt": ["q"], "it": column})
    parquet.write_table(table, tmp_path / "rows.parquet")
    [row] = read_file(tmp_path / "rows.parquet")
    assert row["it"] == value
    assert list(map(str, numbers(row["it"]))) == list(map(str, numbers(value)))


def test_a_number_of_a_hub_data_set_is_what_was_written(monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "answer": datasets.Value("float32"), "all": [datasets.Value("float32")]}
    )
    rows = datasets.Dataset.from_dict({"prompt": ["q"], "answer": [0.1], "all": [[0.1, 2.675]]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: datasets.DatasetDict({"train": rows}))
    [row] = hub_splits("someone/something")["train"]
    assert read_prompt(row, 1, "hub", "prompt", "answer").answer == "0.1"
    assert row["all"] == [0.1, 2.675]
