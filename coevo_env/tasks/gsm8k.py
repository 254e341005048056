"""Grade-school word problems, as CORY trains on them: a solved example, the question, and 1 for the
right last number.

One idea: the response may reason as it likes; only its last number is compared with the gold
answer. The observer reads the pioneer's response as a reference between the question and its own
answer.

What is the paper's: dataset, order of the parts of both prompts, reward. What is ours: the wording
and the solved example (the paper prints neither as data), and the length of a response (not given).
The questions are not part of this package.

Source: Ma et al., "Coevolving with the Other You", NeurIPS 2024, section 4.2; Cobbe et al., arXiv
2110.14168 (the dataset, MIT).

Version history: 2 (0.2.0), fractions and other figures are read whole; 1 (0.1.0).
"""

from __future__ import annotations

import os
from pathlib import Path

from ..assets.reviews import Row, load_splits
from ..errors import ConfigError
from ..game.splits import held_out_from
from ..game.task import Prompt, Task
from ..rewards import exact_answer, gold_number

__all__ = ["task"]

HUB = ("openai/gsm8k", "main")
EXAMPLE = (
    "Question: A baker fills 4 trays with 6 rolls each and sells 9 of the rolls. How many rolls are left?\n"
    "Answer: The trays hold 4 * 6 = 24 rolls. After the sale 24 - 9 = 15 rolls are left. The answer is 15.\n\n"
)


def task(
    source: str | Path | None = None,
    model: str = "meta-llama/Llama-2-7b-chat-hf",
    max_new_tokens: int = 256,
    max_context: int = 1024,
    stop_at_newline: bool = False,
) -> Task:
    """GSM8K: 7,473 train and 1,319 test questions, of which one in ten becomes the validation
    split unless the source has a file for one.

    Args:
        source: "hub" (`openai/gsm8k`, needs the extra `hub`), or a folder with `train.jsonl`,
            `test.jsonl` and perhaps `validation.jsonl` in the hub's format (columns question,
            answer; an answer ends with "#### 72"). None means the folder that the environment
            variable COEVO_GSM8K names, else the hub.
        model: Default model; the paper's is Llama-2-7b-chat in 4 bit.
        max_new_tokens, max_context, stop_at_newline: See `Task`. For models that write on after the
            answer, such as base models, set `stop_at_newline`, since the last number counts.

    Raises:
        ConfigError: No data there, or rows without a question or a gold number.
        MissingExtraError: The hub is asked for and `datasets` is not installed.
        CoevoError: The hub did not answer.
    """
    source = source or os.environ.get("COEVO_GSM8K") or "hub"
    splits = load_splits(source, ("question", "answer"), HUB)
    train, given, test = (
        [_prompt(row, number, source, split) for number, row in enumerate(splits.get(split, ()), start=1)]
        for split in ("train", "validation", "test")
    )
    validation, test, notes = held_out_from(train, given, test)
    return Task(
        name="gsm8k",
        train=train,
        validation=validation,
        test=test,
        notes=notes,
        rewards={"correct": exact_answer("last_number")},
        templates={
            "pioneer": EXAMPLE + "Question: {prompt}\nAnswer:",
            "observer": EXAMPLE + "Question: {prompt}\nReference:{responses}\nAnswer:",
        },
        separator="\nReference:",
        max_new_tokens=max_new_tokens,
        max_context=max_context,
        stop_at_newline=stop_at_newline,
        model=model,
        scripted=lambda prompt, responses: f" The answer is {prompt.answer}.",
        description="grade-school word problems; 1 if the last number is the gold answer",
    )


def _prompt(row: Row, number: int, source: str | Path, split: str) -> Prompt:
    reasoning, marker, gold = str(row["answer"]).rpartition("####")
    value = gold_number(gold)
    if not marker or value is None:
        raise ConfigError(
            f"gsm8k, {source} ({split}), row {number}: the answer ends with {str(row['answer'])[-40:]!r}; expected "
            "'#### ' and a number."
        )
    return Prompt(str(row["question"]).strip(), answer=str(value), info={"reasoning": reasoning.strip()})
