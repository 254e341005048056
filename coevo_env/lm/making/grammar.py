"""Sentences about films, food, trips and ten other topics: the language that the embedded model
speaks.

One idea: item i is a pure function of (seed, i). A sentence has a topic, a mood (positive,
negative, mixed or neutral, in the shares of `MOODS`), and is an opener ("the soup we had tasted")
followed by a body ("was delicious because the waiters were great ."). Openers carry no sentiment,
so a language model of this grammar scores about 0 on them under a sentiment lexicon and can learn
to score near 1.

A document is one to three sentences. In an *echo* the sentences share their opener, and mostly
their mood, which is what the observer of a two-agent episode reads: prompt, the pioneer's answer,
prompt again. Words are in lower case, punctuation marks are words, and words are joined by single
spaces. The grammar does not recurse; it has no meaning beyond agreement in topic, number and mood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from types import MappingProxyType

from ...errors import ConfigError, unknown_name
from ...rng import rng
from .topics import SHARED, TOPICS

__all__ = ["MOODS", "document", "is_grammatical", "is_prefix", "mood_of", "openers", "sentence", "topics", "vocabulary"]

MOODS: Mapping[str, float] = MappingProxyType({"positive": 0.3, "negative": 0.3, "mixed": 0.2, "neutral": 0.2})
"""Mood -> share of sentences. Positive and negative ones are equally frequent."""

_BODIES = {"positive": "BODY+", "negative": "BODY-", "mixed": "MIXED", "neutral": "BODY0"}
_INVERTED = 0.2  # share of mixed sentences that begin with "although"
_DOCUMENTS = {"single": 0.25, "theme": 0.25, "echo": 0.5}
_LOYALTY = 0.85  # chance that the next sentence of an echo keeps the mood of the first
_ALIKE = 0.35  # chance that a loyal one also begins like the sentence before
_OPENERS_PER_TOPIC = {"train": 40, "test": 10, "validation": 10}
_OPENERS_SEED = 0  # the prompts are part of the task, not of an experiment: they never change with the seed of a run

Rules = Mapping[str, tuple[tuple[str, ...], ...]]


def topics() -> tuple[str, ...]:
    """The names of the topics."""
    return tuple(TOPICS)


@cache
def _rules(topic: str) -> Rules:
    """Symbol -> alternatives (tuples of words and symbols) of one topic."""
    if topic not in TOPICS:
        raise unknown_name("topic", topic, TOPICS)
    rules: dict[str, tuple[tuple[str, ...], ...]] = {}
    for line in (SHARED + TOPICS[topic]).splitlines():
        moods, numbers = "+-0" if "~" in line else "~", "12" if "#" in line else "#"
        for mood, number in product(moods, numbers):
            symbol, _, right = line.replace("~", mood).replace("#", number).partition(" = ")
            if right:
                rules[symbol] = rules.get(symbol, ()) + tuple(
                    tuple(alternative.split()) for alternative in right.split(" | ")
                )
    for alternatives in rules.values():
        for token in (token for alternative in alternatives for token in alternative):
            assert token in rules or not re.search("[A-Z]", token), f"{topic}: the symbol {token} has no rule"
    return MappingProxyType(rules)


def _expand(rules: Rules, symbol: str, draws: Iterator[float]) -> list[str]:
    alternatives = rules.get(symbol)
    if alternatives is None:
        return [symbol]
    number = int(next(draws) * len(alternatives)) if len(alternatives) > 1 else 0
    chosen = alternatives[number]
    return [word for token in chosen for word in _expand(rules, token, draws)]


def _pick(shares: Mapping[str, float], draw: float) -> str:
    """The name under `draw` in [0, 1) when names take consecutive intervals as long as their
    shares."""
    for name, share in shares.items():
        draw -= share
        if draw < 0:
            return name
    return name  # the shares sum to 1 up to rounding


def _draws(seed: int, index: int, *counters: int) -> Iterator[float]:
    return iter(rng(seed, index, *counters, stream="task").random(192).tolist())


def _sentence(rules: Rules, mood: str, draws: Iterator[float]) -> list[str]:
    if mood == "mixed" and next(draws) < _INVERTED:
        return _expand(rules, "INVERTED", draws)
    number = "1" if next(draws) < 0.6 else "2"
    return _expand(rules, "HEAD" + number, draws) + _expand(rules, _BODIES[mood] + number, draws)


def _topic(draws: Iterator[float]) -> str:
    return topics()[int(next(draws) * len(TOPICS))]


def sentence(seed: int, index: int) -> str:
    """Sentence `index` of `seed`: a pure function of its arguments.

    >>> sentence(0, 3) == sentence(0, 3)
    True
    """
    draws = _draws(seed, index, 0)
    return " ".join(_sentence(_rules(_topic(draws)), _pick(MOODS, next(draws)), draws))


def document(seed: int, index: int) -> list[str]:
    """Document `index` of `seed`: one to three sentences on one topic, a pure function of its
    arguments.

    A *single* sentence, a *theme* (two or three sentences of one mood) or an *echo* (two or three
    sentences with the same opener, whose later ones mostly keep the mood of the first, and some of
    them its first words).
    """
    draws = _draws(seed, index, 1)
    rules = _rules(_topic(draws))
    mood, kind = _pick(MOODS, next(draws)), _pick(_DOCUMENTS, next(draws))
    if kind == "single":
        return [" ".join(_sentence(rules, mood, draws))]
    count = 2 if next(draws) < 0.65 else 3
    if kind == "theme":
        return [" ".join(_sentence(rules, mood, draws)) for _ in range(count)]
    number = "1" if next(draws) < 0.6 else "2"
    head = _expand(rules, "HEAD" + number, draws)
    sentences, choices = [], [next(draws) for _ in range(24)]
    for position in range(count):
        loyal, alike, other, kept = (next(draws) for _ in range(4))
        loyal_now = position == 0 or loyal < _LOYALTY
        fresh = [next(draws) for _ in range(24)]
        choices = choices[: 2 + int(kept * 3)] + fresh if loyal_now and alike < _ALIKE else fresh
        body = _expand(rules, _BODIES[mood if loyal_now else _pick(MOODS, other)] + number, iter(choices))
        sentences.append(" ".join(head + body))
    return sentences


@cache
def openers(split: str) -> tuple[str, ...]:
    """The prompts of a split: beginnings of sentences that carry no sentiment, the topics in turn.

    Args:
        split: "train" (40 for each topic), "validation" (10) or "test" (10). No noun phrase of one
            split occurs in another; an opener ends after its noun phrase or after the verb that
            follows it.

    Raises:
        ConfigError: The split is unknown.

    >>> set(openers("train")) & set(openers("test"))
    set()
    """
    if split not in _OPENERS_PER_TOPIC:
        raise unknown_name("split", split, _OPENERS_PER_TOPIC)
    columns = [_topic_openers(topic)[split] for topic in TOPICS]
    return tuple(opener for row in zip(*columns, strict=True) for opener in row)


@cache
def _topic_openers(topic: str) -> dict[str, list[str]]:
    rules, taken = _rules(topic), set()
    found: dict[str, list[str]] = {split: [] for split in _OPENERS_PER_TOPIC}
    for index in range(10_000):
        draws = _draws(_OPENERS_SEED, index, 2, list(TOPICS).index(topic))
        number = "1" if next(draws) < 0.6 else "2"
        lead = next(draws)
        before = (
            _expand(rules, "SAYER", draws)
            if lead < 0.15
            else [*_expand(rules, "WHEN", draws), ","]
            if lead < 0.3
            else []
        )
        phrase = _expand(rules, "NOUN" + number, draws) + (
            _expand(rules, "CONTEXT", draws) if next(draws) < 0.8 else []
        )
        after = _expand(rules, "BE" + number, draws) if next(draws) < 0.6 else []
        split = "test" if len(found["test"]) * 4 < len(found["train"]) else "train"
        if len(found["train"]) == _OPENERS_PER_TOPIC["train"] and len(found["test"]) == _OPENERS_PER_TOPIC["test"]:
            split = "validation"  # the last to be drawn, so that it moves no other
        if " ".join(phrase) not in taken:
            taken.add(" ".join(phrase))
            found[split].append(" ".join([*before, *_expand(rules, "DET" + number, draws), *phrase, *after]))
        if all(len(found[name]) == count for name, count in _OPENERS_PER_TOPIC.items()):
            return found
    raise ConfigError(
        f"topic {topic!r} has too few noun phrases for {_OPENERS_PER_TOPIC} openers; add nouns or contexts."
    )


@cache
def _words(topic: str) -> frozenset[str]:
    rules = _rules(topic)
    return frozenset(
        token for alternatives in rules.values() for a in alternatives for token in a if token not in rules
    )


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word and punctuation mark of the grammar, sorted."""
    return tuple(sorted(frozenset().union(*map(_words, TOPICS))))


def _candidates(words: list[str]) -> list[str]:
    """The topics that know all of `words`: parsing in the others would find nothing."""
    return [topic for topic in TOPICS if _words(topic).issuperset(words)]


_STARTS: dict[str, list[tuple[str, ...]]] = {
    mood: [(f"HEAD{n}", f"{body}{n}") for n in "12"] for mood, body in _BODIES.items()
}
_STARTS["mixed"].append(("INVERTED",))


def _parse(topic: str, start: tuple[str, ...], words: list[str]) -> tuple[bool, bool]:
    """Whether `words` are a whole derivation of `start`, and whether they begin one."""
    rules, ends, began = _rules(topic), {}, False

    def after(token: str, position: int) -> frozenset[int]:
        """The positions at which a derivation of `token` from `position` can end."""
        nonlocal began
        if token not in rules:
            began = began or position == len(words)
            return frozenset([position + 1] if position < len(words) and words[position] == token else [])
        if (token, position) not in ends:
            ends[token, position] = frozenset().union(*(sequence(a, position) for a in rules[token]))
        return ends[token, position]

    def sequence(tokens: tuple[str, ...], position: int) -> frozenset[int]:
        positions = frozenset([position])
        for token in tokens:
            positions = frozenset().union(*(after(token, p) for p in positions))
        return positions

    whole = len(words) in sequence(start, 0)
    return whole, whole or began


def mood_of(text: str) -> str | None:
    """The mood of a sentence of the grammar, or None where `text` is not one.

    >>> mood_of("this movie was wonderful ."), mood_of("this movie was wonderful because")
    ('positive', None)
    """
    words = text.split()
    candidates = _candidates(words)
    for mood, starts in _STARTS.items():
        if any(_parse(topic, start, words)[0] for topic in candidates for start in starts):
            return mood
    return None


def is_grammatical(text: str) -> bool:
    """Whether `text` is one whole sentence of the grammar (agreement of topic, number and mood
    included)."""
    return mood_of(text) is not None


def is_prefix(text: str) -> bool:
    """Whether some sentence of the grammar begins with the words of `text`."""
    words = text.split()
    return any(
        _parse(topic, start, words)[1]
        for topic in _candidates(words)
        for starts in _STARTS.values()
        for start in starts
    )
