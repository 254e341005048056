"""The zoo: tiny random models of every architecture and tokenizer that people bring, a few
kilobytes each, made from configurations and never downloaded.

One idea: an animal is a configuration, a tokenizer is a few words, and the truth about both is what
transformers makes of them: a plain forward pass of one row, without padding or cache, in float64.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coevo_agents.learners.policy import LoRAConfig, make_policies
from coevo_env.game.kl import full_kl
from coevo_env.game.reference import warp
from coevo_env.game.sampling import Sampling
from coevo_env.lm.model import Generation, LanguageModel
from coevo_env.lm.tape import Tape
from coevo_env.lm.tokenizer import TextTokenizer
from coevo_env.testing import tiny_lm

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
DYNAMIC = {
    "rope_type": "dynamic",
    "factor": 4.0,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 24,
}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
WIDE = {  # more than 10 million parameters
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
    "Llama, YaRN": (
        "llama",
        {**GROUPED, "rope_parameters": {**DYNAMIC, "rope_type": "yarn", "factor": 2.0}},
    ),
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
            "num_hidden_layers": 2,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0, 0.0],
            "intermediate_size": [64, 64],
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


@torch.no_grad()
def truth(module: Any, context: list[int], said: list[int]) -> np.ndarray:
    """Log-distributions float64 (T, V) by which each token of `said` is chosen: a plain pass in
    float64 over one row."""
    exact = copy.deepcopy(module).double().eval()
    if getattr(exact.config, "_experts_implementation", None):
        exact.set_experts_implementation("eager")  # grouped products are not made in float64
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # XGLM makes constants of it
    try:
        logits = exact(input_ids=torch.tensor([[*context, *said]]), use_cache=False).logits[0].double()
    finally:
        torch.set_default_dtype(default)
    return logits[len(context) - 1 : -1].log_softmax(-1).numpy()


# -------------------------------------------------------------------- what has to hold of a model
WARP = Sampling(temperature=0.9, min_new_tokens=2, eos_id=0, banned=(3,))
BUDGET = 6


def tokenizer() -> TextTokenizer:
    """Words that are the ids of the zoo."""
    return tiny_lm(VOCAB).tokenizer


def contexts() -> list[list[int]]:
    """Ragged ones, up to 14 ids, of which some are equal and some hold EOS."""
    draw = np.random.default_rng(0)
    ragged = [draw.integers(0, VOCAB, size).tolist() for size in (1, 14, 7, 3, 10)]
    return [*ragged, *(row for row in ragged[:3] for _ in range(3))]


def right(lm: LanguageModel, prompts: list[list[int]], drawn: Generation) -> np.ndarray:
    """Log-probs (B, T) that the truth gives the tokens of a generation."""
    result = np.zeros(drawn.tokens.shape)
    for row, (prompt, length) in enumerate(zip(prompts, drawn.lengths, strict=True)):
        said = drawn.tokens[row, :length].tolist()
        logs = warp(truth(lm.causal, prompt, said), WARP, np.arange(length))
        result[row, :length] = logs[np.arange(length), said]
    return result


def draw(lm: LanguageModel, prompts: list[list[int]], tape: Tape | None = None) -> Generation:
    """Turns of the zoo's prompts, always with the same noise."""
    noise = np.random.default_rng(1).random((len(prompts), BUDGET))
    return lm.generate(prompts, BUDGET, WARP, noise, tape=tape)


def check_logprobs(lm: LanguageModel) -> None:
    """Sampled == scored == the truth: ragged, shared and alone, at once, token by token, and from a
    tape; and a tape changes no gradient."""
    lm.short, tape = None, Tape(lm.backbone, 1 << 30)
    for prompts in (contexts(), contexts()[:5]):
        drawn = draw(lm, prompts, tape)
        expected = right(lm, prompts, drawn)
        scored = lm.score(prompts, drawn.tokens, drawn.lengths, WARP)
        assert np.abs(drawn.logprobs - expected).max() < 2e-5, "sampled"
        assert np.abs(scored - expected).max() < 2e-5, "scored"
        order = np.random.default_rng(2).permutation(len(prompts))
        asked = [prompts[row] for row in order], drawn.tokens[order], drawn.lengths[order]
        found = []
        for tapes in ([], [tape]):
            lm.module.zero_grad()
            hidden, targets, places = lm.hidden_states(*asked, tapes)
            logprobs = lm.token_logprobs(hidden, targets, places, WARP)
            with lm.active():
                (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
            found.append([logprobs.detach(), *(p.grad.clone() for p in lm.module.parameters() if p.grad is not None)])
        mask = np.arange(drawn.tokens.shape[1]) < asked[2][:, None]
        assert np.abs(found[1][0].numpy() - expected[order][mask]).max() < 2e-5, "from a tape"
        for ours, theirs in zip(*found, strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max())), "gradient from a tape"
    for row in (0, 1, 4):
        alone = lm.score(prompts[row : row + 1], drawn.tokens[row : row + 1], drawn.lengths[row : row + 1], WARP)
        assert np.abs(alone[0] - expected[row]).max() < 2e-5, "alone"
        cursor, skipping = lm.cursor(prompts[row], WARP), lm.cursor(prompts[row], WARP)
        for t in range(drawn.lengths[row]):
            token = int(drawn.tokens[row, t])
            assert abs(cursor.logprobs()[token] - expected[row, t]) < 2e-5, "token by token"
            if t % 3 == 0:  # whoever knows the next tokens pushes several before asking
                assert abs(skipping.logprobs()[token] - expected[row, t]) < 2e-5, "several tokens at once"
            cursor.push(token)
            skipping.push(token)


def targets_of(lm: LanguageModel) -> dict[str, str]:
    """Kinds of targets of adapters, and what they are called in a model."""
    names = {id(layer): path for path, layer in lm.module.named_modules()}
    attention = [path.rpartition(".")[2] for path, layer in lm.module.named_modules()
                 if path.rpartition(".")[2] in ("q_proj", "c_attn", "query_key_value", "qkv_proj", "query", "Wqkv")]
    routers = [path.rpartition(".")[2] for path, _ in lm.module.named_modules()
               if path.rpartition(".")[2] in ("gate", "router")]
    experts = [path.rpartition(".")[2] for path, _ in lm.module.named_modules() if path.endswith(".experts")]
    kinds = {
        "all-linear": "all-linear",
        "attention": attention[0] if attention else "",
        "head": names[id(lm.head)].rpartition(".")[2],
        "embedding": names[id(lm.causal.get_input_embeddings())].rpartition(".")[2],
        "router": routers[0] if routers else "",
        "experts": experts[0] if experts else "",
    }
    return {kind: name for kind, name in kinds.items() if name}


def check_adapters(lm: LanguageModel, targets: str, directory: Path) -> None:
    """The reference is the base, whoever was active before and whoever has learned; everything that
    was to be trained moves, is in the state and comes back; what is saved is what was trained.

    Raises:
        ConfigError: Refused at the start.
    """
    base = lm.clone()
    lm, again = lm.clone(), lm.clone()
    (one, two), reference = make_policies(lm, ["llm1", "llm2"], LoRAConfig(rank=2, targets=targets), 0)
    prompts = contexts()[:6]
    drawn = draw(base, prompts)
    asked = prompts, drawn.tokens, drawn.lengths, WARP
    expected = base.score(*asked)
    whole = base.distributions(*asked)
    mask = np.arange(drawn.tokens.shape[1]) < drawn.lengths[:, None]

    def reference_is_base() -> None:
        for policy in (one, two):
            policy.lm.score(*asked)
            assert np.abs(reference.score(*asked) - expected).max() < 2e-5, "reference"
            assert np.abs(np.exp(reference.distributions(*asked)) - np.exp(whole))[mask].max() < 2e-5, "distributions"
            cursor = reference.cursor(prompts[0], WARP)
            assert abs(cursor.logprobs()[drawn.tokens[0, 0]] - expected[0, 0]) < 2e-5, "cursor"
            assert np.abs(draw(reference, prompts).logprobs - expected).max() < 2e-5, "sampling"

    reference_is_base()
    assert np.abs(two.lm.score(*asked) - expected).max() < 2e-5, "an agent begins as the reference"
    before = {name: p.detach().clone() for name, p in one.named_parameters().items()}
    optimizer = torch.optim.Adam(list(one.named_parameters().values()), lr=0.05)
    for _ in range(3):
        logprobs, hidden, places = one.lm.score_tensor(*asked)
        with torch.no_grad():
            theirs, _, _ = reference.hidden_states(*asked[:3])
        kl = one.lm.exact_kl(hidden, reference, theirs, places, WARP)
        optimizer.zero_grad()
        with one.lm.active():
            (logprobs.sum() + kl.sum() + one.values(hidden.float()).sum()).backward()
        optimizer.step()
    after = {name: p.detach().clone() for name, p in one.named_parameters().items()}
    assert len(after) > 2 and not any(torch.equal(before[name], after[name]) for name in after), "something stayed"
    reference_is_base()
    assert np.abs(two.lm.score(*asked) - expected).max() < 2e-5, "the other agent"
    learned, exact = one.lm.score(*asked), one.lm.distributions(*asked)
    assert np.abs(learned - expected).max() > 1e-3, "nothing was learned"
    hidden, _, places = one.lm.hidden_states(*asked[:3])
    theirs, _, _ = reference.hidden_states(*asked[:3])
    kl = one.lm.exact_kl(hidden, reference, theirs, places, WARP).detach().numpy()
    assert np.abs(kl - full_kl(exact, whole)[mask]).max() < 1e-4, "exact KL"
    one.save_pretrained(directory)
    back = LanguageModel.from_pretrained(directory)
    assert np.abs(back.score(*asked) - learned).max() < 1e-4, "saved is not what was trained"
    (third, _), _ = make_policies(again, ["llm1", "llm2"], LoRAConfig(rank=2, targets=targets), 1)
    third.load_state_dict(one.named_parameters())
    assert np.abs(third.lm.score(*asked) - learned).max() < 2e-5, "a checkpoint does not come back"
