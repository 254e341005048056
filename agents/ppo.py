"""PPO for causal language models: clipped objective, value head, GAE over tokens.

One idea: sampling already knew the log-probs and the values, so an update is only its gradient passes. Dropout is off; log-probs of
sampling and update are defined by the same code (`LanguageModel`).

Source: Schulman et al. (2017), arXiv 1707.06347, eq. 7 and 9; GAE: Schulman et al. (2016), arXiv 1506.02438, eq. 16; token-level reward
with KL shaping: Ziegler et al. (2019), arXiv 1909.08593; settings of CORY: Ma et al. (2024), arXiv 2410.06101, table 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from coevo_env.errors import ConfigError, NonFiniteError
from coevo_env.lm import LanguageModel
from coevo_env.rng import rng
from coevo_env.rollout import Rollout
from coevo_env.sampling import Sampling

from .policy import ActorCritic

__all__ = ["PPO", "PPOConfig", "gae", "make"]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. Defaults are the paper's where it names one.

    Attributes:
        learning_rate: Of Adam.
        decay_updates: The learning rate falls linearly to 0 over this many updates; 0 keeps it constant.
        epochs: Passes over each rollout.
        minibatch_size: Responses per optimiser step; 0 is the whole rollout.
        micro_batch_size: Responses per forward pass; 0 is the whole minibatch. Changes memory, not the result.
        gamma, gae_lambda: Discount per token, and lambda of GAE.
        clip: Range of the probability ratio.
        value_clip: Range in which the value may move in one update; 0 switches it off.
        value_coef: Weight of the value loss.
        whiten: Whether advantages are given zero mean and unit variance over the tokens of the rollout.
        max_grad_norm: Gradient clipping; 0 switches it off.
        target_kl: Stop the epochs of an update when the KL between old and new policy passes 1.5 times this; 0 switches it off.
        normalize_reward: Divide the team reward by a running standard deviation, kept per agent.
        recompute: "auto" (when the model is not float32), "always" or "never": whether old log-probs and values are recomputed by a
            scoring pass instead of taken from sampling.
    """

    learning_rate: float = 1.41e-5
    decay_updates: int = 0
    epochs: int = 4
    minibatch_size: int = 0
    micro_batch_size: int = 0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 0.1
    whiten: bool = True
    max_grad_norm: float = 1.0
    target_kl: float = 0.0
    normalize_reward: bool = False
    recompute: str = "auto"

    def __post_init__(self) -> None:
        for name, high in (
            *(("learning_rate", 1e9), ("gamma", 1), ("gae_lambda", 1), ("clip", 1), ("value_clip", 1e9)),
            *(("value_coef", 1e9), ("max_grad_norm", 1e9), ("target_kl", 1e9), ("decay_updates", 1e9)),
        ):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ConfigError(f"ppo.{name}={value!r}; expected a number from 0 to {high:g}.")
        if self.epochs < 1 or self.minibatch_size < 0 or self.micro_batch_size < 0:
            raise ConfigError(
                f"ppo.epochs={self.epochs}, minibatch_size={self.minibatch_size}, micro_batch_size={self.micro_batch_size}; expected "
                "epochs >= 1 and sizes >= 0 (0 is the whole batch)."
            )
        if self.recompute not in ("auto", "always", "never"):
            raise ConfigError(f"ppo.recompute={self.recompute!r}; expected 'auto', 'always' or 'never'.")


def gae(rewards: np.ndarray, values: np.ndarray, lengths: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """Generalised advantage estimates of finished responses: the value behind the last token is 0.

    Args:
        rewards, values: float (B, T), 0 behind `lengths`.
        lengths: int (B,).

    Returns:
        float64 (B, T), 0 behind `lengths`.
    """
    mask = np.arange(rewards.shape[1]) < lengths[:, None]
    rewards, values = np.where(mask, rewards, 0.0), np.where(mask, values, 0.0)
    advantages = np.zeros_like(rewards)
    running = np.zeros(len(rewards))
    following = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = np.where(mask[:, t], delta + gamma * lam * running, 0.0)
        following = values[:, t]
        advantages[:, t] = running
    return advantages


class PPO:
    """The learner.

    Args:
        policy: Model and value head to train.
        config: Settings.
        seed: Seed of the minibatch order.
        sampling: Warp under which the policy samples; new log-probs are computed under the same one.
        reference: For the KL mode "loss": the policy to stay close to; the exact KL over the vocabulary, times the rollout's beta, is
            then added to the loss and differentiated.

    Raises:
        ConfigError: The warp truncates (top-k, top-p): a token could then have probability 0 under the new policy.
    """

    def __init__(
        self, policy: ActorCritic, config: PPOConfig, *, seed: int = 0, sampling: Sampling, reference: LanguageModel | None = None
    ):
        if sampling.truncates or sampling.temperature == 0:
            raise ConfigError(
                f"PPO with temperature={sampling.temperature}, top_k={sampling.top_k}, top_p={sampling.top_p}: the probability ratio is "
                "not defined where sampling cuts the support; train with temperature > 0, top_k=0, top_p=1 and truncate when you evaluate."
            )
        self.policy, self.config, self.seed, self.sampling, self.reference = policy, config, seed, sampling, reference
        self.parameters = policy.named_parameters()
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), lr=config.learning_rate, eps=1e-8, fused=True)
        self.updates = 0
        self.inspection: dict[str, np.ndarray] = {}
        self.moments = np.zeros(3)  # count, mean, sum of squared deviations of the team reward

    # ---------------------------------------------------------------- learning
    def update(self, rollout: Rollout) -> dict[str, float]:
        """See `Learner.update`."""
        config, size = self.config, len(rollout)
        step = config.minibatch_size or size
        if size % step:
            raise ConfigError(f"a rollout of {size} responses does not divide into minibatches of {step}; choose a divisor of {size}.")
        old, mismatch = self._behaviour(rollout)
        mask = rollout.mask
        rewards = rollout.shaping.copy()
        rewards[np.arange(size), rollout.lengths - 1] += self._normalized(rollout.team_reward)
        advantages = gae(rewards, old.values, rollout.lengths, config.gamma, config.gae_lambda)
        returns = advantages + old.values
        scale = 1.0
        if config.whiten:
            valid = advantages[mask]
            scale = float(1.0 / (valid.std() + 1e-8))
            advantages = np.where(mask, (advantages - valid.mean()) * scale, 0.0)
        self.inspection = {"advantages": advantages}
        rate = config.learning_rate
        if config.decay_updates:
            rate *= max(0.0, 1.0 - self.updates / config.decay_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = _Batch(rollout, old.logprobs, old.values, advantages, returns, scale, self._reference_hidden(rollout))
        totals: dict[str, list[float]] = {}
        stopped = False
        for epoch in range(config.epochs):
            order = rng(self.seed, self.updates, epoch, stream="minibatches").permutation(size)
            for start in range(0, size, step):
                stats = self._step(batch, order[start : start + step])
                for name, value in stats.items():
                    totals.setdefault(name, []).append(value)
                stopped = config.target_kl > 0 and stats["approx_kl"] > 1.5 * config.target_kl
                if stopped:
                    break
            if stopped:
                break
        self.updates += 1
        variance = returns[mask].var()
        return {
            **{name: float(np.mean(values)) for name, values in totals.items() if name not in ("approx_kl", "ratio_max")},
            "approx_kl": totals["approx_kl"][-1],
            "ratio_max": max(totals["ratio_max"]),
            "steps": float(len(totals["approx_kl"])),
            "explained_variance": float(1.0 - (returns - old.values)[mask].var() / variance) if variance > 0 else 0.0,
            "return": float(returns[:, 0].mean()),
            "logprob_mismatch": mismatch,
            "learning_rate": rate,
        }

    def loss(self, batch: _Batch, rows: np.ndarray, tokens: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The PPO loss of some rows, as a sum over their tokens divided by `tokens`, with its parts.

        Args:
            batch: Rollout with advantages.
            rows: Row numbers.
            tokens: Tokens in the whole minibatch.
        """
        config, rollout = self.config, batch.rollout
        contexts = [rollout.contexts[row] for row in rows]
        lengths = rollout.lengths[rows]
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        hidden, targets, positions = self.policy.lm.hidden_states(contexts, rollout.tokens[rows], lengths)
        logprobs = self.policy.lm.token_logprobs(hidden, targets, positions, self.sampling)  # (M,)
        values = self.policy.values(hidden)
        old, old_values, advantages, returns = (
            torch.as_tensor(array[rows][:, : mask.shape[1]][mask], dtype=torch.float32, device=logprobs.device)
            for array in (batch.logprobs, batch.values, batch.advantages, batch.returns)
        )
        log_ratio = logprobs - old
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).sum() / tokens
        error = (values - returns).square()
        if config.value_clip > 0:
            near = old_values + (values - old_values).clamp(-config.value_clip, config.value_clip)
            error = torch.maximum(error, (near - returns).square())
        value_loss = 0.5 * error.sum() / tokens
        loss = policy_loss + config.value_coef * value_loss
        stats = {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "clip_fraction": ((ratio - 1).abs() > config.clip).float().sum() / tokens,
            "approx_kl": (ratio - 1 - log_ratio).sum() / tokens,
            "ratio_max": ratio.max(),
        }
        if batch.reference is not None and self.reference is not None:
            theirs = batch.reference[torch.as_tensor(rows)][:, : mask.shape[1]][torch.as_tensor(mask)]  # (M, H)
            kl = self.policy.lm.exact_kl(hidden, self.reference, theirs, positions, self.sampling).sum() / tokens
            loss = loss + rollout.beta * batch.scale * kl  # in the units of the advantages, or whitening would change beta
            stats["loss/kl"] = kl
        return loss, {name: float(value.detach()) for name, value in stats.items()}

    def _step(self, batch: _Batch, rows: np.ndarray) -> dict[str, float]:
        """One optimiser step on some rows."""
        size = self.config.micro_batch_size or len(rows)
        tokens = int(batch.rollout.lengths[rows].sum())
        stats: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for start in range(0, len(rows), size):
            loss, part = self.loss(batch, rows[start : start + size], tokens)
            if not np.isfinite(part["loss/policy"] + part["loss/value"] + part.get("loss/kl", 0.0)):
                raise NonFiniteError(
                    f"PPO loss is not finite: {part} in update {self.updates}, episodes {batch.rollout.episodes[rows].tolist()[:8]}...; "
                    "the weights are those of the last good step. Lower ppo.learning_rate or raise kl.beta."
                )
            with self.policy.lm.active():  # a checkpointed chunk runs its forward again in here
                loss.backward()
            for name, value in part.items():
                stats[name] = max(stats.get(name, -np.inf), value) if name == "ratio_max" else stats.get(name, 0.0) + value
        limit = self.config.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(
                f"PPO gradient norm is {float(norm)} in update {self.updates}; the weights are those of the last good step. "
                "Lower ppo.learning_rate, or use dtype float32."
            )
        self.optimizer.step()
        return {**stats, "grad_norm": float(norm)}

    def _behaviour(self, rollout: Rollout) -> tuple[_Behaviour, float]:
        """Log-probs and values of the behaviour policy, and how far a scoring pass is from sampling (0 when none was made)."""
        dtype = self.policy.lm.head.weight.dtype
        again = self.config.recompute == "always" or (self.config.recompute == "auto" and dtype != torch.float32)
        if rollout.values is not None and not again:
            return _Behaviour(rollout.logprobs, rollout.values), 0.0
        logprobs, values = np.zeros(rollout.tokens.shape), np.zeros(rollout.tokens.shape)
        size = self.config.micro_batch_size or len(rollout)
        with torch.no_grad():
            for start in range(0, len(rollout), size):
                rows = np.arange(start, min(start + size, len(rollout)))
                contexts = [rollout.contexts[row] for row in rows]
                scored, hidden, _ = self.policy.lm.score_tensor(contexts, rollout.tokens[rows], rollout.lengths[rows], self.sampling)
                mask = np.zeros(rollout.tokens.shape, bool)
                mask[rows] = rollout.mask[rows]
                logprobs[mask] = scored.double().cpu().numpy()
                values[mask] = self.policy.values(hidden).double().cpu().numpy()
        mismatch = float(np.abs(logprobs - rollout.logprobs).max()) if rollout.logprobs.any() else 0.0
        return _Behaviour(logprobs, values), mismatch

    @torch.no_grad()
    def _reference_hidden(self, rollout: Rollout) -> torch.Tensor | None:
        """Hidden states of the reference policy at every token, (B, T, H), once per update; None when KL is not in the loss."""
        if self.reference is None:
            return None
        hidden, _, _ = self.reference.hidden_states(rollout.contexts, rollout.tokens, rollout.lengths)
        states = hidden.new_zeros(*rollout.tokens.shape, hidden.shape[-1])
        states[torch.as_tensor(rollout.mask)] = hidden
        return states

    def _normalized(self, reward: np.ndarray) -> np.ndarray:
        """The team reward over its running standard deviation (Chan et al. 1979), or as it is."""
        if not self.config.normalize_reward:
            return reward
        count, mean, squares = self.moments
        total, delta = count + len(reward), reward.mean() - mean
        squares += ((reward - reward.mean()) ** 2).sum() + delta**2 * count * len(reward) / total
        self.moments = np.array([total, mean + delta * len(reward) / total, squares])
        return reward / (np.sqrt(squares / total) + 1e-8)

    # ---------------------------------------------------------------- state
    def forget(self) -> None:
        """Clears the optimiser's moments and the reward statistics; weights and counters stay."""
        self.optimizer.state.clear()
        self.moments = np.zeros(3)

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments of the optimiser, counters."""
        state: dict[str, Any] = {name: parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{key}.{name}"] = value
        state["updates"] = self.updates
        state["moments"] = torch.from_numpy(self.moments.copy())
        return state

    def load_state_dict(self, state: Any) -> None:
        """Restores `state_dict` bit for bit.

        Raises:
            ConfigError: A tensor is missing or has another shape.
        """
        for name, parameter in self.parameters.items():
            if name not in state or state[name].shape != parameter.shape:
                got = "nothing" if name not in state else f"shape {tuple(state[name].shape)}"
                raise ConfigError(f"the saved state has {got} for {name!r}; expected shape {tuple(parameter.shape)}. Was it another model?")
            with torch.no_grad():
                parameter.copy_(state[name])
            saved = {
                key: state[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{key}.{name}" in state
            }
            if saved:
                step = saved["step"].to(parameter.device)
                moments = {key: saved[key].to(parameter.device).clone() for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": step.clone(), **moments}
        self.updates = int(state["updates"])
        self.moments = state["moments"].cpu().numpy().copy()


@dataclass(frozen=True)
class _Behaviour:
    """float64 (B, T) each."""

    logprobs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class _Batch:
    """A rollout ready for gradient passes; arrays are float64 (B, T). `scale` is what whitening multiplied the advantages by."""

    rollout: Rollout
    logprobs: np.ndarray
    values: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    scale: float = 1.0
    reference: torch.Tensor | None = None


def make(policy: ActorCritic, reference: LanguageModel, config: Any, sampling: Sampling, seed: int) -> PPO:
    """Factory for the training loop: KL goes into the loss when the environment measures it but does not pay it."""
    return PPO(policy, config.ppo, seed=seed, sampling=sampling, reference=reference if config.kl.mode == "loss" else None)
