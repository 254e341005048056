"""Rewards by name, for those who write none: `make_reward("number")`, `"regex:^[A-Z]"`,
`"length:20"`, the folder of a classifier, or `"my_module:my_reward"`.

One idea: a name is a factory and a line of `REWARDS`; what stands behind the colon is the factory's
first argument.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigError, unknown_name
from ..game.task import RewardFunction
from .classifiers import classifier_reward, tfidf_reward
from .text import exact_answer, length_reward, lexicon_sentiment, regex_reward

__all__ = ["REWARDS", "make_reward"]


def _exact(extract: str = "text") -> RewardFunction:
    return exact_answer(extract)


def _number(extract: str = "last_number") -> RewardFunction:
    return exact_answer(extract)


def _lexicon() -> RewardFunction:
    return lexicon_sentiment


REWARDS: dict[str, Callable[..., RewardFunction]] = {
    "exact": _exact,
    "number": _number,
    "regex": regex_reward,
    "length": length_reward,
    "lexicon": _lexicon,
    "classifier": classifier_reward,
    "tfidf": tfidf_reward,
}
"""Name -> factory of a reward function; docs/add_a_reward.md has a row for each."""


def make_reward(spec: Any, **options: Any) -> Callable[..., Any]:
    """A reward function from what people call it.

    Args:
        spec: A function (returned as it is); a name of `REWARDS`, with the factory's first argument
            behind a colon where it needs one ("length:20"); the folder of a text classifier or of a
            TF-IDF classifier; or "package.module:function" for a function of one's own.
        options: Passed to the factory; of a function of one's own they fill the parameters that
            have these names.

    Raises:
        ConfigError: The name is unknown (the nearest is suggested), or an option is not one of the
            factory's.

    >>> make_reward("length:4")(["", ""], ["one two three four", "one"])
    [1.0, 0.25]
    """
    if callable(spec):
        return functools.partial(spec, **options) if options else spec
    if not isinstance(spec, (str, Path)):
        raise ConfigError(f"reward {spec!r}; expected a function, or a name such as 'number'.")
    name, colon, argument = str(spec).partition(":")
    if name in REWARDS:
        return _build(str(spec), REWARDS[name], [_typed(REWARDS[name], argument)] if colon else [], options)
    folder = Path(spec).expanduser()
    if folder.is_dir():
        factory = tfidf_reward if (folder / "classifier.json").is_file() else classifier_reward
        return _build(str(spec), factory, [str(folder)], options)
    if colon and "/" not in name:
        function = _imported(str(spec), name, argument)
        return functools.partial(function, **options) if options else function
    raise unknown_name("reward", str(spec), [*REWARDS, "the folder of a classifier", "package.module:function"])


def _build(spec: str, factory: Callable[..., RewardFunction], given: list[Any], options: dict[str, Any]) -> Any:
    try:
        inspect.signature(factory).bind(*given, **options)
    except TypeError as error:
        raise ConfigError(f"reward {spec!r}: {error}. Its options are: {inspect.signature(factory)}.") from None
    return factory(*given, **options)


def _typed(factory: Callable[..., RewardFunction], text: str) -> Any:
    """What stands behind the colon: a number where the factory's first parameter is one."""
    first = next(iter(inspect.signature(factory).parameters.values()), None)
    if first is None or "int" not in str(first.annotation).split(" | "):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _imported(spec: str, module: str, attribute: str) -> Any:
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user's can fail in any way
        raise ConfigError(
            f"reward {spec!r} could not be imported: {type(error).__name__}: {error}. Expected "
            "'package.module:function', or a name or folder of a reward."
        ) from error
    if not callable(function):
        raise ConfigError(
            f"reward {spec!r} is a {type(function).__name__}; expected a function (prompts, responses) -> list of "
            "floats."
        )
    return function
