"""A zero-sum token game whose equilibrium is known: biased rock-paper-scissors, one token a turn.

One idea: what a move earns is decided by the other's move, so nothing that is fixed is best, and a
learner is right when it comes close to the equilibrium. With KL shaping this is the equilibrium of
the *regularised* game, in which each player pays beta for every nat away from the reference policy:
it is unique, every move has a positive probability in it, and it is the quantal response
equilibrium with the reference as prior. All of it is computed here from the payoff matrix, exactly.
Nothing here trains or samples.

Play it with `context="none"`, so that both choose unseen, and `mixing="own"`: the joint reward is
zero-sum as it is, and "competitive" would double it. With `context="all"` the second player sees
the first one's move and wins.

Source: McKelvey and Palfrey, "Quantal Response Equilibria for Normal Form Games", Games and
Economic Behavior 10 (1995), section 2; the regularised game with a reference: Jacob et al.,
"Modeling Strong and Human-Like Gameplay with KL-Regularized Search", ICML 2022.

Version history: 1 (0.2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import ConfigError
from ..game.reference import IntTokenizer, ReferencePolicy
from ..game.rules import Rules
from ..game.task import Prompt, Task

__all__ = ["BIASED", "Equilibrium", "equilibrium", "exploitability", "move_probabilities", "task"]

BIASED = ((0.0, -1.0, 0.25), (1.0, 0.0, -0.25), (-0.25, 0.25, 0.0))
"""Rock, paper, scissors in which paper's win counts four times; without KL the equilibrium is (1/6,
1/6, 2/3): everybody expects paper."""

MAX_MOVES = 8


@dataclass(frozen=True, eq=False)  # arrays have no truth value
class Payoffs:
    """What moves earn against each other, by the pioneer's matrix (M, M)."""

    matrix: np.ndarray

    def __call__(self, prompts: Sequence[Prompt], said: Sequence[tuple[str, ...]]) -> list[list[float]]:
        result = []
        stake = float(np.abs(self.matrix).max())
        for texts in said:
            played = [_move(text, len(self.matrix)) for text in texts]
            if len(played) == 1:
                result.append([-stake if played[0] is None else float(self.matrix[played[0]].mean())])
                continue
            earned = [0.0] * len(played)
            for i, j in combinations(range(len(played)), 2):
                paid = self._versus(played[i], played[j], stake) / (len(played) - 1)
                earned[i] += paid
                earned[j] -= paid
            result.append(earned)
        return result

    def _versus(self, first: int | None, second: int | None, stake: float) -> float:
        if first is None or second is None:
            return stake * ((first is not None) - (second is not None))
        return float(self.matrix[first, second])


@dataclass(frozen=True, eq=False)  # arrays have no truth value
class BestAnswer:
    """The best answer to the last move seen, or to an opponent who moves at random."""

    matrix: np.ndarray

    def __call__(self, prompt: Prompt, seen: Sequence[str]) -> str:
        move = _move(seen[-1], len(self.matrix)) if seen else None
        return str(int(np.argmax(self.matrix.mean(1) if move is None else -self.matrix[move])) + 1)


def _move(text: str, moves: int) -> int | None:
    """The number of the move that a text is, if it is one."""
    return {str(number + 1): number for number in range(moves)}.get(text.strip())


def task(payoff: Sequence[Sequence[float]] = BIASED) -> Task:
    """The game.

    Args:
        payoff: M x M; `payoff[i][j]` is what the pioneer earns, and the observer loses, when the
            pioneer plays move i and the observer move j (tokens i + 1 and j + 1; token 0 is EOS,
            which is refused). If the matrix is antisymmetric the seats do not matter.

    A response that is no move loses the largest payoff there is. Among N > 2 agents each earns the
    mean of its games against the others, the earlier seat being the pioneer. An agent alone, as in
    evaluation, earns the mean against an opponent who moves uniformly at random.
    """
    matrix = _matrix(payoff)
    moves = len(matrix)
    if matrix.shape != (moves, moves) or moves < 2:
        raise ConfigError(
            f"matching task with a payoff of shape {matrix.shape}; expected a square matrix of at least 2 moves."
        )
    return Task(
        name="matching",
        train=["0"],
        validation=["0 1"],
        test=["0 0"],
        joint_rewards={"payoff": Payoffs(matrix)},
        templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"},
        max_new_tokens=1,
        min_new_tokens=1,
        max_context=8,
        model="table",
        tokenizer=IntTokenizer(moves + 1),
        scripted=BestAnswer(matrix),
        description=f"zero-sum token game with a known equilibrium ({moves} moves)",
    )


@dataclass(frozen=True)
class Equilibrium:
    """A pair of mixed strategies of which neither player wants to leave its own.

    Attributes:
        row, column: Probabilities of the moves of the pioneer, (M,), and of the observer, (K,).
        value: What the pioneer earns in expectation, without its KL.
    """

    row: np.ndarray
    column: np.ndarray
    value: float


def equilibrium(
    payoff: Sequence[Sequence[float]] | np.ndarray,
    beta: float,
    reference: Sequence[float] | tuple[Sequence[float], Sequence[float]] | None = None,
) -> Equilibrium:
    """The equilibrium of a zero-sum matrix game in which each player pays beta per nat of KL to its
    reference.

    With beta > 0, by Newton's method on the pioneer's side of max_x min_y x'Ay - beta KL(x || p) +
    beta KL(y || q), where the inner minimum is `y ~ q exp(-A'x / beta)`: a smooth, strictly concave
    function of x. With beta = 0, an extreme Nash equilibrium, by trying every square kernel of the
    matrix (Shapley and Snow, "Basic Solutions of Discrete Games", 1950).

    Args:
        payoff: A, (M, K), what the pioneer earns.
        beta: KL coefficient >= 0.
        reference: Probabilities of the moves, all positive: (M,) for both players, or one for each.
            None is uniform.

    Raises:
        ConfigError: A matrix or probabilities that are none; beta below 0, or too close to 0 to be
            solved; more than 8 moves with beta = 0.

    >>> [round(p * 6, 9) for p in equilibrium(BIASED, 0.0).row.tolist()]
    [1.0, 1.0, 4.0]
    """
    matrix = _matrix(payoff)
    if not beta >= 0 or not np.isfinite(beta):
        raise ConfigError(f"equilibrium with beta={beta!r}; expected a number >= 0 (0 is the Nash equilibrium).")
    p, q = _references(reference, *matrix.shape)
    row, column = _nash(matrix) if beta == 0 else _newton(matrix, beta, p, q)
    return Equilibrium(row, column, float(row @ matrix @ column))


def exploitability(
    row: np.ndarray,
    column: np.ndarray,
    payoff: Sequence[Sequence[float]] | np.ndarray,
    beta: float = 0.0,
    reference: Sequence[float] | tuple[Sequence[float], Sequence[float]] | None = None,
) -> float:
    """How much the two players together could gain if each gave its best answer to the other: 0
    exactly at the equilibrium.

    Args:
        row, column: Probabilities of the moves of the pioneer and of the observer.
        payoff, beta, reference: As in `equilibrium`; with beta > 0 gains are net of KL. Its best
            answers are enumerated, not searched for.
    """
    matrix = _matrix(payoff)
    p, q = _references(reference, *matrix.shape)
    x, y = _probabilities("row", row, len(matrix)), _probabilities("column", column, matrix.shape[1])
    ours, theirs = matrix @ y, -(x @ matrix)
    if beta == 0:
        return float(ours.max() + theirs.max())
    gain = beta * (_logsum(np.log(p) + ours / beta) + _logsum(np.log(q) + theirs / beta))
    return float(gain + beta * (_kl(x, p) + _kl(y, q)))


def move_probabilities(policy: ReferencePolicy, rules: Rules, responses: Sequence[str] = ()) -> np.ndarray:
    """How a policy moves, exactly: probabilities (M,) of the moves, at the first prompt of the
    rules' split.

    Args:
        policy: Anything with the `score` of a `ReferencePolicy`.
        rules: The game.
        responses: The moves it has seen.
    """
    context = rules.turn_context(0, rules.task.prompt(rules.split, 0), responses)
    moves = np.arange(1, rules.vocab_size)[:, None]  # (M, 1)
    scores = policy.score([list(context)] * len(moves), moves, np.ones(len(moves), np.int64), rules.sampling)
    return np.exp(scores[:, 0])


# -------------------------------------------------------------------- solvers
def _newton(matrix: np.ndarray, beta: float, p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logp, logq = np.log(p), np.log(q)

    def answer(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        x = np.exp(theta)
        logits = logq - x @ matrix / beta
        total = _logsum(logits)
        return float(-beta * (x @ (theta - logp)) - beta * total), x, np.exp(logits - total)

    scale = max(float(np.abs(matrix).max()), 1e-300)
    tolerance = 1e-14 * (
        10 * scale + scale**2 / beta + 10 * beta
    )  # rounding, also in x'A / beta, which moves y and with it the gradient
    theta = logp.copy()  # log x
    value, x, y = answer(theta)
    share = 1.0
    for _ in range(500):
        gradient = matrix @ y - beta * (theta - logp)
        gap = float(x @ np.abs(gradient - x @ gradient))  # 0 where all moves are worth the same, net of KL
        if gap <= tolerance:
            best = logp + matrix @ y / beta
            best -= _logsum(best)
            if beta * float(x @ (theta - best)) <= 1e-11 * scale:  # what the best answer to y would gain
                return x, y
            share /= 2  # a move has vanished that should not have; the gap, which weighs moves by x, cannot see it
            theta = np.logaddexp(theta + np.log1p(-share), best + np.log(share))
            value, x, y = answer(theta)
            continue
        # with the step d = x s the Newton system stays well scaled where a move is all but never
        # played
        curvature = beta * np.eye(len(x)) + matrix @ (np.diag(y) - np.outer(y, y)) @ matrix.T @ np.diag(x) / beta
        pair = np.linalg.solve(curvature, np.stack([gradient, np.ones_like(x)], 1))
        step = pair[:, 0] - pair[:, 1] * (x @ pair[:, 0]) / (x @ pair[:, 1])
        size = min(1.0, 5.0 / max(step.max(), 1e-300))  # a move may vanish at once, but not appear from nothing
        slope = float(x @ (gradient * step))
        while True:
            new = theta + size * step
            new = new - _logsum(new)
            found = answer(new)
            if found[0] >= value + 1e-4 * size * slope - 1e-15 * max(1.0, abs(value)):
                break
            size /= 2
            if size < 1e-12:  # rounding hides any further gain
                if gap <= 1e4 * tolerance:
                    return x, y
                raise ConfigError(
                    f"equilibrium with beta={beta!r}: no convergence; take a larger beta, or 0 for the Nash "
                    "equilibrium."
                )
        theta, (value, x, y) = new, found
    raise ConfigError(
        f"equilibrium with beta={beta!r}: no convergence in 500 steps; take a larger beta, or 0 for the Nash "
        "equilibrium."
    )


def _nash(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if max(matrix.shape) > MAX_MOVES:
        raise ConfigError(
            f"Nash equilibrium of a {matrix.shape} game; expected at most {MAX_MOVES} moves (beta > 0 has no limit)."
        )
    tolerance = 1e-10 * max(1.0, float(np.abs(matrix).max()))
    for size in range(1, min(matrix.shape) + 1):
        for rows in combinations(range(matrix.shape[0]), size):
            for columns in combinations(range(matrix.shape[1]), size):
                kernel = matrix[np.ix_(rows, columns)]
                edge = np.block([[kernel, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
                if abs(np.linalg.det(edge)) < 1e-12:
                    continue
                unit = np.eye(size + 1)[-1]
                y, x = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[0])
                y[list(columns)] = np.linalg.solve(edge, unit)[:-1]
                edge[:-1, :-1] = kernel.T
                x[list(rows)] = np.linalg.solve(edge, unit)[:-1]
                if min(x.min(), y.min()) >= -tolerance and (matrix @ y).max() <= (x @ matrix).min() + tolerance:
                    x, y = np.clip(x, 0, None), np.clip(y, 0, None)
                    return x / x.sum(), y / y.sum()
    raise AssertionError("every matrix game has an extreme equilibrium")


def _matrix(payoff) -> np.ndarray:
    try:
        matrix = np.array(payoff, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"payoff {payoff!r}; expected a matrix of numbers, one row for each move of the pioneer."
        ) from None
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise ConfigError(
            f"payoff of shape {matrix.shape}; expected a matrix of finite numbers, one row for each move of the "
            "pioneer."
        )
    return matrix


def _references(reference, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    if reference is None:
        return np.full(rows, 1 / rows), np.full(columns, 1 / columns)
    pair = (
        reference
        if isinstance(reference, tuple) and len(reference) == 2 and np.ndim(reference[0]) == 1
        else (reference, reference)
    )
    p, q = _probabilities("reference", pair[0], rows), _probabilities("reference", pair[1], columns)
    if min(p.min(), q.min()) <= 0:
        raise ConfigError("a reference with a probability of 0; expected all moves to be possible, or KL is infinite.")
    return p, q


def _probabilities(name: str, values, size: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != (size,) or not (array >= 0).all() or abs(array.sum() - 1) > 1e-4:
        raise ConfigError(f"{name} {np.round(array, 4).tolist()}; expected {size} probabilities that sum to 1.")
    return array / array.sum()


def _logsum(logits: np.ndarray) -> float:
    return float(np.logaddexp.reduce(logits))


def _kl(x: np.ndarray, p: np.ndarray) -> float:
    used = x > 0
    return float((x[used] * (np.log(x[used]) - np.log(p[used]))).sum())
