"""Checks a reward function against what the environment relies on: `coevo_env.testing.check_reward`
and `check_joint_reward`.

One idea: a reward is a function of texts, so a handful of odd texts shows nearly everything that
can be wrong with one: the wrong number of values, values that are none, memory, and scores that
depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import CheckFailed, ConfigError, whole
from ..game.arguments import columns_of, in_order
from ..game.returned import number, size
from ..game.task import JointRewardFunction, Prompt, RewardFunction

__all__ = ["check_joint_reward", "check_reward", "near", "short"]

TOLERANCE = 1e-5
"""How far a score may depend on its batch: what padding changes in a float32 classifier."""


PROMPTS = (
    Prompt("the soup we had was", answer="5"),
    Prompt("2+3=", answer="5"),
    Prompt("What is two and three?", answer="5"),
    Prompt("1 2", answer="5"),
)
RESPONSES = (
    "",
    "wonderful !",
    "the answer is 5",
    "3 1 4",
    "so bad so bad so bad",
    " \n\t ",
    "naïve café 你好 😀 \u202e\u0000",
    "a " * 200,
)


def check_reward(
    function: RewardFunction, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None
) -> list[str]:
    """Checks a reward function: one finite number per response, the same whatever else is in the
    batch, for any text.

    Args:
        function: `(prompts, responses) -> list of floats`, or whatever
            `coevo_env.game.arguments.in_order` makes one of.
        prompts, responses: What to try it on, equally many; by default short prompts (with the
            answer "5") and every kind of odd text, the empty one included. Give your own where the
            function only reads certain texts.

    Returns:
        The names of the checks that it passed.

    Raises:
        CheckFailed: The first check that it did not pass.
        ConfigError: Its parameters do not say which takes the prompts and which the responses.

    >>> len(check_reward(lambda prompts, responses: [float(len(text)) for text in responses]))
    5
    """
    if (prompts is None) != (responses is None):
        raise ConfigError("check_reward got only one of `prompts` and `responses`; give both, or none.")
    if prompts is None or responses is None:
        prompts, responses = [PROMPTS[i % len(PROMPTS)] for i in range(len(RESPONSES))], RESPONSES
    if len(prompts) != len(responses) or not prompts:
        raise ConfigError(
            f"check_reward got {len(prompts)} prompts and {len(responses)} responses; expected equally many, at least "
            "one."
        )
    asked = [prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in prompts]
    said = list(responses)
    name = f"reward {getattr(function, '__name__', type(function).__name__)!r}"
    function = in_order(name, function, asked[0])
    return ["one finite float per response", *_check_terms(name, function, asked, said, None)]


def check_joint_reward(
    function: JointRewardFunction,
    num_agents: int = 2,
    prompts: Sequence[str] | None = None,
    responses: Sequence[tuple[str, ...]] | None = None,
) -> list[str]:
    """Checks a joint reward function as `check_reward` checks an ordinary one: one finite number
    per seat for each episode.

    Args:
        function: `(prompts, tuples of N responses) -> for each episode N floats`.
        num_agents: N.
        prompts, responses: What to try it on, equally many; by default short prompts and every kind
            of odd text in every seat.

    Returns:
        The names of the checks that it passed. The last one: with one response, which is how an
        agent is evaluated alone, it returns one float as well.

    Raises:
        CheckFailed: The first check that it did not pass.

    >>> def longest(prompts, said):
    ...     return [[len(texts[0]) - len(text) for text in texts] for texts in said]
    >>> check_joint_reward(longest)[-1]
    'an agent alone'
    """
    if (prompts is None) != (responses is None):
        raise ConfigError("check_joint_reward got only one of `prompts` and `responses`; give both, or none.")
    whole("check_joint_reward with num_agents", num_agents, 1)
    if prompts is None or responses is None:
        count = len(RESPONSES)
        responses = [
            tuple(RESPONSES[(i + k * (1 + i // count)) % count] for k in range(num_agents)) for i in range(3 * count)
        ]
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(responses))]
    if len(prompts) != len(responses) or not prompts or any(len(said) != num_agents for said in responses):
        raise ConfigError(
            f"check_joint_reward got {len(prompts)} prompts and {len(responses)} tuples of responses; expected equally "
            "many, at least one, and "
            f"{num_agents} responses in each."
        )
    asked = [prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in prompts]
    name = f"joint reward {getattr(function, '__name__', type(function).__name__)!r}"
    function = in_order(name, function, asked[0])
    passed = _check_terms(name, function, asked, [tuple(said) for said in responses], num_agents)
    _check_terms(f"{name} of one agent alone", function, asked, [(said[0],) for said in responses], 1)
    return ["one finite float per seat", *passed, "an agent alone"]


def _check_terms(name: str, function: Any, asked: list[Prompt], said: list[Any], seats: int | None) -> list[str]:
    """What ordinary reward terms (`seats` None, `said` texts) and joint ones (`said` tuples) have
    to keep alike."""

    def score(rows: Sequence[int]) -> np.ndarray:
        return _scores(name, function, [asked[i] for i in rows], [said[i] for i in rows], seats)

    every = list(range(len(said)))
    values = score(every)
    same = "the same scores both times (no randomness, no memory)"
    near(f"{name}, called twice with the same batch", score(every), values, said, same, 0.0)
    order = np.random.default_rng(0).permutation(len(said)).tolist()
    shuffled = np.empty(values.shape)
    shuffled[order] = score(order)
    near(f"{name}, with the batch in another order", shuffled, values, said, "the same score for the same response")
    alone = np.array([score([i])[0] for i in every])
    near(
        f"{name}, with each response alone",
        alone,
        values,
        said,
        "a score that does not depend on the rest of the batch",
    )
    return ["deterministic", "inputs unchanged", "independent of order", "independent of the batch"]


def _scores(name: str, function: Any, prompts: list[Prompt], responses: list[Any], seats: int | None) -> np.ndarray:
    """The values of a batch, (B,), or of a joint term (B, N)."""
    what = f"{name}, called with {len(responses)} responses, the first being {short(responses[0])}"
    given, before = (list(prompts), list(responses)), _columns(prompts)
    try:
        raw = function(*given)
    except Exception as error:
        expected = (
            "a list of floats for any text"
            if seats is None
            else f"{seats} floats for each tuple of {seats}, for any text"
        )
        raise CheckFailed(what, f"{type(error).__name__}: {error}", expected) from error
    if given != (prompts, responses) or _columns(prompts) != before:
        raise CheckFailed(
            what, "its arguments changed by the call", "that it leaves the lists it is given alone, and the columns"
        )
    if seats is None:
        return _floats(what, raw, responses, f"one for each of the {len(responses)} responses")
    if size(raw) < 0:
        raise CheckFailed(what, f"a {type(raw).__name__}", f"a list of {len(responses)} lists, one for each episode")
    if len(raw) != len(responses):
        raise CheckFailed(
            what, f"{len(raw)} values", f"one list of {seats} floats for each of the {len(responses)} episodes"
        )
    rows = [
        _floats(what, row, texts, f"one for each of the {seats} seats")
        for texts, row in zip(responses, raw, strict=True)
    ]
    return np.stack(rows)


def _columns(prompts: Sequence[Prompt]) -> list[str]:
    """What the prompts carry, as it is now: columns may be lists, and need not be comparable."""
    return [repr(columns_of(prompt)) for prompt in prompts]


def _floats(what: str, raw: Any, texts: Sequence[Any], expected: str) -> np.ndarray:
    if size(raw) < 0:
        raise CheckFailed(what, f"a {type(raw).__name__}", f"a list of {len(texts)} floats")
    if len(raw) != len(texts):
        raise CheckFailed(what, f"{len(raw)} values", expected)
    values = []
    for text, value in zip(texts, raw, strict=True):
        try:
            values.append(number(value))
        except TypeError:
            raise CheckFailed(what, f"{value!r} for {short(text)}", "numbers only") from None
        if not math.isfinite(values[-1]):
            raise CheckFailed(what, f"{values[-1]} for {short(text)}", "finite numbers only")
    return np.array(values)


def near(
    what: str, got: np.ndarray, wanted: np.ndarray, texts: Sequence[Any], expected: str, tolerance: float = TOLERANCE
) -> None:
    """Refuses scores that are not, within a tolerance, those that were wanted."""
    apart = np.abs(got - wanted) > tolerance * np.maximum(1.0, np.abs(wanted))
    apart = apart.reshape(len(apart), -1).any(1)
    if apart.any():
        i = int(np.argmax(apart))
        raise CheckFailed(what, f"{got[i]} instead of {wanted[i]} for {short(texts[i])}", expected)


def short(text: str | tuple[str, ...]) -> str:
    """A text as a message shows it: quoted, and cut where it is long."""
    if isinstance(text, tuple):
        return f"({', '.join(map(short, text))})"
    return repr(text if len(text) <= 60 else text[:57] + "...")
