"""Data as people bring them: every kind of file gives the same task, splits share no prompt, chats
go through the model's template, and what cannot be read is refused with file and row."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import pickle
import sys
import tempfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_env.assets.prompts import read_prompt
from coevo_env.assets.rows import read_file, split_files
from coevo_env.errors import CoevoError, ConfigError, MissingExtraError
from coevo_env.game.splits import SPLITS, common, likeness, split_off
from coevo_env.game.task import Prompt, Task
from coevo_env.rewards import length_reward
from coevo_env.tasks import BUILTIN_TASKS, make_task
from coevo_env.testing import check_task, tiny_lm

ROWS = [{"prompt": f"What is {i} plus 1, “exactly”?", "answer": f"{i + 1}"} for i in range(40)]


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def own(prompts, reward="length:3", **options) -> Task:
    return make_task("own", prompts=str(prompts), reward=reward, **options)


def texts(task: Task, split: str) -> list[str]:
    return [str(prompt) for prompt in getattr(task, split)]


# ---------------------------------------------------------------- splits of a task
def plain(**fields) -> Task:
    return Task(**{"name": "t", "rewards": {"length": length_reward(2)}, **fields})


@given(st.lists(st.text(max_size=6), min_size=1, max_size=60), st.integers(0, 3))
def test_what_is_split_off_is_disjoint_and_of_the_size_asked_for(prompts, seed):
    different = len(set(map(likeness, prompts)))
    for count in {0, 1, different // 2, different}:
        rest, taken = split_off(prompts, count, seed)
        assert len(set(map(likeness, taken))) == count
        assert not set(map(likeness, rest)) & set(map(likeness, taken))
        assert sorted(rest + taken) == sorted(prompts)
        assert set(split_off(prompts[::-1], count, seed)[1]) == set(taken)  # whatever the order of rows


def test_validation_is_split_off_train_by_the_stated_rule():
    train = [f"prompt {i}" for i in range(40)]
    task = plain(train=train, test=["t"])
    expected = sorted(train, key=lambda text: hashlib.sha256(f"0\0{text}".encode()).digest())[:4]  # one in ten
    assert set(task.validation) == set(task.prompts("validation")) == set(expected)
    assert list(task.train) == [text for text in train if text not in expected]
    assert "4 of the 40 train prompts are held out" in task.notes[0]
    assert len(plain(train=[str(i) for i in range(9000)], test=["t"]).validation) == 512
    again = replace(task, max_new_tokens=3)
    assert again.train == task.train and again.notes == task.notes


def test_too_few_prompts_stand_in_for_validation():
    task = plain(train=[str(i) for i in range(9)], test=["t"])
    assert list(task.prompts("validation")) == list(task.train) and len(task.train) == 9
    assert "9 train prompts are too few" in task.notes[0]
    assert replace(task, max_new_tokens=3).notes == task.notes


def test_a_validation_split_of_ones_own_leaves_train_alone():
    task = plain(train=[str(i) for i in range(40)], validation=["v"], test=["t"])
    assert len(task.train) == 40 and task.prompts("validation") == ["v"] and task.notes == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": (c for c in "ab")}, r"the train split is a generator; expected a list .*Write list\(\.\.\.\)"),
        ({"test": (c for c in "ab")}, "the test split is a generator"),
        ({"train": {"a": 1}}, "the train split is a dict"),
        ({"train": {"a", "b"}}, "the train split is a set"),
        ({"validation": "ab"}, "the validation split is the text 'ab'"),
        ({"validation": [3]}, "prompt 0 of the validation split is 3; expected text"),
        ({"test": ["a", "x"]}, "the prompt 'a' is in the test split and in the train split"),
        ({"validation": ["b", "a"]}, "'b' is in the validation split and in the train split, and so are 1 others"),
        ({"validation": ["t"]}, "'t' is in the test split and in the validation split"),
    ],
)
def test_splits_that_are_none(fields, message):
    with pytest.raises(ConfigError, match=message):
        plain(**{"train": ["a", "b"], "test": ["t"], **fields})


@pytest.mark.parametrize("name", ["toy", "matching", "sentiment", "arithmetic"])
def test_built_in_tasks_have_three_disjoint_splits_without_a_rule(name):
    task = make_task(name)
    assert task.notes == () and len(task.validation)
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not common(getattr(task, one), getattr(task, other))


def test_the_train_prompts_of_the_default_task_are_what_they_were():
    """SHA-256 of the openers of version 0.1.0; a run trains on them by their number."""
    for split, digest in (("train", "96f678f68107"), ("test", "62a36fe98b01")):
        prompts = make_task("sentiment").prompts(split)
        assert hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:12] == digest
    assert list(make_task("toy").train) == ["1", "2"] and list(make_task("toy").test) == ["1 1", "2 2"]


def test_a_published_data_set_gives_validation_from_its_test(tmp_path):
    questions = [{"question": f"What is {i} plus 2?", "answer": f"#### {i + 2}."} for i in range(60)]
    write(tmp_path / "train.jsonl", questions[:30])
    write(tmp_path / "test.jsonl", questions[25:])
    task = make_task("gsm8k", source=tmp_path)
    assert len(task.train) == 30 and len(task.validation) == 3 and len(task.test) == 27
    assert "3 of the 30 test prompts" in task.notes[0]
    write(tmp_path / "valid.jsonl", questions[28:40])
    task = make_task("gsm8k", source=tmp_path)
    assert (len(task.train), len(task.validation), len(task.test), task.notes) == (30, 10, 20, ())


# ---------------------------------------------------------------- files
def test_every_kind_of_file_gives_the_same_task(tmp_path):
    rows = [*ROWS, {"prompt": 'a "quoted", text\nof two lines\t;', "answer": "é"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.JSONL").write_text(lines.replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "e.json").write_text(json.dumps({"data": rows}))
    (tmp_path / "f.json").write_text(lines, encoding="utf-8")  # lines under this name
    for name, delimiter, encoding in (("g.csv", ",", "utf-8"), ("h.CSV", ";", "utf-8-sig"), ("i.tsv", "\t", "utf-8")):
        with open(tmp_path / name, "w", encoding=encoding, newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "answer"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    if _has("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "j.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) >= 9
    wanted = own(files[0])
    for file in files:
        task = own(file)
        for split in SPLITS:
            assert texts(task, split) == texts(wanted, split), (file.name, split)
            assert [p.answer for p in getattr(task, split)] == [p.answer for p in getattr(wanted, split)]
    assert (len(wanted.train), len(wanted.validation), len(wanted.test)) == (33, 4, 4)


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028still one\n\ntwo\n", encoding="utf-8")
    assert read_file(tmp_path / "a.txt") == [{"prompt": "one\u2028still one"}, {"prompt": "two"}]


BAD_FILES = {
    "empty.jsonl": (b"", "has no rows; expected at least one"),
    "blank.csv": (b"\n\n", "has no rows"),
    "header.csv": (b"prompt,answer\n", "has no rows"),
    "latin.jsonl": (b'{"prompt": "a"}\n{"prompt": "\xe9"}\n', "line 2 cannot be read: the byte 0xe9 is not UTF-8"),
    "wide.csv": ("prompt\na\n".encode("utf-16"), "line 1 cannot be read.*It looks like UTF-16"),
    "half.jsonl": (b'{"prompt": "a"}\n{"prompt": ', "line 2 is not JSON"),
    "list.jsonl": (b'["a"]\n', "line 1 is a JSON list"),
    "deep.jsonl": (b"[" * 200_000 + b"]" * 200_000, "line 1 (is nested too deeply|is a JSON list)"),
    "object.json": (b'{"a": 1, "b": 2}', "is a JSON dict; expected a list of objects"),
    "strings.json": (b'["a", "b"]', "row 1 is a JSON str; expected an object"),
    "cells.csv": (b"prompt,answer\na,b\nc,d,e\n", "line 3: 3 values, and the first line names 2 columns"),
    "twice.csv": (b"prompt,prompt\na,b\n", "the column 'prompt' stands there twice"),
    "quote.csv": (b'prompt,answer\n"a,b\n', "line 2 is not a table: unexpected end of data"),
    "cut.jsonl.gz": (gzip.compress(b'{"prompt": "a"}\n' * 99)[:-9], "cannot be read: .*Is it whole"),
    "fake.jsonl.gz": (b'{"prompt": "a"}\n', "cannot be read: Not a gzipped file"),
    "bomb.jsonl.gz": (gzip.compress(b" " * (2**26 + 2**20)), "unpacks to more than 64 MiB, from .* bytes"),
    "a.pkl": (b"", r"got a \.pkl file; expected one that ends with \.jsonl"),
    "gap.jsonl": (b'{"prompt": "a"}\n{"promt": "b"}\n', "row 2: no value in the column 'prompt'.*Did you mean 'promt'"),
    "null.jsonl": (b'{"prompt": null}\n', "row 1: no value in the column 'prompt'"),
    "white.jsonl": (b'{"prompt": " "}\n', "row 1: the prompt is ' '; expected text"),
    "surrogate.jsonl": (b'{"prompt": "\\ud83d"}\n', "row 1, column 'prompt' holds half of a character"),
    "nan.jsonl": (b'{"prompt": NaN}\n', "row 1, column 'prompt' holds nan, a float; expected text"),
    "object.jsonl": (b'{"prompt": {"a": 1}}\n', "row 1, column 'prompt' holds {'a': 1}, a dict"),
    "long.jsonl": (b'{"prompt": "' + b"a" * 10**6 + b'"}\n', "row 1: the prompt has 1000000 characters, more than fit"),
    "few.jsonl": (b'{"prompt": "a"}\n{"prompt": "b"}\n', "2 different prompts, of which .* to test, .* would fall"),
    "columns.jsonl": (b'{"question": "a"}\n', r"no column 'prompt' or 'messages'; got the columns \['question'\]"),
    "repr.csv": (
        b"prompt\n\"[{'role': 'user', 'content': 'Hi'}]\"\n",
        "row 1: the column 'prompt' holds messages as Python writes them",
    ),
    "roles.jsonl": (
        b'{"messages": [{"role": "system", "content": "x"}]}\n',
        r"has messages of the roles \['system'\]; expected the last one to be the user's",
    ),
    "picture.jsonl": (
        b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}\n',
        "the content of a message is .*expected text",
    ),
    "mixed.jsonl": (
        b'{"prompt": "a"}\n{"prompt": [{"role": "user", "content": "b"}]}\n{"prompt": "c"}\n',
        "some prompts are text and some are chats",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    options = {"validation_size": 1, "test_size": 1} if name.startswith("mixed") else {}
    with pytest.raises(ConfigError, match=message) as raised:
        own(tmp_path / name, **options)
    assert name in str(raised.value)


def test_a_parquet_file_without_pyarrow_or_without_sense(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    if _has("pyarrow"):
        with pytest.raises(ConfigError, match="is not a Parquet file"):
            own(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"coevo-env\[hub\]"):
        own(tmp_path / "a.parquet")


def test_a_data_set_of_the_hub_library(tmp_path, monkeypatch):
    """The library itself, on a folder, which needs no network."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"coevo-env\[hub\]"):
        own("hub:somebody/something")
    monkeypatch.undo()
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "data" / "train.jsonl", ROWS[:30])
    write(tmp_path / "data" / "validation.jsonl", ROWS[30:])
    task = own(f"hub:{tmp_path / 'data'}", test_size=3)
    assert (len(task.train), len(task.validation), len(task.test)) == (27, 10, 3)
    with pytest.raises(CoevoError, match="could not be loaded from the hub"):
        own(f"hub:{tmp_path / 'absent'}")


# ---------------------------------------------------------------- folders
def test_a_folder_is_read_by_whole_names(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00002.jsonl", ROWS[:10])
    write(tmp_path / "data" / "train-00001-of-00002.jsonl", ROWS[10:20])
    write(tmp_path / "data" / "dev.jsonl", ROWS[20:25])
    write(tmp_path / "data" / "test.jsonl", ROWS[25:30])
    for other in ("train_old.jsonl", "training.jsonl", "testing.jsonl", ".train.jsonl", "old/deep/train.jsonl"):
        write(tmp_path / "data" / other, [{"prompt": "not this one"}])
    (tmp_path / "data" / "train.bak").write_text("nor this one")
    task = own(tmp_path)
    assert [len(getattr(task, split)) for split in SPLITS] == [20, 5, 5] and task.notes == ()
    assert texts(task, "train") == [row["prompt"] for row in ROWS[:20]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.jsonl", "train.csv"], r"the train split in several kinds: \.csv, \.jsonl"),
        (["one/train.jsonl", "two/train.jsonl"], "the train split in several folders"),
        (["train.jsonl", "train_2.jsonl"], r"in train\.jsonl and in train_2\.jsonl; expected one file"),
        (["valid.jsonl", "validation.jsonl"], r"the validation split in valid\.jsonl and in validation\.jsonl"),
    ],
)
def test_a_folder_that_means_two_things(tmp_path, names, message):
    for name in names:
        write(tmp_path / name, ROWS[:1])
    with pytest.raises(ConfigError, match=message):
        split_files(tmp_path)


def test_places_without_data(tmp_path):
    with pytest.raises(ConfigError, match=r"no data at .*absent"):
        own(tmp_path / "absent")
    write(tmp_path / "train_old.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"has no file train\.jsonl .*it holds \['train_old\.jsonl'\]"):
        own(tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        own(write(tmp_path / "a.jsonl", ROWS), test=str(tmp_path))
    for options in ({}, {"prompts": str(tmp_path / "a.jsonl")}):
        with pytest.raises(ConfigError, match=r"no data|no reward"):
            make_task("own", **options)


# ---------------------------------------------------------------- splits and columns
def test_splits_by_files_columns_and_sizes(tmp_path):
    one = write(tmp_path / "one.jsonl", ROWS[:20])
    task = own(one, validation=write(tmp_path / "v.jsonl", ROWS[20:24]), test=write(tmp_path / "t.jsonl", ROWS[24:]))
    assert [len(getattr(task, split)) for split in SPLITS] == [20, 4, 16] and task.notes == ()
    task = own(one, validation_size=5, test_size=0.25, seed=1)
    assert [len(getattr(task, split)) for split in SPLITS] == [10, 5, 5] and len(task.notes) == 2
    assert texts(own(one, validation_size=5, test_size=0.25, seed=2), "test") != texts(task, "test")
    named = [{**row, "part": part} for row, part in zip(ROWS, ["Train", "dev", "test", "train"] * 10, strict=True)]
    task = own(write(tmp_path / "named.jsonl", named), split_column="part")
    assert [len(getattr(task, split)) for split in SPLITS] == [20, 10, 10]
    assert task.train[0].info == {}
    with pytest.raises(ConfigError, match=r"column .part.: unknown split 'tset'.*Did you mean 'test'"):
        own(write(tmp_path / "named.jsonl", [*named, {**named[0], "part": "tset"}]), split_column="part")
    with pytest.raises(ConfigError, match=r"test_size=3, but .* has a test split already"):
        own(one, test=str(tmp_path / "t.jsonl"), test_size=3)


@pytest.mark.parametrize("size", [0, -1, 1.5, "many", float("nan")])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(ConfigError, match="own: test_size="):
        own(write(tmp_path / "a.jsonl", ROWS), test_size=size)


def test_prompts_in_two_splits_are_refused_or_dropped(tmp_path):
    one, other = write(tmp_path / "a.jsonl", ROWS[:30]), write(tmp_path / "b.jsonl", ROWS[25:35])
    with pytest.raises(ConfigError, match="5 prompts of the train split are also in the test split, the first being"):
        own(one, test=str(other))
    task = own(one, test=str(other), validation_size=3, drop_duplicates=True)
    assert [len(getattr(task, split)) for split in SPLITS] == [22, 3, 10]
    assert "5 prompts that are also in the test split were dropped from train" in task.notes[0]
    task = own(write(tmp_path / "c.jsonl", [*ROWS, *ROWS[:3]]))
    assert sum(len(getattr(task, split)) for split in SPLITS) == 43
    assert "3 train rows repeat" in task.notes[0]


def test_columns_by_option(tmp_path):
    rows = [{"q": f"{i}?", "gold": i, "prompt": "not this", "level": "easy"} for i in range(20)]
    task = own(write(tmp_path / "a.jsonl", rows), "number", prompt_column="q", answer_column="gold")
    found = {str(p): (p.answer, p.info) for split in SPLITS for p in getattr(task, split)}
    assert found == {f"{i}?": (str(i), {"prompt": "not this", "level": "easy"}) for i in range(20)}
    with pytest.raises(ConfigError, match=r"row 1: no value in the column 'golf'.*Did you mean 'gold'"):
        own(tmp_path / "a.jsonl", "number", prompt_column="q", answer_column="golf")


def test_answers_that_the_reward_cannot_use(tmp_path):
    rows = [*ROWS[:20], {"prompt": "capital of France?", "answer": "Paris"}]
    with pytest.raises(ConfigError, match=r"the answer 'Paris' of prompt \d+.* is not one number.*reward=exact"):
        own(write(tmp_path / "a.jsonl", rows), "number")
    assert own(tmp_path / "a.jsonl", "exact").rewards["exact"]([Prompt("a", answer="Paris")], [" paris"]) == [1.0]
    with pytest.raises(ConfigError, match="has no answer, and reward='exact' compares with one"):
        own(write(tmp_path / "a.jsonl", [{"prompt": str(i)} for i in range(20)]), "exact")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "nmber"}, "unknown reward 'nmber'.*Did you mean 'number'"),
        ({"reward": "length"}, "reward 'length': missing a required argument: 'target'"),
        ({"reward": "length:x"}, "length_reward: target='x'"),
        ({"reward": "regex:("}, "is not a regular expression"),
        ({"reward": "absent_module:f"}, "could not be imported: ModuleNotFoundError"),
        ({"reward_options": 3}, "reward_options=3"),
        ({"reward_options": {"tagret": 3}}, "Its options are"),
        ({"templates": {"pioneer": "no place"}}, "the pioneer template"),
        ({"promt_column": "x"}, "Its options are"),
    ],
)
def test_options_that_are_none(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        own(write(tmp_path / "a.jsonl", ROWS), **options)


def test_a_function_of_ones_own_gets_the_columns(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def near(completions, level, answer, scale=1.0, **rest):\n"
        "    assert sorted(rest) == ['id', 'prompts'], rest\n"
        "    return [scale * lvl * (a == c) for c, lvl, a in zip(completions, level, answer)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"prompt": f"{i}", "answer": str(i), "level": i, "id": f"row {i}"} for i in range(20)]
    task = own(write(tmp_path / "a.jsonl", rows), "my_rewards:near", reward_options={"scale": 2.0})
    prompts = sorted(task.train, key=lambda p: p.info["level"])
    level = prompts[-1].info["level"]
    assert task.rewards["reward"](prompts[-2:], ["no", prompts[-1].answer]) == [0.0, 2.0 * level]


def test_own_tasks_keep_their_promises(tmp_path):
    file = write(tmp_path / "a.jsonl", ROWS)
    for options in ({"reward": "number"}, {"reward": "length:3", "reward_workers": 4, "reward_timeout": 30}):
        assert "plays" in check_task(own(file, max_context=256, max_new_tokens=8, **options), tiny_lm(None))
    assert pickle.loads(pickle.dumps(own(file, "lexicon"))).train == own(file, "lexicon").train
    assert own(file).templates["observer"] == "{prompt}{responses}\n{prompt}"
    assert own(file, templates={"pioneer": "Q: {prompt}"}).render("x") == "Q: x"
    assert "own" in BUILTIN_TASKS and own(file, name="mine").name == "mine"


# ---------------------------------------------------------------- numbers keep their value
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=9))
def test_a_number_of_a_json_file_is_the_one_that_stands_there(number):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.jsonl"
        file.write_text("".join(f'{{"prompt": "q{i}", "answer": {number:f}}}\n' for i in range(3)))
        for row in read_file(file):
            prompt = read_prompt(row, 1, "numbers", "prompt", "answer")
            assert Decimal(prompt.answer) == number and pickle.loads(pickle.dumps(row)) == row


def test_a_short_float_of_a_parquet_file_is_the_shortest_number_that_it_can_be(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    written = ["0.1", "2.675", "16777216.0", "-1e-07", "3.1415927"]
    columns = {"prompt": list("abcde"), "answer": pyarrow.array(map(float, written), pyarrow.float32())}
    parquet.write_table(pyarrow.table(columns), tmp_path / "short.parquet")
    got = [read_prompt(row, 1, "short", "prompt", "answer").answer for row in read_file(tmp_path / "short.parquet")]
    assert list(map(Decimal, got)) == list(map(Decimal, written))
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["prompt", "prompt"])
    parquet.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ConfigError, match="the column 'prompt' stands there twice"):
        read_file(tmp_path / "twice.parquet")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "twice.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n')
    with pytest.raises(ConfigError, match="line 2: the key 'prompt' stands twice"):
        read_file(tmp_path / "twice.jsonl")


@pytest.mark.parametrize("reward", ["exact", "number"])
def test_a_cell_that_was_left_empty_is_no_answer(tmp_path, reward):
    rows = [f"q{i},{i if i != 7 else ''}" for i in range(12)]
    (tmp_path / "gap.csv").write_text("\n".join(["prompt,answer", *rows]))
    with pytest.raises(ConfigError, match=r"the answer of prompt \d+, 'q7', is empty"):
        own(tmp_path / "gap.csv", reward)


@given(st.lists(st.text("ab ", min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=4),
       st.sampled_from(["\n", "\r\n", "\r"]))  # fmt: skip
def test_lines_end_as_any_system_ends_them(lines, end):
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        Path(file.name).write_bytes(end.join(lines).encode())
        assert [row["prompt"] for row in read_file(Path(file.name))] == lines
