"""A causal LM with a value head: what actor-critic learners train. Also where N agents get their
weights from.

One idea: an agent is a set of trainable tensors by name. With separate weights these are a whole
copy of the model; with LoRA they are one adapter on a frozen base that all agents and the reference
policy share.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coevo_env.errors import ConfigError
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import Generation, LanguageModel
from coevo_env.lm.tape import Tape

from .lora import LoRAConfig, attach, attach_another, merged, quiet

__all__ = ["ActorCritic", "LoRAConfig", "make_policies", "remembering", "spare", "take", "unremembered"]


class ActorCritic:
    """A language model and a linear value head on its last hidden state.

    Attributes:
        lm: The view of the model that this agent trains.
        value_head: float32 linear layer, (H) -> (1), zero at the start: the first advantages are
            the returns.
        valued: Whether sampling asks the value head; a learner without a critic switches it off.
        tape_bytes: What each call of `generate` may keep for the update while inside `remembering`;
            a learner that uses it sets it.
        tape_rows: Turns of a call that keeps anything, at most; None is any number.
        tapes: What they have kept.
    """

    valued = True
    tape_bytes = 0
    tape_rows: int | None = None

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.tapes: list[Tape] = []
        self._remembers = False
        # skip_init: the usual one would draw from the global generator
        self.value_head: torch.nn.Linear = torch.nn.utils.skip_init(  # type: ignore[assignment]
            torch.nn.Linear, lm.hidden_size, 1, device=lm.device, dtype=torch.float32
        )
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)

    def values(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values (M,) of hidden states (M, H)."""
        return self.value_head(hidden.to(self.value_head.weight.dtype))[:, 0]

    def check_critic(self, learner: str) -> None:
        """Refuses a model that has no hidden states for the value head to read; a learner with a
        critic asks."""
        if not self.lm.gives_hidden:
            raise ConfigError(
                f"{learner} needs a value head on the last hidden state, and logits of {type(self.lm.causal).__name__} "
                "are not its output embedding "
                "times that, scaled or capped; expected a model where they are. Use another model, or a learner "
                "without a critic such as 'reinforce'."
            )

    def generate(
        self, contexts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, uniforms: np.ndarray
    ) -> Generation:
        """Samples turns, with the value of every state passed if anybody wants it. Inside
        `remembering` the states themselves are kept, where they are those of a scoring pass to
        rounding."""
        keep = self._remembers and self.lm.gives_hidden and self.lm.head.weight.dtype == torch.float32
        tape = None
        few = len(contexts) <= (self.tape_rows or len(contexts))
        if self._remembers and self.tape_bytes and few and not self.lm.is_small:
            tape = Tape(self.lm.backbone, self.tape_bytes)
            self.tapes.append(tape)
        return self.lm.generate(
            contexts, max_new_tokens, sampling, uniforms, self.values if self.valued else None, tape, keep
        )

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trainable tensors of this agent by name, the value head's included."""
        marker = f".{self.lm.adapter}."
        named = {}
        for name, parameter in self.lm.module.named_parameters():  # tied weights come once
            if (
                marker in f"{name}." if self.lm.is_peft else name not in self.lm.fixed
            ):  # peft ends the names of some with the adapter's
                named[f"model.{name}"] = parameter
        named.update({f"value_head.{name}": parameter for name, parameter in self.value_head.named_parameters()})
        return named

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over tensors by the names of `named_parameters`, see `take`."""
        take(self.named_parameters(), state)

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """The trainable tensors of the model by a name that is the same for every agent of a run,
        the value head's left out."""
        own = f".{self.lm.adapter}."
        return {
            f"{name}.".replace(own, ".adapter.").removesuffix("."): p
            for name, p in self.named_parameters().items()
            if not name.startswith("value_head.")
        }

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes a plain model directory: weights (with LoRA merged in), tokenizer and
        configuration, and the value head beside them."""
        from safetensors.torch import save_file

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        module: Any = merged(self.lm) if self.lm.is_peft else self.lm.module
        with quiet():
            module.save_pretrained(directory, safe_serialization=True)
        self.lm.tokenizer.hf.save_pretrained(directory)
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in self.value_head.state_dict().items()},
            directory / "value_head.safetensors",
        )


@contextlib.contextmanager
def remembering(actors: Iterable[Any]) -> Iterator[None]:
    """Turns that are sampled inside are going to be learned from inside: those who can keep what
    sampling computed, hidden states and tapes (see `coevo_env.lm.tape`)."""
    policies = [actor for actor in actors if isinstance(actor, ActorCritic)]
    for policy in policies:
        policy._remembers = True
    try:
        yield
    finally:
        for policy in policies:
            policy._remembers, policy.tapes = False, []


@contextlib.contextmanager
def unremembered(actors: Iterable[Any]) -> Iterator[None]:
    """Turns that are sampled inside are not learned from: nothing is kept of them."""
    before = [(actor, actor._remembers) for actor in actors if isinstance(actor, ActorCritic)]
    for policy, _ in before:
        policy._remembers = False
    try:
        yield
    finally:
        for policy, remembers in before:
            policy._remembers = remembers


def make_policies(
    base: LanguageModel, agents: Sequence[str], lora: LoRAConfig | None, seed: int, shared: bool = False
) -> tuple[list[ActorCritic], LanguageModel]:
    """Policies for all agents, equal to `base` at the start, and the reference policy.

    Args:
        base: The initial model; it becomes the reference and must not be trained elsewhere.
        agents: Names.
        lora: Adapters on a shared base, or None for a whole copy of the weights each.
        seed: Initialises the adapters.
        shared: One policy for all agents, who are told apart by what they read.

    Returns:
        The policies in the order of `agents` (N times the same object if shared), and the frozen
        reference.
    """
    if shared:
        (policy,), reference = make_policies(base, agents[:1], lora, seed)
        return [policy] * len(agents), reference
    if lora is None:
        policies = [ActorCritic(base.clone()) for _ in agents]
        base.module.requires_grad_(False)
        return policies, base
    whole = attach(base, agents, lora, seed)
    return [ActorCritic(whole.with_adapter(name)) for name in agents], whole.with_adapter(None)


def take(parameters: Mapping[str, torch.nn.Parameter], state: Mapping[str, Any]) -> None:
    """Copies tensors of a saved state into parameters of the same name; other entries of the state
    are ignored.

    Raises:
        ConfigError: A tensor is missing or has another shape; nothing has been copied then.
    """
    for name, parameter in parameters.items():
        if name not in state or state[name].shape != parameter.shape:
            got = "nothing" if name not in state else f"shape {tuple(state[name].shape)}"
            raise ConfigError(
                f"the saved state has {got} for {name!r}; expected shape {tuple(parameter.shape)}. Was it another "
                "model?"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def spare(policy: ActorCritic, reference: LanguageModel, seed: int, purpose: str) -> ActorCritic:
    """One more network, equal to the reference at the start: a copy of the model, or one more
    adapter on the shared base.

    Args:
        policy: The policy beside which it stands.
        reference: The initial model.
        seed: Initialises an adapter.
        purpose: What it is for; part of the adapter's name.
    """
    lm = policy.lm
    if not lm.is_peft:
        return ActorCritic(reference.clone())
    return ActorCritic(attach_another(lm, f"{lm.adapter}_{purpose}", seed))
