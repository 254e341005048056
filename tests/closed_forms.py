"""Small policies and enumerations written without the package's own, for tests to compare with."""

from __future__ import annotations

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
    """A policy whose next-token distribution never changes, so that a vocabulary of 50,257 tokens is no trouble."""

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
    """A policy with free logits for each (last context id, prefix of the response), trained by exact gradients.

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
