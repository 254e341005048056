"""Rewards that hold a model: the score that a text classifier gives to prompt and response.

One idea: a reward model is a function that happens to hold a model, which the first call loads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, RewardError, first_line, short_of_memory, unknown_name, whole
from ..game.task import RewardFunction
from .text import join_text

__all__ = ["classifier_reward", "tfidf_reward"]

Output = Literal["logit", "probability", "signed"]
_OUTPUTS = ("logit", "probability", "signed")


def _check_output(output: str) -> None:
    if output not in _OUTPUTS:
        raise unknown_name("classifier output", output, _OUTPUTS)


def classifier_reward(
    model: str | Path = "lvwerra/distilbert-imdb",
    label: str | int = "POSITIVE",
    *,
    output: Output = "logit",
    batch_size: int = 32,
    device: str | None = None,
    separator: str | None = "",
) -> RewardFunction:
    """The score that a Hugging Face text classifier gives one label for the text prompt + response.

    The model is loaded by the first call with `AutoModelForSequenceClassification`, in float32 and
    without dropout; the scores are those of `transformers.pipeline("text-classification")`, which
    is not used because it draws from the global random generator. Texts are batched by length and
    padded under an attention mask, so a score does not depend on the batch beyond rounding (1e-5);
    where padding would change scores, or there is no padding token, texts are scored one by one.
    Texts longer than the model can read lose their end.

    Args:
        model: A hub name or the directory of a saved model and its tokenizer.
        label: Name (any case) or index of the label to score.
        output: "logit" (any real number, the paper's reward), "probability" (in [0, 1]) or "signed"
            (2 p - 1, in [-1, 1]). A regression has a "logit" only, its value.
        batch_size: Texts scored at a time.
        device: "cpu", "cuda", ...; None means CUDA where there is one, else CPU.
        separator: See `join_text`. The default fits tokenizers whose tokens carry their own spaces.

    Raises:
        ConfigError: Unknown output; when first called: the model cannot be loaded, lacks weights
            (a language model is no classifier), has no such label or output, takes the end of
            ordinary texts for padding, or CUDA is absent.
        RewardError: When called: a prompt and a response that are no token together.

    Source: Ma et al., NeurIPS 2024, section 4.1 (logit of the positive class).
    """
    _check_output(output)
    whole("batch_size", batch_size, 1)

    @functools.cache
    def load() -> tuple[Any, Any, int, int]:
        tokenizer, network = _text_classifier(str(model), device)
        _check_padding(str(model), tokenizer, network)
        at_a_time = batch_size if batch_size == 1 or _can_pad(tokenizer, network) else 1
        return tokenizer, network, _label_index(str(model), network.config, label), at_a_time

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        tokenizer, network, index, at_a_time = load()
        texts = [join_text(p, r, separator) for p, r in zip(prompts, responses, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        scores = [0.0] * len(texts)
        for start in range(0, len(order), at_a_time):
            part = order[start : start + at_a_time]
            logits = _logits(tokenizer, network, [texts[i] for i in part])  # (B, labels)
            if output != "logit":
                logits = _probabilities(str(model), network.config, logits)
            for i, value in zip(part, logits[:, index].tolist(), strict=True):
                scores[i] = 2 * value - 1 if output == "signed" else value
        return scores

    return reward


def _probabilities(model: str, config: Any, logits: Any) -> Any:
    """What logits (B, labels) say of each label, by the rule of transformers' pipeline: labels that
    do not exclude each other have a probability each."""
    if config.problem_type == "regression":
        raise ConfigError(
            f"classifier_reward: {model!r} is a regression (its problem_type), whose values are no probabilities; "
            "expected output='logit', which is its value."
        )
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return logits.sigmoid()
    return logits.softmax(-1)


def _logits(tokenizer: Any, network: Any, texts: Sequence[str]) -> Any:
    """Scores of texts, (B, labels); only several texts are padded."""
    import torch

    inputs = tokenizer(list(texts), truncation=True, padding=len(texts) > 1, return_tensors="pt")
    if inputs["input_ids"].shape[1] == 0:
        raise RewardError(
            "classifier_reward: a prompt and its response are no token together, so there is nothing to score; "
            "expected prompts that are not empty."
        )
    with torch.inference_mode():
        return network(**inputs.to(network.device)).logits


def _can_pad(tokenizer: Any, network: Any) -> bool:
    """Whether texts score the same beside longer ones as alone. They do not where the model looks
    for its last token in the padding, or counts positions from it; without a padding token,
    nothing can be padded at all."""
    if tokenizer.pad_token_id is None:
        return False
    alone = [_logits(tokenizer, network, [text]) for text in PROBES]
    try:
        beside = _logits(tokenizer, network, PROBES)
    except (ValueError, RuntimeError, IndexError):
        return False
    return all(float((one[0] - other).abs().max()) < 1e-4 for one, other in zip(alone, beside, strict=True))


def _check_padding(model: str, tokenizer: Any, network: Any) -> None:
    """Refuses a model that takes the last token which is not padding, where padding is a token that
    texts end with: "good!" would be scored as "good"."""
    import torch

    from ..lm.ordinary import is_ordinary

    pad = getattr(network.config, "pad_token_id", None)
    if not isinstance(pad, int) or not is_ordinary(tokenizer, pad):
        return
    ids = [i for i in tokenizer(PROBES[0])["input_ids"] if i != pad]
    ends = torch.tensor([[*ids, pad]], device=network.device)
    with torch.inference_mode():
        scores = []
        for padding in (pad, None):  # a single text needs none
            network.config.pad_token_id = padding
            scores.append(network(input_ids=ends, attention_mask=torch.ones_like(ends)).logits)
    network.config.pad_token_id = pad
    if not torch.equal(*scores):
        raise ConfigError(
            f"classifier_reward: the model {model!r} takes {tokenizer.convert_ids_to_tokens(pad)!r} for padding "
            f"(pad_token_id={pad} of its configuration), which ordinary texts end with: it would score them without "
            "their end. Expected a padding token that no text has; give it one in config.json, and to its tokenizer."
        )


PROBES = ("good", "this film was not good, and it went on for far too long to be borne by anyone", "a bad one")
"""Texts of different lengths, by which padding is tried."""


def _text_classifier(model: str, device: str | None) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ..lm.pretrained import check_whole, quietly, refuse_adapter

    refuse_adapter(model)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"classifier_reward: device={device!r}, but this PyTorch finds no CUDA; use device='cpu'.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        with quietly():
            network, found = AutoModelForSequenceClassification.from_pretrained(
                model, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # a damaged file can make transformers and tokenizers raise anything
        if short_of_memory(error):
            raise
        raise ConfigError(
            f"classifier_reward: the model {model!r} could not be loaded: {first_line(error)} Expected the hub name of "
            "a "
            "text-classification model (which needs network) or a directory that holds one, with its tokenizer."
        ) from error
    check_whole(f"classifier_reward: the text classifier {model!r}", network, found)
    network = network.float().eval().to(device)
    if tokenizer.model_max_length > 10**9:  # the tokenizer does not know the limit, the model does
        tokenizer.model_max_length = getattr(network.config, "max_position_embeddings", None) or 512
    return tokenizer, network


def _label_index(model: str, config: Any, label: str | int) -> int:
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    if isinstance(label, int):
        if not 0 <= label < len(names):
            raise ConfigError(
                f"classifier_reward: label={label}; the model {model!r} has labels 0 to {len(names) - 1}: {names}."
            )
        return label
    for index, name in enumerate(names):
        if name.casefold() == label.casefold():
            return index
    raise unknown_name(f"label of the model {model!r}", label, [*names, f"an index 0 to {len(names) - 1}"])


def tfidf_reward(
    path: str | Path | None = None,
    *,
    output: Output = "logit",
    centred: bool = False,
    separator: str | None = "",
) -> RewardFunction:
    """How positive the text prompt + response is, by a TF-IDF and logistic-regression classifier.

    Args:
        path: Directory of a classifier saved by `coevo_env.assets.tfidf`; None means the one that
            `coevo assets` fitted on IMDB reviews.
        output: "logit" (log-odds), "probability" (in [0, 1]) or "signed" (2 p - 1, in [-1, 1]).
        centred: Whether to subtract the score of the prompt alone, so that an empty response scores
            0.
        separator: See `join_text`.

    Raises:
        ConfigError: Unknown output; when first called: the classifier is absent or damaged.
    """
    _check_output(output)

    @functools.cache
    def load() -> Any:
        from ..assets.tfidf import TfidfClassifier

        if path is None:
            from ..assets.store import asset_path

            return TfidfClassifier.load(asset_path("sentiment-tfidf"))
        return TfidfClassifier.load(path)

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        classifier = load()
        values = classifier.score([join_text(p, r, separator) for p, r in zip(prompts, responses, strict=True)], output)
        if centred:
            values = values - classifier.score([str(p) for p in prompts], output)
        return [float(v) for v in values]

    return reward
