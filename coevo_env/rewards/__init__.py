"""Rewards: plain functions `(prompts, responses) -> list[float]`, or factories that return one.

One idea: a reward sees text and nothing else, and scores each response on its own. Whether it
counts words, compares numbers or holds a neural classifier makes no difference to its caller. Every
import that costs time, and every model, is loaded by the first call.

This module does not weigh, mix or normalise rewards: the task weighs its terms and the environment
mixes them among agents.
"""

from __future__ import annotations

from .calls import call
from .classifiers import classifier_reward, tfidf_reward
from .named import REWARDS, make_reward
from .numbers import gold_number, parse_number
from .text import (
    exact_answer,
    first_number,
    join_text,
    last_number,
    length_reward,
    lexicon_sentiment,
    regex_reward,
)

__all__ = [
    "REWARDS",
    "call",
    "classifier_reward",
    "exact_answer",
    "first_number",
    "gold_number",
    "join_text",
    "last_number",
    "length_reward",
    "lexicon_sentiment",
    "make_reward",
    "parse_number",
    "regex_reward",
    "tfidf_reward",
]
