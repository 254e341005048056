"""The errors users meet, each a sentence that says what was wrong, what was got, what was expected
and what to do.

Every error of this package is a `CoevoError`, so that a command can print it without a traceback.
It is a `ValueError` too, because bad input is what nearly all of them report. `assert` is for our
own bugs.
"""

from __future__ import annotations

import difflib
import errno
import math
import operator
import re
from collections.abc import Iterable
from typing import Any

__all__ = [
    "CheckFailed",
    "CoevoError",
    "ConfigError",
    "MissingExtraError",
    "NonFiniteError",
    "RewardError",
    "RewardTimeout",
    "first_line",
    "printable",
    "real",
    "short_of_memory",
    "unknown_name",
    "whole",
]


class CoevoError(ValueError):
    """Base of all errors that a user can cause or mend.

    Attributes:
        code: Exit status of a command that ends with it.
    """

    code = 1

    def __str__(self) -> str:
        """The message. Names in it can come from anywhere, so what could steer a terminal is
        written out."""
        return printable(super().__str__())


class ConfigError(CoevoError):
    """An option, name or combination of options that cannot work; raised at construction, before
    anything is computed."""


class RewardError(CoevoError):
    """A reward function returned something other than one finite number per response."""


class RewardTimeout(RewardError):
    """A reward function took longer than it was given; what it had computed is kept."""


class NonFiniteError(CoevoError):
    """A reward, log-prob or loss became NaN or infinite."""


class CheckFailed(CoevoError):
    """A plug-in (task, reward, learner) broke a promise that `coevo_env.testing` checks.

    Attributes:
        what, got, expected: The sentence in parts.
    """

    def __init__(self, what: str, got: object, expected: str):
        super().__init__(f"{what}: got {got}; expected {expected}.")
        self.what, self.got, self.expected = what, got, expected


class MissingExtraError(CoevoError, ImportError):
    """An optional dependency is not installed; the message names the command that installs it."""

    def __init__(self, what: str, package: str, extra: str | None = None):
        command = f"pip install 'coevo-env[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{what} needs the package {package!r}, which is not installed. Install it with: {command}")


def printable(text: str) -> str:
    """A text that can be printed anywhere: control characters (but for tabs and line breaks), those
    that turn the direction of writing, and halves of surrogate pairs are written as escapes.

    >>> print(printable("llm1\\x1b[31m\\u202e"))
    llm1\\x1b[31m\\u202e
    """
    return _UNPRINTABLE.sub(_written_out, text)


_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def short_of_memory(error: BaseException | None) -> bool:
    """Whether an error says, in Python's or in PyTorch's way, that there is no memory left.

    >>> short_of_memory(MemoryError()), short_of_memory(RuntimeError("CUDA out of memory."))
    (True, True)
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
    return isinstance(error, MemoryError) or said


_NO_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "can't start new thread")


def first_line(error: BaseException) -> str:
    """What an error of another library says, without its advice below; its class where it says
    nothing.

    >>> first_line(ValueError("no such file\\nTry again later.")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def whole(what: str, value: Any, least: int, why: str = "", most: int | None = None) -> int:
    """`value` as an int, if it is a whole number of at least `least` and at most `most`; floats are
    none, so that nothing is cut off in silence.

    Raises:
        ConfigError: It is not; `why` stands behind the message.

    >>> whole("num_agents", 2, 1)
    2
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        bound = f">= {least}" if number < least else f"<= {most}"
        raise ConfigError(f"{what}={value!r}; expected a whole number {bound}{why and f' ({why})'}.")
    return number


def real(what: str, value: Any, least: float = -math.inf, above: float = -math.inf) -> float:
    """`value` as a float, if it is a finite number, at least `least` and more than `above`.

    Raises:
        ConfigError: It is not, or it is text.

    >>> real("beta", 1, least=0)
    1.0
    """
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= least and number > above):
        bound = f" > {above:g}" if above > -math.inf else f" >= {least:g}" if least > -math.inf else ""
        raise ConfigError(f"{what}={value!r}; expected a finite number{bound}.")
    return number


def unknown_name(what: str, got: object, options: Iterable[str]) -> ConfigError:
    """An error for a name that is not among `options`, suggesting the nearest.

    >>> print(unknown_name("role schedule", "perodic", ["periodic", "random"]))
    unknown role schedule 'perodic': expected one of periodic, random. Did you mean 'periodic'?
    """
    options = list(options)
    near = difflib.get_close_matches(str(got), options, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {what} {got!r}: expected one of {', '.join(options)}.{hint}")
