"""The short pass of small GPT-2 models is transformers' own: states and derivatives, with padding,
with a cache, in every shape that is asked for."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from coevo_env.lm.gpt2 import GPT2, KeysAndValues
from coevo_env.lm.model import LanguageModel
from coevo_env.lm.names import embedded_path
from coevo_env.lm.network import positions_of
from coevo_env.testing import tiny_lm


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return AutoModelForCausalLM.from_pretrained(embedded_path()).eval()


def padded(rows: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 900, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : row % width] = 0
    return ids, mask


@pytest.mark.parametrize("width", [1, 2, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_states_and_derivatives_are_those_of_transformers(model, width, masked):
    ids, mask = padded(4, width)
    if not masked:
        mask = torch.ones_like(ids)
    positions = positions_of(ids, mask)
    kept = mask.bool()
    weight = torch.randn(4, width, 96, generator=torch.Generator().manual_seed(1))[kept]
    results = []
    for short in (True, False):
        model.zero_grad()
        if short:
            states = GPT2(model.transformer)(ids, mask if masked else None, positions)
        else:
            states = model.transformer(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
        (states[kept] * weight).sum().backward()
        results.append(
            (
                states[kept].detach(),
                {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
            )
        )
    (ours, slopes), (theirs, expected) = results
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert set(slopes) == set(expected) and len(slopes) == 28
    for name, slope in expected.items():
        assert (slopes[name] - slope).abs().max() < 1e-4 * max(1.0, float(slope.abs().max())), name


@pytest.mark.parametrize("room", [0, 12])
@pytest.mark.parametrize("pieces", [(5, 1, 1, 1), (1, 4, 3), (3, 3)])
@torch.no_grad()
def test_reading_in_pieces_is_reading_at_once(model, room, pieces):
    ids, mask = padded(5, sum(pieces))
    mask[4, :] = 1
    positions, short, cache = positions_of(ids, mask), GPT2(model.transformer), KeysAndValues(room)
    whole, parts, start = short(ids, mask, positions), [], 0
    for piece in pieces:
        end = start + piece
        parts.append(short(ids[:, start:end], mask[:, :end], positions[:, start:end], cache))
        start = end
    assert cache.read == sum(pieces)
    kept = mask.bool()
    assert (torch.cat(parts, 1)[kept] - whole[kept]).abs().max() < 1e-5 * whole.abs().max()


@torch.no_grad()
def test_without_a_mask_everything_so_far_is_read(model):
    ids, _ = padded(3, 8)
    positions, short, cache = positions_of(ids, None), GPT2(model.transformer), KeysAndValues()
    whole = short(ids, None, positions)
    first, second = short(ids[:, :3], None, positions[:, :3], cache), short(ids[:, 3:], None, positions[:, 3:], cache)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_that_are_kept_go_on_as_if_they_had_been_alone(model):
    ids, mask = padded(4, 6)
    positions, short, rows = positions_of(ids, mask), GPT2(model.transformer), torch.tensor([3, 1])
    cache, alone = KeysAndValues(6), KeysAndValues()
    short(ids[:, :5], mask[:, :5], positions[:, :5], cache)
    cache.batch_select_indices(rows)
    short(ids[rows, :5], mask[rows, :5], positions[rows, :5], alone)
    now = short(ids[rows, 5:], mask[rows][:, None, None].bool(), positions[rows, 5:], cache)
    assert torch.allclose(now, short(ids[rows, 5:], mask[rows], positions[rows, 5:], alone), atol=1e-5, rtol=1e-5)


def test_it_is_used_for_small_plain_models_only():
    assert LanguageModel.from_pretrained("embedded").short is not None
    tokenizer = tiny_lm(11).tokenizer
    shape = {
        "vocab_size": 11,
        "n_embd": 16,
        "n_head": 2,
        "n_layer": 1,
        "n_positions": 32,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    for variation in (
        {"activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
    ):
        lm = LanguageModel(AutoModelForCausalLM.from_config(GPT2Config(**shape, **variation)), tokenizer)
        assert lm.short is None, variation
    assert LanguageModel(AutoModelForCausalLM.from_config(GPT2Config(**shape)), tokenizer).short is not None
    wide = {**shape, "n_embd": 512, "n_layer": 4}  # 12.6 M parameters
    assert LanguageModel(AutoModelForCausalLM.from_config(GPT2Config(**wide)), tokenizer).short is None


def test_a_copy_reads_its_own_weights():
    lm = LanguageModel.from_pretrained("embedded")
    copy = lm.clone()
    ids = torch.tensor([[5, 6, 7]])
    before = lm.states(ids, None, positions_of(ids, None), 1)
    with torch.no_grad():
        copy.module.transformer.ln_f.bias.add_(1.0)
    assert torch.equal(lm.states(ids, None, positions_of(ids, None), 1), before)
    assert torch.allclose(copy.states(ids, None, positions_of(ids, None), 1), before + 1.0, atol=1e-5)
