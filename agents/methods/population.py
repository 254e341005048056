"""A pool of earlier selves to play against: snapshots, who is matched with whom, and Elo ratings.

One idea: a member of the pool is a name, an iteration and a set of tensors, and everything random
about it is a function of (seed, iteration, name), so that a resumed run meets the same opponents.
Who plays in which seat, and what a score is, is the training loop's business.

Source: ratings: Elo, "The Rating of Chessplayers, Past and Present" (1978), section 1.4;
matchmaking "elo": prioritised fictitious self-play, Vinyals et al., "Grandmaster level in StarCraft
II", Nature 575 (2019), methods, with f(p) = (1 - p)^2.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from coevo_env.errors import ConfigError, unknown_name, whole
from coevo_env.rng import rng

__all__ = ["INITIAL_RATING", "MATCHMAKING", "Member", "Population", "PopulationConfig", "expected_score"]

INITIAL_RATING = 1000.0
"""Rating of an agent that has not played."""

MATCHMAKING = ("uniform", "elo", "recent")
"""Rules by which a learner is matched with a member of the pool."""


@dataclass(frozen=True)
class PopulationConfig:
    """Settings of play against earlier selves; see `Population` for their ranges.

    Attributes:
        capacity: Snapshots kept; 0 switches it off.
        every: Iterations between snapshots.
        matchmaking: "uniform", "elo", "recent".
        share: Probability with which a snapshot takes an agent's place for an iteration.
    """

    capacity: int = 0
    every: int = 10
    matchmaking: str = "uniform"
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.capacity:
            Population(self.capacity, self.every, self.matchmaking, self.share)


@dataclass(frozen=True)
class Member:
    """A snapshot of an agent.

    Attributes:
        name: The agent.
        iteration: When it was taken.
        tensors: Its tensors by name, on the CPU, copies of its own.
    """

    name: str
    iteration: int
    tensors: Mapping[str, torch.Tensor]

    @property
    def key(self) -> str:
        """What the member is called in ratings: `llm1@40`."""
        return f"{self.name}@{self.iteration}"


def expected_score(rating: float, other: float) -> float:
    """The share of points that Elo expects of a player against another: 10 to 1 for each 400
    points.

    >>> round(expected_score(1400.0, 1000.0), 4)
    0.9091
    """
    return 1.0 / (1.0 + 10.0 ** ((other - rating) / 400.0))


class Population:
    """Snapshots of agents, and ratings of snapshots and live agents.

    Args:
        capacity: Members at most, >= 1; the oldest gives way, but the very first one, the initial
            model, never does.
        every: Iterations between snapshots.
        matchmaking: "uniform": every member alike; "recent": each distinct iteration half as likely
            as the one after it; "elo": in proportion to (1 - p)^2 with p the expected score of the
            learner, so that those who beat it come first and those it always beats hardly ever.
        share: Probability with which `pick` gives a member instead of the live partner.
        seed: Of the draws of `pick`.
        step: Elo's K, rating points per game.

    Attributes:
        members: Oldest first.
        elo: Ratings by live agent's name and by member's key.

    Raises:
        ConfigError: Arguments out of range.
    """

    def __init__(
        self,
        capacity: int,
        every: int,
        matchmaking: str = "uniform",
        share: float = 0.5,
        seed: int = 0,
        step: float = 8.0,
    ):
        whole("population capacity", capacity, 1, "the initial model is always kept")
        whole("population every", every, 1, "iterations between snapshots")
        if matchmaking not in MATCHMAKING:
            raise unknown_name("matchmaking", matchmaking, MATCHMAKING)
        if not 0 <= share <= 1:
            raise ConfigError(
                f"population share={share!r}; expected a probability, that of meeting a member of the pool."
            )
        if not (step > 0 and np.isfinite(step)):
            raise ConfigError(f"population step={step!r}; expected a number > 0, rating points per game.")
        self.capacity, self.every, self.matchmaking, self.share = int(capacity), int(every), matchmaking, float(share)
        self.seed, self.step = int(seed), float(step)
        self.members: list[Member] = []
        self.elo: dict[str, float] = {}
        self.recorded = 0  # games

    def due(self, iteration: int) -> bool:
        """Whether a snapshot is to be taken after `iteration` finished iterations; 0 is the initial
        model."""
        return iteration % self.every == 0

    def add(self, name: str, iteration: int, tensors: Mapping[str, torch.Tensor]) -> Member:
        """Takes a snapshot, which begins with the rating of the live agent.

        Args:
            name: The agent; an `@` is not allowed in it.
            iteration: Finished iterations.
            tensors: What makes the agent what it is; copied to the CPU.
        """
        if "@" in name or not name:
            raise ConfigError(
                f"population: an agent cannot be called {name!r}; its snapshots are called `<agent>@<iteration>`."
            )
        copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        member = Member(name, int(iteration), copies)
        if any(member.key == known.key for known in self.members):
            raise ConfigError(
                f"population: {member.key} is a member already; expected one snapshot of an agent per iteration."
            )
        self.members.append(member)
        self.elo[member.key] = self.elo.setdefault(name, INITIAL_RATING)
        while len(self.members) > self.capacity:
            del self.elo[self.members.pop(1).key]
        return member

    def probabilities(self, learner: str) -> np.ndarray:
        """How likely each member is to be the one that `pick` gives to a learner, (members,)."""
        if self.matchmaking == "uniform":
            weights = np.ones(len(self.members))
        elif self.matchmaking == "recent":
            when = [member.iteration for member in self.members]
            newer = np.array([len({other for other in when if other > mine}) for mine in when])
            weights = 0.5**newer
        else:
            rating = self.elo.get(learner, INITIAL_RATING)
            weights = np.array([expected_score(self.elo[member.key], rating) ** 2 for member in self.members])
        return weights / weights.sum()

    def pick(self, iteration: int, learner_name: str) -> Member | None:
        """Whom a learner meets in an iteration: a member, or None for its live partner. The same
        answer whenever it is asked.

        Raises:
            ConfigError: The pool is empty.
        """
        if not self.members:
            raise ConfigError(
                "a population of one: the pool is empty and there is nothing to match against. Add the initial agents "
                "before the first pick."
            )
        draw = rng(self.seed, iteration, zlib.crc32(learner_name.encode()), 1, stream="matchmaking")
        if draw.random() >= self.share:
            return None
        cumulative = self.probabilities(learner_name).cumsum()
        return self.members[
            min(int(np.searchsorted(cumulative, draw.random() * cumulative[-1], side="right")), len(self.members) - 1)
        ]

    def record(self, iteration: int, names: Sequence[str], scores: np.ndarray) -> None:
        """Moves the ratings by the games of a batch: each episode every pair has a winner, the one
        with the higher score, or a draw.

        Episodes count one after another. Within an episode all pairs are judged by the ratings
        before it, and each moves both ratings by K / (N - 1) times what the score differs from its
        expectation, so that ratings always keep their sum. Two seats with the same player have no
        game.

        Args:
            iteration: For messages.
            names: N players: live agents, or members by key.
            scores: (B, N), finite, columns in the order of `names`.

        Raises:
            ConfigError: Fewer than two players, an unknown member, or scores of another shape.
        """
        scores = np.asarray(scores, np.float64)
        if len(names) < 2:
            raise ConfigError(
                f"population of one: iteration {iteration} has the player {list(names)}; expected at least 2 to "
                "compare."
            )
        if scores.ndim != 2 or scores.shape[1] != len(names) or not np.isfinite(scores).all():
            raise ConfigError(
                f"population: iteration {iteration} has scores of shape {scores.shape} for {len(names)} players; "
                "expected finite numbers (B, "
                f"{len(names)})."
            )
        for name in names:
            if "@" in name and name not in self.elo:
                raise ConfigError(
                    f"population: iteration {iteration} has the player {name!r}, who is no member; members: "
                    f"{self._keys()}."
                )
        ratings = np.array([self.elo.setdefault(name, INITIAL_RATING) for name in names])
        rates = self.step / (len(names) - 1)
        pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names)) if names[i] != names[j]]
        for row in scores:
            moves = np.zeros(len(names))
            for i, j in pairs:
                points = 0.5 * (1.0 + np.sign(row[i] - row[j])) - expected_score(ratings[i], ratings[j])
                moves[i] += rates * points
                moves[j] -= rates * points
            for player in set(names):  # a player in several seats has one rating
                seats = [k for k, name in enumerate(names) if name == player]
                ratings[seats] += moves[seats].sum()
        self.elo.update(zip(names, ratings.tolist(), strict=True))
        self.recorded += len(scores) * len(pairs)

    def metrics(self) -> dict[str, float]:
        """Size of the pool, its best, worst and spread of ratings, games so far, and the rating of
        each live agent.

        The keys are the same from the moment all agents have been added.
        """
        pool = [self.elo[member.key] for member in self.members] or [INITIAL_RATING]
        live = {f"population/elo/{name}": rating for name, rating in sorted(self.elo.items()) if "@" not in name}
        return {
            "population/size": float(len(self.members)),
            "population/games": float(self.recorded),
            "population/best": max(pool),
            "population/worst": min(pool),
            "population/spread": max(pool) - min(pool),
            **live,
        }

    def state_dict(self) -> dict[str, Any]:
        """A flat state: `member.<number>.<tensor>` are tensors, the rest is JSON."""
        state: dict[str, Any] = {
            f"member.{number}.{key}": tensor
            for number, member in enumerate(self.members)
            for key, tensor in member.tensors.items()
        }
        state["members"] = [[member.name, member.iteration] for member in self.members]
        state["elo"], state["recorded"] = dict(self.elo), self.recorded
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`.

        Raises:
            KeyError: The state is no population's.
        """
        tensors: list[dict[str, torch.Tensor]] = [{} for _ in state["members"]]
        for key, value in state.items():
            if key.startswith("member."):
                number, name = key.removeprefix("member.").split(".", 1)
                tensors[int(number)][name] = value.detach().to("cpu", copy=True)
        self.members = [
            Member(name, int(when), held) for (name, when), held in zip(state["members"], tensors, strict=True)
        ]
        self.elo, self.recorded = {name: float(rating) for name, rating in state["elo"].items()}, int(state["recorded"])

    def _keys(self) -> str:
        return ", ".join(member.key for member in self.members) or "none"
