"""What finished episodes earned: every reward term asked once for the whole batch, its answer
checked, weighed and mixed.

One idea: a reward function is somebody else's code, so what it returns is checked here and nowhere
else, and when it is wrong the message names the task, the term, the response and the prompt. An
ordinary term scores each response by itself; a joint term scores the responses of an episode
together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import NonFiniteError, RewardError, RewardTimeout
from .returned import number, size
from .rules import Episode, Rules
from .task import Prompt, Task

__all__ = ["Scores", "rate", "rate_alone", "score", "total"]


@dataclass(frozen=True)
class Scores:
    """What a batch of B finished episodes earned; columns are seats, in order of play.

    Attributes:
        terms: Raw value of each reward term, joint ones included, before its weight, each of shape
            (B, N).
        task: Weighted sum of the terms, shape (B, N).
        team: After mixing, shape (B, N).
    """

    terms: dict[str, np.ndarray]
    task: np.ndarray
    team: np.ndarray

    def of(self, row: int) -> Scores:
        """Those of one episode, as a batch of one."""
        one = slice(row, row + 1)
        return Scores({name: values[one] for name, values in self.terms.items()}, self.task[one], self.team[one])


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is named in the end
def score(rules: Rules, episodes: Sequence[Episode]) -> Scores:
    """Scores finished episodes, all responses in one call of each reward term.

    Raises:
        RewardError: A term raised, or returned the wrong number or type of values.
        NonFiniteError: A value is NaN or infinite.
    """
    shape = (len(episodes), rules.num_agents)
    asked = [episode for episode in episodes for _ in episode.turns]
    rated = rate(rules, asked, [turn.text for episode in episodes for turn in episode.turns])
    terms: dict[str, np.ndarray] = {name: values.reshape(shape) for name, values in rated.items()}
    task = np.zeros(shape)
    for name, values in terms.items():
        task = task + rules.terms[name][0] * values  # (B, N)
    for name, values in _rate_together(rules, episodes).items():
        terms[name] = values
        task = task + rules.joint_terms[name][0] * values
    team = task @ rules.mixing.T
    finite = np.isfinite(task) & np.isfinite(team)
    if not finite.all():
        row, seat = np.argwhere(~finite)[0]
        said, prompt = episodes[row].turns[seat].text, _prompt(rules, episodes[row])
        raise NonFiniteError(
            f"task {rules.task.name!r}: the weighted sum of the rewards, {task[row, seat]}, or the team reward, "
            f"{team[row, seat]}, of "
            f"the response {said!r} to prompt {prompt} is more than a float can hold; expected finite numbers. Use "
            "smaller weights or rewards."
        )
    return Scores(terms, task, team)


def rate(rules: Rules, episodes: Sequence[Episode], responses: Sequence[str]) -> dict[str, np.ndarray]:
    """Raw value of each ordinary reward term, (R,): response i answers the prompt of episode i,
    which need not have been played.

    Raises:
        RewardError, NonFiniteError: See `score`.
    """
    prompts = [episode.prompt for episode in episodes]
    functions = {name: function for name, (_, function) in rules.terms.items()}
    return _rate(rules.task.name, functions, prompts, list(responses), lambda row: _prompt(rules, episodes[row]))


def rate_alone(
    task: Task,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    only: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Raw value of ordinary reward terms without a game, (R,): response i answers prompt i.

    Args:
        task: The task.
        prompts, responses: As reward functions take them.
        only: Names of the terms that are asked; None means all.

    Raises:
        RewardError, NonFiniteError: See `score`.
    """
    asked = {name: task.rewards[name] for name in (task.rewards if only is None else only)}
    functions = {name: value[1] if isinstance(value, tuple) else value for name, value in asked.items()}
    return _rate(task.name, functions, list(prompts), list(responses), lambda row: repr(str(prompts[row])))


def _rate(
    task: str, functions: Mapping[str, Callable[..., Any]], prompts: list, said: list[str], called: Callable[[int], str]
) -> dict[str, np.ndarray]:
    """Raw value of each term, (R,); `called` is what a message calls the prompt of a row."""

    def about(row: int) -> str:
        return f"the response {said[row]!r} to prompt {called(row)}"

    terms = {}
    for name, function in functions.items():
        where = f"task {task!r}, reward {name!r}"
        raw = _ask(where, function, prompts, said, about, "check_reward")
        terms[name] = _numbers(where, raw, len(said), about)
    return terms


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is named
def total(task: Task, rated: Mapping[str, np.ndarray]) -> np.ndarray:
    """The weighted sum of what `rate_alone` gave, (R,).

    Raises:
        NonFiniteError: It is more than a float can hold.
    """
    weights = {name: value[0] if isinstance(value, tuple) else 1.0 for name, value in task.rewards.items()}
    summed = np.sum([weights[name] * values for name, values in rated.items()], axis=0)
    if not np.isfinite(summed).all():
        raise NonFiniteError(
            f"task {task.name!r}: the weighted sum of the rewards is {summed[~np.isfinite(summed)][0]}; expected "
            "finite numbers. Use smaller weights or rewards."
        )
    return summed


def _rate_together(rules: Rules, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Raw value of each joint reward term, (B, N)."""
    if not rules.joint_terms:
        return {}
    together = [tuple(turn.text for turn in episode.turns) for episode in episodes]

    def about(row: int) -> str:
        return f"the responses {together[row]!r} to prompt {_prompt(rules, episodes[row])}"

    terms = {}
    for name, (_, function) in rules.joint_terms.items():
        where = f"task {rules.task.name!r}, joint reward {name!r}"
        prompts = [episode.prompt for episode in episodes]
        raw = _ask(where, function, prompts, together, about, "check_joint_reward")
        if (got := size(raw)) != len(episodes):
            what = f"{type(raw).__name__}" if got < 0 else f"{got} values"
            raise RewardError(
                f"{where}: returned {what} for {len(episodes)} episodes; expected for each a list of one float per "
                "seat."
            )
        terms[name] = values = np.zeros((len(episodes), rules.num_agents))
        for row, value in enumerate(raw):
            if (got := size(value)) != rules.num_agents:
                what = f"{value!r}, a {type(value).__name__}," if got < 0 else f"{got} values"
                raise RewardError(
                    f"{where}: returned {what} for {about(row)}; expected {rules.num_agents} floats, one for "
                    "each seat in order of play."
                )
            values[row] = _numbers(where, value, rules.num_agents, lambda seat, row=row: f"seat {seat} of {about(row)}")
    return terms


def _prompt(rules: Rules, episode: Episode) -> str:
    return f"{episode.prompt_index} of the {rules.split} split, {str(episode.prompt)!r}"


def _ask(
    where: str, function: Callable[..., Any], prompts: list, responses: list, about: Callable[[int], str], check: str
) -> Any:
    """Calls a reward function, with lists of its own: one that sorts them or lowers their case does
    not change what the next term scores. An exception is reported with the first row on which the
    function fails by itself."""
    try:
        return function(list(prompts), list(responses))
    except RewardTimeout as error:  # not asked again row by row: it would only take as long again
        raise RewardTimeout(f"{where}: {error}") from error
    except Exception as error:
        row = _culprit(function, prompts, responses)
        on = f"{len(responses)} rows, but on none of them alone" if row is None else about(row)
        raise RewardError(
            f"{where}: raised {type(error).__name__}: {error} on {on}. Try it with coevo_env.testing.{check}."
        ) from error


def _numbers(where: str, raw: Any, count: int, about: Callable[[int], str]) -> np.ndarray:
    """`count` finite floats, or a message about the one that is not."""
    if (got := size(raw)) < 0:
        raise RewardError(
            f"{where}: returned {type(raw).__name__}; expected a list of {count} floats, in the order of the responses."
        )
    if got != count:
        raise RewardError(f"{where}: returned {got} values for {count} responses; expected one float for each.")
    if set(map(type, raw)) <= {float}:  # nearly always
        values = np.array(raw, np.float64)
    else:
        values = np.zeros(count)
        for row, value in enumerate(raw):
            try:
                values[row] = number(value)
            except TypeError as error:
                raise RewardError(f"{where}: returned {error}, for {about(row)}; expected a list of floats.") from None
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        raise NonFiniteError(f"{where}: returned {values[row]} for {about(row)}; expected a finite number.")
    return values


def _culprit(function: Callable[..., Any], prompts: Sequence[Any], responses: Sequence[Any]) -> int | None:
    """The first row on which a reward function fails by itself."""
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        try:
            function([prompt], [response])
        except Exception:
            return row
    return None
