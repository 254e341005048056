"""Any dataset of the `reasoning-gym` package by its name: procedural puzzles with a scoring rule of
their own.

One idea: the answer is taken out of the response first and then scored. Without that, the package's
default rule pays for a wrong answer that contains the right one ("42" for 4), and punishes a right
one in a sentence ("The answer is 4").

All splits come from one generator and one seed, by index, because item i of many datasets depends
on seed + i only: two neighbouring seeds would share nearly all items.

Version history: 2 (0.2.0), fractions and other figures are read whole; 1 (0.1.0).
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, MissingExtraError, unknown_name
from ..game.task import Prompt, RewardFunction, Task
from ..rewards import exact_answer, last_number, parse_number

__all__ = ["extract_answer", "task"]

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANNOUNCED = re.compile(r"\banswer(?: is|:)\s*:?\s*(.+)", re.IGNORECASE)


def task(
    dataset: str,
    size: int = 1000,
    test_size: int = 200,
    seed: int = 0,
    model: str = "smollm2",
    max_new_tokens: int = 32,
    max_context: int = 512,
    stop_at_newline: bool | None = None,
    **config: Any,
) -> Task:
    """A reasoning-gym dataset as a task.

    Args:
        dataset: Its name, such as "chain_sum".
        size, test_size: Items of the train split, and of validation and test each. Of questions
            that occur in several splits, all but the first are dropped.
        seed: Seed of the generator; item i is a pure function of it and i.
        model, max_new_tokens, max_context: See `Task`.
        stop_at_newline: See `Task`; None means yes unless a gold answer has several lines.
        config: Options of that dataset, such as `max_terms=3`.

    Raises:
        MissingExtraError: reasoning-gym is not installed.
        ConfigError: Unknown dataset, an option that it refuses, or no test item of its own.
    """
    generator = _generator(dataset, size, test_size, seed, config)
    train, test, validation = (
        [_prompt(generator[i]) for i in range(first, first + count)]
        for first, count in ((0, size), (size, test_size), (size + test_size, test_size))
    )
    seen = set(train)
    test = [prompt for prompt in test if prompt not in seen]
    seen |= set(test)
    validation = [prompt for prompt in validation if prompt not in seen]
    several_lines = any("\n" in (prompt.answer or "").strip() for prompt in train)
    if not test:
        raise ConfigError(
            f"reasoning-gym/{dataset}: all {test_size} test questions are in the train split too; make `size` smaller, "
            "or choose options "
            "with more different questions."
        )
    return Task(
        name=f"reasoning-gym/{dataset}",
        train=train,
        validation=validation,
        test=test,
        rewards={"correct": _reward(generator)},
        templates={
            "pioneer": "Question: {prompt}\nAnswer:",
            "observer": "Question: {prompt}\nSuggested answer:{responses}\nAnswer:",
        },
        separator=" or",
        max_new_tokens=max_new_tokens,
        max_context=max_context,
        stop_at_newline=not several_lines if stop_at_newline is None else stop_at_newline,
        model=model,
        scripted=lambda prompt, responses: prompt.answer or "",
        description=f"reasoning-gym's {dataset}; its own score of the extracted answer",
    )


def _generator(dataset: str, size: int, test_size: int, seed: int, config: dict[str, Any]) -> Any:
    """The package's dataset, of which item i is made when it is asked for."""
    try:
        import reasoning_gym as gym
        from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError(f"the task 'reasoning-gym/{dataset}'", "reasoning-gym", "reasoning-gym") from None
    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, n=5, cutoff=0.4) or sorted(
            DATASETS
        )  # there are over a hundred
        raise unknown_name("reasoning-gym dataset", dataset, near)
    if size < 1 or test_size < 1:
        raise ConfigError(
            f"reasoning-gym/{dataset}: size={size}, test_size={test_size}; expected at least 1 item in each."
        )
    try:
        return gym.create_dataset(dataset, size=size + 2 * test_size, seed=seed, **config)  # pyright: ignore[reportAttributeAccessIssue]
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"reasoning-gym/{dataset} refused its options {config}: {error}.") from error


def _prompt(entry: dict[str, Any]) -> Prompt:
    answer = entry.get("answer")
    return Prompt(entry["question"], answer=None if answer is None else str(answer), info=entry)


def extract_answer(response: str, gold: str | None = None) -> str:
    """The part of a response that is its answer.

    That is what stands in the last `<answer>` tags, else behind the last "answer is" or "answer:",
    else all of it; white space around it goes, and where the gold answer is one number, all but the
    last number goes too.

    >>> extract_answer("I think the answer is 8.", gold="8"), extract_answer(" blue ", gold="red")
    ('8', 'blue')
    """
    if tagged := _TAGGED.findall(response):
        response = tagged[-1]
    elif announced := _ANNOUNCED.findall(response):
        response = announced[-1]
    text = response.strip()
    if gold is not None and parse_number(gold) is not None:
        number = last_number(text)
        return text if number is None else number
    return text


def _reward(generator: Any) -> RewardFunction:
    from reasoning_gym.dataset import ProceduralDataset  # pyright: ignore[reportMissingImports]

    default_rule = type(generator).score_answer is ProceduralDataset.score_answer
    same = exact_answer("text")

    def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        scores = []
        for prompt, response in zip(prompts, responses, strict=True):
            answer = extract_answer(response, prompt.answer)
            value = float(generator.score_answer(answer, copy.deepcopy(dict(prompt.info))))
            if default_rule or (prompt.answer is not None and parse_number(prompt.answer) is not None):
                # What these rules give below 1 is for text around the right answer, or for digits
                # that contain it.
                value = float(value >= 1 or same([prompt], [answer])[0])
            scores.append(value)
        return scores

    return score
