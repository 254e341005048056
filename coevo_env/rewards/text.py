"""Rewards that read the text itself: a lexicon, exact answers, patterns, lengths.

One idea: whatever a text is worth here can be worked out by hand.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigError, MissingExtraError, RewardError, unknown_name, whole
from ..game.task import RewardFunction
from .numbers import find_numbers, gold_number, parse_number

__all__ = [
    "exact_answer",
    "first_number",
    "join_text",
    "last_number",
    "length_reward",
    "lexicon_sentiment",
    "regex_reward",
]


def join_text(prompt: str, response: str, separator: str | None = None) -> str:
    """One text from a prompt and its response.

    Args:
        separator: What stands between them; None means a space unless one of them brings white
            space or is empty, or the response opens with punctuation. Use `""` for tokenizers whose
            tokens carry their own spaces and may continue a word (GPT-2, Llama 3).

    >>> join_text("it was", "great"), join_text("it was", " great"), join_text("un", "usual", "")
    ('it was great', 'it was great', 'unusual')
    """
    if separator is None:
        glued = (
            not prompt or not response or prompt[-1].isspace() or response[0].isspace() or response[0] in ".,;:!?)'’"
        )
        separator = "" if glued else " "
    return f"{prompt}{separator}{response}"


# ------------------------------------------------------------------------------------------ lexicon


@functools.cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise MissingExtraError("lexicon_sentiment", "vaderSentiment") from None
    return SentimentIntensityAnalyzer()


def lexicon_sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """How positive the text "prompt response" is, by the VADER lexicon and rules.

    Returns:
        B floats in [-1, 1]: the compound score; 0 for text with no word of the lexicon.

    Raises:
        MissingExtraError: vaderSentiment is not installed.

    Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
    Social Media Text", ICWSM 2014.
    """
    score = _vader().polarity_scores
    return [float(score(join_text(p, r))["compound"]) for p, r in zip(prompts, responses, strict=True)]


# ------------------------------------------------------------------------------------ exact answers


def last_number(response: str) -> str | None:
    """The last number in the text, or None.

    >>> last_number("5-3 is 2, so she pays $1,002.50.")
    '$1,002.50'
    """
    found = find_numbers(response)
    return found[-1] if found else None


def first_number(response: str) -> str | None:
    """The first number in the text, or None.

    >>> first_number(" 8\\n1+1=2")
    '8'
    """
    found = find_numbers(response)
    return found[0] if found else None


def _whole_text(response: str) -> str:
    return response.strip()


_EXTRACTORS = {"last_number": last_number, "first_number": first_number, "text": _whole_text}


def _extractor(extract: str | Callable[[str], str | None]) -> Callable[[str], str | None]:
    if callable(extract):
        return extract
    if extract not in _EXTRACTORS:
        raise unknown_name("extractor", extract, [*_EXTRACTORS, "a function str -> str or None"])
    return _EXTRACTORS[extract]


def exact_answer(extract: str | Callable[[str], str | None] = "last_number") -> RewardFunction:
    """1 where the answer extracted from the response equals `prompt.answer`, else 0.

    Two numbers are compared as numbers ("$1,200" equals "1200.0", "9{,}500" equals "9500"). Where
    a number is searched, a unit behind that of the gold answer does not count ("72 apples" is 72).
    Anything else is compared as text without case and outer white space, and so is what is a name
    in digits ("007" is not "7").

    Args:
        extract: "last_number" (the default, CORY's reward on GSM8K), "first_number", "text" (the
            whole response), or a function from the response to its answer, or None where it gives
            none.

    Returns:
        A reward function with values in {0.0, 1.0}.

    Raises:
        ConfigError: Unknown extractor.
        RewardError: When called: a prompt without an answer or with an empty one, or with
            "last_number" and "first_number" one whose answer is no number, so that no response
            could be right.

    Source: Ma et al., "Coevolving with the Other You", NeurIPS 2024, section 4.2.

    >>> from coevo_env.game.task import Prompt
    >>> exact_answer()([Prompt("2+3=", answer="5")] * 2, ["It is 5.0", "5 or 6"])
    [1.0, 0.0]
    """
    extractor = _extractor(extract)
    numeric = extractor in (last_number, first_number)

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        golds = [_gold(prompt, numeric) for prompt in prompts]
        return [float(_equal(extractor(r), gold, numeric)) for gold, r in zip(golds, responses, strict=True)]

    return reward


def _gold(prompt: str, numeric: bool) -> str:
    answer = getattr(prompt, "answer", None)
    if answer is None:
        raise RewardError(
            f"exact_answer: the prompt {str(prompt)[:60]!r} has no answer; expected a Prompt with one. "
            "Build the task's prompts as coevo_env.Prompt(text, answer='...')."
        )
    if not str(answer).strip():
        raise RewardError(
            f"exact_answer: the answer of the prompt {str(prompt)[:60]!r} is empty, so silence would be right; "
            "expected text."
        )
    if numeric and gold_number(str(answer)) is None:
        raise RewardError(
            f"exact_answer: the answer {str(answer)[:60]!r} of the prompt {str(prompt)[:60]!r} is not one number, and "
            "the response is searched for one, so nothing could be right. Use extract='text', or a number as answer."
        )
    return str(answer)


def _equal(got: str | None, gold: str, numeric: bool) -> bool:
    if got is None:
        return False
    if numeric:
        a, b = parse_number(got), gold_number(gold)
        return a is not None and a == b
    if got.strip().casefold() == gold.strip().casefold():
        return True
    a, b = parse_number(got), parse_number(gold)
    marks = {mark for text in (got, gold) for mark in "$€£%" if mark in text}
    return a is not None and a == b and len(marks) < 2 and not (_name(got) or _name(gold))


def _name(text: str) -> bool:
    """Whether digits are a name and no number: `007`, `0123`."""
    return text.strip().lstrip("-−–").startswith("0") and text.strip().lstrip("-−–")[1:2].isdigit()


# ------------------------------------------------------------------------------------ simple shapes


def regex_reward(
    pattern: str | re.Pattern[str], *, hit: float = 1.0, miss: float = 0.0, full: bool = False, flags: int = 0
) -> RewardFunction:
    """`hit` where the pattern is found in the response (or, with `full`, matches all of it), else
    `miss`.

    Raises:
        ConfigError: The pattern is not a regular expression.

    >>> regex_reward(r"[0-9]+", full=True)(["", ""], ["42", "42x"])
    [1.0, 0.0]
    """
    try:
        compiled = re.compile(pattern, flags)
    except (re.error, TypeError, ValueError) as error:
        raise ConfigError(f"regex_reward: {pattern!r} is not a regular expression: {error}.") from None
    test = compiled.fullmatch if full else compiled.search

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [hit if test(r) else miss for _, r in zip(prompts, responses, strict=True)]

    return reward


def length_reward(target: int) -> RewardFunction:
    """1 for a response of `target` words, falling linearly to 0 at none or at twice as many.

    Returns:
        A reward function with values in [0, 1]; words are what white space separates.

    >>> length_reward(4)(["", ""], ["one two three four", "one"])
    [1.0, 0.25]
    """
    target = whole("length_reward: target", target, 1, "at least 1 word")

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [max(0.0, 1 - abs(len(r.split()) - target) / target) for _, r in zip(prompts, responses, strict=True)]

    return reward
