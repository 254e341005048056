"""A token-level toy whose optimum is known: the text of a response is the ids themselves.

One idea: with a handful of tokens and steps every response can be written down, so the best policy
of the KL-regularised problem, `pi*(y|x) ~ pi_ref(y|x) exp(R(y) / beta)`, and the exact value of any
policy are sums. A learner is right when it comes close to the one by the measure of the other.
Nothing here trains or samples.

The prompt is an id. Each copy of it in the response earns 1 / T (T is the budget), and each
neighbour pair in ascending order earns 1/4, so the order of tokens matters and a policy has to read
its prompt. The optimum depends on the reference, and the environment's is another than that of
`coevo train`: docs/toy.md.

Version history: 1 (0.1.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import ConfigError, whole
from ..game.reference import IntTokenizer, ReferencePolicy
from ..game.rules import Rules
from ..game.task import Prompt, Task

__all__ = ["Optimum", "Value", "optimum", "responses", "task", "value_of"]

MAX_RESPONSES = 200_000
MOST_TOKENS, MOST_STEPS = 100_000, 10_000


@dataclass(frozen=True)
class Matches:
    """What copies of the prompt's last id in a response of `budget` tokens earn."""

    budget: int

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        return [
            text.split().count(prompt.split()[-1]) / self.budget for prompt, text in zip(prompts, texts, strict=True)
        ]


def ascents(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """How many neighbours in a response stand in ascending order."""
    ids = [[int(word) for word in text.split()] for text in texts]
    return [float(sum(a < b for a, b in pairwise(row))) for row in ids]


@dataclass(frozen=True)
class Repeats:
    """Whoever says nothing but the prompt's last id, `budget` times."""

    budget: int

    def __call__(self, prompt: Prompt, seen: Sequence[str]) -> str:
        return " ".join([prompt.split()[-1]] * self.budget)


def task(vocab_size: int = 5, max_new_tokens: int = 3, prompts: int = 2) -> Task:
    """The toy task.

    Args:
        vocab_size: V >= 3; id 0 is EOS.
        max_new_tokens: T, the token budget of a turn.
        prompts: How many prompts each split has, at most V - 1; the train split has "1", "2", ...,
            the test split "1 1", "2 2", ..., the validation split "2 1", "3 2", ... (the last token
            counts).
    """
    for name, value, most in (("vocab_size", vocab_size, MOST_TOKENS), ("max_new_tokens", max_new_tokens, MOST_STEPS)):
        whole(f"task 'toy': {name}", value, 1, "a model and a table of that size are made", most=most)
    if vocab_size < 3 or not 1 <= prompts < vocab_size:
        raise ConfigError(
            f"toy task with vocab_size={vocab_size}, prompts={prompts}; expected vocab_size >= 3 and 1 <= prompts < "
            "vocab_size."
        )

    return Task(
        name="toy",
        train=[str(i + 1) for i in range(prompts)],
        validation=[f"{(i + 1) % (vocab_size - 1) + 1} {i + 1}" for i in range(prompts)],
        test=[f"{i + 1} {i + 1}" for i in range(prompts)],
        rewards={"matches": Matches(max_new_tokens), "ascents": (0.25, ascents)},
        templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"},
        max_new_tokens=max_new_tokens,
        max_context=4 * max_new_tokens + 2,
        model="table",
        tokenizer=IntTokenizer(vocab_size),
        scripted=Repeats(max_new_tokens),
        description=f"token-level toy with a closed-form optimum (V={vocab_size}, T={max_new_tokens})",
    )


@dataclass(frozen=True)
class Value:
    """What a policy is worth on C contexts, each of shape (C,); the means are over contexts.

    Attributes:
        values: J = E[R] - beta KL(pi || pi_ref).
        rewards: E[R], the task reward of one's own response.
        kls: KL(pi || pi_ref) of whole responses, nats.
    """

    values: np.ndarray
    rewards: np.ndarray
    kls: np.ndarray

    @property
    def value(self) -> float:
        return float(self.values.mean())

    @property
    def reward(self) -> float:
        return float(self.rewards.mean())

    @property
    def kl(self) -> float:
        return float(self.kls.mean())


@dataclass(frozen=True)
class Optimum(Value):
    """The optimal policy of the KL-regularised problem.

    Attributes:
        probabilities: pi*(y|x), shape (C, R): rows are contexts, columns are the responses of
            `responses`.
    """

    probabilities: np.ndarray


def responses(rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """All legal responses of a game: those that end with EOS and those that fill the budget.

    Returns:
        tokens, int64 of shape (R, T), EOS behind the end; lengths, int64 of shape (R,), EOS
        included.

    Raises:
        ConfigError: They are too many, or the budget is drawn anew for each batch.
    """
    eos, budget = rules.eos_id, rules.max_new_tokens
    if rules.budgets.drawn:
        raise ConfigError(
            f"max_new_tokens_low={rules.budgets.least}: the budget of a turn is drawn, so there is no one set of "
            "responses to write down. Leave it out."
        )
    if rules.vocab_size**budget > MAX_RESPONSES:
        raise ConfigError(
            f"{rules.vocab_size}^{budget} responses are too many to write down; expected at most {MAX_RESPONSES}."
        )
    done: list[tuple[int, ...]] = []
    open_: list[tuple[int, ...]] = [()]
    for position in range(budget):
        legal = np.flatnonzero(rules.sampling.mask(rules.vocab_size, position)).tolist()
        grown = [(*row, token) for row in open_ for token in legal]
        done += [row for row in grown if row[-1] == eos]
        open_ = [row for row in grown if row[-1] != eos]
    rows = done + open_
    tokens = np.full((len(rows), budget), eos, np.int64)  # (R, T)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, np.array([len(row) for row in rows])  # (R,)


def value_of(
    policy: ReferencePolicy,
    rules: Rules,
    reference: ReferencePolicy,
    beta: float,
    contexts: Sequence[tuple[Prompt, Sequence[int]]] | None = None,
) -> Value:
    """The exact J of a policy.

    Args:
        policy: Anything with the `score` of a `ReferencePolicy`.
        rules: The game, for its task, budget, temperature and mask.
        reference: pi_ref.
        beta: KL coefficient.
        contexts: Pairs (prompt, ids that the agent reads); None is the plain prompt of every item
            of the split, the pioneer's view. For an observer give `rules.turn_context(index,
            prompt, responses)`.
    """
    log_policy, log_ref, rewards = _enumerate(rules, contexts, policy, reference)
    probability = np.exp(log_policy)  # (C, R)
    with np.errstate(invalid="ignore"):
        kls = np.where(probability > 0, probability * (log_policy - log_ref), 0.0).sum(1)  # (C,)
    earned = (probability * rewards).sum(1)  # (C,)
    return Value(earned - beta * kls, earned, kls)


def optimum(
    rules: Rules,
    reference: ReferencePolicy,
    beta: float,
    contexts: Sequence[tuple[Prompt, Sequence[int]]] | None = None,
) -> Optimum:
    """The optimum in closed form: `J* = beta log sum_y pi_ref(y) exp(R(y) / beta)`.

    Args as in `value_of`. The reward is that of the agent's own response; where the team reward
    adds what a partner earns, this is the agent's optimum as long as its response does not change
    what the partner earns.
    """
    if not beta > 0:
        raise ConfigError(f"beta={beta!r}; expected a number > 0 (without KL the optimum is greedy and not unique).")
    _, log_ref, rewards = _enumerate(rules, contexts, None, reference)
    tilted = log_ref + rewards / beta  # (C, R)
    top = tilted.max(1, keepdims=True)
    log_sum = top + np.log(np.exp(tilted - top).sum(1, keepdims=True))  # (C, 1)
    probability = np.exp(tilted - log_sum)  # (C, R)
    earned = (probability * rewards).sum(1)
    values = beta * log_sum[:, 0]
    return Optimum(values, earned, (earned - values) / beta, probability)


def _enumerate(rules: Rules, contexts, *policies) -> list:
    """Log-probs of all responses under each policy, each (C, R), then their rewards, (C, R)."""
    if rules.joint_terms:
        raise ConfigError(
            f"task {rules.task.name!r} has the joint rewards {sorted(rules.joint_terms)}; expected ordinary ones only, "
            "for what a response is "
            "worth here must not depend on the partners'. See coevo_env.tasks.matching for the equilibrium of a "
            "zero-sum game."
        )
    tokens, lengths = responses(rules)
    if contexts is None:
        prompts = [rules.task.prompt(rules.split, i) for i in range(len(rules.prompts))]
        contexts = [(prompt, rules.turn_context(i, prompt, [])) for i, prompt in enumerate(prompts)]
    texts = [rules.text(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
    rewards = np.zeros((len(contexts), len(texts)))
    for weight, function in rules.terms.values():
        rewards += [weight * np.asarray(function([prompt] * len(texts), texts), np.float64) for prompt, _ in contexts]
    out: list = []
    for policy in policies:
        if policy is None:
            out.append(None)
            continue
        rows = [policy.score([list(ids)] * len(texts), tokens, lengths, rules.sampling).sum(1) for _, ids in contexts]
        out.append(np.stack(rows))  # (C, R)
    return [*out, rewards]
