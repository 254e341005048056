"""Networks for stable-baselines3 that read token ids as names, and SB3 models as partners.

One idea: an observation is a sequence of ids, padded on the right with V. `TokenExtractor` embeds
it for SB3's stock policies, `CausalLMPolicy` hands it to a language model, and `SB3Actor` goes the
other way and makes such observations from contexts, so that a model that SB3 trained can play a
partner's turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from coevo_env.errors import ConfigError
from coevo_env.game.reference import ReferencePolicy
from coevo_env.game.sampling import Sampling
from coevo_env.lm.logits import invert, warp_logits
from coevo_env.lm.model import Generation, LanguageModel

from ..learners.policy import ActorCritic, LoRAConfig, make_policies
from . import require

__all__ = [
    "CausalLMPolicy",
    "CursorActor",
    "SB3Actor",
    "TokenExtractor",
    "language_model_kwargs",
    "maskable_causal_lm_policy",
]


def token_space(space: spaces.Space) -> tuple[spaces.Box, int]:
    """The box of tokens of an observation space, and V, its padding."""
    box = space.spaces.get("observation") if isinstance(space, spaces.Dict) else space
    if not isinstance(box, spaces.Box) or len(box.shape) != 1:
        raise ConfigError(f"observation space {space}; expected that of CoevoVecEnv or coevo_env.GymEnv.")
    return box, int(box.high.max())


class TokenExtractor(BaseFeaturesExtractor):
    """Features of a token sequence: an embedding, and the state of a GRU at the last token. SB3's
    own extractors read ids as magnitudes.

    What stands behind the last token has no influence, so neither has the width of the padding.

    Args:
        observation_space: With or without `action_mask`, which is not read.
        features_dim: Size of the features, which is that of the GRU.
        embedding_dim: Size of the embedding.
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 64, embedding_dim: int = 32):
        super().__init__(observation_space, features_dim)
        _, self.padding = token_space(observation_space)
        self.embedding = nn.Embedding(self.padding + 1, embedding_dim, padding_idx=self.padding)
        self.recurrent = nn.GRU(embedding_dim, features_dim, batch_first=True)

    def forward(self, observations: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        """Features (B, F) of observations (B, L), or of a dict that has them."""
        tokens = (observations["observation"] if isinstance(observations, dict) else observations).long()
        lengths = (tokens != self.padding).sum(1).clamp(min=1)
        states, _ = self.recurrent(self.embedding(tokens[:, : int(lengths.max())]))  # (B, L', F)
        return states[torch.arange(len(tokens), device=tokens.device), lengths - 1]


class _LanguageModelNetwork:
    """The network of an SB3 policy, replaced by a causal LM with a value head. Mixed in before an
    SB3 actor-critic policy.

    The observation loses its padding and is put into the model as `LanguageModel` does it: padded
    on the left, with explicit positions. Logits are those at the last token, divided by the game's
    temperature, without the tokens that `action_mask` forbids.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        lm: LanguageModel | str | Path | Callable[[], LanguageModel] | None = None,
        temperature: float = 1.0,
        lora: LoRAConfig | None = None,
        **kwargs: Any,
    ):
        if lm is None:
            raise ConfigError(
                "CausalLMPolicy without a language model; pass policy_kwargs=language_model_kwargs(env), or "
                "policy_kwargs={'lm': ...}."
            )
        if not temperature > 0:
            raise ConfigError(
                f"CausalLMPolicy with temperature={temperature!r}; expected a number > 0, that of the game."
            )
        self.temperature = float(temperature)
        self._given = {"lm": lm, "temperature": self.temperature, "lora": lora}
        # of the SB3 class it is mixed into
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)  # type: ignore[call-arg]

    def _build(self: Any, lr_schedule: Any) -> None:
        _, vocab = token_space(self.observation_space)
        masked = isinstance(self.observation_space, spaces.Dict) and "action_mask" in self.observation_space.spaces
        if not masked and not self._takes_masks:
            raise ConfigError(
                "CausalLMPolicy needs `action_mask` in the observation, or it would emit tokens that are no text. Make "
                "the environment with "
                "mask='observation'."
            )
        lm, lora = self._given["lm"], self._given["lora"]
        if isinstance(lm, (str, Path)):
            lm = LanguageModel.from_pretrained(lm)
        elif not isinstance(lm, LanguageModel):
            lm = lm()
        if lm.vocab_size != vocab:
            raise ConfigError(
                f"the language model has a vocabulary of {lm.vocab_size} tokens, the game one of {vocab}; they must "
                "agree."
            )
        if lm.is_peft:
            raise ConfigError(
                "the language model already carries adapters; give the plain model, and lora=LoRAConfig(...) for "
                "adapters."
            )
        lm = lm.clone()  # the one given may be the reference policy, which must not learn
        self.actor_critic = ActorCritic(lm) if lora is None else make_policies(lm, ["policy"], lora, seed=0)[0][0]
        self.network, self.value_head = self.actor_critic.lm.module, self.actor_critic.value_head
        self.actor_critic.check_critic("CausalLMPolicy")
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = self.optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)

    def train(self: Any, mode: bool = True) -> Any:
        """As of any module, but the language model stays in eval mode: log-probs under dropout are
        not those of the tokens sampled."""
        nn.Module.train(self, mode)
        if "network" in self._modules:
            self.network.eval()
        return self

    def _hidden(self: Any, obs: Any) -> torch.Tensor:
        """Last hidden states (B, H), in which the next token is chosen."""
        tokens = (obs["observation"] if isinstance(obs, dict) else obs).long()
        _, padding = token_space(self.observation_space)
        lengths = (tokens != padding).sum(1).tolist()
        contexts = [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
        nobody = np.array(
            [context[-1:] for context in contexts]
        )  # (B, 1), stands where the next token will; nothing attends to it
        return self.actor_critic.lm.hidden_states(contexts, nobody, np.ones(len(contexts), np.int64))[0]

    def _distribution(self: Any, hidden: torch.Tensor, obs: Any, action_masks: Any) -> Any:
        with self.actor_critic.lm.active():
            logits = self.actor_critic.lm.logits(hidden).float() / self.temperature  # (B, V)
        if isinstance(obs, dict) and "action_mask" in obs:
            logits = logits.masked_fill(obs["action_mask"] == 0, -torch.inf)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def _values(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return self.actor_critic.values(hidden)[:, None]  # (B, 1), as SB3's value nets

    # ---------------------------------------------------------------- what SB3 asks of a policy
    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions (B,), values (B, 1) and log-probs (B,)."""
        hidden = self._hidden(obs)
        distribution = self._distribution(hidden, obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self._values(hidden), distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: Any, actions: torch.Tensor, action_masks: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values (B, 1), log-probs (B,) and entropy (B,)."""
        hidden = self._hidden(obs)
        distribution = self._distribution(hidden, obs, action_masks)
        return self._values(hidden), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        return self._distribution(self._hidden(obs), obs, action_masks)

    def predict_values(self, obs: Any) -> torch.Tensor:
        return self._values(self._hidden(obs))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # of the SB3 class it is mixed into
        return {**super()._get_constructor_parameters(), **self._given}  # type: ignore[misc]

    # ----------------------------------------------- what the rest of this package asks of a policy
    def generate(
        self: Any, contexts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, uniforms: np.ndarray
    ) -> Generation:
        """Samples whole turns with a KV cache, see `coevo_env.lm.model.LanguageModel.generate`."""
        return self.actor_critic.generate(contexts, max_new_tokens, sampling, uniforms)

    def save_pretrained(self: Any, directory: str | Path) -> None:
        """Writes a directory that `AutoModelForCausalLM.from_pretrained` loads."""
        self.actor_critic.save_pretrained(directory)


# signatures have `action_masks` besides
class CausalLMPolicy(_LanguageModelNetwork, ActorCriticPolicy):  # type: ignore[misc]
    """An SB3 policy for PPO and A2C whose network is a Hugging Face causal LM with a value head.

    Args:
        lm: The initial weights: a `LanguageModel` (copied), a function that makes one, or what
            `LanguageModel.from_pretrained` takes. SB3 saves `policy_kwargs` with a model, so a name
            or a function keeps the weights from being saved twice.
        temperature: That of the game; `language_model_kwargs` knows it.
        lora: Adapters on frozen weights instead of training all of them.
        kwargs: `optimizer_class`, `optimizer_kwargs`; others of `ActorCriticPolicy` have no effect.

    Raises:
        ConfigError: No model, another vocabulary, or observations without `action_mask`.
    """

    _takes_masks = False


@cache
def maskable_causal_lm_policy() -> type:
    """`CausalLMPolicy` for sb3-contrib's MaskablePPO (the extra `sb3`).

    Raises:
        MissingExtraError: sb3-contrib is not installed.
    """
    require("sb3-contrib")
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

    class MaskableCausalLMPolicy(_LanguageModelNetwork, MaskableActorCriticPolicy):  # type: ignore[misc]
        """`CausalLMPolicy` that takes its masks as an argument, and from the observation where it
        has them."""

        _takes_masks = True

    return MaskableCausalLMPolicy


def language_model_kwargs(env: Any, lm: Any = None, **kwargs: Any) -> dict[str, Any]:
    """`policy_kwargs` that make a `CausalLMPolicy` fit an environment: its temperature and, by
    default, the reference policy's weights.

    Args:
        env: A `CoevoVecEnv`, wrapped or not.
        lm: See `CausalLMPolicy`; None is the reference policy.
        kwargs: Further policy_kwargs.
    """
    rules, reference = (env.get_attr(name)[0] for name in ("rules", "reference"))
    if lm is None and not isinstance(reference, LanguageModel):
        raise ConfigError(f"the reference policy is a {type(reference).__name__} and no language model; pass lm=.")
    return {"lm": reference if lm is None else lm, "temperature": rules.sampling.temperature, **kwargs}


# ---------------------------------------------------------------- partners
class SB3Actor:
    """Plays turns with an SB3 model, as it is at the time: weights that change later are used from
    then on.

    Args:
        model: An on-policy model on the observations of `CoevoVecEnv` or `coevo_env.GymEnv`.

    Attributes:
        vocab_size: V.
    """

    def __init__(self, model: Any):
        space, actions = getattr(model, "observation_space", None), getattr(model, "action_space", None)
        if not callable(getattr(getattr(model, "policy", None), "get_distribution", None)) or not isinstance(
            actions, spaces.Discrete
        ):
            raise ConfigError(
                f"SB3Actor of a {type(model).__name__}; expected an on-policy SB3 model with token ids as actions."
            )
        self.model, self.vocab_size = model, int(actions.n)
        self._box, _ = token_space(space)  # type: ignore[arg-type]  # refused there
        self._keys = set(space.spaces) if isinstance(space, spaces.Dict) else None

    @torch.no_grad()
    def generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, uniforms: np.ndarray
    ) -> Generation:
        """Samples a turn for each context under the game's mask; see
        `coevo_env.lm.model.LanguageModel.generate`.

        A language model is asked for whole turns. Another policy has no other temperature than the
        one it was trained at, and samples at that; temperature 0 is greedy in both.
        """
        policy = self.model.policy
        if callable(getattr(policy, "generate", None)):
            return policy.generate(contexts, max_new_tokens, sampling, uniforms)
        policy.set_training_mode(False)
        warp = sampling if sampling.temperature == 0 else replace(sampling, temperature=1.0)
        tokens = np.zeros((len(contexts), max_new_tokens), np.int64)  # (B, T)
        lengths, logprobs = np.full(len(contexts), max_new_tokens), np.zeros(tokens.shape)
        rows = np.arange(len(contexts))  # rows still playing
        for t in range(max_new_tokens):
            seen = self._observations(
                [[*contexts[row], *tokens[row, :t]] for row in rows.tolist()], sampling.mask(self.vocab_size, t)
            )
            logits = policy.get_distribution(policy.obs_to_tensor(seen)[0]).distribution.logits  # (B', V)
            scores = warp_logits(logits, warp, t)
            noise = torch.as_tensor(np.asarray(uniforms)[rows, t], dtype=torch.float32, device=scores.device)
            mass = (scores - scores.amax(-1, keepdim=True)).exp()
            chosen = scores.argmax(-1, keepdim=True) if sampling.temperature == 0 else invert(mass, noise)
            tokens[rows, t] = chosen[:, 0].cpu().numpy()
            logprobs[rows, t] = (scores.gather(-1, chosen)[:, 0] - scores.logsumexp(-1)).cpu().numpy()
            ended = np.isin(tokens[rows, t], sampling.eos_ids)
            lengths[rows[ended]] = t + 1
            rows = rows[~ended]
            if not len(rows):
                break
        longest = int(lengths.max())
        return Generation(tokens[:, :longest], lengths, logprobs[:, :longest])

    def _observations(self, sequences: Sequence[Sequence[int]], mask: np.ndarray) -> Any:
        """What an environment would show of these sequences, with its padding and its keys."""
        (width,), padding = self._box.shape, self.vocab_size
        longest = max(map(len, sequences))
        if longest > width:
            raise ConfigError(
                f"a sequence of {longest} tokens, but this model's observations have {width}; train it in a game with "
                "the same max_context and "
                "max_new_tokens."
            )
        tokens = np.full((len(sequences), width), padding, self._box.dtype)
        for row, sequence in enumerate(sequences):
            tokens[row, : len(sequence)] = sequence
        if self._keys is None:
            return tokens
        parts = {
            "observation": tokens,
            "action_mask": np.repeat(mask[None], len(tokens), 0),
            "attention_mask": (tokens != padding).astype(np.int8),
        }
        return {key: parts[key] for key in self._keys}


class CursorActor:
    """Plays turns with anything that has the `cursor` of a reference policy, row by row; with None
    legal tokens uniformly. The tokens are those that `coevo_env.GymEnv` would have drawn.

    Args:
        policy: A `ReferencePolicy`, for example a `TableModel`, or None.
        vocab_size: V.
    """

    def __init__(self, policy: ReferencePolicy | None, vocab_size: int):
        self.policy, self.vocab_size = policy, int(vocab_size)

    def generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, uniforms: np.ndarray
    ) -> Generation:
        """See `coevo_env.lm.model.LanguageModel.generate`."""
        tokens = np.zeros((len(contexts), max_new_tokens), np.int64)  # (B, T)
        lengths, logprobs = np.full(len(contexts), max_new_tokens), np.zeros(tokens.shape)
        for row, context in enumerate(contexts):
            cursor = None if self.policy is None else self.policy.cursor(context, sampling)
            for t in range(max_new_tokens):
                weights = (
                    sampling.mask(self.vocab_size, t).astype(np.float64)
                    if cursor is None
                    else np.exp(cursor.logprobs())
                )  # (V,)
                total = np.cumsum(weights)
                token = int(np.searchsorted(total, uniforms[row, t] * total[-1], side="right"))
                token = min(token, int(np.flatnonzero(weights)[-1]))  # rounding may have reached the total
                tokens[row, t], logprobs[row, t] = token, np.log(weights[token] / total[-1])
                if token in sampling.eos_ids:
                    lengths[row] = t + 1
                    break
                if cursor is not None:
                    cursor.push(token)
        longest = int(lengths.max())
        return Generation(tokens[:, :longest], lengths, logprobs[:, :longest])
