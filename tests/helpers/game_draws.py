"""Games drawn at random: the oracle's settings, and the options of a face that are the same game.
Shared by tests; no test itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from game_oracle import Game, Oracle

from coevo_env import KLConfig, Task
from coevo_env.game.reference import IntTokenizer, TableModel
from coevo_env.game.rules import Rules

__all__ = ["Drawn"]


class Ids(IntTokenizer):
    """Ids as words, of which several end a turn and some are no text."""

    def __init__(self, vocab_size: int, ends: tuple[int, ...], banned: tuple[int, ...]):
        super().__init__(vocab_size, ends[0])
        self.eos_ids, self.banned = ends, banned


# ---------------------------------------------------------------- rewards, as functions of ids
def copies(prompt: list[int], response: list[int]) -> float:
    return response.count(prompt[-1]) / 3


def order(prompt: list[int], response: list[int]) -> float:
    return float(sum((i + 1) * token for i, token in enumerate(response)) % 7) - len(prompt)


def apart(prompt: list[int], said: list[list[int]]) -> list[float]:
    return [2.0 * len(said[0]) - len(response) + seat * prompt[0] for seat, response in enumerate(said)]


def of_texts(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same of a batch of texts, as a task has it."""

    def ids(text: Any) -> Any:
        return [int(word) for word in text.split()] if isinstance(text, str) else [ids(one) for one in text]

    def reward(prompts, responses):
        return [function(ids(p), ids(r)) for p, r in zip(prompts, responses, strict=True)]

    return reward


# ---------------------------------------------------------------- settings
def words_of(template: str) -> list[Any]:
    """A template as the oracle has it."""
    return [word.strip("{}") if word[0] == "{" else int(word) for word in template.split()]


class OddEven:
    """A schedule of one's own."""

    def __init__(self, agents: int):
        self.agents = agents

    def assignment(self, episode: int) -> tuple[int, ...]:
        forward = tuple(range(self.agents))
        return forward if episode % 2 == 0 else forward[::-1]


class Drawn:
    """A game drawn at random: the oracle's settings, and the options of a face that are the same
    game."""

    def __init__(self, draw: np.random.Generator):
        self.draw = draw
        self.vocab, self.agents = int(draw.integers(4, 9)), int(draw.choice([1, 2, 2, 3, 4]))
        ids = [int(token) for token in draw.permutation(self.vocab)]
        self.ends, self.banned = tuple(ids[: (n := self.of(1, 1, 2, 3))]), tuple(ids[n : n + self.of(0, 0, 1)])
        self.budget = self.of(1, 2, 3, 5)
        least = int(draw.integers(0, self.budget + 1)) if len(self.ends) + len(self.banned) < self.vocab else 0
        self.roles = self.of("never", "periodic", "rotation", "random", "score", "bandit", "own")
        self.every, self.group, self.seed = self.of(1, 2, 3), self.of(1, 1, 2, 3), int(draw.integers(0, 2**40))
        self.controller = self.of("fixed", "adaptive", "dual")
        self.target, self.horizon, self.rate = float(draw.uniform(0.1, 5)), self.of(1.0, 3.0, 100.0), 0.05
        mode = self.of("reported", "reported", "reference", "loss", "off")
        estimator = self.of("k1", "k2", "k3", "full") if mode in ("reported", "loss") else "k1"
        splits = self._prompts()
        self.split = self.of("train", "validation", "test")
        self.prompts = splits[self.split]
        name, self.weight = self.of("cooperative", "own", "weighted", "competitive", "matrix"), float(draw.normal())
        if name == "competitive" and self.agents == 1:
            name = "own"
        matrix = self._matrix(name)
        other, separator = self.of("1", "2", "3"), self.of(" ", "\n", " 1 ")
        templates = self.of(
            ("{prompt}", "{responses} {prompt}"), (f"{other} {{prompt}}", f"{{prompt}} {{responses}} {other}")
        )
        terms = {"copies": (1.0, copies), "order": (float(draw.normal()), order)}
        joint = {"apart": (0.5, apart)} if draw.random() < 0.5 else {}
        shortest = max(len(p) for part in splits.values() for p in part) + 1
        longest = shortest + self.of(0, 1, 3, 40)
        self.game = Game(
            vocab=self.vocab, agents=self.agents, table=draw.normal(size=(self.vocab, self.vocab)).tolist(),
            ends=self.ends, banned=self.banned, budget=self.budget, least=least, longest=longest,
            temperature=self.of(0.5, 1.0, 1.7), context=self.of("all", "previous", "none"),
            templates=(words_of(templates[0]), words_of(templates[1])),
            separator=[int(word) for word in separator.split()], mixing=matrix, terms=terms, joint=joint,
            mode=mode, estimator=estimator,
        )  # fmt: skip
        words = {split: [" ".join(map(str, ids)) for ids in part] for split, part in splits.items()}
        task = Task(
            name="fuzz", **words, separator=separator, max_new_tokens=self.budget, min_new_tokens=least,
            max_context=longest, templates=dict(zip(("pioneer", "observer"), templates, strict=True)), model="table",
            tokenizer=Ids(self.vocab, self.ends, self.banned),
            rewards={name: (weight, of_texts(function)) for name, (weight, function) in terms.items()},
            joint_rewards={name: (weight, of_texts(function)) for name, (weight, function) in joint.items()},
        )  # fmt: skip
        kl = KLConfig(mode=mode, estimator=estimator, beta=float(draw.uniform(0, 2)), controller=self.controller,
                      target=self.target, horizon=self.horizon, rate=self.rate)  # fmt: skip
        self.betas = [kl.beta] * self.agents
        self.options: dict[str, Any] = {
            "task": task, "model": TableModel(np.array(self.game.table)), "num_agents": self.agents, "kl": kl,
            "seed": self.seed, "split": self.split, "context": self.game.context, "group_size": self.group,
            "roles": OddEven(self.agents) if self.roles == "own" else self.roles, "exchange_every": self.every,
            "mixing": np.array(matrix) if name == "matrix" else name, "mixing_weight": self.weight,
            "temperature": self.game.temperature,
        }  # fmt: skip
        self.shape = {"mask": self.of("observation", "info", "none"), "token_dtype": self.of("int64", "float32"),
                      "attention_mask": self.of(False, True)}  # fmt: skip
        self.decided: dict[int, tuple[int, ...]] = {0: tuple(range(self.agents))}  # by roles="score"

    def of(self, *values: Any) -> Any:
        """One of the values."""
        return values[int(self.draw.integers(len(values)))]

    def _prompts(self) -> dict[str, list[list[int]]]:
        """Some prompts for each split, all different."""
        counts = {"train": self.of(1, 2, 5), "validation": self.of(1, 3), "test": self.of(1, 2, 4)}
        found: list[list[int]] = []
        while len(found) < sum(counts.values()):
            ids = [int(token) for token in self.draw.integers(0, self.vocab, self.of(1, 2, 3))]
            if ids not in found:
                found.append(ids)
        return {split: [found.pop() for _ in range(count)] for split, count in counts.items()}

    def _matrix(self, name: str) -> list[list[float]]:
        """The table of mixing."""
        n = self.agents
        other = {"cooperative": 1.0, "own": 0.0, "weighted": self.weight, "competitive": -1 / max(1, n - 1)}
        if name == "matrix":
            return self.draw.normal(size=(n, n)).tolist()
        return [[1.0 if i == j else other[name] for j in range(n)] for i in range(n)]

    def seats(self, episode: int, rules: Rules) -> list[int]:
        """The table of schedules; what is random there is only asked whether it can be."""
        forward, block = list(range(self.agents)), episode // self.every
        if self.roles == "never" or (self.roles == "own" and episode % 2 == 0):
            return forward
        if self.roles == "own":
            return forward[::-1]
        if self.roles == "periodic":
            return forward[::-1] if block % 2 else forward
        if self.roles == "rotation":
            for _ in range(block % self.agents):  # "each agent moves one seat on, the last to the front"
                forward = [forward[-1], *forward[:-1]]
            return forward
        if self.roles == "score":
            return list(self.decided[max(first for first in self.decided if first <= episode)])
        seats = list(rules.seats(episode))
        if self.roles == "random":
            assert seats == list(rules.reseeded(self.seed).seats(block * self.every)), "not constant in its block"
        assert sorted(seats) == forward
        return seats

    def decide(self, rules: Rules, episode: int) -> None:
        """Between iterations, roles that follow from scores decide from `episode` on."""
        if self.roles in ("score", "bandit") and episode > max(self.decided):
            scores = [float(score) for score in np.random.default_rng(episode).normal(size=self.agents)]
            rules.roles.observe(episode, scores)
            self.decided[episode] = tuple(sorted(range(self.agents), key=lambda agent: -scores[agent]))

    def start(self, episode: int, rules: Rules) -> tuple[Oracle, int]:
        """The oracle of an episode, and its prompt's number."""
        index = rules.prompt_index(episode)
        return Oracle(self.game, self.prompts[index], self.seats(episode, rules), self.betas), index

    def script(self, episode: int) -> list[tuple[list[int], list[float], list[Any]]]:
        """What is said in each seat of an episode, and what is reported of each token."""
        draw, said = np.random.default_rng([self.seed, episode]), []
        for _ in range(self.agents):
            tokens: list[int] = []
            while len(tokens) < self.budget and not (tokens and tokens[-1] in self.ends):
                tokens.append(int(draw.integers(self.vocab)))
            logits = draw.normal(size=(len(tokens), self.vocab)) * 2
            logits[draw.random(logits.shape) < 0.1] = -math.inf
            logits[:, 0] = np.maximum(logits[:, 0], -1.0)
            rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            said.append((tokens, (-draw.exponential(3, len(tokens))).tolist(), list(rows)))
        return said

    @property
    def reports(self) -> bool:
        return self.game.mode in ("reported", "loss")
