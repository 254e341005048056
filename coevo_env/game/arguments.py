"""A reward function as people write it, as the game calls it: `(prompts, responses)`.

One idea: what a parameter is given goes by its name, in whatever order the names stand. A further
parameter gets the column of the data that has its name: `answer`, or a key of `Prompt.info`; this
is also how rewards for TRL are written, `reward(prompts, completions, **columns)`. Where the names
do not say what is what, that is an error before anything is played, because a reward that scores
the prompts looks like one that works.

Nothing here calls a reward in parallel, keeps its values or waits no longer than so long:
`coevo_env.rewards.calls` does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigError, RewardError, unknown_name
from .awaiting import start

__all__ = ["Matched", "columns_of", "in_order", "is_coroutine"]

PROMPTS = frozenset(
    ["prompt", "prompts", "query", "queries", "question", "questions", "input", "inputs", "instruction"]
    + ["instructions", "context", "contexts", "p", "q"]
)
RESPONSES = frozenset(
    ["response", "responses", "completion", "completions", "output", "outputs", "generation", "generations"]
    + ["reply", "replies", "said", "text", "texts", "r", "c"]
)
NEVER = frozenset(["completion_ids", "completions_ids", "prompt_ids", "token_ids", "logprobs", "trainer_state"])
"""Columns of other libraries that a reward here never sees."""


def columns_of(prompt: Any) -> dict[str, Any]:
    """What a prompt carries, by name: its answer, and everything of its `info`."""
    answer, info = getattr(prompt, "answer", None), getattr(prompt, "info", None) or {}
    return dict(info) if answer is None else {**info, "answer": answer}


def is_coroutine(function: Any) -> bool:
    """Whether calling it gives a coroutine."""
    inner = function.func if isinstance(function, functools.partial) else function
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def in_order(where: str, function: Callable[..., Any], prompt: Any = None) -> Callable[..., Any]:
    """The function itself where it is one of (prompts, responses), else a `Matched` of it.

    Args:
        where: What the message of an error begins with.
        function: An ordinary or a joint reward, or a coroutine function that is one.
        prompt: A prompt of the task, by which columns are known; None where there is none yet.

    Raises:
        ConfigError: Names that do not say which parameter takes the prompts and which the
            responses, or that name a column which the prompts do not have.

    >>> def reward(completions, prompts):
    ...     return [float(len(text)) for text in completions]
    >>> in_order("reward", reward)(["a prompt"], ["yes"])
    [3.0]
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # it was not written in Python, so its parameters have no names
        return function
    sources, keywords, every = _sources(where, parameters, prompt)
    plain = [s for s, _ in sources] == ["prompts", "responses"] and not keywords and not every
    if plain and not is_coroutine(function):
        return function
    return Matched(where, function, sources, keywords, every)


class Matched:
    """A reward function whose arguments are found by name; call it with (prompts, responses)."""

    def __init__(
        self,
        where: str,
        function: Callable[..., Any],
        positional: Sequence[tuple[str, bool]],
        keywords: dict[str, tuple[str, bool]],
        every: bool,
    ):
        self.where, self.function = where, function
        self._positional, self._keywords, self._every = positional, keywords, every
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.is_coroutine = is_coroutine(function)

    def __call__(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Any:
        """The values of a batch. Prompts that carry different columns are asked about in calls of
        their own, so that no score depends on the rest of the batch."""
        if not self._wants_columns():
            return self._ask(prompts, responses, [{}] * len(prompts), [])
        columns = [columns_of(prompt) for prompt in prompts]
        parts: dict[tuple[str, ...], list[int]] = {}
        for row, known in enumerate(columns):
            parts.setdefault(tuple(sorted(map(str, known))), []).append(row)
        if len(parts) == 1:
            return self._ask(prompts, responses, columns, list(next(iter(parts))))
        values: list[Any] = [None] * len(prompts)
        for names, rows in parts.items():
            found = self._ask(*([part[i] for i in rows] for part in (prompts, responses, columns)), list(names))
            if not hasattr(found, "__len__") or len(found) != len(rows):
                raise RewardError(
                    f"{self.where}: returned {found!r:.80} for {len(rows)} rows; expected a list of one value for each."
                )
            for row, value in zip(rows, found, strict=True):
                values[row] = value
        return values

    def _wants_columns(self) -> bool:
        return self._every or any(
            source not in ("prompts", "responses") for source, _ in [*self._positional, *self._keywords.values()]
        )

    def _ask(self, prompts: Sequence[Any], responses: Sequence[Any], columns: Sequence[dict], names: list[str]) -> Any:
        given = {"prompts": prompts, "responses": responses}

        def value(source: str) -> Any:
            return given[source] if source in given else [known[source] for known in columns]

        positional, keywords = [], {}
        for source, required in self._positional:
            if source in given or source in names:
                positional.append(value(source))
            elif required:
                raise self._missing(source, prompts, columns)
            else:
                break  # those behind it have a default as well
        taken = {source for source, _ in self._positional}
        for name, (source, required) in self._keywords.items():
            if source in given or source in names:
                keywords[name] = value(source)
            elif required:
                raise self._missing(source, prompts, columns)
            taken.add(source)
        if self._every:
            keywords.update({name: value(name) for name in names if name not in taken and name not in keywords})
        result = self.function(*positional, **keywords)
        return start(result).result() if inspect.iscoroutine(result) else result

    def _missing(self, source: str, prompts: Sequence[Any], columns: Sequence[dict]) -> RewardError:
        row = next(i for i, known in enumerate(columns) if source not in known)
        return RewardError(
            f"{self.where}: the prompt {str(prompts[row])[:60]!r} has no column {source!r}, which the function asks "
            f"for; it has {sorted(columns[row]) or 'none'}."
        )


def _sources(where: str, parameters: Sequence[inspect.Parameter], prompt: Any) -> tuple[list, dict, bool]:
    """For each positional parameter, and for each that takes a keyword only, what it is given and
    whether it has to be; and whether the function takes every column."""
    kind = inspect.Parameter
    every = any(p.kind is kind.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind not in (kind.VAR_KEYWORD, kind.VAR_POSITIONAL)]
    if not named:
        if any(p.kind is kind.VAR_POSITIONAL for p in parameters):
            return [("prompts", True), ("responses", True)], {}, False
        return [], {"prompts": ("prompts", True), "completions": ("responses", True)}, True
    found = _by_name(named)
    _by_place(named, found, prompt)
    given = list(found.values())
    if "responses" not in given or given.count("responses") > 1 or given.count("prompts") > 1:
        raise ConfigError(
            f"{where}: its parameters are {', '.join(p.name for p in named)}, which do not say which one takes the "
            "prompts and which one the responses; expected a function (prompts, responses) -> list of floats. Give "
            "the parameters these names, or prompts and completions."
        )
    positional, keywords, open_ = [], {}, True
    for p in named:
        source, required = found.get(p.name, p.name), p.default is kind.empty
        if source not in ("prompts", "responses"):
            _check_column(where, source, required, prompt)
        if p.kind is kind.KEYWORD_ONLY or not open_:
            keywords[p.name] = (source, required)
        elif required or source in ("prompts", "responses"):
            positional.append((source, required))
        else:  # from here on by keyword, because a column that is absent leaves the default
            open_ = False
            keywords[p.name] = (source, required)
    return positional, keywords, every


def _by_name(named: Sequence[inspect.Parameter]) -> dict[str, str]:
    """Parameter -> "prompts" or "responses", for the names that say so."""
    found: dict[str, str] = {}
    for p in named:
        name = p.name.strip("_").lower()
        for kind, names in (("prompts", PROMPTS), ("responses", RESPONSES)):
            if name in names and kind not in found.values():
                found[p.name] = kind
    if "responses" not in found.values():
        found.update({p.name: "responses" for p in named if p.name.strip("_").lower() == "answers"})
    return found


def _by_place(named: Sequence[inspect.Parameter], found: dict[str, str], prompt: Any) -> None:
    """Of two parameters of which one has a name that says what it is, and stands where it belongs,
    the other is the other one."""
    required = [p.name for p in named if p.default is inspect.Parameter.empty]
    if len(required) < 2 or len(found) != 1:
        return
    first, second = required[:2]
    known = columns_of(prompt)
    if found.get(second) == "responses" and first not in (*known, "answer"):
        found[first] = "prompts"
    elif found.get(first) == "prompts" and second not in (*known, "answer"):
        found[second] = "responses"


def _check_column(where: str, name: str, required: bool, prompt: Any) -> None:
    if not required:
        return
    if name in NEVER:
        raise ConfigError(
            f"{where}: the parameter {name!r} asks for tokens or the state of a trainer; a reward here reads texts, so "
            "expected prompts, responses and columns of the data only."
        )
    if prompt is not None and name not in (known := columns_of(prompt)):
        error = unknown_name("column", name, ["prompts", "responses", *map(str, known)])
        raise ConfigError(
            f"{where}: the function has a parameter {name!r}, which is neither the prompts, the responses nor a column "
            f"of the prompts: {error}"
        )
