"""What the environment paid, written down on the environment's side, to be compared with what a
learner found in its own buffers.

One idea: every token-level face plays through `TokenGame.play`, so recording there needs the help
of no library and misses nothing. A library that drops, doubles, shifts or scales a reward cannot
make the two sums agree.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

import coevo_env
from coevo_env.faces.token_game import TokenGame


@dataclass(frozen=True)
class Entry:
    """One token.

    Attributes:
        game: Which game, by its order of appearance.
        number: Which episode of that game, counted from its first reset.
        actor, token: Who played what.
        rewards: What each agent was paid for it.
        last: Whether it ended the episode.
    """

    game: int
    number: int
    actor: int
    token: int
    rewards: tuple[float, ...]
    last: bool


class Ledger:
    """Records every token of every game of this process, from `install` on.

    Attributes:
        entries: In order of play.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._games: list[TokenGame] = []  # kept, so that no two share an id
        self._numbers: dict[int, int] = defaultdict(int)

    def install(self, monkeypatch) -> Ledger:
        play, reset, ledger = TokenGame.play, TokenGame.reset, self

        @functools.wraps(play)
        def recording_play(game, action, *args, **kwargs):
            actor = game.actor
            rewards = play(game, action, *args, **kwargs)
            key = ledger._key(game)
            ledger.entries.append(Entry(key, ledger._numbers[key], actor, int(action), tuple(rewards), game.actor < 0))
            return rewards

        @functools.wraps(reset)
        def recording_reset(game, *args, **kwargs):
            ledger._numbers[ledger._key(game)] += 1
            return reset(game, *args, **kwargs)

        monkeypatch.setattr(TokenGame, "play", recording_play)
        monkeypatch.setattr(TokenGame, "reset", recording_reset)
        return self

    def _key(self, game: TokenGame) -> int:
        for key, known in enumerate(self._games):
            if known is game:
                return key
        self._games.append(game)
        return len(self._games) - 1

    def paid(self) -> np.ndarray:
        """float64 (S, N): what each agent was paid at each token, in order of play."""
        return np.array([entry.rewards for entry in self.entries])

    def episodes(self) -> np.ndarray:
        """float64 (E, N): what each agent was paid in each finished episode, in the order in which
        they ended."""
        open_, done = {}, []
        for entry in self.entries:
            key = (entry.game, entry.number)
            open_[key] = open_.get(key, 0.0) + np.array(entry.rewards)
            if entry.last:
                done.append(open_.pop(key))
        return np.array(done)


def chance(episodes: int, **options) -> np.ndarray:
    """What agents that draw legal tokens uniformly are paid, float64 (episodes, N)."""
    env = coevo_env.raw_env(**{"kl": "off", "seed": 0, **options, "mask": "observation"})
    generator = np.random.default_rng(0)
    returns = np.zeros((episodes, len(env.possible_agents)))
    for episode in range(episodes):
        env.reset()
        while env.game.actor >= 0:
            legal = np.flatnonzero(env.game.action_mask(env.game.actor))
            returns[episode] += env.game.play(int(generator.choice(legal)))
    return returns


def significance(before: np.ndarray, after: np.ndarray) -> float:
    """Welch's z of two samples of episode returns: by how many standard errors the later mean is
    higher."""
    before, after = np.asarray(before, float), np.asarray(after, float)
    return float(
        (after.mean() - before.mean()) / np.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    )
