"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from coevo_env import metrics
from coevo_env.errors import ConfigError


def test_distinct_counts_over_the_whole_set():
    assert metrics.distinct_n(["a b", "a b"], 1) == 2 / 4
    assert metrics.distinct_n(["a b", "a b"], 2) == 1 / 2
    assert metrics.distinct_n([[1, 2, 3], [2, 3]], 2) == 2 / 3  # (1,2) (2,3) | (2,3)
    assert metrics.distinct_n(["a b c"], 4) == 0.0


def test_unique_and_top_share():
    assert metrics.unique_share(["x", "x", "y", "z"]) == 3 / 4
    assert metrics.top_share(["x", "x", "y", "z"]) == 1 / 2
    assert metrics.top_share([""] * 5) == 1.0


def test_self_bleu_of_equal_and_of_disjoint_responses():
    assert metrics.self_bleu(["the cat sat down", "the cat sat down"]) == 1.0
    assert metrics.self_bleu(["a b c d", "e f g h"]) == 0.0


def test_self_bleu_by_hand():
    # "a a b" against "a b c": clipped unigrams a:1 of 2, b:1 -> 2/3; bigrams (a,a) no, (a,b) yes ->
    # 1/2. "a b c" against "a a b": a, b yes, c no -> 2/3; bigrams (a,b) yes, (b,c) no -> 1/2. Equal
    # lengths, no penalty.
    assert metrics.self_bleu(["a a b", "a b c"], n=2) == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    # "a" against "a b": 1/1 with penalty exp(1 - 2/1); "a b" against "a": 1/2, longer than its
    # reference.
    assert metrics.self_bleu(["a", "a b"], n=1) == pytest.approx((math.exp(-1) + 0.5) / 2)


def test_self_bleu_clips_at_the_best_other_response():
    # Twice "x x" and once "x": each "x x" finds two x in its twin, "x" finds one; closest length of
    # "x" is 2.
    assert metrics.self_bleu(["x x", "x x", "x"], n=1) == pytest.approx((1 + 1 + math.exp(-1)) / 3)
    assert metrics.self_bleu(["x x x", "x x", "x"], n=1) == pytest.approx((2 / 3 + 1 + math.exp(-1)) / 3)


def test_self_bleu_agrees_with_the_definition_on_random_sequences():
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 4, generator.integers(0, 9)).tolist() for _ in range(12)]

    def bleu(row, references, n):
        logs = []
        for order in range(1, n + 1):
            grams = [tuple(row[i : i + order]) for i in range(len(row) - order + 1)]
            if not grams:
                continue
            matched = 0
            for gram in set(grams):
                best = max(sum(tuple(r[i : i + order]) == gram for i in range(len(r) - order + 1)) for r in references)
                matched += min(grams.count(gram), best)
            if matched == 0:
                return 0.0
            logs.append(math.log(matched / len(grams)))
        if not logs:
            return 0.0
        closest = min((abs(len(r) - len(row)), len(r)) for r in references)[1]
        return min(1.0, math.exp(1 - closest / len(row))) * math.exp(sum(logs) / len(logs))

    expected = np.mean([bleu(row, rows[:i] + rows[i + 1 :], 3) for i, row in enumerate(rows)])
    assert metrics.self_bleu(rows, n=3) == pytest.approx(expected)


def test_repetition_is_measured_within_responses():
    assert metrics.repetition(["a b a b", "c d"], 2) == pytest.approx((1 / 3 + 0) / 2)
    assert metrics.repetition(["very very very"], 1) == pytest.approx(2 / 3)
    assert metrics.repetition(["a"], 2) == 0.0


def test_copy_rate():
    assert metrics.copy_rate(["a b c", "x y"], ["a b d", "p q"], 2) == 1 / 3
    assert metrics.copy_rate(["a b"], ["a b"]) == 1.0
    assert metrics.copy_rate([""], [""]) == 0.0
    with pytest.raises(ConfigError, match="pair per episode"):
        metrics.copy_rate(["a"], [])


def test_summarize_by_hand():
    got = metrics.summarize(["5 6", "5 5 5", ""], [[5, 6, 0], [5, 5, 5], [0]], eos_id=0)
    assert got == {
        "distinct_1": 2 / 5,
        "distinct_2": 2 / 3,
        "unique": 1.0,
        "length": pytest.approx(7 / 3),
        "eos": pytest.approx(2 / 3),
        "repeat": pytest.approx(0.5 / 3),
    }


def test_nothing_to_count_is_zero_everywhere():
    empty = metrics.summarize([], [], 0)
    one = metrics.summarize([""], [[0]], 0)
    assert empty.keys() == one.keys()
    assert set(empty.values()) == {0.0}
    assert one == {"distinct_1": 0.0, "distinct_2": 0.0, "unique": 1.0, "length": 1.0, "eos": 1.0, "repeat": 0.0}
    for function in (
        metrics.distinct_n,
        metrics.unique_share,
        metrics.top_share,
        metrics.self_bleu,
        metrics.repetition,
        metrics.mean_length,
    ):
        assert function([]) == 0.0
    assert metrics.self_bleu(["alone"]) == 0.0
    assert metrics.self_bleu(["", ""]) == 0.0


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="2 texts and 1 lists"):
        metrics.summarize(["a", "b"], [[1]], 0)
    with pytest.raises(ConfigError, match="n=0"):
        metrics.distinct_n(["a"], 0)
