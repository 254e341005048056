"""Shuffled texts: everybody hears somebody, once, and nobody of the own prompt."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_env.errors import ConfigError
from coevo_env.game.rules import Rules
from coevo_env.game.strangers import check_strangers, strangers
from coevo_env.rng import rng
from coevo_env.tasks import toy


@given(st.lists(st.integers(0, 5), min_size=2, max_size=24), st.integers(0, 2**32))
def test_nobody_hears_of_the_own_prompt_and_every_row_is_heard_once(numbers, seed):
    prompts = [f"prompt {number}" for number in numbers]
    generator = rng(seed, stream="strangers")
    if 2 * max(Counter(prompts).values()) > len(prompts):
        with pytest.raises(ConfigError, match="at most half"):
            strangers(prompts, generator)
        return
    heard = strangers(prompts, generator)
    assert sorted(heard) == list(range(len(prompts)))
    assert all(prompts[row] != prompts[other] for row, other in enumerate(heard))


def test_every_other_row_is_heard_equally_often():
    drawn = Counter(strangers("abcd", rng(0, number, stream="strangers"))[0] for number in range(3000))
    assert set(drawn) == {1, 2, 3}
    assert all(abs(count - 1000) < 5 * (3000 * 1 / 3 * 2 / 3) ** 0.5 for count in drawn.values())  # 5 sigma


@given(st.integers(1, 7), st.integers(1, 12), st.integers(1, 3))
def test_what_is_let_through_never_fails_later(prompts, groups, group_size):
    split = [f"{number}" for number in range(prompts)]
    try:
        check_strangers(split, groups * group_size, group_size)
    except ConfigError:
        return
    for seed in range(3):
        epochs = -(-12 * groups // prompts)
        order = [index for epoch in range(epochs) for index in rng(seed, epoch, stream="prompts").permutation(prompts)]
        for batch in range(12):
            asked = [split[order[batch * groups + place]] for place in range(groups) for _ in range(group_size)]
            strangers(asked, rng(seed, batch, stream="strangers"))


@pytest.mark.parametrize(
    ("prompts", "batch", "group", "fits"),
    [
        (["a"], 8, 1, False),  # there is no other prompt
        (["a", "b"], 8, 1, True),  # four of each, always
        (["a", "b"], 3, 1, False),  # two of one
        (["a", "b", "c"], 2, 1, False),  # the end of an epoch and the beginning of the next may be one prompt
        (["a", "b", "c"], 4, 1, True),  # twice at most
        (["a", "b", "c", "d"], 2, 1, True),  # no batch has parts of two epochs
        (["a", "b", "c", "d"], 4, 4, False),  # one group
        (["a", "b", "a", "a"], 4, 1, False),  # the same text stands there three times
    ],
)
def test_what_can_be_shuffled_is_known_beforehand(prompts, batch, group, fits):
    if fits:
        check_strangers(prompts, batch, group)
    else:
        with pytest.raises(ConfigError, match="at most half"):
            check_strangers(prompts, batch, group)


def test_an_episode_is_told_what_to_read_only_where_it_cannot_know():
    task = toy.task(vocab_size=9)
    known = Rules(task, task.tokenizer, context="empty").start(0)
    with pytest.raises(ConfigError, match="was told what to read"):
        known.hear(["x"])
    waits = Rules(task, task.tokenizer, context="shuffled").start(0)
    with pytest.raises(ConfigError, match="before the first token of an observer"):
        waits.hear(["x"])  # it is the pioneer's turn
    waits.take([3, 0])
    assert waits.turn.context == []
    waits.hear([task.tokenizer.decode([5])])
    assert waits.turn.context == [5, *waits.turns[0].context]
