"""Who sits where: the map from agents to roles as a pure function of the episode index.

One idea: `assignment(episode)` answers for any episode at any time, so an exchange costs nothing, resets nothing and can be replayed.
Seat 0 is the pioneer, the others are observers in order of play. Weights never move; learners do not know that roles exist.
"""

from __future__ import annotations

from typing import Protocol

from .errors import ConfigError, unknown_name
from .rng import rng

__all__ = ["Never", "Periodic", "RandomRoles", "RoleSchedule", "Rotation", "make_schedule"]


class RoleSchedule(Protocol):
    """The role assignment of every episode."""

    def assignment(self, episode: int) -> tuple[int, ...]:
        """Returns `seats`: `seats[k]` is the index of the agent in seat k."""
        ...


class Never:
    """Agent i sits in seat i, for ever (the paper's "no role exchange" ablation)."""

    def __init__(self, num_agents: int):
        self.num_agents = num_agents
        self._seats = tuple(range(num_agents))

    def assignment(self, episode: int) -> tuple[int, ...]:
        return self._seats


class Periodic(Never):
    """The order of play is reversed every `every` episodes; with two agents the pioneer and the observer swap.

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
    """Every `every` episodes each agent moves one seat on, the last to the front; with two agents the same as `Periodic`.

    >>> [Rotation(3, every=1).assignment(e) for e in range(3)]
    [(0, 1, 2), (2, 0, 1), (1, 2, 0)]
    """

    def assignment(self, episode: int) -> tuple[int, ...]:
        shift = episode // self.every % self.num_agents
        return self._seats[-shift:] + self._seats[:-shift] if shift else self._seats


class RandomRoles(Periodic):
    """A uniformly random order of play, drawn anew every `every` episodes from (seed, episode // every)."""

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


def make_schedule(name: str | RoleSchedule, num_agents: int, every: int = 1, seed: int = 0) -> RoleSchedule:
    """Builds a schedule from its name: "periodic", "rotation", "random" or "never". Anything with `assignment` is returned as it is.

    Args:
        name: The rule, or one's own `RoleSchedule`.
        num_agents: N.
        every: Episodes between exchanges.
        seed: Seed of "random".
    """
    if not isinstance(name, str):
        if not callable(getattr(name, "assignment", None)):
            raise ConfigError(f"role schedule {name!r} has no method assignment(episode) -> seats; give a name or a RoleSchedule.")
        return name
    if name == "never":
        return Never(num_agents)
    if name == "periodic":
        return Periodic(num_agents, every)
    if name == "rotation":
        return Rotation(num_agents, every)
    if name == "random":
        return RandomRoles(num_agents, every, seed)
    raise unknown_name("role schedule", name, ["periodic", "rotation", "random", "never"])


def _every(every: int) -> int:
    if int(every) != every or every < 1:
        raise ConfigError(f"role exchange every {every!r} episodes; expected a whole number >= 1 (use 'never' to switch it off).")
    return int(every)
