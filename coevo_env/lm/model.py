"""Any Hugging Face causal language model as a policy over token ids: it samples, scores, and walks
token by token.

One idea: a log-prob has one definition. Sampling and scoring share the padding (left, with explicit
position ids), the warp and the normalisation, so what `generate` drew and what `score` says of it
agree to rounding. Logits exist for a few positions at a time only: no (B, T, V) tensor is ever
kept, but for models of which nobody knows how they make logits (`gives_hidden`).

A `LanguageModel` is a view: several views can share one module, each with a LoRA adapter of its
own, or with all adapters off (the reference). Learning is not done here.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from ..game.reference import Comparison
from ..game.sampling import Sampling
from .logits import BLOCK, FrozenHead, divergence, stream, warp_logits
from .network import Network, positions_of
from .pretrained import load, pick_device
from .sampler import Generation, distinct, sample
from .tally import Tally
from .tape import Tape, find

__all__ = ["Generation", "LanguageModel", "pick_device", "warp_logits"]

CHUNK_ELEMENTS = 1 << 23
"""Logits that may exist at once while scoring: 8 M float32, 32 MiB."""

ROWS = 256
"""Turns that are read at once where nothing is kept for gradients: what more of them leave behind
from layer to layer no longer fits into a cache."""


class LanguageModel(Network):
    """A causal LM with its tokenizer, as a policy.

    Args:
        module: A transformers causal LM, or a peft model around one. It is put into eval mode:
            dropout is off, always.
        tokenizer: Wrapped tokenizer.
        adapter: For a peft module: the adapter this view uses, or None for the base model with
            adapters off.

    Attributes:
        vocab_size: V.
        hidden_size: Width of the last hidden layer (input of value heads).
        gives_hidden: Whether `hidden_states` are hidden states. They are logits where nobody knows
            how the model makes those.

    Raises:
        ConfigError: Tokenizer and model do not belong together, or the model has no KV cache that
            can be trusted.
    """

    # ---------------------------------------------------------------- making views
    @classmethod
    def from_pretrained(
        cls,
        spec: str | os.PathLike[str],
        *,
        device: str = "cpu",
        dtype: str = "float32",
        trust_remote_code: bool = False,
    ) -> LanguageModel:
        """Loads "embedded", "smollm2", a directory, or a hub name (safetensors only).

        Raises:
            ConfigError: It does not exist, has no EOS token, or the device or dtype is not there.
        """
        return cls(*load(spec, device, dtype, trust_remote_code))

    def clone(self) -> LanguageModel:
        """A view with trainable parameters of its own, whether or not these here are frozen; but
        what is `fixed` stays so."""
        module = copy.deepcopy(self.module).requires_grad_(True)
        for name, parameter in module.named_parameters():
            if name in self.fixed:
                parameter.requires_grad_(False)
        return self.around(module, self.adapter)

    def with_adapter(self, adapter: str | None) -> LanguageModel:
        """Another view of the same peft module: one of its adapters, or None for all adapters
        off."""
        view = copy.copy(self)
        view.adapter, view.tally = adapter, Tally()
        return view

    # ---------------------------------------------------------------- sampling
    @torch.no_grad()
    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling,
        uniforms: np.ndarray,
        value: Callable[[torch.Tensor], torch.Tensor] | None = None,
        tape: Tape | None = None,
        keep: bool = False,
    ) -> Generation:
        """Samples a turn for each context, with a KV cache.

        Args:
            contexts: B lists of ids, ragged.
            max_new_tokens: Token budget T.
            sampling: The warp; temperature 0 is greedy.
            uniforms: float (B, T) in [0, 1): each token is the inverse of the cumulative
                distribution at its uniform, so a row does not depend on the other rows of the
                batch, beyond rounding.
            value: Maps last hidden states (B, H) to values (B,).
            tape: Keeps what the linear layers say, for `hidden_states`.
            keep: Whether the hidden states of the tokens are wanted.

        Raises:
            ConfigError: The longest context and `max_new_tokens` are more than the model's
                positions.
        """
        drawn = sample(self, contexts, max_new_tokens, sampling, uniforms, value, tape, keep)
        self.tally += Tally(prompt=sum(map(len, contexts)), generated=int(drawn.lengths.sum()))
        return drawn

    # ---------------------------------------------------------------- scoring
    def score_tensor(
        self, contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probs of turns with gradients, and the hidden states they came from.

        Args:
            contexts, tokens, lengths, sampling: As in `ReferencePolicy.score`.

        Returns:
            logprobs: float32 (M,), one for each of the M = sum(lengths) tokens, row by row.
            hidden: (M, H), the last hidden state in which each token was chosen; what value heads
                read.
            positions: int64 (M,), of each token in its turn.
        """
        hidden, targets, positions = self.hidden_states(contexts, tokens, lengths)
        return self.token_logprobs(hidden, targets, positions, sampling), hidden, positions

    def hidden_states(
        self, contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray, tapes: Sequence[Tape] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One forward pass over contexts and turns: hidden states (M, H), the tokens chosen in them
        (M,), their positions (M,).

        Without `gives_hidden` the "hidden states" are logits (M, V); `token_logprobs` knows. Turns
        that all stand on `tapes` are looked up there as far as that goes.
        """
        longest = int(lengths.max())
        tokens, lengths = np.asarray(tokens)[:, :longest], np.asarray(lengths)
        read = sum(map(len, contexts)) + int(lengths.sum())
        self.tally += Tally(trained=read) if torch.is_grad_enabled() else Tally(scored=read)
        valid = np.arange(longest) < lengths[:, None]
        steps = np.nonzero(valid)[1]
        known = find(tapes, contexts, tokens, lengths) if tapes else None
        different, spread = distinct(contexts) if known is None else (contexts, None)
        if known is not None:
            flat = _picked(self._states_on_tapes(tapes, *known)[:, :longest], valid)
        elif spread is not None and longest > 1:
            flat = _picked(self._states_of_turns(different, spread, tokens, lengths), valid)
        else:
            ids, mask, _ = self.left_padded(
                [[*context, *row[:length]] for context, row, length in zip(contexts, tokens, lengths, strict=True)]
            )
            width = ids.shape[1]
            place = np.arange(longest) - lengths[:, None] + width - 1  # (B, T): column whose hidden state chose token t
            first = int(place[valid].min())
            index = torch.as_tensor(np.nonzero(valid)[0] * (width - first) + place[valid] - first, device=self.device)
            with self.active():
                states = self.states(ids, mask, positions_of(ids, mask), keep=width - first)
            flat = states.reshape(-1, states.shape[-1]).index_select(0, index)  # (M, H)
        return flat, torch.as_tensor(tokens[valid], device=self.device), torch.as_tensor(steps, device=self.device)

    @torch.no_grad()
    def read(
        self, contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`hidden_states` without gradients, of any number of turns: they are read `ROWS` at a
        time."""
        cuts = [slice(start, start + ROWS) for start in range(0, len(lengths), ROWS)]
        found = [self.hidden_states(contexts[cut], tokens[cut], lengths[cut]) for cut in cuts]
        return found[0] if len(found) == 1 else tuple(map(torch.cat, zip(*found, strict=True)))  # type: ignore[return-value]

    def _states_on_tapes(self, tapes: Sequence[Tape], which: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """Hidden states (B, T, H) of the turns in row `rows[b]` of tape `which[b]`."""
        parts, start = [], np.zeros(len(tapes), np.int64)
        longest = max(tapes[number].tokens.shape[1] for number in set(which.tolist()))
        for number in sorted(set(which.tolist())):
            tape, start[number] = tapes[number], sum(map(len, parts))
            states = self._states_of_turns(tape.different, tape.spread, tape.tokens, tape.lengths, tape)
            parts.append(torch.nn.functional.pad(states, (0, 0, 0, longest - states.shape[1])))
        together = parts[0] if len(parts) == 1 else torch.cat(parts)
        if len(rows) == len(together) and (start[which] + rows == np.arange(len(rows))).all():
            return together
        return together[torch.as_tensor(start[which] + rows, device=self.device)]

    def _states_of_turns(
        self,
        contexts: Sequence[Sequence[int]],
        spread: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        tape: Tape | None = None,
    ) -> torch.Tensor:
        """Hidden states (B, T, H): each of the U contexts is read once, and its keys and values
        serve all the turns that have it."""
        longest = tokens.shape[1]
        ids, mask, positions = self.left_padded(contexts, room=longest)
        rows = torch.as_tensor(spread, device=self.device)
        cache = self.new_cache(ids.shape[1] + longest)
        read = torch.as_tensor(
            np.arange(longest - 1) < lengths[:, None] - 1, device=self.device
        )  # (B, T - 1): tokens that choose another
        with self.active():
            with tape.playing("contexts") if tape else contextlib.nullcontext():
                first = self.states(ids, mask, positions, 1, cache)[rows]  # (B, 1, H)
            if longest == 1:
                return first
            cache.batch_select_indices(rows)
            seen = torch.ones_like(ids) if mask is None else mask
            seen = torch.cat([seen[rows], read.to(seen.dtype)], 1)  # (B, L + T - 1)
            ids = torch.as_tensor(tokens[:, :-1], device=self.device).masked_fill(~read, self.tokenizer.eos_id)
            positions = positions[rows, -1:] + torch.arange(1, longest, device=self.device)
            with tape.playing("tokens") if tape else contextlib.nullcontext():
                return torch.cat([first, self.states(ids, seen, positions, longest - 1, cache)], 1)

    def token_logprobs(
        self, hidden: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor, sampling: Sampling
    ) -> torch.Tensor:
        """float32 (M,) log-probs of `targets`. A large vocabulary is gone through in blocks where
        the output weights are not trained; else the states are taken in chunks, and with gradients
        a chunk's logits are computed again in the backward pass instead of being kept, once there
        are more than fit in one chunk."""
        trained = any(parameter.requires_grad for parameter in self.head.parameters())
        grad = torch.is_grad_enabled() and (hidden.requires_grad or trained)
        if self.plain_head and self.vocab_size > BLOCK and not sampling.truncates:
            if not grad:
                return stream(hidden, self.head.weight, targets, positions, sampling)[0]
            if not trained:
                return FrozenHead.apply(hidden, self.head.weight, targets, positions, sampling)  # type: ignore[return-value]
        size = max(1, CHUNK_ELEMENTS // self.vocab_size)
        if len(targets) <= size:
            return self._chunk(hidden, targets, positions, sampling)
        parts = []
        for part in zip(hidden.split(size), targets.split(size), positions.split(size), strict=True):
            parts.append(
                checkpoint(self._chunk, *part, sampling, use_reentrant=False) if grad else self._chunk(*part, sampling)
            )
        return torch.cat(parts)

    def _chunk(self, hidden, targets, positions, sampling: Sampling) -> torch.Tensor:
        with self.active():
            scores = warp_logits(self.logits(hidden), sampling, positions)
        return -torch.nn.functional.cross_entropy(scores, targets, reduction="none")

    def exact_kl(
        self,
        hidden: torch.Tensor,
        reference: LanguageModel,
        ref_hidden: torch.Tensor,
        positions: torch.Tensor,
        sampling: Sampling,
    ) -> torch.Tensor:
        """float32 (M,): exact KL(self || reference) over the vocabulary at each state,
        differentiable, in chunks like `token_logprobs`."""
        parts = []
        size = max(1, CHUNK_ELEMENTS // (2 * self.vocab_size))
        for part in zip(hidden.split(size), ref_hidden.split(size), positions.split(size), strict=True):
            grad = torch.is_grad_enabled() and len(hidden) > size
            chunk = self._kl_chunk
            parts.append(
                checkpoint(chunk, reference, *part, sampling, use_reentrant=False)
                if grad
                else chunk(reference, *part, sampling)
            )
        return torch.cat(parts)

    def _kl_chunk(self, reference: LanguageModel, hidden, ref_hidden, positions, sampling: Sampling) -> torch.Tensor:
        ours = self.log_distributions(hidden, positions, sampling)
        with torch.no_grad():
            theirs = reference.log_distributions(ref_hidden, positions, sampling.reference)
        difference = (ours - theirs).masked_fill(
            ours.isneginf(), 0.0
        )  # a masked token is -inf in both and counts nothing
        return (ours.exp() * difference).sum(-1)

    @torch.no_grad()
    def score(self, contexts, tokens, lengths, sampling: Sampling) -> np.ndarray:
        """See `ReferencePolicy.score`."""
        lengths = np.asarray(lengths)
        logprobs = self.token_logprobs(*self.read(contexts, tokens, lengths), sampling)
        scores = np.zeros(tokens.shape)  # (B, T)
        scores[np.arange(tokens.shape[1]) < lengths[:, None]] = logprobs.double().cpu().numpy()
        return scores

    @torch.no_grad()
    def compare(self, contexts, tokens, lengths, sampling: Sampling, ours: Callable[[slice], Any]) -> Comparison:
        """See `ReferencePolicy.compare`."""
        lengths = np.asarray(lengths)
        hidden, targets, positions = self.read(contexts, tokens, lengths)
        size, columns = max(1, CHUNK_ELEMENTS // self.vocab_size), []
        for start in range(0, len(targets), size):
            part = slice(start, min(start + size, len(targets)))
            theirs = self.log_distributions(hidden[part], positions[part], sampling)  # (m, V)
            own = theirs.gather(-1, targets[part, None])[:, 0]
            columns.append((own, *divergence(torch.as_tensor(ours(part), device=self.device), theirs)))
        found = np.zeros((3, *tokens.shape))
        found[:, np.arange(tokens.shape[1]) < lengths[:, None]] = [
            torch.cat(column).double().cpu().numpy() for column in zip(*columns, strict=True)
        ]
        return Comparison(found[0], found[1], found[2])

    def log_distributions(self, hidden: torch.Tensor, positions: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        """Log-distributions (M, V) in hidden states (M, H)."""
        with self.active():
            return warp_logits(self.logits(hidden), sampling, positions).log_softmax(-1)

    @torch.no_grad()
    def distributions(self, contexts, tokens, lengths, sampling: Sampling) -> np.ndarray:
        """Log-distributions (B, T, V) of turns, for people and tests: this one does make such an
        array."""
        lengths = np.asarray(lengths)
        hidden, _, positions = self.read(contexts, tokens, lengths)
        result = np.zeros((*tokens.shape, self.vocab_size))
        scores = self.log_distributions(hidden, positions, sampling)
        result[np.arange(tokens.shape[1]) < lengths[:, None]] = scores.double().cpu().numpy()
        return result

    def cursor(self, context: Sequence[int], sampling: Sampling) -> _Cursor:
        """See `ReferencePolicy.cursor`; keeps a KV cache."""
        return _Cursor(self, context, sampling)


class _Cursor:
    def __init__(self, model: LanguageModel, context: Sequence[int], sampling: Sampling):
        self.model, self.sampling, self.cache, self.position = model, sampling, model.new_cache(), 0
        self.pending = list(context)
        self.seen = 0
        self.current: np.ndarray | None = None

    @torch.no_grad()
    def logprobs(self) -> np.ndarray:
        if self.current is None:
            self.model.check_length(self.seen + len(self.pending))
            ids = torch.as_tensor([self.pending], device=self.model.device)
            positions = torch.arange(self.seen, self.seen + len(self.pending), device=self.model.device)[None]
            with self.model.active():
                _, logits = self.model.last(ids, None, positions, self.cache)
            self.current = warp_logits(logits, self.sampling, self.position).log_softmax(-1)[0].double().cpu().numpy()
            self.seen += len(self.pending)
            self.pending = []
        return self.current

    def push(self, token: int) -> None:
        self.pending.append(token)
        self.position += 1
        self.current = None


def _picked(states: torch.Tensor, valid: np.ndarray) -> torch.Tensor:
    """The states (M, H) of (B, T, H) that are valid; where all are, nothing is copied, now or in
    the backward pass."""
    return states.reshape(-1, states.shape[-1]) if valid.all() else states[torch.as_tensor(valid, device=states.device)]
