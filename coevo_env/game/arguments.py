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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import ConfigError, RewardError, unknown_name
from .awaiting import start
from .returned import size

__all__ = ["Matched", "columns_of", "in_order", "is_coroutine"]

PROMPTS = frozenset(
    (
        *("prompt", "prompts", "query", "queries", "question", "questions", "input", "inputs"),
        *("instruction", "instructions", "context", "contexts", "p", "q"),
    )
)
RESPONSES = frozenset(
    (
        *("response", "responses", "completion", "completions", "output", "outputs", "generation", "generations"),
        *("reply", "replies", "said", "text", "texts", "r", "c"),
    )
)
PLAIN = frozenset(["prompt", "prompts", "response", "responses", "completion", "completions"])
GIVEN = ("prompts", "responses")
NEVER = frozenset(["completion_ids", "completions_ids", "prompt_ids", "token_ids", "logprobs", "trainer_state"])
"""Columns of other libraries that a reward here never sees."""
REQUIRED = inspect.Parameter.empty
Source = tuple[str, Any]
"""What a parameter is given, and the value that stands in for an absent column; `REQUIRED` where
none does."""


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
    bound = _bound(function)
    sources, keywords, every = _sources(where, [p for p in parameters if p.name not in bound], prompt)
    plain = [s for s, _ in sources] == ["prompts", "responses"] and not keywords and not every
    if plain and not is_coroutine(function):
        return function
    return Matched(where, function, sources, keywords, every, bound)


def _bound(function: Any) -> frozenset[str]:
    """Names of the parameters that have their values already, by keywords of partial(); a column of
    such a name is not given."""
    bound: set[str] = set()
    for _ in range(20):  # what is wrapped in a circle has no signature either
        if isinstance(function, functools.partial):
            bound.update(function.keywords)
        function = function.func if isinstance(function, functools.partial) else getattr(function, "__wrapped__", None)
    return frozenset(bound)


class Matched:
    """A reward function whose arguments are found by name; call it with (prompts, responses)."""

    def __init__(
        self,
        where: str,
        function: Callable[..., Any],
        positional: Sequence[Source],
        keywords: dict[str, Source],
        every: bool,
        bound: frozenset[str] = frozenset(),
    ):
        self.where, self.function = where, function
        self._positional, self._keywords, self._every, self._bound = positional, keywords, every, bound
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.is_coroutine = is_coroutine(function)

    def __call__(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Any:
        """The values of a batch; those of a coroutine function are waited for. Prompts that carry
        different columns are asked about in calls of their own, so that no score depends on the
        rest of the batch."""
        if not self.is_coroutine:
            return self._merged([(rows, self.function(*a, **k)) for rows, a, k in self._calls(prompts, responses)])
        running = start(self.begin(prompts, responses))
        try:
            return running.result()
        finally:
            running.cancel()  # where Ctrl-C was pressed

    async def begin(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Any:
        """The same of a coroutine function, for who is asynchronous."""
        return self._merged([(rows, await self.function(*a, **k)) for rows, a, k in self._calls(prompts, responses)])

    def _calls(self, prompts: Sequence[Any], responses: Sequence[Any]) -> Iterator[tuple[list[int], list, dict]]:
        """Rows, positional and keyword arguments of each call."""
        sources = [*self._positional, *self._keywords.values()]
        wants_columns = self._every or any(source not in GIVEN for source, _ in sources)
        columns = [columns_of(prompt) if wants_columns else {} for prompt in prompts]
        parts: dict[tuple[str, ...], list[int]] = {}
        for row, known in enumerate(columns):
            parts.setdefault(tuple(known), []).append(row)
        if len(parts) < 2:
            yield list(range(len(prompts))), *self._arguments(prompts, responses, columns)
            return
        for rows in parts.values():
            yield rows, *self._arguments(*([part[i] for i in rows] for part in (prompts, responses, columns)))

    def _arguments(self, prompts: Sequence[Any], responses: Sequence[Any], columns: list[dict]) -> tuple[list, dict]:
        names = list(columns[0]) if columns else []
        given = {"prompts": prompts, "responses": responses}
        given.update({name: [known[name] for known in columns] for name in names if name not in GIVEN})
        for source, default in (*self._positional, *self._keywords.values()):
            if default is REQUIRED and source not in given:
                raise RewardError(
                    f"{self.where}: the prompt {str(prompts[0])[:60]!r} has no column {source!r}, which the function "
                    f"asks for; it has {', '.join(names) or 'none'}."
                )
        keywords = {name: given[source] for name, (source, _) in self._keywords.items() if source in given}
        if self._every:
            taken = {source for source, _ in (*self._positional, *self._keywords.values())}
            taken |= {*keywords, *self._bound}
            keywords.update({name: given[name] for name in names if name not in {*taken, *GIVEN}})
            if "prompts" not in taken:
                keywords["prompts"] = prompts
        return [given.get(source, default) for source, default in self._positional], keywords

    def _merged(self, parts: list[tuple[list[int], Any]]) -> Any:
        """The values in the order of the rows."""
        if len(parts) == 1:
            return parts[0][1]
        values: dict[int, Any] = {}
        for rows, found in parts:
            if size(found) != len(rows):
                raise RewardError(
                    f"{self.where}: returned {found!r:.80} for {len(rows)} rows; expected a list of one value for each."
                )
            values.update(zip(rows, found, strict=True))
        return [values[row] for row in sorted(values)]


def _sources(where: str, parameters: Sequence[inspect.Parameter], prompt: Any) -> tuple[list, dict, bool]:
    """For each parameter by place, and for each that takes a keyword only, what it is given and its
    default; and whether the function takes every column."""
    kind = inspect.Parameter
    every = any(p.kind is kind.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind not in (kind.VAR_KEYWORD, kind.VAR_POSITIONAL)]
    if not named and every:  # TRL's own way, which also reaches the names below a decorator
        return [], {"prompts": ("prompts", REQUIRED), "completions": ("responses", REQUIRED)}, True
    if not named and parameters:
        raise ConfigError(
            f"{where}: it takes *{parameters[0].name}, which does not say where the prompts belong and where the "
            "responses; expected a function (prompts, responses) -> list of floats. Name the parameters, or decorate "
            "with functools.wraps, which keeps the names of what is decorated."
        )
    found = _by_name(named, prompt)
    _by_place(named, found, prompt)
    given = [found.get(p.name, p.name) for p in named]
    if "responses" not in given or given.count("responses") > 1 or given.count("prompts") > 1:
        raise ConfigError(
            f"{where}: its parameters are {', '.join(p.name for p in named)}, which do not say which one takes the "
            "prompts and which one the responses; expected a function (prompts, responses) -> list of floats. Give "
            "the parameters these names, or prompts and completions."
        )
    positional, keywords = [], {}
    for p in named:
        source = found.get(p.name, p.name)
        if source not in GIVEN:
            _check_column(where, source, p.default is REQUIRED, prompt)
        if p.kind is kind.KEYWORD_ONLY:
            keywords[p.name] = (source, p.default)
        else:  # by place, so that a column that is absent gives the default
            positional.append((source, p.default))
    return positional, keywords, every


def _by_name(named: Sequence[inspect.Parameter], prompt: Any) -> dict[str, str]:
    """Parameter -> "prompts" or "responses", for the names that say so. The plainest names come
    first, and a name that is also a column of the data is the column."""
    found: dict[str, str] = {}
    columns = columns_of(prompt)
    for plainly in (True, False):
        for p in named:
            name = p.name.strip("_").lower()
            if p.name in found or (name in PLAIN) != plainly or (not plainly and name in columns):
                continue
            for kind, names in (("prompts", PROMPTS), ("responses", RESPONSES)):
                if name in names and kind not in found.values():
                    found[p.name] = kind
    if "responses" not in found.values() and "answers" not in columns:
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
