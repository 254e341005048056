"""Models from what people call them: "embedded", "smollm2", a directory, a hub name, "table", or an
object that already is one.

One idea: whatever stands for a model, the environment gets one object; torch is imported only when
weights are needed. Weights are read from safetensors only, so nothing in a model file is executed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..game.reference import TableModel
from .names import resolve

if TYPE_CHECKING:
    from ..game.reference import ReferencePolicy
    from ..game.task import Task
    from .model import LanguageModel
    from .tokenizer import TextTokenizer

__all__ = ["load_language_model", "load_reference", "load_tokenizer"]


def load_tokenizer(spec: Any, *, trust_remote_code: bool = False) -> TextTokenizer:
    """The tokenizer of a model, without its weights and without torch."""
    from .tokenizer import TextTokenizer

    return TextTokenizer.from_pretrained(resolve(spec), trust_remote_code=trust_remote_code)


def load_reference(
    spec: Any, tokenizer: Any = None, *, device: str = "cpu", dtype: str = "float32", trust_remote_code: bool = False
) -> ReferencePolicy:
    """The reference policy that a spec stands for; an object with `score` and `cursor` is returned
    as it is.

    "table" is a seeded random `TableModel` over the vocabulary of the task's own tokenizer.
    """
    if not isinstance(spec, (str, os.PathLike)):
        if callable(getattr(spec, "score", None)) and callable(getattr(spec, "cursor", None)):
            return spec
        raise ConfigError(
            f"model {spec!r} is a {type(spec).__name__}; expected a name, a directory, or an object with `score` and "
            "`cursor`."
        )
    if spec == "table":
        if tokenizer is None:
            raise ConfigError("model 'table' needs a task that brings its own tokenizer, such as 'toy'.")
        logits = TableModel.random(tokenizer.vocab_size, seed=0, scale=0.5).logits
        return TableModel(np.round(logits, 6))
    from .model import LanguageModel

    return LanguageModel.from_pretrained(spec, device=device, dtype=dtype, trust_remote_code=trust_remote_code)


def load_language_model(
    spec: str, task: Task, *, device: str = "cpu", dtype: str = "float32", trust_remote_code: bool = False
) -> LanguageModel:
    """The language model that a spec stands for, or with "" the one that is the task's own. For
    "table", the model of tasks that are about bare ids, it is a tiny random one over their
    vocabulary, always the same."""
    from .model import LanguageModel

    if (spec or task.model) != "table":
        return LanguageModel.from_pretrained(
            spec or task.model, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
    from .pretrained import pick_device, pick_dtype
    from .tiny import tiny_lm

    if task.tokenizer is None:
        raise ConfigError(
            f"model 'table' needs a task that brings its own tokenizer, such as 'toy'; {task.name!r} has none. Give a "
            "model."
        )
    lm = tiny_lm(
        task.tokenizer.vocab_size,
        eos_id=task.tokenizer.eos_id,
        positions=max(256, task.max_context + task.max_new_tokens),
    )
    lm.module.to(pick_device(device), pick_dtype(dtype))
    return lm
