"""The zoo: tiny random models of the architectures that people bring, a few kilobytes each, made
from configurations and never downloaded.

One idea: an animal is a configuration, and the truth about it is what transformers makes of it: a
plain forward pass of one row, without padding or cache, in float64. What has to hold of an animal
stands in `zoo_checks`.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

VOCAB = 11
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [3.0, 5.0, 7.0, 9.0],
    "original_max_position_embeddings": 24,
    "rope_theta": 10000.0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
YARN = {**DYNAMIC, "rope_type": "yarn", "original_max_position_embeddings": 16}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
WIDE = {  # more than 10 million parameters; at the kink of a ReLU rounding decides about a gradient
    "activation_function": "gelu",
    "vocab_size": VOCAB,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "ffn_dim": 2048,
    "max_position_embeddings": 64,
    "init_std": 0.05,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
GPT = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}

ANIMALS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("gpt2", GPT),
    "GPT-2, variations": ("gpt2", {**GPT, "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"}),
    "GPT-J": ("gptj", {**GPT, "rotary_dim": 4}),
    "GPT-Neo, window of 4": (
        "gpt_neo",
        {**SHAPE, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    ),
    "GPT-NeoX": ("gpt_neox", SHAPE),
    "GPT-BigCode": ("gpt_bigcode", GPT),
    "GPT (2018)": ("openai-gpt", GPT),
    "CodeGen": ("codegen", {**GPT, "rotary_dim": 4}),
    "CTRL": ("ctrl", {**GPT, "dff": 64}),
    "Llama": ("llama", {**GROUPED, "tie_word_embeddings": False}),
    "Llama, tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "Llama, dynamic NTK": ("llama", {**GROUPED, "rope_parameters": DYNAMIC}),
    "Llama, longrope": ("llama", {**GROUPED, "rope_parameters": LONG}),
    "Llama, YaRN": ("llama", {**GROUPED, "rope_parameters": YARN}),
    "Llama 4": (
        "llama4_text",
        {
            **GROUPED,
            "intermediate_size_mlp": 64,
            "num_local_experts": 4,
            "head_dim": 8,
            "attention_chunk_size": 8,
            "num_hidden_layers": 4,
        },
    ),
    "Qwen 2": ("qwen2", GROUPED),
    "Qwen 2, window of 4": (
        "qwen2",
        {**GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "Qwen 2 MoE": ("qwen2_moe", {**GROUPED, **MOE, "num_experts": 4, "shared_expert_intermediate_size": 16}),
    "Qwen 3": ("qwen3", {**GROUPED, "head_dim": 8}),
    "Qwen 3 MoE": ("qwen3_moe", {**GROUPED, **MOE, "num_experts": 4, "head_dim": 8}),
    "Qwen 3 Next": (
        "qwen3_next",
        {
            **GROUPED,
            **MOE,
            "num_experts": 4,
            "head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "Gemma": ("gemma", {**GROUPED, "head_dim": 8}),
    "Gemma 2, window of 4": ("gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 1.5}),
    "Gemma 3, window of 4": (
        "gemma3_text",
        {
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "Gemma 3n": (
        "gemma3n_text",
        {
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 4,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "intermediate_size": [64] * 4,
        },
    ),
    "Gemma 3, with pictures": (
        "gemma3",
        {
            "text_config": {
                **GROUPED,
                "head_dim": 8,
                "sliding_window": 4,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": 9,
            "boi_token_index": 7,
            "eoi_token_index": 8,
        },
    ),
    "Phi": ("phi", SHAPE),
    "Phi-3": ("phi3", GROUPED),
    "Phi-3, longrope": ("phi3", {**GROUPED, "rope_parameters": LONG, "original_max_position_embeddings": 24}),
    "Phi-3.5 MoE": ("phimoe", {**GROUPED, "num_local_experts": 4}),
    "Mistral, window of 4": ("mistral", {**GROUPED, "sliding_window": 4, "head_dim": 8}),
    "Mixtral": ("mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "OPT": ("opt", {**SHAPE, "ffn_dim": 64, "init_std": 0.2}),
    "OPT, projected": ("opt", {**SHAPE, "ffn_dim": 64, "init_std": 0.2, "word_embed_proj_dim": 16}),
    "OPT, norm behind": (
        "opt",
        {**SHAPE, "ffn_dim": 64, "init_std": 0.2, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "OPT, large": ("opt", WIDE),
    "OPT, large, projected": ("opt", {**WIDE, "word_embed_proj_dim": 256, "do_layer_norm_before": False}),
    "BLOOM": ("bloom", {**SHAPE, "n_layer": 2, "n_head": 4}),
    "MPT": (
        "mpt",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "eos_token_id": 0,
            "initializer_range": 0.2,
        },
    ),
    "Falcon": ("falcon", {**SHAPE, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}),
    "Falcon, new": ("falcon", {**SHAPE, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "Falcon, ALiBi": ("falcon", {**SHAPE, "alibi": True, "multi_query": False, "parallel_attn": False}),
    "StableLM": ("stablelm", GROUPED),
    "Persimmon": ("persimmon", SHAPE),
    "OLMo": ("olmo", GROUPED),
    "OLMo 2": ("olmo2", GROUPED),
    "OLMoE": ("olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "Cohere": ("cohere", {**GROUPED, "logit_scale": 0.3}),
    "Cohere 2, window of 4": ("cohere2", {**GROUPED, "logit_scale": 0.3, "sliding_window": 4}),
    "Granite": (
        "granite",
        {**GROUPED, "logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    ),
    "Granite MoE": ("granitemoe", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 3.0}),
    "GLM": ("glm", {**GROUPED, "head_dim": 8}),
    "GPT-OSS, window of 4": (
        "gpt_oss",
        {
            **GROUPED,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "DeepSeek 3": (
        "deepseek_v3",
        {
            **SHAPE,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
    "Starcoder 2, window of 4": ("starcoder2", {**GROUPED, "sliding_window": 4}),
    "SmolLM 3": ("smollm3", GROUPED),
    "Nemotron": ("nemotron", GROUPED),
    "ERNIE 4.5": ("ernie4_5", GROUPED),
    "EXAONE 4": ("exaone4", {**GROUPED, "sliding_window": 4, "sliding_window_pattern": 2}),
    "XGLM": (
        "xglm",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "ffn_dim": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 64,
            "init_std": 0.2,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": None,
        },
    ),
    "BioGPT": ("biogpt", {**SHAPE, "pad_token_id": 1}),
    "RoBERTa, decoder": ("roberta", {**SHAPE, "is_decoder": True, "pad_token_id": 1, "type_vocab_size": 1}),
    "BERT, decoder": ("bert", {**SHAPE, "is_decoder": True, "pad_token_id": 1}),
    "BERT, reads both ways": ("bert", {**SHAPE, "is_decoder": False, "pad_token_id": 1}),
    "BERT, reads both ways, small weights": (
        "bert",
        {**SHAPE, "is_decoder": False, "pad_token_id": 1, "initializer_range": 0.002},
    ),
    "ELECTRA, reads both ways": ("electra", {**SHAPE, "embedding_size": 16, "pad_token_id": 1}),
    "RoFormer, decoder": ("roformer", {**SHAPE, "is_decoder": True, "pad_token_id": 1, "embedding_size": 32}),
    "BART, decoder": (
        "bart",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "init_std": 0.2,
            "pad_token_id": 1,
            "eos_token_id": 0,
            "bos_token_id": None,
            "is_decoder": True,
            "is_encoder_decoder": False,
            "decoder_start_token_id": 0,
            "forced_eos_token_id": None,
        },
    ),
    "XLNet": (
        "xlnet",
        {"vocab_size": VOCAB, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "eos_token_id": 0},
    ),
    "Mamba": ("mamba", {**SHAPE, "state_size": 8}),
    "Mamba 2": ("mamba2", {**SHAPE, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "RWKV": ("rwkv", {**SHAPE, "attention_hidden_size": 32}),
    "RecurrentGemma": (
        "recurrent_gemma",
        {**GROUPED, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3},
    ),
    "Jamba": (
        "jamba",
        {
            **GROUPED,
            "num_hidden_layers": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "Bamba": (
        "bamba",
        {
            **GROUPED,
            "attn_layer_indices": [1],
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
    ),
    "Falcon H1": (
        "falcon_h1",
        {
            **GROUPED,
            "head_dim": 8,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
    ),
    "LFM 2": ("lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"], "block_ff_dim": 64}),
}


def module(name: str, **changes: Any) -> torch.nn.Module:
    """A transformers model of the zoo, float32, always the same."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = ANIMALS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**copy.deepcopy(settings), **changes}))
        for tensor in made.parameters():  # norms and biases begin as ones and zeros
            if tensor.dim() == 1 and settings.get("initializer_range", 1) > 0.01:
                tensor.data.add_(0.1 * torch.randn_like(tensor))
        return made.eval()


def exact(module: Any) -> Any:
    """A copy of a model in float64, for `truth`."""
    made = copy.deepcopy(module).double().eval()
    if getattr(made.config, "_experts_implementation", None):
        made.set_experts_implementation("eager")  # grouped products are not made in float64
    return made


@torch.no_grad()
def truth(exact: Any, context: list[int], said: list[int]) -> np.ndarray:
    """Log-distributions float64 (T, V) by which each token of `said` is chosen: a plain pass in
    float64 over one row."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # XGLM makes constants of it
    try:
        logits = exact(input_ids=torch.tensor([[*context, *said]]), use_cache=False).logits[0].double()
    finally:
        torch.set_default_dtype(default)
    return logits[len(context) - 1 : -1].log_softmax(-1).numpy()
