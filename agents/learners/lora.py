"""Low-rank adapters by peft: one frozen base that all agents and the reference policy share.

One idea: adapters are tried before anything is computed. With all of them off the model has to say
what it said without any, each has to have a gradient everywhere, and where that is not plain, a
folder in which one is merged has to say what the live model says. Learning is not done here.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from coevo_env.errors import ConfigError, first_line, short_of_memory
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.probe import FAILURES, apart, trial

__all__ = ["LoRAConfig", "attach", "attach_another", "merged", "quiet"]


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (Hu et al. 2021), made by peft.

    Attributes:
        rank: Rank r.
        alpha: Scale alpha; the update is alpha / r * B A.
        targets: Module names with commas between them, such as "q_proj,v_proj", or "all-linear".
    """

    rank: int = 8
    alpha: int = 16
    targets: str = "all-linear"

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 65_536 or not 1 <= self.alpha <= 65_536:
            raise ConfigError(
                f"lora.rank={self.rank}, lora.alpha={self.alpha}; expected whole numbers from 1 to 65536."
            )

    def modules(self, model: torch.nn.Module) -> str | list[str]:
        """What peft takes as targets: a list, because it reads a single text as a regular
        expression for whole paths.

        Raises:
            ConfigError: The model has no module of that name.
        """
        if self.targets == "all-linear":
            return self.targets
        names, paths = (
            [name.strip() for name in self.targets.split(",")],
            [f".{path}" for path, _ in model.named_modules()],
        )
        if missing := [name for name in names if not name or not any(path.endswith(f".{name}") for path in paths)]:
            linear = {
                path.rpartition(".")[2]
                for path, module in model.named_modules()
                if type(module).__name__ in ("Linear", "Conv1D")
            }
            raise ConfigError(
                f"lora.targets={self.targets!r}: no module {missing[0]!r} in the model; expected names of its layers "
                f"({', '.join(sorted(linear))}) with commas between them, or 'all-linear'."
            )
        return names


def attach(base: LanguageModel, names: Sequence[str], lora: LoRAConfig, seed: int) -> LanguageModel:
    """A view of `base` with an adapter for each of the names, the first one active.

    Raises:
        ConfigError: The model cannot carry them, or not in such a way that everything holds that
            the module says.
    """
    from peft import LoraConfig, get_peft_model

    if base.is_peft:
        raise ConfigError(
            "the initial model already carries adapters; merge them into it before training adapters on it."
        )
    targets, before = lora.modules(base.module), _said(base)

    def settings() -> Any:
        return LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
        )

    with torch.random.fork_rng(), quiet():  # peft initialises A from the global generator; ours is put back
        torch.manual_seed(seed)
        try:
            module = get_peft_model(base.module, settings(), adapter_name=names[0])
            for name in names[1:]:
                module.add_adapter(name, settings())
            whole = base.around(module, names[0])
            _try(whole, names, before, lora)
        except FAILURES as error:
            if isinstance(error, ConfigError) or short_of_memory(error):
                raise
            raise ConfigError(
                f"adapters with {lora} could not be made: {first_line(error)} Take other lora.targets."
            ) from error
    return whole


def attach_another(lm: LanguageModel, name: str, seed: int) -> LanguageModel:
    """A view with one more adapter, of the settings of the one that `lm` has."""
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        lm.module.add_adapter(name, lm.module.peft_config[lm.adapter])
    return lm.with_adapter(name)


def merged(lm: LanguageModel) -> Any:
    """A copy of the model in which the adapter of a view is part of the weights. A head that was
    tied to its embedding stands on its own in it, where only one of them has learned. A base in
    lower precision, which would round most of what the adapter learned away, is copied in float32.

    Raises:
        ConfigError: A model for which that cannot be saved.
    """
    with lm.active(), quiet():
        module = copy.deepcopy(lm.module)
        if torch.finfo(lm.head.weight.dtype).bits < 32:
            module = module.cpu().float()
        causal = module.get_base_model()
        embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
        carriers = [layer for layer in (embedding, head) if hasattr(layer, "base_layer")]
        if carriers and embedding.weight is head.weight:  # what one of them learned is not the other's
            layer = getattr(head, "base_layer", head)
            if getattr(layer, "bias", None) is not None:
                raise ConfigError(
                    f"{type(causal).__name__} ties its output layer, which has a bias of its own, to its embedding; it "
                    "cannot be saved with adapters on either. Take other lora.targets, or weights='separate'."
                )
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
            causal.config.get_text_config().tie_word_embeddings = causal.config.tie_word_embeddings = False
        return module.merge_and_unload(adapter_names=[lm.adapter])


def _said(lm: LanguageModel) -> torch.Tensor:
    """Logits (2, L, V) of a few ids, by the model's own forward pass."""
    ids, mask, positions = trial(lm)
    with lm.active():
        hidden = lm.states(ids, mask, positions, ids.shape[1])
        return lm.logits(hidden)[mask.bool()]


def _try(lm: LanguageModel, names: Sequence[str], before: torch.Tensor, lora: LoRAConfig) -> None:
    """See the module.

    Raises:
        ConfigError: Something of it does not hold.
    """
    where = f"lora.targets={lora.targets!r} on {type(lm.causal).__name__}"
    own = {name: p for name, p in lm.module.named_parameters() if f".{lm.adapter}." in f"{name}."}
    heads = [layer for layer in (lm.causal.get_input_embeddings(), lm.head) if hasattr(layer, "base_layer")]
    layers = [layer for layer in lm.module.modules() if isinstance(getattr(layer, "lora_A", None), torch.nn.ModuleDict)]
    plain = all(type(layer.base_layer).__name__ in ("Linear", "Conv1D") for layer in layers) and not heads
    saved = {name: p.detach().clone() for name, p in own.items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in own.values():  # B begins as 0: nothing would show
            p.add_((torch.randn(p.shape, generator=generator) * 0.05).to(p))
    try:
        with torch.enable_grad(), lm.active():
            live = _said(lm)
            weight = torch.randn(live.shape, generator=generator).to(live)
            slopes = torch.autograd.grad((live * weight).sum(), list(own.values()), allow_unused=True)
        learned = {
            name.split(".lora_")[0].rpartition(".")[2] for name, s in zip(own, slopes, strict=True) if s is not None
        }
        wanted = {name.split(".lora_")[0].rpartition(".")[2] for name in own}
        if not own or wanted - learned:
            raise ConfigError(
                f"{where}: nothing can be learned in {', '.join(sorted(wanted - learned)) or 'any layer'}; expected "
                "names of layers that the model uses. Leave it out."
            )
        if apart(lm, _said(lm.with_adapter(None)).detach(), before):
            raise ConfigError(
                f"{where}: with its adapters off the model does not say what it said before, so it cannot be its own "
                "reference. Take other targets, or weights='separate'."
            )
        if not plain:
            merged_one = lm.around(merged(lm))
            if apart(lm, _said(merged_one).detach(), live.detach()):
                raise ConfigError(
                    f"{where}: merged into the weights the adapters do not say what they say beside them, so what was "
                    "trained could not be saved. Take other targets, or weights='separate'."
                )
    finally:
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(saved[name])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers and the warnings of peft about how it reads a
    model."""
    from transformers.utils import logging

    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bar:
            logging.enable_progress_bar()
