"""Rewards: plain functions `(prompts, responses) -> list[float]`, or factories that return one.

One idea: a reward sees text and nothing else, and scores each response on its own. Whether it counts words, compares
numbers or holds a neural classifier makes no difference to its caller. Every import that costs time, and every model,
is loaded by the first call.

This module does not weigh, mix or normalise rewards: the task weighs its terms and the environment mixes them among
agents.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError, MissingExtraError, RewardError, first_line, unknown_name
from .task import RewardFunction

__all__ = [
    "classifier_reward",
    "exact_answer",
    "first_number",
    "join_text",
    "last_number",
    "length_reward",
    "lexicon_sentiment",
    "parse_number",
    "regex_reward",
    "tfidf_reward",
]

Output = Literal["logit", "probability", "signed"]
_OUTPUTS = ("logit", "probability", "signed")

# One number: an optional sign that is not a minus between operands ("5-3" holds 5 and 3), an optional currency sign,
# digits with or without thousands separators, decimals.
_NUMBER = re.compile(
    r"(?:(?<![\w)\].])[-−])?[$€£]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)",
    re.ASCII,
)


def join_text(prompt: str, response: str, separator: str | None = None) -> str:
    """One text from a prompt and its response.

    Args:
        separator: What stands between them; None means a space unless one of them brings white space or is empty, or
            the response opens with punctuation. Use `""` for tokenizers whose tokens carry their own spaces and may
            continue a word (GPT-2, Llama 3).

    >>> join_text("this movie was", "great"), join_text("this movie was", " great"), join_text("un", "usual", "")
    ('this movie was great', 'this movie was great', 'unusual')
    """
    if separator is None:
        glued = not prompt or not response or prompt[-1].isspace() or response[0].isspace() or response[0] in ".,;:!?)'’"
        separator = "" if glued else " "
    return f"{prompt}{separator}{response}"


# -------------------------------------------------------------------------------------------------------------- lexicon


@functools.cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise MissingExtraError("lexicon_sentiment", "vaderSentiment") from None
    return SentimentIntensityAnalyzer()


def lexicon_sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """How positive the text "prompt response" is, by the VADER lexicon and rules.

    Returns:
        B floats in [-1, 1]: the compound score; 0 for text with no word of the lexicon.

    Raises:
        MissingExtraError: vaderSentiment is not installed.

    Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
    ICWSM 2014.
    """
    score = _vader().polarity_scores
    return [float(score(join_text(p, r))["compound"]) for p, r in zip(prompts, responses, strict=True)]


# -------------------------------------------------------------------------------------------------------- exact answers


def parse_number(text: str) -> Decimal | None:
    """The number that `text` is, or None if it is not one number; "$1,200.50" and "−3" are numbers.

    >>> parse_number("$1,200.50"), parse_number("about 3")
    (Decimal('1200.50'), None)
    """
    match = _NUMBER.fullmatch(text.strip())
    return _decimal(match.group()) if match else None


def _decimal(text: str) -> Decimal:
    return Decimal(re.sub(r"[,$€£]", "", text).replace("−", "-"))


def _numbers(text: str) -> list[str]:
    return _NUMBER.findall(text)


def last_number(response: str) -> str | None:
    """The last number in the text, or None.

    >>> last_number("5-3 is 2, so she pays $1,002.50.")
    '$1,002.50'
    """
    found = _numbers(response)
    return found[-1] if found else None


def first_number(response: str) -> str | None:
    """The first number in the text, or None.

    >>> first_number(" 8\\n1+1=2")
    '8'
    """
    found = _numbers(response)
    return found[0] if found else None


def _whole_text(response: str) -> str:
    return response.strip()


_EXTRACTORS = {"last_number": last_number, "first_number": first_number, "text": _whole_text}


def _extractor(extract: str | Callable[[str], str | None]) -> Callable[[str], str | None]:
    if callable(extract):
        return extract
    if extract not in _EXTRACTORS:
        raise unknown_name("extractor", extract, [*_EXTRACTORS, "a function str -> str or None"])
    return _EXTRACTORS[extract]


def exact_answer(extract: str | Callable[[str], str | None] = "last_number") -> RewardFunction:
    """1 where the answer extracted from the response equals `prompt.answer`, else 0.

    Two numbers are compared as numbers ("$1,200" equals "1200.0"), anything else as text without case and outer white
    space.

    Args:
        extract: "last_number" (the default, CORY's reward on GSM8K), "first_number", "text" (the whole response), or
            a function from the response to its answer, or None where it gives none.

    Returns:
        A reward function with values in {0.0, 1.0}.

    Raises:
        ConfigError: Unknown extractor.
        RewardError: A prompt without an answer (when called).

    Source: Ma et al., "Coevolving with the Other You", NeurIPS 2024, section 4.2.

    >>> from coevo_env.task import Prompt
    >>> exact_answer()([Prompt("2+3=", answer="5")] * 2, ["It is 5.0", "5 or 6"])
    [1.0, 0.0]
    """
    extractor = _extractor(extract)

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [float(_equal(extractor(r), _gold(p))) for p, r in zip(prompts, responses, strict=True)]

    return reward


def _gold(prompt: str) -> str:
    answer = getattr(prompt, "answer", None)
    if answer is None:
        raise RewardError(
            f"exact_answer: the prompt {str(prompt)[:60]!r} has no answer; expected a Prompt with one. "
            "Build the task's prompts as coevo_env.Prompt(text, answer='...')."
        )
    return str(answer)


def _equal(got: str | None, gold: str) -> bool:
    if got is None:
        return False
    a, b = parse_number(got), parse_number(gold)
    if a is not None and b is not None:
        return a == b
    return got.strip().casefold() == gold.strip().casefold()


# -------------------------------------------------------------------------------------------------------- simple shapes


def regex_reward(
    pattern: str | re.Pattern[str], *, hit: float = 1.0, miss: float = 0.0, full: bool = False, flags: int = 0
) -> RewardFunction:
    """`hit` where the pattern is found in the response (or, with `full`, matches all of it), else `miss`.

    Raises:
        ConfigError: The pattern is not a regular expression.

    >>> regex_reward(r"[0-9]+", full=True)(["", ""], ["42", "42x"])
    [1.0, 0.0]
    """
    try:
        compiled = re.compile(pattern, flags)
    except (re.error, TypeError, ValueError) as error:
        raise ConfigError(f"regex_reward: {pattern!r} is not a regular expression: {error}.") from None
    test = compiled.fullmatch if full else compiled.search

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [hit if test(r) else miss for _, r in zip(prompts, responses, strict=True)]

    return reward


def length_reward(target: int) -> RewardFunction:
    """1 for a response of `target` words, falling linearly to 0 at none or at twice as many.

    Returns:
        A reward function with values in [0, 1]; words are what white space separates.

    >>> length_reward(4)(["", ""], ["one two three four", "one"])
    [1.0, 0.25]
    """
    if target < 1:
        raise ConfigError(f"length_reward: target={target}; expected at least 1 word.")

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [max(0.0, 1 - abs(len(r.split()) - target) / target) for _, r in zip(prompts, responses, strict=True)]

    return reward


# ---------------------------------------------------------------------------------------------------------- classifiers


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

    The model is loaded by the first call with `AutoModelForSequenceClassification`, in float32 and without dropout; the scores are those of
    `transformers.pipeline("text-classification")`, which is not used because it draws from the global random generator. Texts are
    batched by length and padded under an attention mask, so a score does not depend on the batch beyond rounding (1e-5). Texts
    longer than the model can read lose their end.

    Args:
        model: A hub name or the directory of a saved model and its tokenizer.
        label: Name (any case) or index of the label to score.
        output: "logit" (any real number, the paper's reward), "probability" (in [0, 1]) or "signed" (2 p - 1, in [-1,
            1]).
        batch_size: Texts scored at a time.
        device: "cpu", "cuda", ...; None means CUDA where there is one, else CPU.
        separator: See `join_text`. The default fits tokenizers whose tokens carry their own spaces.

    Returns:
        A reward function.

    Raises:
        ConfigError: Unknown output; when first called: the model cannot be loaded, has no such label, or CUDA is
            absent.

    Source: Ma et al., NeurIPS 2024, section 4.1: the logit of the positive class of `lvwerra/distilbert-imdb`.
    """
    _check_output(output)
    if batch_size < 1:
        raise ConfigError(f"classifier_reward: batch_size={batch_size}; expected at least 1.")

    @functools.cache
    def load() -> tuple[Any, Any, int]:
        tokenizer, network = _text_classifier(str(model), device)
        return tokenizer, network, _label_index(str(model), network.config, label)

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        import torch

        tokenizer, network, index = load()
        texts = [join_text(p, r, separator) for p, r in zip(prompts, responses, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        scores = [0.0] * len(texts)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            inputs = tokenizer([texts[i] for i in part], truncation=True, padding=True, return_tensors="pt")
            with torch.inference_mode():
                logits = network(**inputs.to(network.device)).logits  # (B, labels)
                if output != "logit":
                    logits = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
            for i, value in zip(part, logits[:, index].tolist(), strict=True):
                scores[i] = 2 * value - 1 if output == "signed" else value
        return scores

    return reward


def _text_classifier(model: str, device: str | None) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from .pretrained import refuse_adapter

    refuse_adapter(model)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"classifier_reward: device={device!r}, but this PyTorch finds no CUDA; use device='cpu'.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network = AutoModelForSequenceClassification.from_pretrained(model, trust_remote_code=False).float().eval().to(device)
    except Exception as error:  # a damaged file can make transformers and tokenizers raise anything
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        raise ConfigError(
            f"classifier_reward: the model {model!r} could not be loaded: {first_line(error)} Expected the hub name of a "
            "text-classification model (which needs network) or a directory that holds one, with its tokenizer."
        ) from error
    if tokenizer.model_max_length > 10**9:  # the tokenizer does not know the limit, the model does
        tokenizer.model_max_length = getattr(network.config, "max_position_embeddings", None) or 512
    return tokenizer, network


def _label_index(model: str, config: Any, label: str | int) -> int:
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    if isinstance(label, int):
        if not 0 <= label < len(names):
            raise ConfigError(f"classifier_reward: label={label}; the model {model!r} has labels 0 to {len(names) - 1}: {names}.")
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
        path: Directory of a classifier saved by `coevo_env.tfidf`; None means the one that `coevo assets` fitted on
            IMDB reviews.
        output: "logit" (log-odds), "probability" (in [0, 1]) or "signed" (2 p - 1, in [-1, 1]).
        centred: Whether to subtract the score of the prompt alone, so that an empty response scores 0.
        separator: See `join_text`.

    Raises:
        ConfigError: Unknown output; when first called: the classifier is absent or damaged.
    """
    _check_output(output)

    @functools.cache
    def load() -> Any:
        from .tfidf import TfidfClassifier

        if path is None:
            from .assets import asset_path

            return TfidfClassifier.load(asset_path("sentiment-tfidf"))
        return TfidfClassifier.load(path)

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        classifier = load()
        values = classifier.score([join_text(p, r, separator) for p, r in zip(prompts, responses, strict=True)], output)
        if centred:
            values = values - classifier.score([str(p) for p in prompts], output)
        return [float(v) for v in values]

    return reward
