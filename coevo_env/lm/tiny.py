"""A tiny random language model with the whole interface of a large one, for tests.

One idea: it is a real transformer with a real tokenizer, so what works with it works with any
causal LM; only its size and its weights are not worth anything. It is not the embedded model, which
was trained and can write sentences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from .model import LanguageModel

__all__ = ["tiny_lm"]


def tiny_lm(
    vocab_size: int | None = 8,
    seed: int = 0,
    *,
    eos_id: int | None = None,
    layers: int = 2,
    width: int = 32,
    heads: int = 4,
    positions: int = 256,
    scale: float = 0.1,
) -> LanguageModel:
    """A real but tiny random GPT-2, as a policy: everything that a large model can do, in
    milliseconds.

    Args:
        vocab_size: V >= 2. The words are the decimal ids, as in
            `coevo_env.game.reference.IntTokenizer`, so that it fits token-level tasks such as
            "toy". None makes a byte-level model (V = 257) that reads and writes any text.
        seed: Seed of the weights. The global random state is neither read nor changed.
        eos_id: Id of EOS; by default 0, or 256 of a byte-level model.
        layers, width, heads: Of the transformer; `heads` divides `width`.
        positions: Longest context and response together, in tokens.
        scale: Standard deviation of the weights; logits have about `scale * sqrt(width)`.

    >>> lm = tiny_lm(5)
    >>> lm.vocab_size, lm.tokenizer.eos_id, lm.tokenizer.encode("3 1"), lm.tokenizer.decode([3, 1])
    (5, 0, [3, 1], '3 1')
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from .model import LanguageModel
    from .tokenizer import TextTokenizer

    size = 257 if vocab_size is None else vocab_size
    eos = (256 if vocab_size is None else 0) if eos_id is None else eos_id
    if size < 2 or not 0 <= eos < size or width % heads:
        raise ConfigError(
            f"tiny_lm with vocab_size={vocab_size}, eos_id={eos_id}, width={width}, heads={heads}; expected vocab_size "
            ">= 2, "
            "0 <= eos_id < vocab_size and a width that `heads` divides."
        )
    config = GPT2Config(
        vocab_size=size,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        initializer_range=scale,
        **dict.fromkeys(("bos_token_id", "eos_token_id"), eos),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = GPT2LMHeadModel(config)
    return LanguageModel(module, TextTokenizer(_words(size, eos) if vocab_size is not None else _bytes(eos)))


def _words(size: int, eos: int):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # EOS has a name of its own: as a special token the bare digit would also be cut out of "10".
    vocab = {"<eos>" if i == eos else str(i): i for i in range(size)}
    tokenizer = Tokenizer(models.WordLevel(vocab))
    tokenizer.normalizer = normalizers.Replace(Regex(rf"(?<!\S){eos}(?!\S)"), "<eos>")  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def _bytes(eos: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: i + (i >= eos) for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**vocab, "<eos>": eos}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
