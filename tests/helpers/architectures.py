"""Tiny language models of every architecture that the tests try, and contexts for them."""

from __future__ import annotations

import numpy as np
import torch

from coevo_env.lm.model import LanguageModel
from coevo_env.testing import tiny_lm


def contexts(count: int, vocab: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocab, rng.integers(1, 14)).tolist() for _ in range(count)]


def architectures() -> dict[str, LanguageModel]:
    from transformers import (
        AutoModelForCausalLM,
        CohereConfig,
        Gemma2Config,
        GPTNeoXConfig,
        GraniteConfig,
        LlamaConfig,
        OPTConfig,
        Qwen2Config,
    )

    shape = {
        "vocab_size": 11,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ends = {
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    made = {"gpt2": tiny_lm(11, layers=2)}
    tokenizer = made["gpt2"].tokenizer
    configs = {
        "llama": LlamaConfig(**shape, **ends, num_key_value_heads=2),
        "qwen2": Qwen2Config(**shape, **ends, num_key_value_heads=2),
        "neox": GPTNeoXConfig(**shape, **ends),
        "cohere (scaled logits)": CohereConfig(**shape, **ends, num_key_value_heads=2, logit_scale=0.3),
        "granite (divided logits)": GraniteConfig(**shape, **ends, num_key_value_heads=2, logits_scaling=3.0),
        "gemma2 (capped logits)": Gemma2Config(
            **shape, **ends, num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.5
        ),
        "opt (projected states)": OPTConfig(**shape, **ends, ffn_dim=64, init_std=0.2, word_embed_proj_dim=16),
    }
    for name, config in configs.items():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            made[name] = LanguageModel(AutoModelForCausalLM.from_config(config), tokenizer)
    return made


ARCHITECTURES = [
    *("gpt2", "llama", "qwen2", "neox", "cohere (scaled logits)"),
    *("granite (divided logits)", "gemma2 (capped logits)", "opt (projected states)"),
]
