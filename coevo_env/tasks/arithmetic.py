"""Sums to complete, with an answer that is right or wrong: "2+3=" -> "5".

One idea: pairs of operands are held out, not prompts, and both orders of a pair go to the same
split, so what is tested was never seen in either order. The template shows solved examples, because
the default model completes text and was not trained to follow a request.

Version history: 2 (0.2.0), fractions and other figures are read whole; 1 (0.1.0).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ..errors import ConfigError, unknown_name
from ..game.task import Prompt, Task
from ..rewards import exact_answer
from ..rng import rng

__all__ = ["task"]

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
MAX_PAIRS = 10_000
"""Larger spaces of pairs are sampled, not enumerated."""


def task(
    digits: int = 1,
    operations: str | Sequence[str] = "+",
    shots: int = 1,
    test_fraction: float = 0.2,
    extract: str | Callable[[str], str | None] = "first_number",
    seed: int = 0,
    model: str = "smollm2",
) -> Task:
    """One-digit addition by default: 80 prompts in 44 unordered pairs; the pair of the example is
    left out.

    Args:
        digits: Digits of each operand, which has no leading zero: 1 means 1 to 9, 2 means 10 to 99.
        operations: Any of "+", "-", "*", as one string or a sequence. Differences are never
            negative.
        shots: Solved examples in front of each prompt; their pairs are in neither split.
        test_fraction: Part of the pairs that is held out, in (0, 1): half of them for validation,
            the other half, and one more where they are odd, for the test.
        extract: How an answer is read from a response, see `coevo_env.rewards.exact_answer`.
        seed: Picks the examples and the held-out pairs.
        model: Default model.

    Raises:
        ConfigError: An option out of range.
    """
    operations = list(dict.fromkeys(operations))
    _check_options(operations, digits, test_fraction, shots)
    pairs = _pairs(digits, seed)
    order = rng(seed, digits, stream="task").permutation(len(pairs))
    examples, rest = [pairs[i] for i in order[:shots]], [pairs[i] for i in order[shots:]]
    held_out = max(1, round(test_fraction * len(rest)))
    tested = held_out - held_out // 2
    header = "".join(
        f"{prompt}{prompt.answer}\n"
        for prompt in (_prompts([pair], operations[i % len(operations)])[0] for i, pair in enumerate(examples))
    )
    longest = 2 * digits if "*" in operations else digits + 1
    characters = len(header) + 2 * (2 * digits + 3) + 4 * (longest + 4)
    return Task(
        name="arithmetic",
        train=_prompts(rest[held_out:], operations),
        validation=_prompts(rest[tested:held_out], operations),
        test=_prompts(rest[:tested], operations),
        rewards={"exact": exact_answer(extract)},
        templates={"pioneer": header + "{prompt}", "observer": header + "{prompt}{responses}\n{prompt}"},
        separator=" or ",
        max_new_tokens=longest + 2,  # the answer, the line break after it, and one to spare
        max_context=max(64, characters),  # digits are single tokens in the tokenizers that do sums
        stop_at_newline=True,
        model=model,
        scripted=lambda prompt, seen: prompt.answer or "",
        description=(
            f"{digits}-digit sums with {' '.join(operations)}; 1 for the exact answer, held-out pairs in the test split"
        ),
    )


def _check_options(operations: Sequence[str], digits: int, test_fraction: float, shots: int) -> None:
    if not operations:
        raise ConfigError("arithmetic: `operations` is empty; expected at least one of '+', '-', '*'.")
    for operation in operations:
        if operation not in OPERATIONS:
            raise unknown_name("arithmetic operation", operation, OPERATIONS)
    if not 1 <= digits <= 9:
        raise ConfigError(f"arithmetic: digits={digits}; expected 1 to 9.")
    if not 0 < test_fraction < 1:
        raise ConfigError(
            f"arithmetic: test_fraction={test_fraction}; expected a number between 0 and 1, both excluded."
        )
    if not 0 <= shots <= 8:
        raise ConfigError(f"arithmetic: shots={shots}; expected 0 to 8.")


def _pairs(digits: int, seed: int) -> list[tuple[int, int]]:
    """Unordered pairs of operands, all or `MAX_PAIRS` of them."""
    low, high = 10 ** (digits - 1), 10**digits
    if (high - low) ** 2 <= MAX_PAIRS:
        return list(itertools.combinations_with_replacement(range(low, high), 2))
    drawn = rng(seed, digits, 1, stream="task").integers(low, high, size=(MAX_PAIRS, 2)).tolist()
    return list(dict.fromkeys((min(a, b), max(a, b)) for a, b in drawn))


def _prompts(pairs: Sequence[tuple[int, int]], operations: Sequence[str]) -> list[Prompt]:
    prompts = []
    for a, b in pairs:
        for operation in operations:
            # b >= a; a difference exists in one order only
            for x, y in [(b, a)] if operation == "-" else dict.fromkeys([(a, b), (b, a)]):
                prompts.append(Prompt(f"{x}{operation}{y}=", answer=str(OPERATIONS[operation](x, y))))
    return prompts
