"""Rewards that hold a model: the classifier's scores are those of transformers, whatever it is and
however texts are batched."""

import itertools
import shutil

import numpy as np
import pytest

from coevo_env import rewards
from coevo_env.errors import ConfigError, RewardError
from coevo_env.testing import check_reward


@pytest.fixture(scope="module")
def tiny_classifier(tmp_path_factory):
    """A BERT classifier with random weights, two labels and a word-level tokenizer, as a
    directory."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        *["this", "movie", "was", "great", "bad", "fine", "and", "so", "a", "b", "c", "d", "e", "f", "g", "h"],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("classifier")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=32,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(path)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.5,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(path)
    return path


RESPONSES = ["great", "bad and so bad a b c d e f g h", "", "fine fine fine", "unknown words"]


def _oracle(path, texts):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModelForSequenceClassification.from_pretrained(path).eval(),
    )
    with torch.no_grad():
        return torch.cat(
            [model(**tokenizer([text], return_tensors="pt")).logits for text in texts]
        )  # (B, 2), no padding


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_classifier_scores_each_text_by_itself(tiny_classifier, batch_size):
    expected = _oracle(tiny_classifier, [f"this movie was {response}" for response in RESPONSES])
    reward = rewards.classifier_reward(tiny_classifier, batch_size=batch_size, device="cpu")
    got = reward(["this movie was "] * 5, RESPONSES)
    assert expected[:, 1].std() > 0.05  # the check has something to distinguish
    np.testing.assert_allclose(got, expected[:, 1], atol=1e-5)
    np.testing.assert_allclose(got[::-1], reward(["this movie was "] * 5, RESPONSES[::-1]), atol=1e-5)


def test_classifier_agrees_with_the_pipeline(tiny_classifier):
    from transformers import pipeline

    oracle = pipeline("text-classification", model=str(tiny_classifier), device="cpu")
    texts = [f"this movie was {response}" for response in RESPONSES]
    for output, function in [("logit", "none"), ("probability", "softmax")]:
        rows = [oracle(text, top_k=None, function_to_apply=function) for text in texts]
        expected = [next(e["score"] for e in row if e["label"] == "POSITIVE") for row in rows]
        got = rewards.classifier_reward(tiny_classifier, output=output, device="cpu")(
            ["this movie was "] * 5, RESPONSES
        )
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [  # one label that excludes the others is no config
        *itertools.product(["multi_label_classification", "regression", None], [1, 2, 3]),
        *(("single_label_classification", labels) for labels in (2, 3)),
    ],
)
def test_classifier_agrees_with_the_pipeline_for_every_kind_of_problem(tiny_classifier, kind, labels, tmp_path):
    """The oracle is the pipeline with its own choice of what to apply."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification, pipeline

    named = {"id2label": {i: f"L{i}" for i in range(labels)}, "label2id": {f"L{i}": i for i in range(labels)}}
    config = AutoConfig.from_pretrained(tiny_classifier, problem_type=kind, **named)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_classifier).save_pretrained(tmp_path)
    oracle = pipeline("text-classification", model=str(tmp_path), device="cpu")
    texts = [f"this movie was {response}" for response in RESPONSES]
    for label in range(labels):
        rows = [next(e["score"] for e in oracle(text, top_k=None) if e["label"] == f"L{label}") for text in texts]
        for output, expected in (("probability", rows), ("signed", [2 * p - 1 for p in rows]), ("logit", rows)):
            reward = rewards.classifier_reward(tmp_path, label, output=output, device="cpu")
            if kind == "regression" and output != "logit":
                with pytest.raises(ConfigError, match="is a regression"):
                    reward(["this movie was "] * 5, RESPONSES)
            elif kind == "regression" or output != "logit":
                np.testing.assert_allclose(reward(["this movie was "] * 5, RESPONSES), expected, atol=1e-5)


def test_classifier_cuts_what_it_cannot_read(tiny_classifier):
    reward = rewards.classifier_reward(tiny_classifier, device="cpu")
    np.testing.assert_allclose(
        reward([""], ["a b " * 100]), reward([""], ["a b " * 16]), atol=1e-5
    )  # it reads 32 tokens


def test_classifier_outputs_and_labels(tiny_classifier):
    probability = _oracle(tiny_classifier, ["this movie was great"]).softmax(-1)[0]
    for label, output, expected in [
        ("positive", "probability", probability[1]),
        (0, "probability", probability[0]),
        ("NEGATIVE", "signed", 2 * probability[0] - 1),
    ]:
        got = rewards.classifier_reward(tiny_classifier, label, output=output, device="cpu")(
            ["this movie was"], [" great"]
        )
        np.testing.assert_allclose(got, [float(expected)], atol=1e-5)


@pytest.fixture(scope="module", params=["none", "another", "left", "right"])
def decoder_classifier(request, tmp_path_factory):
    """GPT-2 as a classifier, which scores the last token: without a padding token, with one that
    the model does not know, and padded on either side."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

    words = ["this", "movie", "was", "great", "bad", "fine", "and", "so", "not", "good", "film"]
    vocabulary = ["[UNK]", "[PAD]", *words, *"abcdefg", "[SPARE]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp(f"decoder_{request.param}")
    padding = {} if request.param == "none" else {"pad_token": "[PAD]"}
    side = "left" if request.param == "left" else "right"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", padding_side=side, model_max_length=64, **padding
    ).save_pretrained(path)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5, num_labels=2
    )
    config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    config.pad_token_id = {"none": None, "another": vocabulary.index("[SPARE]")}.get(request.param, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2ForSequenceClassification(config).save_pretrained(path)
    return path


def test_a_classifier_scores_each_text_as_alone_whatever_its_padding(decoder_classifier):
    expected = _oracle(decoder_classifier, [f"this movie was {response}" for response in RESPONSES])[:, 1]
    got = rewards.classifier_reward(decoder_classifier, device="cpu")(["this movie was "] * 5, RESPONSES)
    assert expected.std() > 0.05
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with pytest.raises(RewardError, match="no token together"):
        rewards.classifier_reward(decoder_classifier, device="cpu")([""], [""])


def test_a_language_model_is_no_classifier(decoder_classifier, tmp_path):
    """Its head would be random, and so would the scores."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    AutoTokenizer.from_pretrained(decoder_classifier).save_pretrained(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=21, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lacks 'score\.weight'; expected all weights of a GPT2For"):
        rewards.make_reward(str(tmp_path), label=0, device="cpu")(["a"], ["b"])


def test_a_classifier_keeps_the_promises_of_a_reward(tiny_classifier):
    reward = rewards.make_reward(f"classifier:{tiny_classifier}", device="cpu")
    assert "independent of the batch" in check_reward(reward)


def test_classifier_leaves_the_global_generators_alone(tiny_classifier):
    import torch

    torch.manual_seed(3)
    before = torch.get_rng_state()
    rewards.classifier_reward(tiny_classifier, device="cpu")(["a"], ["b"])
    assert torch.equal(before, torch.get_rng_state())


def test_an_adapter_beside_a_classifier_is_refused(tiny_classifier, tmp_path):
    """peft imports what such a file names."""
    copy = shutil.copytree(tiny_classifier, tmp_path / "copy")
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "megatron_core": "my_tasks"}')
    with pytest.raises(ConfigError, match=r"holds an adapter beside the model; expected a plain model\. Merge it"):
        rewards.classifier_reward(copy, device="cpu")(["a"], ["b"])


def test_classifier_errors(tiny_classifier, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'POSITIVE'"):
        rewards.classifier_reward(tiny_classifier, "POSITIV", device="cpu")(["a"], ["b"])
    with pytest.raises(ConfigError, match="labels 0 to 1"):
        rewards.classifier_reward(tiny_classifier, 2, device="cpu")(["a"], ["b"])
    with pytest.raises(ConfigError, match="Did you mean 'logit'"):
        rewards.classifier_reward(tiny_classifier, output="logits")
    with pytest.raises(ConfigError, match="batch_size=0"):
        rewards.classifier_reward(tiny_classifier, batch_size=0)
    with pytest.raises(ConfigError, match="could not be loaded"):
        rewards.classifier_reward(tmp_path, device="cpu")(["a"], ["b"])
