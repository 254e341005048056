"""One's own prompts, from a file, a folder or the hub, with a reward by name: no Python needed.

One idea: a row is a prompt, whatever kind of file it stands in; one column is the text (or the
messages of a chat), one may be the gold answer, and all others go to rewards that ask for them.

The files are JSONL, JSON, CSV, TSV, text (a prompt a line) and Parquet, also gzipped. Nothing is
cut, guessed or dropped: what does not fit is an error with file and row, and what was split off is
a line of the task's `notes`.

Options:
    prompts: A file; a folder with train, and perhaps validation and test files (see
        `coevo_env.assets.rows.split_files`); or "hub:owner/name", "hub:owner/name:config".
    reward: A name of `coevo_env.rewards.REWARDS` ("exact", "number", "regex:^[A-Z]",
        "length:20", "lexicon", "classifier:NAME"), the folder of a classifier, or
        "module:function".
    validation, test: Files of their own for these splits.
    prompt_column: The column of the prompts; None means "prompt", else "messages". A list of
        {role, content} is a chat, which the model's chat template renders. Where its last
        message is the assistant's, that is the answer.
    answer_column: The column of the gold answers; None means "answer" where there is one.
    split_column: A column that says train, validation or test.
    validation_size, test_size: How much of the train prompts becomes a split that the data do
        not have: a part below 1 or a number of prompts, by the SHA-256 of seed and text; None
        means one in ten.
    drop_duplicates: Whether prompts that are in two splits are taken out of the earlier one
        (of train, validation, test); by default they are an error.
    seed: Of the splits.
    reward_options: More options of the reward.
    reward_workers, reward_timeout: Calls of the reward at a time, each with one pair, and the
        seconds that a batch may take; with one of them, see `coevo_env.rewards.call`.
    templates: What an agent reads as "pioneer" and as "observer"; see `Task`.
    separator, max_new_tokens, min_new_tokens, max_context, stop_at_newline, model: See `Task`.
    name: Name of the task; None means that of the file.

Version history: 1 (0.2.0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..assets.prompts import read_prompt
from ..assets.rows import Row, check_columns, hub_splits, read_file, split_files
from ..errors import ConfigError, real, unknown_name, whole
from ..game.splits import SPLITS, common, likeness, split_off
from ..game.task import Prompt, Task
from ..rewards import REWARDS, call, gold_number, make_reward

__all__ = ["task"]

SHARE = 0.1
"""Part of the prompts that becomes a validation or test split where there is none."""
LONGEST = 32
"""Characters that a token has at most on average; a prompt of more than this times `max_context`
cannot fit, and is refused before a tokenizer works on it for minutes."""
TEMPLATES = {
    "text": {"pioneer": "{prompt}", "observer": "{prompt}{responses}\n{prompt}"},
    "chat": {"pioneer": "{prompt}", "observer": "{prompt}\n\nSomebody answered:\n{responses}\n\nGive your own answer."},
}


def task(
    prompts: str | Path = "",
    reward: str | Callable[..., Any] = "",
    *,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    split_column: str | None = None,
    validation_size: float | None = None,
    test_size: float | None = None,
    drop_duplicates: bool = False,
    seed: int = 0,
    reward_options: Mapping[str, Any] | None = None,
    reward_workers: int | None = None,
    reward_timeout: float | None = None,
    templates: Mapping[str, str] | None = None,
    separator: str = "\n",
    max_new_tokens: int = 64,
    min_new_tokens: int = 1,
    max_context: int = 512,
    stop_at_newline: bool = False,
    model: str = "smollm2",
    name: str | None = None,
) -> Task:
    """A task out of data; the module says what the options are.

    Raises:
        ConfigError: No such file, a damaged or empty one, a column that is not there, a prompt in
            two splits, too few rows, an answer that the reward cannot use.
        MissingExtraError: Parquet or the hub without the extra `hub`.
        CoevoError: The hub did not answer.
    """
    _check_given(prompts, reward)
    rows = _rows(str(prompts), validation, test, split_column)
    columns = _columns(rows["train"], str(prompts), prompt_column, answer_column)
    found = _prompts(rows, str(prompts), columns, split_column, max_context)
    notes = _disjoint(found, drop_duplicates, str(prompts))
    _split(found, {"test": test_size, "validation": validation_size}, seed, notes, str(prompts))
    function = _reward(reward, reward_options, reward_workers, reward_timeout)
    needs = str(reward).partition(":")[0]
    for split in SPLITS:
        _check_answers(found[split], needs, str(reward), f"{prompts} ({split})")
    return Task(
        name=name or _name(str(prompts)),
        train=found["train"],
        validation=found["validation"],
        test=found["test"],
        rewards={needs if needs in REWARDS else "reward": function},
        templates={**TEMPLATES[_kind(found, str(prompts))], **(templates or {})},
        separator=separator,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        max_context=max_context,
        stop_at_newline=stop_at_newline,
        model=model,
        scripted=(lambda prompt, seen: prompt.answer or "") if needs in ("exact", "number") else None,
        description=f"prompts of {Path(str(prompts)).name}, scored by {_called(reward)}",
        notes=tuple(notes),
    )


def _check_given(prompts: Any, reward: Any) -> None:
    if not str(prompts):
        raise ConfigError(
            "own: no data. Give prompts=FILE, a folder or hub:owner/name; see docs/own_data.md for a first file."
        )
    if not reward:
        raise ConfigError(
            f"own: no reward. Give reward=NAME of {', '.join(REWARDS)}, the folder of a classifier, or module:function."
        )


# ------------------------------------------------------------------------------------------- rows
def _prompts(
    rows: Mapping[str, Sequence[Row]], where: str, columns: Any, split_column: str | None, max_context: int
) -> dict[str, list[Prompt]]:
    """The rows of each split as prompts."""
    skipped = {split_column} if split_column else ()
    return {
        split: [
            _short(
                read_prompt(row, number, f"{where} ({split})", columns[0], columns[1], skipped),
                number,
                where,
                max_context,
            )
            for number, row in enumerate(part, start=1)
        ]
        for split, part in rows.items()
    }


def _rows(prompts: str, validation: Any, test: Any, split_column: str | None) -> dict[str, list[Row]]:
    """The rows of each split that the data have, train at least."""
    if prompts.startswith("hub:"):
        name, _, config = prompts.removeprefix("hub:").partition(":")
        rows = hub_splits(name, config or None)
    else:
        path = Path(prompts).expanduser()
        if path.is_dir():
            files = split_files(path)
            rows = {split: [row for file in part for row in read_file(file)] for split, part in files.items()}
            if "train" not in rows:
                held = sorted(f.name for f in path.iterdir())[:8]
                raise ConfigError(
                    f"the folder {prompts!r} has no file train.jsonl (or .json, .csv, .tsv, .txt, .parquet); it holds "
                    f"{held or 'nothing'}. Expected the splits by these names, or give one file."
                )
        elif path.is_file():
            rows = {"train": read_file(path)}
        else:
            raise ConfigError(f"no data at {prompts!r}; expected a file, a folder, or hub:owner/name.")
    for split, file in (("validation", validation), ("test", test)):
        if file is not None:
            if split in rows:
                raise ConfigError(f"own: {prompts!r} has a {split} split, and {split}={str(file)!r} is another.")
            rows[split] = read_file(Path(file).expanduser())
    return _by_column(rows, split_column, prompts) if split_column else rows


def _by_column(rows: dict[str, list[Row]], column: str, where: str) -> dict[str, list[Row]]:
    if set(rows) != {"train"}:
        raise ConfigError(f"own: split_column={column!r}, but {where!r} has the splits {sorted(rows)} already.")
    names = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
    names |= {"dev": "validation", "test": "test"}
    result: dict[str, list[Row]] = {}
    for number, row in enumerate(check_columns(rows["train"], [column], where, text=True), start=1):
        if (split := names.get(str(row[column]).strip().lower())) is None:
            error = unknown_name("split", row[column], SPLITS)
            raise ConfigError(f"{where}, row {number}, column {column!r}: {error}")
        result.setdefault(split, []).append(row)
    if "train" not in result:
        raise ConfigError(f"{where}: no row has train in the column {column!r}; it names {', '.join(sorted(result))}.")
    return result


def _columns(rows: Sequence[Row], where: str, prompt: str | None, answer: str | None) -> tuple[str, str | None]:
    if not rows:
        raise ConfigError(f"{where} has no train rows; expected at least one.")
    if prompt is None:
        prompt = "messages" if "messages" in rows[0] and "prompt" not in rows[0] else "prompt"
        if prompt not in rows[0]:
            raise ConfigError(
                f"{where}: no column 'prompt' or 'messages'; got the columns {[str(c) for c in rows[0]]}. Say which "
                "one holds the prompts: prompt_column=NAME."
            )
    return prompt, answer or ("answer" if "answer" in rows[0] else None)


def _short(prompt: Prompt, number: int, where: str, max_context: int) -> Prompt:
    if len(prompt) > LONGEST * max_context:
        raise ConfigError(
            f"{where}, row {number}: the prompt has {len(prompt)} characters, more than fit max_context={max_context} "
            "tokens in any tokenizer; shorten it, or raise max_context."
        )
    return prompt


def _kind(found: Mapping[str, Sequence[Prompt]], where: str) -> str:
    kinds = {"text" if prompt.earlier is None else "chat" for part in found.values() for prompt in part}
    if len(kinds) > 1:
        raise ConfigError(f"{where}: some prompts are text and some are chats; expected all of one kind.")
    return kinds.pop()


# ----------------------------------------------------------------------------------------- splits
def _disjoint(found: dict[str, list[Prompt]], drop: bool, where: str) -> list[str]:
    """Takes out of the earlier of two splits what they share, if that may be; says what it did."""
    notes = []
    for earlier, later in (("train", "validation"), ("train", "test"), ("validation", "test")):
        both = common(found.get(earlier, ()), found.get(later, ()))
        if not both:
            continue
        if not drop:
            raise ConfigError(
                f"{where}: {len(both)} prompts of the {earlier} split are also in the {later} split, the first being "
                f"{str(both[0])[:60]!r}; what is measured there would be no held-out number. Take them out, or set "
                f"drop_duplicates=true, which drops them from {earlier}. (Texts that differ in outer white space or in "
                "the form of Unicode only are the same.)"
            )
        known = set(map(likeness, both))
        found[earlier] = [prompt for prompt in found[earlier] if likeness(prompt) not in known]
        notes.append(f"{len(both)} prompts that are also in the {later} split were dropped from {earlier}.")
        if not found[earlier]:
            raise ConfigError(f"{where}: every {earlier} prompt is also in the {later} split, so none is left.")
    return notes


def _split(found: dict[str, list[Prompt]], sizes: Mapping[str, Any], seed: int, notes: list[str], where: str) -> None:
    """Takes the splits that are not there out of train."""
    seed = whole("own: seed", seed, 0)
    different, counts = len(set(map(likeness, found["train"]))), {}
    if twice := len(found["train"]) - different:
        notes.append(f"{twice} train rows repeat the prompt of another; each is played as often as it stands there.")
    for split, size in sizes.items():
        if split in found:
            if size is not None:
                raise ConfigError(f"own: {split}_size={size}, but {where!r} has a {split} split already; leave it out.")
            continue
        size = SHARE if size is None else size
        share = real(f"own: {split}_size", size, above=0)
        counts[split] = round(share * different) if share < 1 else whole(f"own: {split}_size", size, 1)
    left = different - sum(counts.values())
    if left < 1 or 0 in counts.values():
        fell = ", ".join(f"{n} to {split}" for split, n in (("train", max(0, left)), *counts.items()))
        raise ConfigError(
            f"{where} has {different} different prompts, of which {fell} would fall, by the SHA-256 of their text; "
            "every split needs at least one. Give "
            + " and ".join(f"{split}=FILE or {split}_size=N" for split in counts)
            + ", or more rows."
        )
    for split, count in counts.items():
        found["train"], found[split] = split_off(found["train"], count, seed)
        behind = "" if split == "test" or "test" not in counts else " behind the test prompts"
        notes.append(
            f"the data have no {split} split: {count} of their {different} different prompts are one, those with the "
            f"smallest SHA-256 of seed {seed} and text{behind}."
        )


# ---------------------------------------------------------------------------------------- rewards
def _reward(spec: Any, options: Any, workers: int | None, timeout: float | None) -> Any:
    if not isinstance(options or {}, Mapping):
        raise ConfigError(f"own: reward_options={options!r}; expected names and values.")
    function = make_reward(spec, **(options or {}))
    if workers is None and timeout is None:
        return function
    return call(function, workers=8 if workers is None else workers, timeout=timeout)


def _check_answers(prompts: Sequence[Prompt], reward: str, spec: str, where: str) -> None:
    """Whether there is an answer where the reward compares with one, and a number where it
    compares numbers."""
    if reward not in ("exact", "number"):
        return
    for number, prompt in enumerate(prompts, start=1):
        if prompt.answer is None:
            raise ConfigError(
                f"{where}: the prompt {str(prompt)[:60]!r} has no answer, and reward={spec!r} compares with one. Say "
                "which column holds it: answer_column=NAME."
            )
        if not prompt.answer.strip():
            raise ConfigError(
                f"{where}: the answer of prompt {number}, {str(prompt)[:60]!r}, is empty, and reward={spec!r} would "
                "pay for saying nothing; expected text. Fill it in, or take the row out."
            )
        if reward == "number" and gold_number(prompt.answer) is None:
            raise ConfigError(
                f"{where}: the answer {prompt.answer[:60]!r} of prompt {number}, {str(prompt)[:60]!r}, is not one "
                "number; expected such as 72, $1,200 or '72 apples'. For answers that are text use reward=exact."
            )


def _called(reward: Any) -> str:
    return reward if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)


def _name(prompts: str) -> str:
    stem = prompts.rpartition("/")[2].partition(".")[0] if prompts.startswith("hub:") else Path(prompts).name
    return re.sub(r"\W+", "_", stem.partition(".")[0]).strip("_").lower() or "own"
