"""Small policies and enumerations written without the package's own, for tests to compare with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np


class Characters:
    """A tokenizer of printable ASCII, one id a character; id 0 is EOS and id 1 a line break."""

    vocab_size, eos_id = 97, 0

    def encode(self, text: str) -> list[int]:
        return [1 if char == "\n" else ord(char) - 30 for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("\n" if i == 1 else chr(i + 30) for i in ids if i)


class Unigram:
    """A policy whose next-token distribution never changes, so that a vocabulary of 50,257 tokens
    is no trouble."""

    def __init__(self, vocab_size: int, seed: int = 0, tokenizer=None):
        self.vocab_size, self.tokenizer = vocab_size, tokenizer
        self.logits = np.random.default_rng(seed).standard_normal(vocab_size)  # (V,)

    def _row(self, position: int, sampling) -> np.ndarray:
        logits = self.logits / sampling.temperature
        logits[list(sampling.banned)] = -np.inf
        if position < sampling.min_new_tokens:
            logits[sampling.eos_id] = -np.inf
        return logits - np.logaddexp.reduce(logits)

    def score(self, contexts, tokens, lengths, sampling) -> np.ndarray:
        out = np.zeros(tokens.shape)
        for b, length in enumerate(lengths):
            for t in range(length):
                out[b, t] = self._row(t, sampling)[tokens[b, t]]
        return out

    def distributions(self, contexts, tokens, lengths, sampling) -> np.ndarray:
        rows = np.stack([self._row(t, sampling) for t in range(tokens.shape[1])])
        return np.broadcast_to(rows, (len(tokens), *rows.shape))

    def cursor(self, context, sampling) -> _UnigramCursor:
        return _UnigramCursor(self, sampling)


class _UnigramCursor:
    def __init__(self, model: Unigram, sampling):
        self.early, self.late = model._row(0, sampling), model._row(sampling.min_new_tokens, sampling)
        self.position, self.switch = 0, sampling.min_new_tokens

    def logprobs(self) -> np.ndarray:
        return self.early if self.position < self.switch else self.late

    def push(self, token: int) -> None:
        self.position += 1


def all_responses(vocab_size: int, budget: int, eos: int = 0, minimum: int = 0) -> Iterator[tuple[int, ...]]:
    """Every response: ended by EOS (not before `minimum` tokens) or by the budget."""

    def grow(prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for token in range(vocab_size):
            row = (*prefix, token)
            if token == eos:
                if len(prefix) >= minimum:
                    yield row
            elif len(row) == budget:
                yield row
            else:
                yield from grow(row)

    return grow(())


class Tabular:
    """A policy with free logits for each (last context id, prefix of the response), trained by
    exact gradients.

    Args:
        starts: The last ids of the contexts it will meet.
    """

    def __init__(self, vocab_size: int, budget: int, starts: Sequence[int], minimum: int = 0):
        import torch

        self.vocab_size, self.minimum = vocab_size, minimum
        self.rows = list(all_responses(vocab_size, budget, 0, minimum))
        prefixes = sorted({(s, row[:t]) for s in starts for row in self.rows for t in range(len(row))})
        self.index = {prefix: i for i, prefix in enumerate(prefixes)}
        self.theta = torch.zeros(len(prefixes), vocab_size, dtype=torch.float64, requires_grad=True)
        self.early = torch.tensor([len(prefix) < minimum for _, prefix in prefixes])

    def table(self):
        """Log-probs of shape (prefixes, V)."""
        import torch

        logits = self.theta.clone()
        logits[self.early, 0] = -math.inf
        return torch.log_softmax(logits, -1)

    def score(self, contexts, tokens, lengths, sampling) -> np.ndarray:
        table = self.table().detach().numpy()
        out = np.zeros(tokens.shape)
        for b, length in enumerate(lengths):
            for t in range(length):
                out[b, t] = table[self.index[contexts[b][-1], tuple(tokens[b, :t].tolist())], tokens[b, t]]
        return out

    def ascend(self, objective: Callable, steps: int = 1500, rate: float = 0.1) -> None:
        """Adam on `objective(table)`, a scalar to maximise."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other
        optimizer = torch.optim.Adam([self.theta], lr=rate)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            (-objective(self.table())).backward()
            optimizer.step()
        torch.set_num_threads(threads)


class TeamGame:
    """N agents, any context and any mixing, with k1 shaping, enumerated: the subgame-perfect
    optimum by backward induction.

    J_k = E[team_k] - beta E[KL(pi_k(. | what seat k read) || pi_ref)]: each agent pays its own KL
    in its own context. The last seat tilts the reference by its team reward, the one before it by
    what it can expect given that, and so on. A history is what the seats before have said, R^k of
    them for seat k; arrays of seat k have the shape (P, R, ..., R) with k + 1 axes of responses,
    its own the last one.

    Backward induction is right as long as histories that read the same (context "previous" or
    "none", or texts that join to the same) want the same answer. That holds for every mixing of
    ordinary rewards, whose sum splits by seat; it is checked, for joint rewards break it.
    """

    def __init__(self, rules, reference, beta: float):
        self.rules, self.beta = rules, beta
        minimum = rules.sampling.min_new_tokens
        rows = list(all_responses(rules.vocab_size, rules.max_new_tokens, rules.eos_id, minimum))
        legal = rules.sampling.mask(
            rules.vocab_size, rules.max_new_tokens
        )  # bans hold everywhere, the minimum only at the start
        rows = [row for row in rows if all(legal[token] for token in row)]
        self.lengths = np.array([len(row) for row in rows])  # (R,)
        self.tokens = np.array([[*row, *[rules.eos_id] * (rules.max_new_tokens - len(row))] for row in rows])  # (R, T)
        texts = [rules.text(list(row)) for row in rows]
        prompts = [rules.task.prompt(rules.split, i) for i in range(len(rules.prompts))]
        agents, count = rules.num_agents, len(rows)
        shape = (len(prompts), *[count] * agents)  # (P, R, ..., R)
        histories = [list(itertools.product(texts, repeat=seat)) for seat in range(agents + 1)]
        own = np.array(
            [sum(w * np.asarray(f([p] * count, texts), float) for w, f in rules.terms.values()) for p in prompts]
        )
        task = [
            np.broadcast_to(own.reshape(-1, *[count if j == k else 1 for j in range(agents)]), shape)
            for k in range(agents)
        ]
        for weight, function in getattr(rules, "joint_terms", {}).values():
            paid = np.array([function([p] * len(histories[-1]), histories[-1]) for p in prompts], float)  # (P, R^N, N)
            task = [task[k] + weight * paid[..., k].reshape(shape) for k in range(agents)]
        self.team = [
            sum(rules.mixing[k, j] * task[j] for j in range(agents)) for k in range(agents)
        ]  # N of (P, R, ..., R)
        place: dict[tuple[int, ...], int] = {}
        self.reads = []  # per seat (P, R^k): which context
        for seat in range(agents):
            read = [[tuple(rules.turn_context(i, p, said)) for said in histories[seat]] for i, p in enumerate(prompts)]
            self.reads.append(np.array([[place.setdefault(context, len(place)) for context in row] for row in read]))
        self.contexts = [list(context) for context in place]
        self.reference = [self.table(reference, seat) for seat in range(agents)]
        self.best = self._induct()

    def optimum(self) -> list[float]:
        """J of each seat when all play the subgame-perfect optimum."""
        return self.values(self.best)

    def reached(self, policies, seat: int) -> float:
        """J of a policy in `seat` (of the policy for that seat, given a list) beside optimal
        partners elsewhere."""
        policy = policies[seat] if isinstance(policies, (list, tuple)) else policies
        return self.values([self.table(policy, k) if k == seat else best for k, best in enumerate(self.best)])[seat]

    def values(self, tables: Sequence[np.ndarray]) -> list[float]:
        """J of each seat when seat k plays `tables[k]`, log-probs of the shape of seat k."""
        reach, costs = np.ones(len(self.team[0])), []  # (P, R, ..., R): how likely each history is
        for table, reference in zip(tables, self.reference, strict=True):
            p = np.exp(table)
            costs.append(
                (reach * (p * np.where(p > 0, table - reference, 0.0)).sum(-1)).reshape(len(p), -1).sum(1).mean()
            )
            reach = reach[..., None] * p
        gains = [(reach * team).reshape(len(team), -1).sum(1).mean() for team in self.team]
        return [float(gain - self.beta * cost) for gain, cost in zip(gains, costs, strict=True)]

    def table(self, policy, seat: int, chunk: int = 4096) -> np.ndarray:
        """Log-probs of every response of a policy after every history of a seat; each different
        context is asked once."""
        used, inverse = np.unique(self.reads[seat], return_inverse=True)
        pairs = [(self.contexts[c], r) for c in used for r in range(len(self.tokens))]
        parts = []
        for start in range(0, len(pairs), chunk):
            contexts, rows = zip(*pairs[start : start + chunk], strict=True)
            parts.append(
                policy.score(
                    list(contexts), self.tokens[list(rows)], self.lengths[list(rows)], self.rules.sampling
                ).sum(1)
            )
        scores = np.concatenate(parts).reshape(len(used), -1)[inverse.reshape(-1)]
        return scores.reshape(len(self.reads[seat]), *[len(self.tokens)] * (seat + 1))

    def _induct(self) -> list[np.ndarray]:
        best, ahead = [], list(self.team)
        for seat in reversed(range(self.rules.num_agents)):
            logits = self.reference[seat] + ahead[seat] / self.beta
            table = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
            flat, read = np.exp(table).reshape(-1, table.shape[-1]), self.reads[seat].reshape(-1)
            first = np.unique(read, return_index=True)[1][np.unique(read, return_inverse=True)[1].reshape(-1)]
            if np.abs(flat - flat[first]).max() > 1e-9:
                raise ValueError(
                    f"seat {seat} wants different answers to histories that read the same; this is no game of perfect "
                    "information."
                )
            best.insert(0, table)
            ahead = [(np.exp(table) * value).sum(-1) for value in ahead]
        return best
