"""Openings of film reviews to be completed positively, as CORY trains on them.

One idea: a prompt is the first two to eight tokens of a review, in the tokens of the policy, and
the reward is a classifier's logit for "positive" on prompt + response. The observer is asked to
make the pioneer's sentence more positive and then begins it anew.

What is the paper's: dataset, prompt and response lengths, order of the observer's prompt, reward.
What is ours: the wording of the request (theirs is their text), and a test split, which they do not
use. The reviews are not part of this package.

Source: Ma et al., "Coevolving with the Other You", NeurIPS 2024, section 4.1; Maas et al., ACL 2011
(the dataset).

Version history: 1 (0.1.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..assets.reviews import Row, load_splits
from ..errors import ConfigError
from ..game.splits import held_out_from
from ..game.task import Prompt, RewardFunction, Task
from ..rewards.classifiers import Output, classifier_reward, tfidf_reward
from ..rng import rng

__all__ = ["task"]

TEMPLATES = {
    "pioneer": "{prompt}",
    "observer": "Rewrite this sentence so that it sounds more positive: {prompt}{responses}\nMore positive: {prompt}",
}
HUB = ("stanfordnlp/imdb", None)
OPENING_CHARACTERS = (80, 400)
"""So many characters of a review are tokenised, the second number where the first does not hold the
opening."""


def task(
    source: str | Path = "hub",
    reward: str | Path | None = None,
    model: str | None = None,
    tokenizer: Any = None,
    min_prompt_tokens: int = 2,
    max_prompt_tokens: int = 8,
    output: Output = "logit",
    centred: bool = False,
    device: str | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Task:
    """IMDB sentiment completion.

    Args:
        source: "hub" (`stanfordnlp/imdb`, needs the extra `hub`), "package" (the reviews that
            `coevo assets` makes), or a local folder or file in the hub's format (column text).
        reward: "distilbert" (the paper's `lvwerra/distilbert-imdb`, from the hub), "tfidf" or
            "minilm" (assets), or the directory or hub name of a classifier. None means "tfidf" with
            source="package", else "distilbert".
        model: None means "smollm2" with source="package", else the paper's "gpt2-large".
        tokenizer: What a prompt's tokens are: None means the model's own, as in the paper; or the
            name of another model; "words"; or an object with `encode` and `decode`.
        min_prompt_tokens, max_prompt_tokens: Length of a prompt, uniform in this range.
        output, device: See `classifier_reward`; the paper's output is "logit".
        centred: With the TF-IDF classifier: subtract the score of the prompt alone.
        size: Use only the first so many reviews of each split; None means all.
        seed: The length of prompt i is a pure function of (seed, i).

    A test prompt that is a train prompt too is dropped, so the test split holds rarer openings.
    Where the source has no validation split, one in ten of the test prompts becomes it.

    Raises:
        ConfigError: An option out of range, data or an asset that is not there.
        MissingExtraError: The hub is asked for and `datasets` is not installed.
        CoevoError: The hub did not answer.
    """
    _check_options(min_prompt_tokens, max_prompt_tokens, size)
    ours = str(source) == "package"
    reward, model = reward or ("tfidf" if ours else "distilbert"), model or ("smollm2" if ours else "gpt2-large")
    with _explained(source):
        score = _reward(reward, output, centred, device)
        tokens = _tokenizer(model if tokenizer is None else tokenizer)
    train, validation, test, notes = _prompts(source, size, tokens, (min_prompt_tokens, max_prompt_tokens), seed)
    return Task(
        name="imdb",
        train=train,
        validation=validation,
        test=test,
        notes=notes,
        rewards={"sentiment": score},
        templates=TEMPLATES,
        min_new_tokens=4,
        max_new_tokens=15,
        max_context=96,
        model=model,
        scripted=lambda prompt, responses: " is a great film, wonderful and excellent.",
        description="complete the opening of a film review; a classifier's logit for 'positive'",
    )


def _check_options(min_prompt_tokens: int, max_prompt_tokens: int, size: int | None) -> None:
    if not 1 <= min_prompt_tokens <= max_prompt_tokens:
        raise ConfigError(
            f"imdb: min_prompt_tokens={min_prompt_tokens}, max_prompt_tokens={max_prompt_tokens}; expected 1 <= min <= "
            "max."
        )
    if size is not None and size < 1:
        raise ConfigError(f"imdb: size={size}; expected at least 1 review, or None for all.")


@contextmanager
def _explained(source: str | Path) -> Iterator[None]:
    """Where the hub was not asked for by name, an error says how to do without it."""
    try:
        yield
    except ConfigError as error:
        if str(source) != "hub":
            raise
        raise ConfigError(
            f"{error}\nimdb is by default the paper's, of which data, model and classifier come from the hub. To do "
            "without it, run `coevo assets` once and use "
            "`coevo train --preset smollm2-imdb`, or task_options.source=package."
        ) from error


def _prompts(
    source: str | Path, size: int | None, tokens: Any, bounds: tuple[int, int], seed: int
) -> tuple[list[Prompt], Sequence[Prompt], list[Prompt], tuple[str, ...]]:
    """The openings of train, validation and test, none of which stands in two of them, and what is
    to be said about it."""
    if str(source) == "package":
        from ..assets.store import asset_path

        source = asset_path("reviews") / "imdb"
    splits = load_splits(source, ("text",), HUB)
    train, given, test = (
        _openings(splits.get(split, ())[:size], tokens, bounds, seed, stream)
        for split, stream in (("train", 0), ("validation", 2), ("test", 1))
    )
    validation, test, notes = held_out_from(train, given, test)
    return train, validation, test, notes


def _reward(reward: str | Path, output: Output, centred: bool, device: str | None) -> RewardFunction:
    if reward == "tfidf":
        return tfidf_reward(output=output, centred=centred)
    if (Path(reward) / "classifier.json").is_file():
        return tfidf_reward(reward, output=output, centred=centred)
    if centred:
        raise ConfigError(f"imdb: centred=True is for TF-IDF classifiers; got reward={str(reward)!r}. Leave it out.")
    if reward == "minilm":
        from ..assets.store import asset_path

        return classifier_reward(asset_path("sentiment-minilm"), output=output, device=device)
    name = "lvwerra/distilbert-imdb" if reward == "distilbert" else reward
    return classifier_reward(name, output=output, device=device)


class _Words:
    """Words as tokens; what `encode` returns is not ids but the pieces themselves, which is all
    that an opening needs."""

    def encode(self, text: str) -> list[Any]:
        return text.split()

    def decode(self, pieces: Sequence[Any]) -> str:
        return " ".join(pieces)


def _tokenizer(spec: Any) -> Any:
    if spec == "words":
        return _Words()
    if isinstance(spec, (str, Path)):
        from ..lm.load import load_tokenizer

        return load_tokenizer(spec)
    return spec


def _openings(rows: Sequence[Row], tokens: Any, bounds: tuple[int, int], seed: int, split: int) -> list[Prompt]:
    prompts = []
    for i, row in enumerate(rows):
        text = str(row["text"]).strip()
        length = int(rng(seed, split, i, stream="task").integers(bounds[0], bounds[1] + 1))
        opening = _opening(text, length, tokens)
        if opening.strip():
            prompts.append(Prompt(opening, info={"label": row.get("label")}))
    return prompts


def _opening(text: str, length: int, tokens: Any) -> str:
    opening = ""
    for characters in OPENING_CHARACTERS:
        # A cut inside a character of several bytes decodes to a replacement mark.
        opening = tokens.decode(tokens.encode(text[:characters])[:length]).replace("\ufffd", "")
        if len(opening) <= text[:characters].rfind(
            " "
        ):  # only the last word of the excerpt can be tokenised otherwise than in the review
            break
    return opening
