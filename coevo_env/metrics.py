"""Metrics of a set of responses: how diverse, how long, how repetitive, how much one agent copies
another.

One idea: each is a plain function of texts or token ids that returns one float in a stated range,
defined for every input: where a ratio has nothing to count (no responses, all of them empty) it is
0, which for the diversity metrics is also what a collapsed policy scores. Nothing here judges
quality; that is the reward's business.

What evaluations report of every agent is one line of `METRICS` each.

A sequence is a text (split at white space) or a list of token ids. Diversity metrics depend on how
many responses there are, so compare only numbers measured on equally many.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import ConfigError

__all__ = [
    "METRICS",
    "Responses",
    "copy_rate",
    "distinct_n",
    "eos_share",
    "mean_length",
    "repetition",
    "self_bleu",
    "summarize",
    "top_share",
    "unique_share",
]


def distinct_n(sequences: Sequence[str] | Sequence[Sequence[int]], n: int = 2) -> float:
    """Distinct n-grams over all n-grams of the whole set, in [0, 1]; higher is more diverse, 0 if
    there are no n-grams.

    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models",
    NAACL 2016, section 5.1.

    >>> texts = ["the sun the sun", "the moon"]
    >>> distinct_n(texts, 1), distinct_n(texts, 2)
    (0.5, 0.75)
    """
    counts = Counter(gram for sequence in sequences for gram in _ngrams(_words(sequence), n))
    return len(counts) / counts.total() if counts else 0.0


def unique_share(items: Sequence[Hashable]) -> float:
    """Different items over all items, in [0, 1]; 1 when no two responses are the same, 0 if there
    are none."""
    return len(set(items)) / len(items) if items else 0.0


def top_share(items: Sequence[Hashable]) -> float:
    """Share of the most frequent item, in [0, 1]; 1 when a policy gives the same answer to
    everything. 0 if there are none."""
    return Counter(items).most_common(1)[0][1] / len(items) if items else 0.0


def self_bleu(sequences: Sequence[str] | Sequence[Sequence[int]], n: int = 4) -> float:
    """Mean BLEU of each response against all others, in [0, 1]; higher is less diverse, 0 for fewer
    than two responses.

    Orders 1..n weigh the same; orders for which a response is too short are left out, nothing is
    smoothed (an order without a match gives 0), and the brevity penalty takes the closest reference
    length, the shorter one of two equally close. Linear in the total length.

    Source: Zhu et al., "Texygen", SIGIR 2018, section 3; BLEU of Papineni et al., ACL 2002, section
    2.

    >>> self_bleu(["a b c", "a b c"]), self_bleu(["a b", "c d"])
    (1.0, 0.0)
    """
    rows = [_words(sequence) for sequence in sequences]
    if len(rows) < 2:
        return 0.0
    logs = np.zeros(len(rows))
    orders = np.zeros(len(rows))
    for order in range(1, n + 1):
        counts = [Counter(_ngrams(row, order)) for row in rows]
        best: dict[
            Any, list[int]
        ] = {}  # the two highest counts of an n-gram: what clips the others, and what clips the first
        for row in counts:
            for gram, count in row.items():
                high = best.setdefault(gram, [0, 0])
                high[:] = sorted((*high, count))[:0:-1]
        for i, row in enumerate(counts):
            if not row:
                continue
            clipped = 0
            for gram, count in row.items():
                first, second = best[gram]
                clipped += min(count, second if count == first else first)
            logs[i] += math.log(clipped / row.total()) if clipped else -math.inf
            orders[i] += 1
    lengths = Counter(len(row) for row in rows)
    penalties = np.array([_brevity(len(row), lengths) for row in rows])
    with np.errstate(invalid="ignore"):
        scores = np.where(orders > 0, penalties * np.exp(logs / np.maximum(orders, 1)), 0.0)
    return float(scores.mean())


def repetition(sequences: Sequence[str] | Sequence[Sequence[int]], n: int = 2) -> float:
    """How much responses repeat themselves: the mean over responses of 1 - distinct / all of their
    own n-grams, in [0, 1).

    A response too short to have an n-gram counts 0.

    Source: Welleck et al., "Neural Text Generation with Unlikelihood Training", ICLR 2020, section
    6 (seq-rep-n).

    >>> repetition(["so good so good so good"])
    0.6
    """
    shares = []
    for sequence in sequences:
        grams = _ngrams(_words(sequence), n)
        shares.append(1.0 - len(set(grams)) / len(grams) if grams else 0.0)
    return float(np.mean(shares)) if shares else 0.0


def mean_length(tokens: Sequence[Sequence[int]]) -> float:
    """Mean number of ids per response, EOS included where there is one; 0 if there are no
    responses."""
    return float(np.mean([len(row) for row in tokens])) if len(tokens) else 0.0


def eos_share(tokens: Sequence[Sequence[int]], eos_id: int | Sequence[int]) -> float:
    """Share of responses whose last id is EOS, in [0, 1]: they ended by themselves rather than at
    the token budget."""
    ends = _ends(eos_id)
    return sum(len(row) > 0 and row[-1] in ends for row in tokens) / len(tokens) if len(tokens) else 0.0


def copy_rate(
    pioneers: Sequence[str] | Sequence[Sequence[int]], observers: Sequence[str] | Sequence[Sequence[int]], n: int = 2
) -> float:
    """Share of the observers' n-grams that stand in the pioneer's response of the same episode, in
    [0, 1]; 0 if there are no n-grams.

    Near 1 the observer adds nothing of its own (a lazy agent).

    Args:
        pioneers, observers: One response each per episode, in the same order.

    >>> copy_rate(["a fine day"], ["a fine night"])
    0.5
    """
    if len(pioneers) != len(observers):
        raise ConfigError(
            f"copy_rate got {len(pioneers)} pioneer and {len(observers)} observer responses; expected a pair per "
            "episode."
        )
    copied = total = 0
    for pioneer, observer in zip(pioneers, observers, strict=True):
        source, grams = set(_ngrams(_words(pioneer), n)), _ngrams(_words(observer), n)
        copied += sum(gram in source for gram in grams)
        total += len(grams)
    return copied / total if total else 0.0


@dataclass(frozen=True)
class Responses:
    """A set of B responses, as metrics are given it.

    Attributes:
        texts: B texts.
        tokens: B lists of their ids, EOS included where there is one.
        eos_id: The id that ends a turn, or all those that do.
    """

    texts: Sequence[str]
    tokens: Sequence[Sequence[int]]
    eos_id: int | Sequence[int]

    @cached_property
    def words(self) -> list[Sequence[int]]:
        """The ids without EOS, which is no word of a response."""
        ends = _ends(self.eos_id)
        return [row[:-1] if len(row) and row[-1] in ends else row for row in self.tokens]


METRICS: dict[str, Callable[[Responses], float]] = {
    "distinct_1": lambda said: distinct_n(said.words, 1),
    "distinct_2": lambda said: distinct_n(said.words, 2),
    "unique": lambda said: unique_share(said.texts),
    "length": lambda said: mean_length(said.tokens),
    "eos": lambda said: eos_share(said.tokens, said.eos_id),
    "repeat": lambda said: repetition(said.words, 2),
}
"""Name -> function of `Responses` that `summarize` calls. It returns a finite float for any
responses, also for none; docs/metrics.md defines each as `<agent>/eval/<name>`, and what it calls a
share is in [0, 1]."""


def summarize(
    responses: Sequence[str], tokens: Sequence[Sequence[int]], eos_id: int | Sequence[int]
) -> dict[str, float]:
    """The metrics that evaluations report, always with the same keys.

    Args:
        responses: B texts.
        tokens: B lists of their ids, EOS included where there is one.
        eos_id: The id that ends a turn, or all those that do; it counts in `length` and nowhere
            else.

    Returns:
        Each of `METRICS`, by its name.

    Raises:
        ConfigError: Not as many lists of ids as texts.

    >>> list(summarize(["a a a a"], [[7, 7, 7, 7, 0]], 0).items())[:4]
    [('distinct_1', 0.25), ('distinct_2', 0.3333333333333333), ('unique', 1.0), ('length', 5.0)]
    """
    if len(responses) != len(tokens):
        raise ConfigError(
            f"summarize got {len(responses)} texts and {len(tokens)} lists of ids; expected one list for each text."
        )
    said = Responses(responses, tokens, eos_id)
    return {name: metric(said) for name, metric in METRICS.items()}


def _ends(eos_id: int | Sequence[int]) -> Sequence[int]:
    return (eos_id,) if isinstance(eos_id, int) else eos_id


def _words(sequence: str | Sequence[int]) -> list[Any]:
    return sequence.split() if isinstance(sequence, str) else list(sequence)


def _ngrams(words: list[Any], n: int) -> list[tuple[Any, ...]]:
    if n < 1:
        raise ConfigError(f"n-grams with n={n!r}; expected a whole number >= 1.")
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _brevity(length: int, lengths: Counter[int]) -> float:
    """BLEU's penalty for a response of `length` among responses of these lengths, itself among
    them."""
    others = [other for other, count in lengths.items() if count > (other == length)]
    closest = min(others, key=lambda other: (abs(other - length), other))
    return 1.0 if length >= closest else (math.exp(1 - closest / length) if length else 0.0)
