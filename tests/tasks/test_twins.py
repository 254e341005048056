"""Texts that read the same are one prompt wherever splits are made or compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coevo_env.assets.reviews import is_held_out
from coevo_env.errors import ConfigError
from coevo_env.game.splits import SPLITS
from coevo_env.game.task import Prompt, Task
from coevo_env.rewards import length_reward
from coevo_env.tasks import make_task


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def own(prompts, **options) -> Task:
    return make_task("own", prompts=str(prompts), reward="length:3", **options)


def texts(task: Task, split: str) -> list[str]:
    return [str(prompt) for prompt in getattr(task, split)]


def plain(**fields) -> Task:
    return Task(**{"name": "t", "rewards": {"length": length_reward(2)}, **fields})


TWINS = {"white space": ("caf\u00e9 {}", " caf\u00e9 {}\n"), "Unicode": ("caf\u00e9 {}", "cafe\u0301 {}")}


@pytest.mark.parametrize("kind", TWINS)
def test_texts_that_read_the_same_never_fall_on_two_sides(kind, tmp_path):
    one, other = TWINS[kind]
    pairs = [(one.format(i), other.format(i)) for i in range(40)]
    everything = [text for pair in pairs for text in pair]
    for task in (
        plain(train=everything, test=["t"]),
        own(write(tmp_path / "own.jsonl", [{"prompt": text} for text in everything])),
    ):
        where = {text: split for split in SPLITS for text in texts(task, split)}
        assert all(where[a] == where[b] for a, b in pairs) and len(set(where.values())) > 1
    assert all(is_held_out(a) == is_held_out(b) for a, b in pairs)
    with pytest.raises(ConfigError, match=r"is in the test split and in the train split.*outer white space or in the"):
        plain(train=[pairs[0][0]], test=[pairs[0][1]])
    for split, pair in (("train", pairs[0]), ("test", pairs[0][::-1])):
        rows = [{"prompt": pair[0]}, *({"prompt": f"{split} {i}"} for i in range(20))]
        write(tmp_path / "folder" / f"{split}.jsonl", rows)
    with pytest.raises(ConfigError, match=r"1 prompts of the train split are also in the test split.*Unicode only"):
        own(tmp_path / "folder")
    kept = own(tmp_path / "folder", drop_duplicates=True)
    assert pairs[0][0] not in texts(kept, "train") and pairs[0][1] in texts(kept, "test")
    earlier = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in pairs[0]]
    with pytest.raises(ConfigError, match="in the test split and in the train split"):
        plain(train=[Prompt("and?", earlier=earlier[0])], test=[Prompt("and? ", earlier=earlier[1])])
