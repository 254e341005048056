"""Who sits where: the map from agents to roles as a pure function of the episode index.

One idea: `assignment(episode)` answers for any episode at any time, so an exchange costs nothing,
resets nothing and can be replayed. Seat 0 is the pioneer, the others are observers in order of
play. Weights never move; learners do not know that roles exist.

The adaptive schedules (`Bandit`, `ScoreDriven`) decide from held-out scores, between iterations,
and keep every decision with the first episode that it governs: what was played can be asked for at
any time, and only `observe` changes anything. A schedule is a class and one line of `SCHEDULES`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import permutations
from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigError, unknown_name, whole
from ..rng import rng

__all__ = [
    "SCHEDULES",
    "AdaptiveRoles",
    "Bandit",
    "Never",
    "Periodic",
    "RandomRoles",
    "RoleSchedule",
    "Rotation",
    "ScoreDriven",
    "make_schedule",
]


class RoleSchedule(Protocol):
    """The role assignment of every episode."""

    def assignment(self, episode: int) -> tuple[int, ...]:
        """Returns `seats`: `seats[k]` is the index of the agent in seat k."""
        ...


@runtime_checkable
class AdaptiveRoles(Protocol):
    """A schedule that decides from what the agents have learned. `assignment` changes nothing, so
    that evaluations may share it."""

    def assignment(self, episode: int) -> tuple[int, ...]:
        """As in `RoleSchedule`; past episodes keep their answer, future ones have that of the last
        decision."""
        ...

    def observe(self, episode: int, scores: Sequence[float]) -> None:
        """Takes the held-out task reward of each agent alone and decides who sits where from
        `episode` on, which has not been played."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The whole state, as JSON data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


class Never:
    """Agent i sits in seat i, for ever (the paper's "no role exchange" ablation)."""

    def __init__(self, num_agents: int):
        self.num_agents = num_agents
        self._seats = tuple(range(num_agents))

    def assignment(self, episode: int) -> tuple[int, ...]:
        return self._seats


class Periodic(Never):
    """The order of play is reversed every `every` episodes; with two agents the pioneer and the
    observer swap.

    The paper exchanges every 5 iterations, which is `every = 5 * batch_size`.

    Source: Ma et al. (2024), arXiv 2410.06101, section 3.

    >>> roles = Periodic(2, every=3)
    >>> [roles.assignment(e) for e in (0, 2, 3, 6)]
    [(0, 1), (0, 1), (1, 0), (0, 1)]
    """

    def __init__(self, num_agents: int, every: int):
        super().__init__(num_agents)
        self.every = _every(every)

    def assignment(self, episode: int) -> tuple[int, ...]:
        return self._seats[::-1] if episode // self.every % 2 else self._seats


class Rotation(Periodic):
    """Every `every` episodes each agent moves one seat on, the last to the front; with two agents
    the same as `Periodic`.

    >>> [Rotation(3, every=1).assignment(e) for e in range(3)]
    [(0, 1, 2), (2, 0, 1), (1, 2, 0)]
    """

    def assignment(self, episode: int) -> tuple[int, ...]:
        shift = episode // self.every % self.num_agents
        return self._seats[-shift:] + self._seats[:-shift] if shift else self._seats


class RandomRoles(Periodic):
    """A uniformly random order of play, drawn anew every `every` episodes from (seed, episode //
    every)."""

    def __init__(self, num_agents: int, every: int = 1, seed: int = 0):
        super().__init__(num_agents, every)
        self.seed = seed
        self._block, self._order = -1, self._seats

    def assignment(self, episode: int) -> tuple[int, ...]:
        block = episode // self.every
        if block != self._block:
            order = rng(self.seed, block, stream="roles").permutation(self.num_agents)
            self._block, self._order = block, tuple(int(agent) for agent in order)
        return self._order


class ScoreDriven:
    """Roles by merit: agents sit in the order of their latest held-out scores; equals in the order
    of their indices.

    Before the first `observe`, agent i sits in seat i.

    Args:
        num_agents: N >= 1.
        leader: Who becomes the pioneer: "best", so that the others can build on the best answer; or
            "worst", who then learns from what the others make of its answers.

    >>> roles = ScoreDriven(3)
    >>> roles.observe(64, [0.2, 0.9, 0.5])
    >>> roles.assignment(63), roles.assignment(64)
    ((0, 1, 2), (1, 2, 0))
    """

    def __init__(self, num_agents: int, leader: str = "best"):
        if leader not in ("best", "worst"):
            raise unknown_name("leader", leader, ["best", "worst"])
        self.num_agents, self.leader = _agents(num_agents), leader
        self.history: list[tuple[int, tuple[int, ...]]] = [(0, tuple(range(self.num_agents)))]

    def assignment(self, episode: int) -> tuple[int, ...]:
        return self.history[bisect_right(self.history, episode, key=lambda entry: entry[0]) - 1][1]

    def observe(self, episode: int, scores: Sequence[float]) -> None:
        """See `AdaptiveRoles.observe`.

        Raises:
            ConfigError: Not one finite score per agent, or an episode before the last decision.
        """
        values = self._checked(episode, scores)
        sign = -1 if self.leader == "best" else 1
        self._decide(episode, tuple(sorted(range(self.num_agents), key=lambda agent: (sign * values[agent], agent))))

    def state_dict(self) -> dict[str, Any]:
        return {"history": [[first, list(seats)] for first, seats in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`.

        Raises:
            ConfigError: It is that of another number of agents.
        """
        history = [(int(first), tuple(int(agent) for agent in seats)) for first, seats in state["history"]]
        if (
            not history
            or history[0][0] != 0
            or any(sorted(seats) != list(range(self.num_agents)) for _, seats in history)
        ):
            raise ConfigError(
                f"role history {state['history']!r}; expected decisions from episode 0 on that seat {self.num_agents} "
                "agents."
            )
        self.history = history

    def _checked(self, episode: int, scores: Sequence[float]) -> list[float]:
        values = [float(score) for score in scores]
        if len(values) != self.num_agents or not all(map(math.isfinite, values)):
            raise ConfigError(
                f"role schedule got the scores {values}; expected {self.num_agents} finite numbers, one for each agent."
            )
        if episode < self.history[-1][0]:
            raise ConfigError(
                f"role schedule was to decide from episode {episode} on; expected at least {self.history[-1][0]}, from "
                "which on the last "
                "decision is in force. What has been played cannot be decided again."
            )
        return values

    def _decide(self, episode: int, seats: tuple[int, ...]) -> None:
        if self.history[-1][0] == episode:  # nothing has been played under the last decision
            self.history[-1] = (episode, seats)
        elif self.history[-1][1] != seats:
            self.history.append((int(episode), seats))


class Bandit(ScoreDriven):
    """Roles by trial: a bandit whose arms are role assignments and whose payoff is what the agents
    gained while an assignment was in force.

    The payoff is the difference of the mean held-out score between two `observe`s. It falls as
    agents converge and the best assignment may change, so old payoffs are discounted. Arms are all
    N! orders of play for N <= 3, and the N rotations beyond. The rule is discounted UCB: the arm
    with the largest `mean_i + spread * sqrt(exploration * log(n) / n_i)` of discounted means and
    counts, every arm once before, in an order drawn from the seed; `spread` is max - min of the
    payoffs seen, since their scale is the task's.

    Source: Garivier and Moulines, "On Upper-Confidence Bound Policies for Switching Bandit
    Problems", ALT 2011, section 2.

    Args:
        num_agents: N >= 1; with one agent there is one arm.
        seed: Of the order of first trials, which also breaks ties.
        discount: gamma in (0, 1]; 1 / (1 - gamma) decisions is how far it remembers.
        exploration: xi > 0. The analysis of the paper wants more than 1/2; a run has tens of
            decisions, not thousands, so the default tries less.
    """

    def __init__(self, num_agents: int, seed: int = 0, discount: float = 0.95, exploration: float = 0.1):
        super().__init__(num_agents)
        if not 0 < discount <= 1 or not 0 < exploration < math.inf:
            raise ConfigError(
                f"Bandit with discount={discount!r}, exploration={exploration!r}; expected 0 < discount <= 1 and "
                "exploration > 0."
            )
        self.seed, self.discount, self.exploration = int(seed), float(discount), float(exploration)
        first = tuple(range(self.num_agents))
        arms = (
            list(permutations(first))
            if self.num_agents <= 3
            else [first[-k:] + first[:-k] if k else first for k in first]
        )
        self.arms = [
            arms[int(number)] for number in rng(self.seed, len(arms), stream="role_bandit").permutation(len(arms))
        ]
        self.history = [(0, self.arms[0])]
        self.arm = 0
        self.payoffs: list[tuple[int, float]] = []  # (arm, payoff) in order
        self.level: float | None = None  # mean held-out score at the last `observe`, and the episode that came next
        self.since = 0

    def observe(self, episode: int, scores: Sequence[float]) -> None:
        """See `AdaptiveRoles.observe`. The first call, and one before any episode of the arm in
        force was played, only sets the level to gain from.

        Raises:
            ConfigError: Not one finite score per agent, or an episode before the last decision.
        """
        values = self._checked(episode, scores)
        mean = sum(values) / len(values)
        if self.level is not None and episode > self.since:
            self.payoffs.append((self.arm, mean - self.level))
            self.arm = self._choose()
            self._decide(episode, self.arms[self.arm])
        self.level, self.since = mean, int(episode)

    def state_dict(self) -> dict[str, Any]:
        own = {
            "arm": self.arm,
            "payoffs": [list(pair) for pair in self.payoffs],
            "level": self.level,
            "since": self.since,
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.arm, self.level, self.since = int(state["arm"]), state["level"], int(state["since"])
        self.payoffs = [(int(arm), float(payoff)) for arm, payoff in state["payoffs"]]

    def _choose(self) -> int:
        counts, sums = [0.0] * len(self.arms), [0.0] * len(self.arms)
        for age, (arm, payoff) in enumerate(reversed(self.payoffs)):
            counts[arm] += self.discount**age
            sums[arm] += self.discount**age * payoff
        if 0.0 in counts:
            return counts.index(0.0)
        seen = [payoff for _, payoff in self.payoffs]
        scale = (max(seen) - min(seen)) * math.sqrt(self.exploration * max(0.0, math.log(sum(counts))))
        return max(range(len(self.arms)), key=lambda i: sums[i] / counts[i] + scale / math.sqrt(counts[i]))


SCHEDULES: dict[str, Callable[..., RoleSchedule]] = {
    "periodic": Periodic,
    "rotation": Rotation,
    "random": RandomRoles,
    "never": Never,
    "bandit": Bandit,
    "score": ScoreDriven,
}
"""Name -> class of a role schedule. Its constructor takes those of `num_agents`, `every` (episodes
between exchanges) and `seed` that it needs, under these names; docs/role_exchange.md has a row for
each."""


def make_schedule(name: str | RoleSchedule, num_agents: int, every: int = 1, seed: int = 0) -> RoleSchedule:
    """Builds a schedule from its name. Anything with `assignment` is returned as it is.

    Args:
        name: A name of `SCHEDULES`, or one's own `RoleSchedule`.
        num_agents: N.
        every: Episodes between exchanges; adaptive schedules decide whenever they `observe`.
        seed: Seed of those that draw.
    """
    if not isinstance(name, str):
        if not callable(getattr(name, "assignment", None)):
            raise ConfigError(
                f"role schedule {name!r} has no method assignment(episode) -> seats; give a name or a RoleSchedule."
            )
        return name
    if name not in SCHEDULES:
        raise unknown_name("role schedule", name, SCHEDULES)
    kind, offered = SCHEDULES[name], {"num_agents": num_agents, "every": every, "seed": seed}
    return kind(**{option: value for option, value in offered.items() if option in signature(kind).parameters})


def _agents(num_agents: int) -> int:
    return whole("num_agents", num_agents, 1)


def _every(every: int) -> int:
    return whole("exchange_every", every, 1, "episodes; use roles='never' to switch exchanges off")
