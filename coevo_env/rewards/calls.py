"""A slow reward made bearable: `call(function, ...)` asks for many values at a time, each pair only
once, and not longer than so long.

One idea: a reward scores every response by itself, so the batch may be cut into calls in any way,
and what is known of a pair need not be asked again. With `batch_size=1` every pair is asked about
alone, which makes the values, to the bit, independent of what else was in the batch, of the number
of workers and of what was kept.

What this cannot mend: a function that is not one of the pair alone. One that draws random numbers,
or reads a clock, is to be called with `cache=False`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import TimeoutError as LateError
from typing import Any

from ..errors import ConfigError, RewardError, RewardTimeout, real, whole
from ..game.arguments import Matched, in_order
from ..game.awaiting import start
from ..game.returned import size
from ..game.splits import identity

__all__ = ["Calls", "call"]

KEPT = 100_000
"""So many values a cache holds; the ones not asked for the longest go first."""


def call(
    function: Callable[..., Any],
    *,
    workers: int = 8,
    batch_size: int = 1,
    cache: bool = True,
    timeout: float | None = None,
) -> Calls:
    """A reward that calls `function` in parallel, keeps what it returned, and gives up in time.

    Args:
        function: `(prompts, responses) -> list of floats`, in any order of parameters that their
            names tell (see `coevo_env.game.arguments`), or a coroutine function that is one.
        workers: Calls under way at a time: threads, or coroutines of one event loop. A function
            that is not to be called by several threads wants 1.
        batch_size: Pairs in one call.
        cache: Whether equal pairs of (prompt, response) are asked about once, now and later; a
            prompt with another answer or other columns is another prompt. The values of a function
            that depends on the batch by rounding, as neural classifiers do, are those of the call
            that was first: the same to the bit only with batch_size=1.
        timeout: Seconds that scoring a batch may take; None waits for ever.

    Returns:
        A reward function. When the time is over it raises `RewardTimeout`; what was computed is
        kept, and the same batch asked for again goes on from there.

    Raises:
        ConfigError: An option out of range, or a function whose parameters do not say what they
            take.

    >>> asked = []
    >>> def slow(prompts, responses):
    ...     asked.extend(responses)
    ...     return [float(len(text)) for text in responses]
    >>> call(slow)(["p"] * 3, ["yes", "no", "yes"]), sorted(asked)
    ([3.0, 2.0, 3.0], ['no', 'yes'])
    """
    return Calls(function, workers, batch_size, cache, timeout)


class Calls:
    """What `call` returns. It can be pickled where its function can; the copy knows no values."""

    def __init__(self, function: Callable[..., Any], workers: int, batch_size: int, cache: bool, timeout: float | None):
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise ConfigError(f"call: {function!r}; expected a function (prompts, responses) -> list of floats.")
        self.function = function
        self.workers = whole("call: workers", workers, 1)
        self.batch_size = whole("call: batch_size", batch_size, 1)
        self.timeout = None if timeout is None else real("call: timeout", timeout, above=0)
        if not isinstance(cache, bool):
            raise ConfigError(f"call: cache={cache!r}; expected True or False.")
        self.cache = cache
        self._ask = in_order(f"reward {self.__name__!r}", function)
        self._known: OrderedDict[Hashable, tuple[Any, Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": OrderedDict()}

    def __call__(self, prompts: Sequence[Any], responses: Sequence[Any]) -> list[Any]:
        """The values of a batch.

        Raises:
            RewardTimeout: They took longer than `timeout`.
            RewardError: A call returned another number of values than it was given pairs.
        """
        keys = [self._key(i, prompt, response) for i, (prompt, response) in enumerate(zip(prompts, responses))]  # noqa: B905  # how many there are is said below
        if len(prompts) != len(responses):
            raise ValueError(f"zip(): {len(prompts)} prompts and {len(responses)} responses")
        values = {key: self._known[key][0] for key in keys if key in self._known}
        rows = {key: i for i, key in reversed(list(enumerate(keys))) if key not in values}
        order = sorted(rows, key=rows.__getitem__)
        parts = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

        def ask(part: Sequence[Hashable]) -> Any:
            asked = self._ask.begin if asynchronous else self._ask
            return asked([prompts[rows[key]] for key in part], [responses[rows[key]] for key in part])

        def keep(part: Sequence[Hashable], raw: Any) -> None:
            if (got := size(raw)) != len(part):
                what = f"{got} values" if got >= 0 else f"a {type(raw).__name__}"
                raise RewardError(f"returned {what} for {len(part)} responses; expected a list of one float for each.")
            for key, value in zip(part, raw, strict=True):
                values[key] = value
                if self.cache or self.timeout is not None:
                    self._known[key] = (value, prompts[rows[key]])  # the prompt too: ids of its columns are in the key

        asynchronous = isinstance(self._ask, Matched) and self._ask.is_coroutine
        if parts:
            if asynchronous:
                self._await(parts, ask, keep, len(keys), values)
            elif self.timeout is None and (self.workers == 1 or len(parts) == 1):
                for part in parts:
                    keep(part, ask(part))
            else:
                self._threads(parts, ask, keep, len(keys), values)
        result = [values[key] for key in keys]
        self._forget(keys)
        return result

    def _key(self, row: int, prompt: Any, response: Any) -> Hashable:
        """What two equal pairs share. Columns are compared by identity, as they need not be
        hashable; the prompts of a task are always the same objects."""
        info = getattr(prompt, "info", None)
        pair = (identity(prompt), getattr(prompt, "answer", None), id(info) if info else None, response)
        return pair if self.cache else (*pair, row)

    def _forget(self, keys: Sequence[Hashable]) -> None:
        if not self.cache:
            self._known.clear()
        for key in keys:
            if key in self._known:
                self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def _threads(self, parts: list, ask: Callable, keep: Callable, count: int, values: dict) -> None:
        """Threads that do not hold up the end of the program: one that hangs cannot be stopped."""
        waiting, done = iter(parts), threading.Condition()
        state: dict[str, Any] = {"left": len(parts), "error": None, "over": False}

        def work() -> None:
            while True:
                with done:
                    part = None if state["over"] else next(waiting, None)
                if part is None:
                    return
                error = None
                try:
                    raw = ask(part)
                except BaseException as failure:
                    error, raw = failure, None
                with done:
                    try:
                        if error is None:
                            keep(part, raw)
                    except RewardError as failure:
                        error = failure
                    state["left"] -= 1
                    if error is not None and state["error"] is None:
                        state.update(error=error, over=True)
                    done.notify()

        for _ in range(min(self.workers, len(parts))):
            threading.Thread(target=work, name="coevo-reward", daemon=True).start()
        with done:
            try:
                ended = done.wait_for(lambda: not state["left"] or state["error"] is not None, self.timeout)
            finally:
                state["over"] = True
            if state["error"] is not None:
                raise state["error"]
            if not ended:
                raise self._late(count, values)

    def _await(self, parts: list, begin: Callable, keep: Callable, count: int, values: dict) -> None:
        async def all_of_them() -> None:
            free = asyncio.Semaphore(self.workers)

            async def one(part: Sequence[Hashable]) -> None:
                async with free:
                    keep(part, await begin(part))

            tasks = [asyncio.ensure_future(one(part)) for part in parts]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

        running = start(all_of_them())
        try:
            running.result(self.timeout)
        except LateError as error:
            if running.done():  # the function's own
                raise
            raise self._late(count, values) from error
        finally:
            running.cancel()

    def _late(self, count: int, values: dict) -> RewardTimeout:
        return RewardTimeout(
            f"{len(values)} values of {count} responses were there after {self.timeout:g} s. They are kept: the same "
            "batch goes on from there. Expected all of them in time; raise the timeout or the number of workers, or "
            "look whether what is asked answers at all."
        )
