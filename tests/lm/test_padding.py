"""Padding that is a part of ordinary texts is refused: it would be taken out of every response."""

from __future__ import annotations

import pytest
import torch
import zoo_tokenizers as zoo
from transformers import GPT2Config, GPT2ForSequenceClassification

from coevo_env.errors import ConfigError
from coevo_env.lm.tokenizer import TextTokenizer
from coevo_env.rewards import classifier_reward

ORDINARY = [
    (zoo.byte_level, "!"),
    (zoo.byte_level, "the"),
    (zoo.sentence_piece, "▁the"),
    (zoo.sentence_piece, "."),
    (zoo.word_level, "the"),
    (zoo.word_piece, "."),
]
OWN = [
    (zoo.byte_level, "<pad>"),
    (zoo.byte_level, "<eos>"),  # the common choice: it ends a turn, and is no text
    (zoo.sentence_piece, "<unk>"),
    (zoo.word_level, "[PAD]"),
    (zoo.word_level, "PADDING"),  # a word of its own, which texts are not written with
    (zoo.word_piece, "[PAD]"),
]


@pytest.mark.parametrize(("make", "pad"), ORDINARY)
def test_padding_that_texts_are_written_with_is_refused(make, pad):
    with pytest.raises(ConfigError, match=r"which is also a part of ordinary texts.*Set `tokenizer.pad_token` to"):
        TextTokenizer(make(pad_token=pad))


@pytest.mark.parametrize(("make", "pad"), OWN)
def test_padding_of_its_own_takes_nothing_out_of_a_text(make, pad):
    plain, padded = TextTokenizer(make()), TextTokenizer(make(pad_token=pad))
    text = "the soup was wonderful and cold"
    assert padded.encode(text) == plain.encode(text)
    assert padded.decode(padded.encode(text)) == plain.decode(plain.encode(text))
    assert padded.hf.pad_token_id in {*padded.banned, *padded.eos_ids}


@pytest.mark.parametrize(("pad", "refused"), [("<eos>", False), ("!", True)])
def test_a_classifier_that_takes_the_end_of_a_text_for_padding_is_refused(pad, refused, tmp_path):
    hf = zoo.byte_level()
    hf.save_pretrained(tmp_path)
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": len(hf), "n_positions": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2ForSequenceClassification(
            GPT2Config(**sizes, pad_token_id=hf.convert_tokens_to_ids(pad), initializer_range=1.0)
        )
    network.save_pretrained(tmp_path)
    reward = classifier_reward(tmp_path, 1, device="cpu")
    if refused:
        with pytest.raises(ConfigError, match=r"takes '!' for padding .*which ordinary texts end with"):
            reward(["the soup"], ["was cold!"])
    else:
        one, other = reward(["the soup", "the soup"], ["was cold!", "was cold"])
        assert one != other
