"""Any Hugging Face causal language model as a policy over token ids: it samples, scores, and walks token by token.

One idea: a log-prob has one definition. Sampling and scoring share the padding (left, with explicit position ids), the warp and the
normalisation, so what `generate` drew and what `score` says of it agree to rounding. Logits exist for a few positions at a time
only: no (B, T, V) tensor is ever kept, but for models of which nobody knows how they make logits (`gives_hidden`).

A `LanguageModel` is a view: several views can share one module, each with a LoRA adapter of its own, or with all adapters off
(the reference). Learning is not done here.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from .errors import ConfigError, first_line
from .gpt2 import GPT2, KeysAndValues
from .logits import BLOCK, FrozenHead, invert, stream, warp_logits
from .pretrained import cache_name, head_transformations, load, pick_device
from .sampling import Sampling
from .tape import Tape, find
from .tokenizer import TextTokenizer

__all__ = ["Generation", "LanguageModel", "pick_device", "warp_logits"]

CHUNK_ELEMENTS = 1 << 23
"""Logits that may exist at once while scoring: 8 M float32, 32 MiB."""

SMALL = 10_000_000
"""Parameters below which the calls around tensor operations cost more than the operations, and CPU threads wait for each other."""


@dataclass(frozen=True)
class Generation:
    """Sampled turns.

    Attributes:
        tokens: int64 (B, T), 0 behind `lengths`.
        lengths: int64 (B,).
        logprobs: float64 (B, T), of the tokens under the warp they were drawn with; 0 behind `lengths`.
        values: float64 (B, T) or None: what `value` said of the state in which each token was chosen.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    values: np.ndarray | None = None


class LanguageModel:
    """A causal LM with its tokenizer, as a policy.

    Args:
        module: A transformers causal LM, or a peft model around one. It is put into eval mode: dropout is off, always.
        tokenizer: Wrapped tokenizer.
        adapter: For a peft module: the adapter this view uses, or None for the base model with adapters off.

    Attributes:
        vocab_size: V.
        hidden_size: Width of the last hidden layer (input of value heads).
        gives_hidden: Whether `hidden_states` are hidden states. They are logits where nobody knows how the model makes those.

    Raises:
        ConfigError: Tokenizer and model do not belong together, or the model has no KV cache that can be trusted.
    """

    def __init__(self, module: Any, tokenizer: TextTokenizer, adapter: str | None = None):
        self.module, self.tokenizer, self.adapter = module.eval(), tokenizer, adapter
        self.is_peft = hasattr(module, "peft_config")
        self.causal = module.get_base_model() if self.is_peft else module
        config = self.causal.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self.max_positions = getattr(config, "max_position_embeddings", None)
        self._cache_name = cache_name(self.causal.base_model)
        self.head = self.causal.get_output_embeddings()
        self.backbone = self.causal.base_model
        if self.tokenizer.vocab_size != self.vocab_size:
            raise ConfigError(
                f"the tokenizer knows {self.tokenizer.vocab_size} ids and the model {self.vocab_size}; they do not belong together."
            )
        self.is_small = sum(parameter.numel() for parameter in module.parameters()) < SMALL
        self._gpt2: GPT2 | None = None
        self._scale, self._cap, self.gives_hidden = 1.0, None, True
        self._check_head()
        transformed = self._scale != 1 or self._cap is not None
        self._plain_head = self.gives_hidden and not transformed and type(self.head) is torch.nn.Linear and self.head.bias is None
        self._takes_grid = self._check_grid(self._check_cache())
        self._gpt2 = self._check_gpt2()

    # ---------------------------------------------------------------- making views
    @classmethod
    def from_pretrained(
        cls, spec: str | os.PathLike[str], *, device: str = "cpu", dtype: str = "float32", trust_remote_code: bool = False
    ) -> LanguageModel:
        """Loads "embedded", "smollm2", a directory, or a hub name (safetensors only).

        Raises:
            ConfigError: It does not exist, has no EOS token, or the device or dtype is not there.
        """
        return cls(*load(spec, device, dtype, trust_remote_code))

    def clone(self) -> LanguageModel:
        """A view with trainable parameters of its own, whether or not these here are frozen."""
        return LanguageModel(copy.deepcopy(self.module).requires_grad_(True), self.tokenizer, self.adapter)

    def with_adapter(self, adapter: str | None) -> LanguageModel:
        """Another view of the same peft module: one of its adapters, or None for all adapters off."""
        view = copy.copy(self)
        view.adapter = adapter
        return view

    @property
    def device(self) -> torch.device:
        """Where the model is, and ids have to be."""
        return self.head.weight.device

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Makes the module behave as this view while inside."""
        if not self.is_peft:
            yield
        elif self.adapter is None:
            with self.module.disable_adapter():
                yield
        else:
            if self.module.active_adapter != self.adapter:
                self.module.set_adapter(self.adapter)
                for name, parameter in self.module.named_parameters():
                    if ".lora_" in name:  # peft freezes what is not active, and a graph over two adapters would lose gradients
                        parameter.requires_grad_(True)
            yield

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
    ) -> Generation:
        """Samples a turn for each context, with a KV cache.

        Args:
            contexts: B lists of ids, ragged.
            max_new_tokens: Token budget T.
            sampling: The warp; temperature 0 is greedy.
            uniforms: float (B, T) in [0, 1): each token is the inverse of the cumulative distribution at its uniform, so a row does not
                depend on the other rows of the batch, beyond rounding.
            value: Maps last hidden states (B, H) to values (B,).
            tape: Keeps what the linear layers say, for `hidden_states`.

        Raises:
            ConfigError: The longest context and `max_new_tokens` are more than the model's positions.
        """
        batch, device = len(contexts), self.device
        different, place = _distinct(contexts)  # equal contexts are read once
        ids, mask, positions = self._left_padded(different, room=max_new_tokens)
        width = ids.shape[1]
        tokens = torch.zeros(batch, max_new_tokens, dtype=torch.int64, device=device)  # (B, T)
        logprobs = torch.zeros(batch, max_new_tokens, device=device)
        values = torch.zeros(batch, max_new_tokens, device=device)
        lengths = torch.full((batch,), max_new_tokens, dtype=torch.int64, device=device)
        noise = torch.as_tensor(np.asarray(uniforms), dtype=torch.float32, device=device)
        rows = torch.arange(batch, device=device)  # rows still playing; a finished row leaves the batch and the cache
        cache = self._new_cache(width + max_new_tokens)
        grid = None  # (B', 1, 1, L + T): what a new token may look at, made once for the turn
        recording = tape.recording(len(different) * width + batch * (max_new_tokens - 1)) if tape else contextlib.nullcontext()
        with self.active(), recording:
            for t in range(max_new_tokens):
                if tape:
                    tape.before(rows)
                seen = mask if grid is None else grid[..., : width + t]
                hidden, logits = self._last(ids, seen, positions, cache)
                if t == 0 and place is not None:
                    spread = torch.as_tensor(place, device=device)
                    cache.batch_select_indices(spread)
                    hidden, logits, positions = hidden[spread], logits[spread], positions[spread]
                    mask = None if mask is None else mask[spread]
                scores = warp_logits(logits, sampling, t)  # (B', V)
                top = scores.amax(-1, keepdim=True)
                mass = (scores - top).exp()  # one pass over the vocabulary both normalises and draws
                normal = top + mass.sum(-1, keepdim=True).log()
                chosen = scores.argmax(-1, keepdim=True) if sampling.temperature == 0 else invert(mass, noise[rows, t])
                tokens[rows, t] = chosen[:, 0]
                logprobs[rows, t] = (scores.gather(-1, chosen) - normal)[:, 0]
                if value is not None:
                    values[rows, t] = value(hidden).float()
                going = chosen[:, 0] != sampling.eos_id
                left = int(going.sum())
                if left < len(rows):
                    lengths[rows[~going]] = t + 1
                    if left == 0:
                        break
                ids, positions = chosen, positions[:, -1:] + 1
                if mask is not None and self._takes_grid:
                    grid = torch.nn.functional.pad(mask, (0, max_new_tokens), value=1)[:, None, None].bool() if grid is None else grid
                elif mask is not None:
                    mask = torch.nn.functional.pad(mask, (0, 1), value=1)
                if left < len(rows) and t + 1 < max_new_tokens:
                    keep = going.nonzero()[:, 0]
                    cache.batch_select_indices(keep)
                    rows, ids, positions = rows[keep], ids[keep], positions[keep]
                    mask = None if mask is None else mask[keep]
                    grid = None if grid is None else grid[keep]
        longest = int(lengths.max())
        said, ends = tokens[:, :longest].cpu().numpy(), lengths.cpu().numpy()
        if tape:
            tape.close(contexts, different, place, said, ends)
        return Generation(
            said,
            ends,
            logprobs[:, :longest].double().cpu().numpy(),
            values[:, :longest].double().cpu().numpy() if value is not None else None,
        )

    # ---------------------------------------------------------------- scoring
    def score_tensor(
        self, contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probs of turns with gradients, and the hidden states they came from.

        Args:
            contexts, tokens, lengths, sampling: As in `ReferencePolicy.score`.

        Returns:
            logprobs: float32 (M,), one for each of the M = sum(lengths) tokens, row by row.
            hidden: (M, H), the last hidden state in which each token was chosen; what value heads read.
            positions: int64 (M,), of each token in its turn.
        """
        hidden, targets, positions = self.hidden_states(contexts, tokens, lengths)
        return self.token_logprobs(hidden, targets, positions, sampling), hidden, positions

    def hidden_states(
        self, contexts: Sequence[Sequence[int]], tokens: np.ndarray, lengths: np.ndarray, tapes: Sequence[Tape] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One forward pass over contexts and turns: hidden states (M, H), the tokens chosen in them (M,), their positions (M,).

        Without `gives_hidden` the "hidden states" are logits (M, V); `token_logprobs` knows. Turns that all stand on `tapes` are looked up there as far
        as that goes.
        """
        longest = int(lengths.max())
        tokens, lengths = np.asarray(tokens)[:, :longest], np.asarray(lengths)
        valid = np.arange(longest) < lengths[:, None]
        steps = np.nonzero(valid)[1]
        known = find(tapes, contexts, tokens, lengths) if tapes else None
        different, spread = _distinct(contexts) if known is None else (contexts, None)
        if known is not None:
            flat = _picked(self._states_on_tapes(tapes, *known)[:, :longest], valid)
        elif spread is not None and longest > 1:
            flat = _picked(self._states_of_turns(different, spread, tokens, lengths), valid)
        else:
            ids, mask, _ = self._left_padded(
                [[*context, *row[:length]] for context, row, length in zip(contexts, tokens, lengths, strict=True)]
            )
            width = ids.shape[1]
            place = np.arange(longest) - lengths[:, None] + width - 1  # (B, T): column whose hidden state chose token t
            first = int(place[valid].min())
            index = torch.as_tensor(np.nonzero(valid)[0] * (width - first) + place[valid] - first, device=self.device)
            with self.active():
                states = self._states(ids, mask, _positions(ids, mask), keep=width - first)
            flat = states.reshape(-1, states.shape[-1]).index_select(0, index)  # (M, H)
        return flat, torch.as_tensor(tokens[valid], device=self.device), torch.as_tensor(steps, device=self.device)

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
        self, contexts: Sequence[Sequence[int]], spread: np.ndarray, tokens: np.ndarray, lengths: np.ndarray, tape: Tape | None = None
    ) -> torch.Tensor:
        """Hidden states (B, T, H): each of the U contexts is read once, and its keys and values serve all the turns that have it."""
        longest = tokens.shape[1]
        ids, mask, positions = self._left_padded(contexts, room=longest)
        rows = torch.as_tensor(spread, device=self.device)
        cache = self._new_cache(ids.shape[1] + longest)
        read = torch.as_tensor(np.arange(longest - 1) < lengths[:, None] - 1, device=self.device)  # (B, T - 1): tokens that choose another
        with self.active():
            with tape.playing("contexts") if tape else contextlib.nullcontext():
                first = self._states(ids, mask, positions, 1, cache)[rows]  # (B, 1, H)
            if longest == 1:
                return first
            cache.batch_select_indices(rows)
            seen = torch.ones_like(ids) if mask is None else mask
            seen = torch.cat([seen[rows], read.to(seen.dtype)], 1)  # (B, L + T - 1)
            ids = torch.as_tensor(tokens[:, :-1], device=self.device).masked_fill(~read, self.tokenizer.eos_id)
            positions = positions[rows, -1:] + torch.arange(1, longest, device=self.device)
            with tape.playing("tokens") if tape else contextlib.nullcontext():
                return torch.cat([first, self._states(ids, seen, positions, longest - 1, cache)], 1)

    def token_logprobs(self, hidden: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        """float32 (M,) log-probs of `targets`. A large vocabulary is gone through in blocks where the output weights are not trained; else the states
        are taken in chunks, and with gradients a chunk's logits are computed again in the backward pass instead of being kept, once there
        are more than fit in one chunk."""
        grad = torch.is_grad_enabled() and (hidden.requires_grad or self.head.weight.requires_grad)
        if self._plain_head and self.vocab_size > BLOCK and not sampling.truncates:
            if not grad:
                return stream(hidden, self.head.weight, targets, positions, sampling)[0]
            if not self.head.weight.requires_grad:
                return FrozenHead.apply(hidden, self.head.weight, targets, positions, sampling)  # type: ignore[return-value]
        size = max(1, CHUNK_ELEMENTS // self.vocab_size)
        if len(targets) <= size:
            return self._chunk(hidden, targets, positions, sampling)
        parts = []
        for part in zip(hidden.split(size), targets.split(size), positions.split(size), strict=True):
            parts.append(checkpoint(self._chunk, *part, sampling, use_reentrant=False) if grad else self._chunk(*part, sampling))
        return torch.cat(parts)

    def _chunk(self, hidden, targets, positions, sampling: Sampling) -> torch.Tensor:
        return -torch.nn.functional.cross_entropy(warp_logits(self.logits(hidden), sampling, positions), targets, reduction="none")

    def exact_kl(
        self, hidden: torch.Tensor, reference: LanguageModel, ref_hidden: torch.Tensor, positions: torch.Tensor, sampling: Sampling
    ) -> torch.Tensor:
        """float32 (M,): exact KL(self || reference) over the vocabulary at each state, differentiable, in chunks like `token_logprobs`."""
        parts = []
        size = max(1, CHUNK_ELEMENTS // (2 * self.vocab_size))
        for part in zip(hidden.split(size), ref_hidden.split(size), positions.split(size), strict=True):
            grad = torch.is_grad_enabled() and len(hidden) > size
            chunk = self._kl_chunk
            parts.append(checkpoint(chunk, reference, *part, sampling, use_reentrant=False) if grad else chunk(reference, *part, sampling))
        return torch.cat(parts)

    def _kl_chunk(self, reference: LanguageModel, hidden, ref_hidden, positions, sampling: Sampling) -> torch.Tensor:
        ours = warp_logits(self.logits(hidden), sampling, positions).log_softmax(-1)
        with torch.no_grad():
            theirs = warp_logits(reference.logits(ref_hidden), sampling.reference, positions).log_softmax(-1)
        difference = (ours - theirs).masked_fill(ours.isneginf(), 0.0)  # a masked token is -inf in both and counts nothing
        return (ours.exp() * difference).sum(-1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits (M, V) of hidden states (M, H)."""
        return self._transformed(self.head(hidden)) if self.gives_hidden else hidden

    def _transformed(self, logits: torch.Tensor) -> torch.Tensor:
        """What the model does to the product of its head, in the order and precision in which models do it."""
        if self._scale != 1:
            logits = logits * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    @torch.no_grad()
    def score(self, contexts, tokens, lengths, sampling: Sampling) -> np.ndarray:
        """See `ReferencePolicy.score`."""
        lengths = np.asarray(lengths)
        logprobs, _, _ = self.score_tensor(contexts, tokens, lengths, sampling)
        scores = np.zeros(tokens.shape)  # (B, T)
        scores[np.arange(tokens.shape[1]) < lengths[:, None]] = logprobs.double().cpu().numpy()
        return scores

    @torch.no_grad()
    def distributions(self, contexts, tokens, lengths, sampling: Sampling) -> np.ndarray:
        """See `ReferencePolicy.distributions`; this one does make a (B, T, V) array."""
        lengths = np.asarray(lengths)
        hidden, _, positions = self.hidden_states(contexts, tokens, lengths)
        result = np.zeros((*tokens.shape, self.vocab_size))
        result[np.arange(tokens.shape[1]) < lengths[:, None]] = (
            warp_logits(self.logits(hidden), sampling, positions).log_softmax(-1).double().cpu().numpy()
        )
        return result

    def cursor(self, context: Sequence[int], sampling: Sampling) -> _Cursor:
        """See `ReferencePolicy.cursor`; keeps a KV cache."""
        return _Cursor(self, context, sampling)

    # ---------------------------------------------------------------- internals
    def _left_padded(self, contexts, room: int = 0) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        lengths = np.array([len(context) for context in contexts])
        width = int(lengths.max())
        if self.max_positions is not None and width + room > self.max_positions:
            response = f" and a response of up to {room}" if room else ""
            raise ConfigError(
                f"a sequence of {width} tokens{response}, but the model has {self.max_positions} positions; lower max_context or "
                "max_new_tokens."
            )
        ids = np.full((len(contexts), width), self.tokenizer.eos_id)
        for row, context in enumerate(contexts):
            ids[row, width - len(context) :] = context
        tensor = torch.as_tensor(ids, device=self.device)
        if lengths.min() == width:  # no padding, no mask: attention takes its fast causal path
            return tensor, None, _positions(tensor, None)
        mask = torch.as_tensor((np.arange(width) >= width - lengths[:, None]).astype(np.int64), device=self.device)
        return tensor, mask, _positions(tensor, mask)

    def _new_cache(self, room: int = 0) -> Any:
        """An empty KV cache, for `room` positions if that is known."""
        if self._gpt2:
            return KeysAndValues(0 if torch.is_grad_enabled() else room)
        from transformers import DynamicCache

        return DynamicCache()

    def _states(self, ids, mask, positions, keep: int, cache=None) -> torch.Tensor:
        """States of the last `keep` columns, (B, keep, H): hidden states, or logits without `gives_hidden`."""
        if self._gpt2:
            return self._gpt2(ids, mask, positions, cache)[:, -keep:]
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": cache is not None}
        if cache is not None:
            inputs[self._cache_name] = cache
        if self.gives_hidden:
            return self.backbone(**inputs).last_hidden_state[:, -keep:]
        return self.causal(**inputs, logits_to_keep=keep).logits

    def _last(self, ids, mask, positions, cache) -> tuple[torch.Tensor, torch.Tensor]:
        state = self._states(ids, mask, positions, 1, cache)[:, 0]
        if self._plain_head and self.vocab_size > 4 * BLOCK and state.device.type == "cpu":  # block by block, the weights stay in the cache
            return state, torch.cat([state @ part.T for part in self.head.weight.split(BLOCK)], -1)
        return state, self.logits(state)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Finds out how logits come from the last hidden state, and how wide that is. What the configuration declares is tried first, as small
        logits look the same without it."""
        ids = torch.arange(4, device=self.device)[None] % self.vocab_size
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        logits, hidden = self.causal(**inputs).logits, self.backbone(**inputs).last_hidden_state
        self.hidden_size = int(hidden.shape[-1])
        try:
            product = self.head(hidden)
        except RuntimeError:  # something stands between them
            product = hidden
        for scale, cap in head_transformations(self.causal.config.get_text_config()):
            self._scale, self._cap = scale, cap
            ours = self._transformed(product)
            if ours.shape == logits.shape and torch.allclose(ours.to(logits.dtype), logits, atol=1e-4, rtol=1e-4, equal_nan=True):
                return
        self._scale, self._cap, self.gives_hidden = 1.0, None, False

    def _trial(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, mask and positions (2, 4) to try a model with; the second row begins with padding."""
        ids = torch.arange(8, device=self.device).reshape(2, 4) % self.vocab_size
        mask = torch.ones_like(ids)
        mask[1, 0] = 0
        return ids, mask, _positions(ids, mask)

    def _cached_step(self, last_mask: torch.Tensor) -> torch.Tensor:
        """The last states (2, 1, H) of `_trial`, in a step of its own on a cache of the columns before."""
        (ids, mask, positions), cache = self._trial(), self._new_cache()
        self._states(ids[:, :-1], mask[:, :-1], positions[:, :-1], 1, cache)
        return self._states(ids[:, -1:], last_mask, positions[:, -1:], 1, cache)

    @torch.no_grad()
    def _check_cache(self) -> torch.Tensor:
        """Refuses a model whose state after padding and a cached step is not that of a plain pass: it would sample from one distribution and learn
        about another. Returns the `_cached_step` under a 2-D mask."""
        ids, mask, _ = self._trial()
        kind, expected = type(self.causal).__name__, "expected a transformer with a KV cache that takes left padding. Use another model."
        try:
            step = self._cached_step(mask)
            plain = self._states(ids[1:, 1:], None, _positions(ids[1:, 1:], None), 1)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ConfigError(f"{kind} cannot be asked for one token after another ({first_line(error)}); {expected}") from error
        apart = float((step[1:].double() - plain.double()).norm() / plain.double().norm())
        if apart > 4 * torch.finfo(self.head.weight.dtype).eps ** 0.5:  # more than rounding can add up to
            raise ConfigError(
                f"{kind} gives a state {apart:.0%} off when it reads token by token behind padding instead of all at once; {expected}"
            )
        return step

    @torch.no_grad()
    def _check_grid(self, step: torch.Tensor) -> bool:
        """Whether a ready-made boolean mask (B, 1, 1, L) does in a cached step what a 2-D mask does in `step`, so that the model need not derive
        it in every step. Models with sliding windows make masks of several kinds and are left alone."""
        config = self.causal.config.get_text_config()
        if getattr(config, "sliding_window", None) or set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            return False
        _, mask, _ = self._trial()
        try:
            ready = self._cached_step(mask[:, None, None].bool())
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
        return bool(torch.allclose(step, ready, atol=1e-5, rtol=1e-4)) and bool(step.isfinite().all())

    @torch.no_grad()
    def _check_gpt2(self) -> GPT2 | None:
        """The short way through the model, where it is a small GPT-2 and the way leads to the same states."""
        if self.is_peft or not (self.is_small and self.gives_hidden and GPT2.fits(self.backbone)):
            return None
        (ids, mask, positions), short = self._trial(), GPT2(self.backbone)
        ours, theirs = short(ids, mask, positions), self._states(ids, mask, positions, ids.shape[1])
        return short if torch.allclose(ours[mask.bool()], theirs[mask.bool()], atol=1e-4, rtol=1e-4) else None


class _Cursor:
    def __init__(self, model: LanguageModel, context: Sequence[int], sampling: Sampling):
        self.model, self.sampling, self.cache, self.position = model, sampling, model._new_cache(), 0
        self.pending = list(context)
        self.seen = 0
        self.current: np.ndarray | None = None

    @torch.no_grad()
    def logprobs(self) -> np.ndarray:
        if self.current is None:
            ids = torch.as_tensor([self.pending], device=self.model.device)
            positions = torch.arange(self.seen, self.seen + len(self.pending), device=self.model.device)[None]
            with self.model.active():
                _, logits = self.model._last(ids, None, positions, self.cache)
            self.current = warp_logits(logits, self.sampling, self.position).log_softmax(-1)[0].double().cpu().numpy()
            self.seen += len(self.pending)
            self.pending = []
        return self.current

    def push(self, token: int) -> None:
        self.pending.append(token)
        self.position += 1
        self.current = None


def _picked(states: torch.Tensor, valid: np.ndarray) -> torch.Tensor:
    """The states (M, H) of (B, T, H) that are valid; where all are, nothing is copied, now or in the backward pass."""
    return states.reshape(-1, states.shape[-1]) if valid.all() else states[torch.as_tensor(valid, device=states.device)]


def _distinct(contexts: Sequence[Sequence[int]]) -> tuple[Sequence[Sequence[int]], np.ndarray | None]:
    """The different contexts, and for each row which of them it has; None where too few are equal for sharing to pay."""
    numbers: dict[tuple[int, ...], int] = {}
    place = [numbers.setdefault(tuple(context), len(numbers)) for context in contexts]
    if 2 * len(numbers) > len(contexts):
        return contexts, None
    return [list(context) for context in numbers], np.array(place)


def _positions(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
    return (mask.cumsum(1) - 1).clamp_(min=0)
