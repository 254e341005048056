"""What a reward returns is paid to the response that it stands beside, or refused: every kind of
container and number, on every way that values take."""

from __future__ import annotations

import functools
import math
from collections import Counter, OrderedDict, UserDict, deque
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_env.errors import CheckFailed, NonFiniteError, RewardError
from coevo_env.faces.batch import BatchEnv
from coevo_env.game.arguments import in_order
from coevo_env.game.kl import KLConfig
from coevo_env.game.returned import number, size
from coevo_env.game.scoring import rate
from coevo_env.game.task import Prompt
from coevo_env.rewards import call
from coevo_env.tasks import toy
from coevo_env.testing import check_joint_reward, check_reward


class Table:
    """As a data frame is gone through: by the names of its columns, as many as it has rows."""

    def __init__(self, values):
        self.values, self.shape, self.ndim = values, (len(values), len(values)), 2

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(range(len(self.values)))

    def __getitem__(self, column):
        return self.values


ORDERED = [list, tuple, deque, np.array, torch.tensor, functools.partial(np.array, dtype=object)]
UNORDERED = [
    lambda values: dict(enumerate(values)),
    lambda values: OrderedDict(enumerate(values)),
    lambda values: UserDict(enumerate(values)),
    lambda values: Counter(range(len(values))),
    lambda values: dict(enumerate(values)).keys(),
    lambda values: dict(enumerate(values)).values(),
    lambda values: {v + 1000 * i for i, v in enumerate(values)},
    lambda values: frozenset(v + 1000 * i for i, v in enumerate(values)),
    lambda values: bytes(len(values)),
    lambda values: bytearray(len(values)),
    lambda values: "1" * len(values),
    lambda values: iter(values),
    lambda values: Table(values),
    lambda values: 1.0,
    lambda values: None,
]


def finished():
    game = BatchEnv(3, toy.task(), kl=KLConfig(mode="off"), num_agents=1, roles="never")
    while game.begin_turn() is not None:
        game.submit_turn([[1, 2, 0]] * 3, [3] * 3, [[0.0] * 3] * 3)
    return game


def paid(game, function, texts):
    game.rules.terms.clear()
    game.rules.terms["mine"] = (1.0, function)
    return rate(game.rules, game.episodes[: len(texts)], texts)["mine"].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=3), st.sampled_from(ORDERED + UNORDERED))
@pytest.mark.parametrize("game", [finished()])
def test_values_are_paid_in_order_or_refused(game, values, make):
    texts = [str(i) for i in range(len(values))]
    reward = lambda prompts, responses: make([values[int(text)] for text in responses])  # noqa: E731
    for function in (reward, call(reward), call(reward, batch_size=2)):
        if make in ORDERED:
            assert paid(game, function, texts) == values
        else:
            with pytest.raises(RewardError, match="expected a list of"):
                paid(game, function, texts)


CHANGES = {
    "lower": lambda rows: rows.__setitem__(slice(None), [str(row).lower() for row in rows]),
    "one": lambda rows: rows.__setitem__(0, "aaaa"),
    "clear": lambda rows: rows.clear(),
    "sort": lambda rows: rows.sort(key=str, reverse=True),
    "append": lambda rows: rows.append("A"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("joint", [False, True])
def test_a_term_that_changes_its_lists_changes_no_other(change, joint):
    """The oracle: the second term alone."""

    def changing(prompts, responses):
        result = [[0.0] * 2 if joint else 0.0 for _ in responses]
        for rows in (prompts, responses):
            CHANGES[change](rows)
        return result

    def looks(prompts, responses):
        said = [text if joint else (text,) for text in responses]
        values = [
            [len(part) + 10.0 * part.count("2") + 100 * int(p) for part in row]
            for p, row in zip(prompts, said, strict=True)
        ]
        return values if joint else [row[0] for row in values]

    def scored(**terms):
        kind = {"rewards": {} if joint else terms, "joint_rewards": terms if joint else {}}
        task = replace(toy.task(), train=[Prompt(str(i)) for i in range(4)], **kind)
        game = BatchEnv(4, task, kl=KLConfig(mode="off"), roles="never")
        for turn in ([[1, 2, 0], [2, 2, 0], [3, 0, 0], [2, 0, 0]], [[2, 0, 0], [1, 0, 0], [2, 2, 2], [3, 3, 0]]):
            game.begin_turn()
            game.submit_turn(np.array(turn), np.array([min(3, row.index(0) + 1 if 0 in row else 3) for row in turn]))
        assert game.scores is not None
        return game.scores.terms["looks"]

    alone = scored(looks=looks)
    assert len(np.unique(alone)) > 4
    assert np.array_equal(scored(first=changing, looks=looks), alone)
    with pytest.raises(CheckFailed, match="changed by the call"):
        check_joint_reward(changing) if joint else check_reward(changing)


@pytest.mark.parametrize("make", UNORDERED)
def test_every_way_of_values_refuses_what_has_no_order(make):
    """Also where prompts with other columns are asked about apart, in joint rewards, and in the
    checks."""
    prompts = [Prompt("a", info={"level": 1}), Prompt("b"), Prompt("c", info={"level": 3})]
    apart = in_order("r", lambda completions, level=5: make([1.0 for _ in completions]), prompts[0])
    with pytest.raises(RewardError, match="expected a list of"):
        apart(prompts, ["x", "xx", "xxx"])
    with pytest.raises(CheckFailed, match="a list of"):
        check_reward(lambda prompts, responses: make([1.0 for _ in responses]))
    for joint in (
        lambda prompts, responses: [make([1.0 for _ in said]) for said in responses],
        lambda prompts, responses: dict(enumerate([1.0 for _ in said] for said in responses)),
    ):
        with pytest.raises(CheckFailed, match="a list of"):
            check_joint_reward(joint)


@pytest.mark.parametrize(
    "value",
    [
        *(3, True, 2.5, Fraction(5, 2), Decimal("2.5"), np.float16(2.5), np.int8(-3), np.bool_(True), np.array(2.5)),
        *(torch.tensor(2.5), torch.tensor([[2.5]]), torch.tensor(True), torch.tensor(2.5, dtype=torch.bfloat16)),
    ],
)
def test_a_real_number_is_one_however_it_is_held(value):
    assert number(value) == (value if isinstance(value, (int, float, Fraction, Decimal)) else value.item())


@pytest.mark.parametrize(
    "value",
    [
        *(None, "1", b"1", 1 + 0j, np.complex64(1), np.array(1 + 2j), np.str_("1"), np.array("1"), [1.0], {}),
        *(np.timedelta64(1, "ns"), np.datetime64("2020-01-01"), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])),
        torch.tensor(1 + 2j),
    ],
)
def test_what_is_no_real_number_is_refused(value):
    with pytest.raises(TypeError, match="among the values"):
        number(value)
    with pytest.raises(CheckFailed, match="numbers only"):
        check_reward(lambda prompts, responses: [value] * len(responses))


def test_a_number_beyond_floats_is_named():
    assert [number(10**400), number(-(10**400)), number(Fraction(10**400))] == [math.inf, -math.inf, math.inf]
    with pytest.raises(NonFiniteError, match="returned inf for the response 'x'"):
        paid(finished(), lambda prompts, responses: [10**5000], ["x"])
    assert size([]) == 0 and size(np.float64(1)) == -1
