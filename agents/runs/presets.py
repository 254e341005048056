"""Named settings.

One idea: a preset is a set of overrides, no more; whatever it does not name keeps its default.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "smollm2-imdb": {
        "task": "imdb",
        "task_options": {"source": "package", "output": "signed", "centred": True},
        "model": "smollm2",
        "weights": "lora",
        "ppo.learning_rate": 5e-4,
        "ppo.epochs": 2,
        "kl.beta": 0.02,
        "batch_size": 32,
        "iterations": 30,
        "eval_every": 5,
        "eval_prompts": 64,
        "save_every": 5,
    },
    "smollm2-addition": {
        "task": "arithmetic",
        "task_options": {"shots": 3},
        "model": "smollm2",
        "weights": "lora",
        "ppo.learning_rate": 3e-4,
        "ppo.epochs": 2,
        "kl.beta": 0.01,
        "batch_size": 32,
        "iterations": 15,
        "eval_every": 5,
        "eval_prompts": 64,
        "save_every": 5,
    },
    "paper-imdb": {
        "task": "imdb",
        "model": "gpt2-large",
        "kl.beta": 0.3,
        "kl.estimator": "full",
        "kl.controller": "adaptive",
        "ppo.learning_rate": 1.41e-5,
        "batch_size": 256,
        "iterations": 100,
        "device": "auto",
    },
    "paper-gsm8k": {
        "task": "gsm8k",
        "model": "meta-llama/Llama-2-7b-chat-hf",
        "weights": "lora",
        "dtype": "bfloat16",
        "kl.beta": 0.01,
        "ppo.learning_rate": 1e-4,
        "ppo.minibatch_size": 32,
        "ppo.micro_batch_size": 2,
        "batch_size": 32,
        "iterations": 100,
        "device": "auto",
    },
}
"""Named sets of overrides; docs/reproducing.md says what of the paper's settings each one is."""
