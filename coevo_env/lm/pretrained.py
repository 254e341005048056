"""A causal LM and its tokenizer from what people call it, onto a device.

One idea: whatever is wrong with a name, a file, a precision or a device is said here in one
sentence; weights come from safetensors only, so nothing in a model file is executed.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from ..errors import ConfigError, first_line
from .bounds import refuse_absurd
from .names import hub_advice, resolve
from .tokenizer import TextTokenizer

__all__ = ["DTYPES", "load", "pick_device", "pick_dtype", "refuse_adapter"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""No float16: it overflows in training, which ends in NaN."""


def load(spec: str | os.PathLike[str], device: str, dtype: str, trust_remote_code: bool) -> tuple[Any, TextTokenizer]:
    """The transformers model and the tokenizer; arguments and errors are those of
    `LanguageModel.from_pretrained`."""
    import transformers
    from transformers import AutoModelForCausalLM

    precision, target = pick_dtype(dtype), pick_device(device)
    path = resolve(spec)
    refuse_adapter(path)
    refuse_absurd(path)
    key = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"
    bar = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        module: Any = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, trust_remote_code=trust_remote_code, **{key: precision}
        )
    except Exception as error:  # transformers, safetensors and the hub each have their own families
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        raise ConfigError(
            f"no causal language model could be loaded from {os.fspath(spec)!r}: {first_line(error)}{hub_advice(path)}"
        ) from error
    finally:
        if bar:
            transformers.utils.logging.enable_progress_bar()
    module.to(target)
    vocab_size = module.config.get_text_config().vocab_size
    return module, TextTokenizer.from_pretrained(path, vocab_size, trust_remote_code=trust_remote_code)


def refuse_adapter(path: str | os.PathLike[str]) -> None:
    """Refuses a directory with an adapter: transformers would hand it to peft, which imports
    modules that its file names."""
    if os.path.isfile(os.path.join(path, "adapter_config.json")):
        raise ConfigError(
            f"{os.fspath(path)!r} holds an adapter beside the model; expected a plain model. Merge it (peft's "
            "merge_and_unload) and save again."
        )


def pick_dtype(dtype: str) -> torch.dtype:
    """A precision of weights by its name."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def pick_device(device: str) -> torch.device:
    """A torch device, with a clear error where it is not there. "auto" takes CUDA if there is
    one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device {device!r}: expected 'cpu', 'cuda', 'cuda:1' or 'auto' ({first_line(error)})."
        ) from None
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device {device!r}: expected 'cpu', 'cuda', 'cuda:1' or 'auto'; nothing else was tried with this package."
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {device!r}: this PyTorch ({torch.__version__}) sees no CUDA device. Use device='cpu' or 'auto'."
        )
    return chosen
