"""The game by its documentation: what docs/environment.md, rewards_and_kl.md, role_exchange.md and
beyond_two.md say, written out in plain Python for one episode at a time.

One idea: nothing of the package is imported here, and nothing is fast: lists and loops, one token
at a time, so that a rule can be read beside the page it comes from. Prompts, contexts and responses
are lists of ids; their text is the ids as words. What the pages leave to the seed (which prompt, a
random order of play) is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FLOOR", "Game", "Oracle", "next_beta"]

FLOOR = math.log(2.0**-149)
"""`MIN_LOGPROB`: "the log of the smallest positive float32"."""

Ids = list[int]


@dataclass(frozen=True)
class Game:
    """Settings of a game, under the names of the pages.

    Attributes:
        table: Logits of the reference policy, (V, V): row = last id read.
        ends: Ids that end a turn; the first is the no-op of an idle agent.
        banned: Ids that are never legal.
        budget, least, longest: max_new_tokens, min_new_tokens, max_context.
        templates: Words of the pioneer's and the observer's template: an id, "prompt" or
            "responses".
        separator: Ids between two responses.
        mixing: M, by seat.
        terms: Name -> (weight, function of one prompt and one response).
        joint: Name -> (weight, function of one prompt and all responses, a value for each seat).
        mode, estimator: Of the KL.
    """

    vocab: int
    agents: int
    table: Sequence[Sequence[float]]
    ends: Sequence[int]
    banned: Sequence[int]
    budget: int
    least: int
    longest: int
    temperature: float
    context: str
    templates: tuple[Sequence[Any], Sequence[Any]]
    separator: Ids
    mixing: Sequence[Sequence[float]]
    terms: dict[str, tuple[float, Callable[[Ids, Ids], float]]]
    joint: dict[str, tuple[float, Callable[[Ids, list[Ids]], list[float]]]]
    mode: str
    estimator: str

    def legal(self, position: int) -> list[int]:
        """The mask of the acting agent: "forbids EOS before `min_new_tokens` tokens and ids that
        are no text"."""
        mask = [1] * self.vocab
        for token in (*self.banned, *(self.ends if position < self.least else ())):
            mask[token] = 0
        return mask

    def reference(self, last: int, position: int) -> list[float]:
        """log pi_ref of every token, "under the same mask and temperature"."""
        logits, mask = [value / self.temperature for value in self.table[last]], self.legal(position)
        total = sum(math.exp(value) for value, legal in zip(logits, mask, strict=True) if legal)
        return [value - math.log(total) if legal else -math.inf for value, legal in zip(logits, mask, strict=True)]

    def reads(self, prompt: Ids, responses: list[Ids]) -> Ids:
        """What the next seat reads. "all" of the answers before its own, the "previous" one, or
        "none": "with "none" the observer reads the pioneer's template"."""
        if not responses or self.context == "none":
            return self._filled(self.templates[0], prompt, [])
        seen = [list(response) for response in (responses if self.context == "all" else responses[-1:])]
        ids = self._filled(self.templates[1], prompt, seen)
        while len(ids) > self.longest:  # "the end of the partner's text is left out, never the prompt"; the last first
            if seen[-1]:
                seen[-1].pop()
            else:
                seen.pop()
            ids = self._filled(self.templates[1], prompt, seen)
        return ids

    def _filled(self, template: Sequence[Any], prompt: Ids, responses: list[Ids]) -> Ids:
        joined: Ids = []
        for number, response in enumerate(responses):
            joined += (self.separator if number else []) + response
        parts = {"prompt": prompt, "responses": joined}
        return [token for word in template for token in (parts[word] if isinstance(word, str) else [word])]


def estimate(estimator: str, logprob: float, ref: float) -> float:
    """The table of estimators, with d = log pi - log pi_ref."""
    d = logprob - ref
    return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[estimator]


def next_beta(rule: str, beta: float, kl: float, episodes: int, target: float, horizon: float, rate: float) -> float:
    """The table of controllers."""
    if rule == "adaptive":
        return beta * (1 + max(-0.2, min(0.2, kl / target - 1)) * min(1, episodes / horizon))
    if rule == "dual":
        return max(0.0, min(10.0, beta + rate * (kl - target)))
    return beta


@dataclass
class Said:
    """A turn."""

    agent: int
    context: Ids
    tokens: Ids = field(default_factory=list)
    done: bool = False
    cut: bool = False
    logprobs: list[float] = field(default_factory=list)
    refs: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    shaping: list[float] = field(default_factory=list)


class Oracle:
    """One episode.

    Args:
        game: The settings.
        prompt: What it is about.
        seats: The agent in each seat.
        betas: The KL coefficient of each agent, which "is fixed within an iteration".
    """

    def __init__(self, game: Game, prompt: Ids, seats: Sequence[int], betas: Sequence[float]):
        self.game, self.prompt, self.seats, self.betas = game, prompt, list(seats), list(betas)
        self.turns: list[Said] = []
        self.done = False
        names = ["task_reward", "team_reward", *(f"reward/{name}" for name in (*game.terms, *game.joint))]
        self.earned: list[dict[str, float]] = [dict.fromkeys(names, 0.0) for _ in seats]  # by seat
        self._begin()

    # ---------------------------------------------------------------- playing
    def _begin(self) -> None:
        said = [self.text(turn) for turn in self.turns]
        self.turns.append(Said(self.seats[len(self.turns)], self.game.reads(self.prompt, said)))

    def text(self, turn: Said) -> Ids:
        """ "Its text is what stands before EOS"."""
        return turn.tokens[:-1] if turn.tokens and turn.tokens[-1] in self.game.ends else list(turn.tokens)

    @property
    def turn(self) -> Said:
        return self.turns[-1]

    @property
    def actor(self) -> int:
        """Whose turn it is; -1 at the end."""
        return -1 if self.done else self.turn.agent

    def push(self, token: int, logprob: float | None = None, distribution: Any = None, pay: bool = True) -> list[float]:
        """Plays a token; returns what each agent is paid. `pay`: whether KL is paid for it, which
        in the gymnasium face it is to the learner alone."""
        game, turn, rewards = self.game, self.turn, [0.0] * self.game.agents
        if pay and game.mode != "off":
            rewards[turn.agent] += self._shape(turn, token, logprob, distribution)
        turn.tokens.append(token)
        if token in game.ends or len(turn.tokens) == game.budget:
            turn.done, turn.cut = True, token not in game.ends
            if len(self.turns) < game.agents:
                self._begin()
            else:
                self.done = True
                self._score()
                for seat, agent in enumerate(self.seats):
                    rewards[agent] += self.earned[seat]["team_reward"]
        return rewards

    def _shape(self, turn: Said, token: int, logprob: float | None, distribution: Any) -> float:
        game = self.game
        row = game.reference((turn.context + turn.tokens)[-1], len(turn.tokens))
        ref = max(row[token], FLOOR)
        turn.refs.append(ref)
        paid = 0.0
        if game.mode in ("reported", "loss"):
            assert logprob is not None
            if game.estimator == "full":
                both = [(p, max(q, FLOOR)) for p, q in zip(distribution, row, strict=True) if p > -math.inf]
                kl = sum(math.exp(p) * (p - q) for p, q in both)
            else:
                kl = estimate(game.estimator, logprob, ref)
            turn.logprobs.append(logprob)
            turn.kls.append(kl)
            paid = -self.betas[turn.agent] * kl if game.mode == "reported" else 0.0
        elif game.mode == "reference":
            paid = self.betas[turn.agent] * ref
        turn.shaping.append(paid)
        return paid

    def _score(self) -> None:
        """Terms, their weighted sum, and team = M @ task, "both in order of play"."""
        game, said = self.game, [self.text(turn) for turn in self.turns]
        task = [0.0] * game.agents
        for name, (weight, function) in game.terms.items():
            for seat, response in enumerate(said):
                value = self.earned[seat][f"reward/{name}"] = function(self.prompt, response)
                task[seat] += weight * value
        for name, (weight, together) in game.joint.items():
            for seat, value in enumerate(together(self.prompt, said)):
                self.earned[seat][f"reward/{name}"] = value
                task[seat] += weight * value
        for seat in range(game.agents):
            self.earned[seat]["task_reward"] = task[seat]
            self.earned[seat]["team_reward"] = sum(m * value for m, value in zip(game.mixing[seat], task, strict=True))

    # ---------------------------------------------------------------- seeing
    def seen(self, agent: int) -> Ids:
        """ "What the agent reads in its role, then the tokens of its own turn"; before it, the
        prompt through the pioneer's template."""
        seat = self.seats.index(agent)
        if seat < len(self.turns):
            return self.turns[seat].context + self.turns[seat].tokens
        return self.game.reads(self.prompt, [])

    def mask(self, agent: int) -> list[int]:
        """ "An agent that is not acting has EOS, which does nothing"."""
        if agent == self.actor:
            return self.game.legal(len(self.turn.tokens))
        return [int(token == self.game.ends[0]) for token in range(self.game.vocab)]

    def state(self) -> list[Ids]:
        """ "What each seat has read and written, in order of play"."""
        return [
            self.turns[seat].context + self.turns[seat].tokens if seat < len(self.turns) else []
            for seat in range(self.game.agents)
        ]

    def info(self, agent: int) -> dict[str, float]:
        """The table of infos."""
        seat = self.seats.index(agent)
        turn = self.turns[seat] if seat < len(self.turns) else Said(agent, [])
        return {
            "seat": seat,
            "acting": int(agent == self.actor),
            "length": len(turn.tokens),
            "cut": int(turn.cut),
            "beta": self.betas[agent],
            "kl": sum(turn.kls),
            "ref_logprob": turn.refs[-1] if turn.refs else 0.0,
            **self.earned[seat],
        }
