"""Play against earlier selves: who of the population takes an agent's place in an iteration, and
what that says of everybody's rating.

One idea: in each iteration one agent's place, taken in turn, may go to a snapshot. The others learn
from that batch; the agent itself sits out, neither updated nor measured. So every learner meets the
past as often as the others do, and a batch still has one opponent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coevo_env.errors import ConfigError
from coevo_env.game.rollout import Rollout
from coevo_env.lm.model import LanguageModel

from ..learners.policy import ActorCritic, spare, take
from ..methods.population import Member, Population
from ..runs.config import Config

__all__ = ["Opponents"]


class Opponents:
    """The population of a run.

    Args:
        config: Settings; `config.population` is on.
        learners: All learners.
        members: For each learner the numbers of its agents.
        agents: Names of all agents.
        reference: The initial model.

    Attributes:
        population: Snapshots and ratings.

    Raises:
        ConfigError: A learner's policy does not show its weights.
    """

    def __init__(
        self,
        config: Config,
        learners: Sequence[Any],
        members: Sequence[Sequence[int]],
        agents: Sequence[str],
        reference: LanguageModel,
    ):
        for learner in learners:
            if not isinstance(learner.policy, ActorCritic):
                raise ConfigError(
                    f"population.capacity={config.population.capacity} needs learners whose policy is an ActorCritic; "
                    "got a "
                    f"{type(learner.policy).__name__}. Switch the population off."
                )
        settings = config.population
        self.population = Population(
            settings.capacity, settings.every, settings.matchmaking, settings.share, config.seed
        )
        self.policies: list[ActorCritic] = [learner.policy for learner in learners]
        self.owner = {agent: number for number, numbers in enumerate(members) for agent in numbers}
        self.names = [agents[numbers[0]] for numbers in members]  # of learners: agents of one policy are one player
        self.guest = spare(self.policies[0], reference, config.seed, "guest")
        self.guest.valued = False
        self.visit: tuple[int, Member] | None = None
        self._snapshot(0)

    def invite(self, iteration: int, actors: list[Any]) -> int | None:
        """Puts a snapshot into the place of an agent for this iteration, or nobody.

        Args:
            iteration: From 0.
            actors: Who plays for each agent; changed in place.

        Returns:
            The number of the agent that sits out, or None.
        """
        place = iteration % len(actors)
        learner = self.owner[(place + 1) % len(actors)]
        member = self.population.pick(iteration, self.names[learner])
        self.visit = None
        if member is None:
            return None
        take(self.guest.weights(), member.tensors)
        self.visit, actors[place] = (place, member), self.guest
        return place

    def conclude(self, iteration: int, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Rates the players of the batch just played by their task rewards, takes a snapshot if one
        is due, and returns the metrics.

        Args:
            iteration: Finished iterations.
            rollouts: Of each agent, one turn in every episode.
        """
        names = [self.names[self.owner[agent]] for agent in range(len(rollouts))]
        if self.visit:
            place, member = self.visit
            names[place] = member.key
        self.population.record(iteration, names, np.stack([rollout.task_reward for rollout in rollouts], 1))
        if self.population.due(iteration):
            self._snapshot(iteration)
        return {**self.population.metrics(), "population/guest": float(self.visit is not None)}

    def spoke(self, agent: int, iteration: int) -> int:
        """The iteration of the weights that spoke for an agent in the batch just played:
        `iteration`, or that of the snapshot in its place."""
        return self.visit[1].iteration if self.visit and self.visit[0] == agent else iteration

    def _snapshot(self, iteration: int) -> None:
        for name, policy in zip(self.names, self.policies, strict=True):
            self.population.add(name, iteration, policy.weights())
