"""A text classifier that is a table: TF-IDF of words and word pairs, times logistic-regression
weights.

One idea: what is fitted is a list of terms and two arrays, so it is stored as JSON and safetensors,
and scored by the ten lines of arithmetic below, equal to scikit-learn's. scikit-learn is needed to
fit, not to score.

It knows nothing of prompts or of where the training texts come from
(`coevo_env.rewards.tfidf_reward`, `coevo_env.assets.store`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingExtraError, unknown_name

__all__ = ["TfidfClassifier"]

_WORD = re.compile(r"\b\w\w+\b")
_FORMAT = "coevo-tfidf-1"


class TfidfClassifier:
    """Binary logistic regression on L2-normalised, sublinear TF-IDF of words and word pairs.

    Attributes:
        terms: V terms, each one or two lower-case words.
        idf: float64 array of shape (V,).
        weights: float64 array of shape (V,), the logit per unit of a term's normalised TF-IDF.
        intercept: The logit of a text without a known term.
        info: What was measured when it was fitted; JSON values.
    """

    def __init__(
        self,
        terms: Sequence[str],
        idf: np.ndarray,
        weights: np.ndarray,
        intercept: float,
        info: Mapping[str, Any] | None = None,
    ):
        self.terms = list(terms)
        self.idf = np.asarray(idf, dtype=np.float64)  # (V,)
        self.weights = np.asarray(weights, dtype=np.float64)  # (V,)
        self.intercept = float(intercept)
        self.info = dict(info or {})
        if not self.idf.shape == self.weights.shape == (len(self.terms),):
            raise ConfigError(
                f"TfidfClassifier: {len(self.terms)} terms, idf of shape {self.idf.shape}, weights of shape "
                f"{self.weights.shape}; expected one of each per term."
            )
        if not (np.isfinite(self.idf).all() and np.isfinite(self.weights).all() and np.isfinite(self.intercept)):
            raise ConfigError("TfidfClassifier: idf, weights or intercept hold a non-finite number; fit it again.")
        self._index = {term: i for i, term in enumerate(self.terms)}

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Log-odds of the positive class: float64 array of shape (B,)."""
        return np.array([self._logit(text) for text in texts], dtype=np.float64)  # (B,)

    def _logit(self, text: str) -> float:
        words = _WORD.findall(text.lower())
        grams = words + [f"{a} {b}" for a, b in pairwise(words)]
        counts = Counter(self._index[gram] for gram in grams if gram in self._index)
        if not counts:
            return self.intercept
        at = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
        tf = 1 + np.log(np.fromiter(counts.values(), dtype=np.float64, count=len(counts)))
        x = tf * self.idf[at]
        return float(x @ self.weights[at] / np.sqrt(x @ x)) + self.intercept

    def score(self, texts: Sequence[str], output: str = "logit") -> np.ndarray:
        """Scores of the positive class: "logit", "probability" in [0, 1] or "signed" (2 p - 1);
        shape (B,)."""
        logits = self.logits(texts)
        if output == "logit":
            return logits
        if output == "signed":
            return np.tanh(logits / 2)  # 2 sigmoid(x) - 1
        if output == "probability":
            return (1 + np.tanh(logits / 2)) / 2
        raise unknown_name("classifier output", output, ["logit", "probability", "signed"])

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[int],
        *,
        max_terms: int = 50_000,
        min_texts: int = 2,
        c: float = 10.0,
    ) -> TfidfClassifier:
        """Fits the vocabulary, the inverse document frequencies and the weights; deterministic.

        Args:
            texts: The training texts.
            labels: 1 for the positive class, 0 for the other.
            max_terms: Keep the most frequent terms, at most so many.
            min_texts: Drop terms that occur in fewer texts.
            c: Inverse strength of the L2 penalty.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
        except ImportError:
            raise MissingExtraError("fitting the TF-IDF classifier", "scikit-learn", "assets") from None
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), max_features=max_terms, min_df=min_texts, sublinear_tf=True)
        features = vectorizer.fit_transform(texts)
        model = LogisticRegression(C=c, max_iter=1000).fit(features, list(labels))
        return cls(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, model.coef_[0], model.intercept_[0])

    def save(self, directory: str | Path) -> None:
        """Writes `classifier.json` and `classifier.safetensors` into the directory, which is
        created."""
        from safetensors.numpy import save_file

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        save_file({"idf": self.idf, "weights": self.weights}, directory / "classifier.safetensors")
        head = {"format": _FORMAT, "intercept": self.intercept, "info": self.info, "terms": self.terms}
        (directory / "classifier.json").write_text(json.dumps(head, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> TfidfClassifier:
        """Reads what `save` wrote.

        Raises:
            ConfigError: The directory holds no such classifier, or a damaged one.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            head = json.loads((Path(directory) / "classifier.json").read_text(encoding="utf-8"))
            if head.get("format") != _FORMAT:
                raise ValueError(f"format {head.get('format')!r}, expected {_FORMAT!r}")
            arrays = load_file(Path(directory) / "classifier.safetensors")
            return cls(head["terms"], arrays["idf"], arrays["weights"], head["intercept"], head["info"])
        except (OSError, KeyError, AttributeError, ValueError, SafetensorError) as error:
            raise ConfigError(
                f"no TF-IDF classifier could be read from {str(directory)!r}: {error}. Expected the directory that "
                "TfidfClassifier.save wrote (classifier.json, classifier.safetensors)."
            ) from error
