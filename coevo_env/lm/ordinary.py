"""Whether a token that is called special is one that ordinary text is written with.

One idea: padding is taken out of texts and never drawn, so a token that stands for it must be no
part of a text. What is tried is whether the tokenizer writes the token's own text with it, were
it not called special.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["is_ordinary"]

MARK = re.compile(r"[<\[({].+[>\])}]|[<\[({]\|.+", re.DOTALL)
"""What people name special tokens: `<pad>`, `[PAD]`, `<|padding|>`. Vocabularies hold them as
words, and nobody writes them in a text."""


def is_ordinary(hf: Any, token: int) -> bool:
    """Whether a Hugging Face tokenizer writes ordinary text with the token of this id.

    Args:
        hf: The tokenizer.
        token: An id; one that it does not know is not ordinary.
    """
    name = hf.convert_ids_to_tokens(token)
    if not isinstance(name, str) or not name.strip() or MARK.fullmatch(name.strip("▁Ġ ")):
        return False
    plain = name.replace("Ġ", " ").replace("▁", " ").removeprefix("##")
    return any(token in ids for text in dict.fromkeys((name, plain, f" {plain}")) for ids in _written(hf, text))


def _written(hf: Any, text: str) -> Iterator[list[int]]:
    """The ids of a text where no token is special."""
    backend = getattr(hf, "backend_tokenizer", None)
    try:
        if backend is None:
            yield [hf.convert_tokens_to_ids(piece) for piece in hf._tokenize(text)]
            return
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        pieces = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, None)]
        yield [found.id for piece, _ in pieces for found in backend.model.tokenize(piece)]
    except Exception:  # there are tokenizers that cannot write everything
        return
