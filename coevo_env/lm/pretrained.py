"""A causal LM and its tokenizer from what people call it, onto a device.

One idea: whatever is wrong with a name, a file, a precision or a device is said here in one
sentence; weights come from safetensors only, so nothing in a model file is executed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..errors import ConfigError, first_line, short_of_memory
from .bounds import refuse_absurd
from .names import hub_advice, resolve
from .tokenizer import TextTokenizer

__all__ = ["DTYPES", "check_whole", "load", "pick_device", "pick_dtype", "quietly", "refuse_adapter"]

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
    try:
        with quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told, and refused below by name
                **{key: precision},
            )
    except Exception as error:  # transformers, safetensors and the hub each have their own families
        if short_of_memory(error):
            raise
        raise ConfigError(
            f"no causal language model could be loaded from {os.fspath(spec)!r}: {first_line(error)}{hub_advice(path)}"
        ) from error
    module, found = loaded
    check_whole(f"the causal language model in {os.fspath(spec)!r}", module, found)
    _freeze_tables(module)
    module.to(target)
    vocab_size = module.config.get_text_config().vocab_size
    return module, TextTokenizer.from_pretrained(path, vocab_size, trust_remote_code=trust_remote_code)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the bars and reports of transformers: what is wrong is said by us."""
    from transformers.utils import logging

    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _freeze_tables(module: Any) -> None:
    """Freezes the parameters that the architecture itself does not train, such as tables of sines:
    transformers forgets while it loads which they are."""
    try:
        with quietly(), torch.device("meta"):  # no memory, no numbers
            made = type(module)(module.config)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # it cannot be made like that
        return
    frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def check_whole(what: str, module: Any, found: Mapping[str, Any]) -> None:
    """Refuses a model that was not loaded whole: transformers fills what is missing with random
    numbers, and leaves out layers that the configuration does not count.

    Args:
        what: What was loaded, for messages.
        found: The loading info of `from_pretrained`.
    """
    missing, extra = (sorted(map(str, found.get(kind) or ())) for kind in ("missing_keys", "unexpected_keys"))
    names = {_anywhere(name) for name, _ in module.named_parameters()}
    if shapes := sorted(str(key[0] if isinstance(key, tuple) else key) for key in found.get("mismatched_keys") or ()):
        raise ConfigError(f"{what} has {_some(shapes)} in another shape than its configuration says.")
    if missing:
        hint = "Was it saved whole?"
        if foreign := [key for key in extra if any(key.endswith(f".{name}") for name in missing)]:
            hint = (
                f"It has {foreign[0]!r}, with a prefix that does not belong there; save the model inside of the "
                "wrapper (with its value head) instead of the wrapper."
            )
        elif extra:
            hint += f" It has {_some(extra)}, of which the model knows nothing."
        raise ConfigError(f"{what} lacks {_some(missing)}; expected all weights of a {type(module).__name__}. {hint}")
    if more := [key for key in extra if _anywhere(key) in names]:
        raise ConfigError(
            f"{what} has {_some(more)}, which its configuration does not count; expected the weights of a "
            f"{type(module).__name__} as its config.json says. Was that edited?"
        )


def _anywhere(name: str) -> str:
    """The name of a tensor without the numbers of its layer and expert."""
    return re.sub(r"\d+", "#", name)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


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
