"""The mechanism that gradient learners share: optimiser, minibatches, old log-probs, finite checks
and state. Not an algorithm.

One idea: an algorithm is two functions. `prepare` turns a rollout into what stays fixed during an
update, and `loss` is the loss of some of its rows; everything else is the same for all and stands
here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from coevo_env.errors import ConfigError, NonFiniteError, whole
from coevo_env.game.rollout import Rollout
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import LanguageModel
from coevo_env.rng import rng

from .policy import ActorCritic, take

__all__ = ["Batch", "GradientLearner", "Pass", "check_precision", "per_token"]

AUTO, ROWS = "auto", 256
"""`micro_batch_size` where nobody sets it, and the responses that a forward pass then takes at
most: more cost memory, and time where what they leave behind no longer fits into a cache."""


@dataclass(frozen=True)
class Batch:
    """A rollout ready for gradient passes; arrays are float64 (B, T) unless said otherwise.

    Attributes:
        rollout: B responses.
        logprobs: Under the policy that sampled.
        advantages: What the policy loss weighs tokens with.
        values, returns: Old values and targets of the value loss, where there is a critic.
        scale: (B,), what normalisation multiplied the advantages by; an in-loss KL is scaled alike,
            or normalisation would change beta.
        reference: (B, T, H), hidden states of the reference policy, for an in-loss KL.
    """

    rollout: Rollout
    logprobs: np.ndarray
    advantages: np.ndarray
    scale: np.ndarray
    values: np.ndarray | None = None
    returns: np.ndarray | None = None
    reference: torch.Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """A forward pass over some rows, flat over their M tokens.

    Attributes:
        logprobs: (M,), with gradients.
        hidden: (M, H), with gradients.
        positions: int64 (M,), of each token in its response.
        select: Takes an array (B, T) of the batch to a float32 tensor (M,).
    """

    logprobs: torch.Tensor
    hidden: torch.Tensor
    positions: torch.Tensor
    select: Any


def per_token(parts: dict[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
    """Sums over tokens as shares of a minibatch; a maximum ("..._max") stays what it is."""
    return {name: part if name.endswith("_max") else part / tokens for name, part in parts.items()}


def check_precision(parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Refuses to train parameters that cannot hold what they would learn: an update is smaller than
    half a step of bfloat16 or float16 nearly everywhere, and so are the averages of an optimiser.

    Raises:
        ConfigError: Some are of less than single precision.
    """
    for name, parameter in parameters.items():
        if torch.finfo(parameter.dtype).bits < 32:
            raise ConfigError(
                f"{name} would be trained in {str(parameter.dtype).removeprefix('torch.')}, which rounds most updates "
                "away. Use dtype='float32', or adapters on a frozen base in lower precision: weights='lora'."
            )


class GradientLearner(ABC):
    """Base of learners that take gradient steps on an `ActorCritic`. A subclass has `prepare` and
    `loss`.

    Args:
        policy: What to train.
        reference: The initial model. Rollouts whose KL is left to the loss (`Rollout.kl_in_loss`)
            need it: the exact KL over the vocabulary, times the rollout's beta, is then added to
            the loss and differentiated.
        settings: A `Settings` of the class.
        sampling: Warp under which the policy samples; new log-probs are computed under the same
            one.
        seed: Seed of the minibatch order.

    Attributes:
        parameters: The tensors that learn, by name.
        updates: Updates done.
        inspection: Arrays (B, T) of the last update, for people to look at.

    Raises:
        ConfigError: The warp truncates (top-k, top-p): a token could then have probability 0 under
            the new policy. Or a critic has nothing to read.
    """

    @dataclass(frozen=True)
    class Settings:
        """Settings of an update by gradient steps.

        Attributes:
            learning_rate: Of Adam.
            decay_updates: The learning rate falls linearly to 0 over this many updates; 0 keeps it
                constant.
            epochs: Passes over each rollout.
            minibatch_size: Responses per optimiser step; 0 is the whole rollout.
            micro_batch_size: Responses per forward pass; 0 is the whole minibatch, "auto" equal
                parts of it of at most 256. Changes time and memory; the result is the same to
                rounding.
            max_grad_norm: Gradient clipping; 0 switches it off.
            target_kl: Stop the epochs of an update when the KL between old and new policy passes
                1.5 times this; 0 switches it off.
            recompute: "auto" (when the model is not float32), "always" or "never": whether old
                log-probs and values are recomputed by a scoring pass instead of taken from
                sampling.
            reuse_mib: MiB of results of linear layers that a turn may keep from sampling for the
                first gradient step, which then need not compute them again; more than that is not
                kept. It serves updates whose first step takes the whole rollout at once. 0 switches
                it off.
        """

        learning_rate: float = 3e-4
        decay_updates: int = 0
        epochs: int = 1
        minibatch_size: int = 0
        micro_batch_size: int | str = "auto"
        max_grad_norm: float = 1.0
        target_kl: float = 0.0
        recompute: str = "auto"
        reuse_mib: int = 1024

        ranges: ClassVar[dict[str, float]] = {
            "learning_rate": 1e9,
            "max_grad_norm": 1e9,
            "target_kl": 1e9,
            "decay_updates": 1e9,
            "reuse_mib": 2**40,
        }
        """The largest value of each setting that is a number >= 0."""

        def __post_init__(self) -> None:
            for key, high in self.ranges.items():
                value = getattr(self, key)
                if not 0 <= value <= high:
                    raise ConfigError(f"{key}={value!r}; expected a number from 0 to {high:g}.")
            whole("epochs", self.epochs, 1)
            whole("minibatch_size", self.minibatch_size, 0, "0 is the whole batch")
            if self.micro_batch_size != AUTO:
                whole("micro_batch_size", self.micro_batch_size, 0, "0 is the whole minibatch; or 'auto'")
            if self.recompute not in ("auto", "always", "never"):
                raise ConfigError(f"recompute={self.recompute!r}; expected 'auto', 'always' or 'never'.")

    learns = True
    """Whether updates change the policy."""
    compares = False
    """Whether it compares responses to one prompt, and so needs a `group_size` of at least 2."""
    critic = False
    """Whether the learner uses the policy's value head."""
    ratio = True
    """Whether the loss needs the log-probs of the policy that sampled."""

    def __init__(
        self,
        policy: ActorCritic,
        reference: LanguageModel | None,
        settings: Any,
        sampling: Sampling,
        seed: int = 0,
    ):
        if sampling.truncates or sampling.temperature == 0:
            raise ConfigError(
                f"{self.name} with temperature={sampling.temperature}, top_k={sampling.top_k}, top_p={sampling.top_p}: "
                "the log-probs to learn "
                "from are not defined where sampling cuts the support; train with temperature > 0, top_k=0, top_p=1 "
                "and truncate when you "
                "evaluate."
            )
        if self.critic:
            policy.check_critic(self.name)
        self.policy, self.reference, self.settings, self.sampling, self.seed = (
            policy,
            reference,
            settings,
            sampling,
            seed,
        )
        policy.valued = self.critic
        self.parameters = self.trainable()
        self.optimizer = torch.optim.Adam(
            list(self.parameters.values()), lr=settings.learning_rate, eps=1e-8, fused=True
        )
        check_precision(policy.named_parameters())
        self.updates = 0
        self.inspection: dict[str, np.ndarray] = {}
        self._fresh, self._mismatch = False, 0.0
        at_once = settings.minibatch_size == 0 and settings.micro_batch_size in (0, AUTO)
        policy.tape_bytes = settings.reuse_mib * 2**20 if at_once else 0
        policy.tape_rows = ROWS if settings.micro_batch_size == AUTO else None

    # ---------------------------------------------------------------- what an algorithm says
    @property
    def name(self) -> str:
        """How messages call the learner."""
        return type(self).__name__

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The tensors that learn, by name."""
        return self.policy.named_parameters()

    @abstractmethod
    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """What stays fixed during an update, and metrics of it. Starts with
        `self.behaviour(rollout)`, as a rule."""

    @abstractmethod
    def loss(self, batch: Batch, rows: np.ndarray, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of some rows, as a share of a minibatch with `tokens` tokens, and its parts (see
        `per_token`)."""

    def skips(self, stats: Mapping[str, float]) -> bool | None:
        """Whether a step is not taken, by the parts of its loss; None where none ever is."""
        return None

    # ---------------------------------------------------------------- learning
    def update(self, rollout: Rollout) -> dict[str, float]:
        """See `coevo_agents.learners.learner.Learner.update`."""
        settings, size = self.settings, len(rollout)
        step = settings.minibatch_size or size
        if size % step:
            raise ConfigError(
                f"a rollout of {size} responses does not divide into minibatches of {step}; choose a divisor of {size}."
            )
        batch, metrics = self.prepare(rollout)
        self.inspection = {"advantages": batch.advantages}
        rate = settings.learning_rate
        if settings.decay_updates:
            rate *= max(0.0, 1.0 - self.updates / settings.decay_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        totals: dict[str, list[float]] = {}
        steps, stopped = 0, False
        for epoch in range(settings.epochs):
            order = self._order(rollout, epoch)
            for start in range(0, size, step):
                stats = self._step(batch, order[start : start + step])
                steps += not stats.get("skipped", 0.0)
                for name, value in stats.items():
                    totals.setdefault(name, []).append(value)
                stopped = settings.target_kl > 0 and stats["approx_kl"] > 1.5 * settings.target_kl
                if stopped:
                    break
            if stopped:
                break
        self.updates += 1
        last = {"approx_kl": totals.pop("approx_kl", [0.0])[-1], "ratio_max": max(totals.pop("ratio_max", [1.0]))}
        means = {name: float(np.mean(values)) for name, values in totals.items()}
        if self._fresh:
            metrics["logprob_mismatch"] = self._mismatch
        return {**means, **last, "steps": float(steps), **metrics, "learning_rate": rate}

    def forward(self, batch: Batch, rows: np.ndarray) -> Pass:
        """Log-probs of some rows under the policy as it is now."""
        rollout = batch.rollout
        lengths = rollout.lengths[rows]
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        lm = self.policy.lm
        tapes = self.policy.tapes if len(rows) == len(rollout) else ()
        hidden, targets, positions = lm.hidden_states(
            [rollout.contexts[row] for row in rows], rollout.tokens[rows], lengths, tapes
        )
        self.policy.tapes = []  # the next step has other weights
        logprobs = lm.token_logprobs(hidden, targets, positions, self.sampling)  # (M,)

        def select(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array[rows][:, : mask.shape[1]][mask], dtype=torch.float32, device=logprobs.device)

        return Pass(logprobs, hidden, positions, select)

    def kl_loss(self, batch: Batch, rows: np.ndarray, seen: Pass) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """beta * KL(policy || reference), exact, summed over the tokens of some rows in the units
        of the advantages, and the KL itself as a part; 0 and no part without a reference."""
        if batch.reference is None or self.reference is None:
            return seen.logprobs.new_zeros(()), {}
        mask = batch.rollout.mask[rows]
        theirs = batch.reference[torch.as_tensor(rows)][torch.as_tensor(mask)]  # (M, H)
        kl = self.policy.lm.exact_kl(seen.hidden, self.reference, theirs, seen.positions, self.sampling)
        scale = seen.select(np.broadcast_to(batch.scale[:, None], batch.advantages.shape))
        return batch.rollout.beta * (scale * kl).sum(), {"loss/kl": kl.sum()}

    def behaviour(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray | None, float]:
        """Old log-probs and values, (B, T) each, and how far a scoring pass is from sampling (0
        where none was made).

        Sampling knew both, so they are only computed again on request, in low precision, or where a
        critic's values are missing. An update of a single step needs no pass of its own for that:
        the policy that samples is the one that learns, see `old_logprobs`.
        """
        settings, dtype = self.settings, self.policy.lm.head.weight.dtype
        again = self.ratio and (
            settings.recompute == "always" or (settings.recompute == "auto" and dtype != torch.float32)
        )
        known = rollout.values is not None or not self.critic
        self._fresh = again and known and settings.epochs == 1 and settings.minibatch_size in (0, len(rollout))
        self._mismatch = 0.0
        if known and (self._fresh or not again):
            return rollout.logprobs, rollout.values, 0.0
        self.policy.tapes = []  # new log-probs are to be compared with those of a scoring pass
        logprobs, values = np.zeros(rollout.tokens.shape), np.zeros(rollout.tokens.shape)
        for rows in self.slices(len(rollout)):
            contexts = [rollout.contexts[row] for row in rows]
            with torch.no_grad():
                scored, hidden, _ = self.policy.lm.score_tensor(
                    contexts, rollout.tokens[rows], rollout.lengths[rows], self.sampling
                )
                mask = np.zeros(rollout.tokens.shape, bool)
                mask[rows] = rollout.mask[rows]
                logprobs[mask] = scored.double().cpu().numpy()
                if self.critic:
                    values[mask] = self.policy.values(hidden).double().cpu().numpy()
        mismatch = float(np.abs(logprobs - rollout.logprobs).max()) if rollout.logprobs.any() else 0.0
        return logprobs, values if self.critic else None, mismatch

    def old_logprobs(self, batch: Batch, seen: Pass) -> torch.Tensor:
        """Log-probs (M,) of the policy that sampled, to divide by: those of the batch, or in an
        update of a single step these ones."""
        old = seen.select(batch.logprobs)
        if not self._fresh:
            return old
        now = seen.logprobs.detach()
        self._mismatch = max(self._mismatch, float((now - old).abs().max()))
        return now

    def reference_hidden(self, rollout: Rollout) -> torch.Tensor | None:
        """What `hidden_states` of the reference policy are at every token, (B, T, H), once per
        update; None when KL is not in the loss."""
        if not rollout.kl_in_loss:
            return None
        if self.reference is None:
            raise ConfigError(f"{self.name} has no reference policy, and the KL of this rollout is left to its loss.")
        hidden, _, _ = self.reference.read(rollout.contexts, rollout.tokens, rollout.lengths)
        states = hidden.new_zeros(*rollout.tokens.shape, hidden.shape[-1])
        states[torch.as_tensor(rollout.mask)] = hidden
        return states

    def slices(self, size: int) -> list[np.ndarray]:
        """Row numbers 0..size in micro-batches."""
        step = self.settings.micro_batch_size
        if step == AUTO:
            step = -(-size // -(-size // ROWS))  # as few as possible, and of one size
        step = int(step) or size
        return [np.arange(start, min(start + step, size)) for start in range(0, size, step)]

    def _order(self, rollout: Rollout, epoch: int) -> np.ndarray:
        """Rows in random order, those about one prompt together, so that a minibatch shares their
        contexts."""
        generator = rng(self.seed, self.updates, epoch, stream="minibatches")
        _, group = np.unique(rollout.groups, return_inverse=True)
        place = generator.permutation(int(group.max()) + 1)
        return np.argsort(np.argsort(place)[group.reshape(-1)], kind="stable")

    def _step(self, batch: Batch, rows: np.ndarray) -> dict[str, float]:
        """One optimiser step on some rows."""
        tokens = int(batch.rollout.lengths[rows].sum())
        stats: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for part in self.slices(len(rows)):
            loss, tensors = self.loss(batch, rows[part], tokens)
            parts = {name: float(value.detach()) for name, value in tensors.items()}
            if not np.isfinite(float(loss.detach())):
                raise NonFiniteError(
                    f"{self.name} loss is not finite: {parts} in update {self.updates}, episodes "
                    f"{batch.rollout.episodes[rows].tolist()[:8]}...; "
                    "the weights are those of the last good step. Lower the learning rate or raise kl.beta."
                )
            with self.policy.lm.active():  # a checkpointed chunk runs its forward again in here
                loss.backward()
            for name, value in parts.items():
                stats[name] = (
                    max(stats.get(name, -np.inf), value) if name.endswith("_max") else stats.get(name, 0.0) + value
                )
        limit = self.settings.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(
                f"{self.name} gradient norm is {float(norm)} in update {self.updates}; the weights are those of the "
                "last good step. "
                "Lower the learning rate, or use dtype float32."
            )
        skipped = self.skips(stats)
        if not skipped:
            self.optimizer.step()
        return {**stats, "grad_norm": float(norm), **({} if skipped is None else {"skipped": float(skipped)})}

    # ---------------------------------------------------------------- state
    def forget(self) -> None:
        """Clears the optimiser's moments; weights and counters stay."""
        self.optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments of the optimiser, counters."""
        state: dict[str, Any] = {name: parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{key}.{name}"] = value
        state["updates"] = self.updates
        return state

    def load_state_dict(self, state: Any) -> None:
        """Restores `state_dict` bit for bit.

        Raises:
            ConfigError: A tensor is missing or has another shape.
        """
        take(self.parameters, state)
        for name, parameter in self.parameters.items():
            self.optimizer.state.pop(parameter, None)
            saved = {
                key: state[f"optimizer.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in state
            }
            if saved:
                self.optimizer.state[parameter] = {
                    key: value.to(parameter.device).clone() for key, value in saved.items()
                }
        self.updates = int(state["updates"])
