"""Makes the embedded model: a small GPT-2 trained from scratch on the sentences of
`coevo_env.lm.making.grammar`.

One idea: everything, data and first weights included, is a function of `--seed`, so the shipped
weights can be made again:

    python -m coevo_env.lm.making.pretrain --out coevo_env/models/embedded --seed 0

Documents are packed into rows as `<eos> sentence <eos> sentence ...`, every row from the start of a
document, and each is seen once. The boundary between documents looks like the one between the
sentences of a document: what follows `<eos>` may or may not go on with what came before, and the
model must tell. Nothing here is used at run time; the result loads with plain `from_pretrained`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ...errors import ConfigError
from ...rng import rng
from ..probe import backbone
from . import grammar

__all__ = ["PretrainConfig", "build_tokenizer", "evaluate", "pretrain", "save"]

_HELD_OUT = 100_000_000  # training reads documents 0, 1, 2, ... of a seed, evaluation those from here on
_SHORTEST = 64  # tokens that an opener, a response, the opener again and a response can take
_SPECIAL = ("<pad>", "<eos>", "<unk>")
_PAD, _EOS, _UNK = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Size and schedule.

    Attributes:
        seed: Selects the documents and the first weights.
        steps, batch: Optimiser steps; rows in each.
        positions: Longest sequence of the model and length of a training row, in tokens.
        layers, width, heads: Of the GPT-2 blocks.
        learning_rate: Peak of a schedule with linear warm-up (one twentieth of the steps) and
            cosine decay to zero.
        threads: CPU threads; the weights are bit for bit the same only for the same number of them
            and the same torch.

    Raises:
        ConfigError: A number is not positive, `positions` is below 64, or `width` is not a multiple
            of `heads`.
    """

    seed: int = 0
    steps: int = 1600
    batch: int = 32
    positions: int = 128
    layers: int = 2
    width: int = 96
    heads: int = 4
    learning_rate: float = 4e-3
    threads: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "seed" and not value > 0:
                raise ConfigError(f"pretrain: {name}={value}; expected a positive number.")
        if self.positions < _SHORTEST:
            raise ConfigError(
                f"pretrain: positions={self.positions}; an observer reads two openers and a response, so give at least "
                f"{_SHORTEST}."
            )
        if self.width % self.heads:
            raise ConfigError(
                f"pretrain: width={self.width} is not a multiple of heads={self.heads}; change one of them."
            )


def build_tokenizer():
    """The word-level tokenizer of the grammar: a `PreTrainedTokenizerFast` whose
    `decode(encode(text))` is `text`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate([*_SPECIAL, *grammar.vocabulary()])}
    inner = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,  # punctuation marks are words here: "soup ." must not become "soup."
        model_input_names=["input_ids", "attention_mask"],
    )


def _token_stream(seed: int, start: int) -> Iterator[list[int]]:
    ids = {word: index for index, word in enumerate(grammar.vocabulary(), start=len(_SPECIAL))}
    index = start
    while True:
        yield [
            token for text in grammar.document(seed, index) for token in (_EOS, *(ids[word] for word in text.split()))
        ]
        index += 1


def _rows(seed: int, start: int, length: int) -> Iterator[list[int]]:
    """Rows of `length` tokens, each from the start of a document; the last document of a row is cut
    where the row ends."""
    row: list[int] = []
    for document in _token_stream(seed, start):
        row += document
        if len(row) >= length:
            yield row[:length]
            row = []


def _build_model(config: PretrainConfig):
    from transformers import GPT2Config, GPT2LMHeadModel

    size = len(_SPECIAL) + len(grammar.vocabulary())
    shape = GPT2Config(
        vocab_size=size,
        n_positions=config.positions,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=_EOS,
        eos_token_id=_EOS,
        pad_token_id=_PAD,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws numbers that are replaced below
        model = GPT2LMHeadModel(shape).float()
    numbers = rng(config.seed, stream="model")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue  # biases start at 0 and layer norms at 1
            scale = 0.02 / math.sqrt(2 * config.layers) if name.endswith("c_proj.weight") else 0.02
            parameter.copy_(torch.from_numpy(numbers.normal(0.0, scale, tuple(parameter.shape)).astype(np.float32)))
    return model


def pretrain(config: PretrainConfig, log=print):
    """Trains the model.

    Args:
        config: Size and schedule.
        log: Called with a line of progress now and then.

    Returns:
        A `GPT2LMHeadModel` in evaluation mode, float32, on the CPU.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return _train(config, log)
    finally:
        torch.set_num_threads(before)


def _train(config: PretrainConfig, log):
    model = _build_model(config).train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    rows, began = _rows(config.seed, 0, config.positions), time.perf_counter()
    log(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{config.steps * config.batch * config.positions:,} tokens"
    )
    for step in range(config.steps):
        warm = min(1.0, (step + 1) / max(1, config.steps // 20))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        ids = torch.tensor([next(rows) for _ in range(config.batch)])  # (B, L)
        logits = model(input_ids=ids).logits  # (B, L, V)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % max(1, config.steps // 20) == 0 or step == config.steps - 1:
            seconds = time.perf_counter() - began
            log(
                f"step {step + 1:5d}/{config.steps}  loss {loss.item():.3f}  perplexity {math.exp(loss.item()):8.2f}  "
                f"{seconds:5.0f} s"
            )
    return model.eval()


@torch.no_grad()
def perplexity(model, seed: int, rows: int = 64) -> float:
    """exp of the mean negative log-likelihood per token over `rows` packed rows of held-out
    documents."""
    stream = _rows(seed, _HELD_OUT, model.config.n_positions)
    ids = torch.tensor([next(stream) for _ in range(rows)])  # (rows, L)
    return math.exp(F.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item())


def unigram_perplexity(seed: int, positions: int = 128, rows: int = 64, train_rows: int = 2000) -> float:
    """Perplexity of the same held-out tokens under add-one word frequencies of training rows: what
    knowing no context gives."""
    counts = np.ones(len(_SPECIAL) + len(grammar.vocabulary()))
    stream = _rows(seed, 0, positions)
    for _ in range(train_rows):
        np.add.at(counts, next(stream), 1)
    held = _rows(seed, _HELD_OUT, positions)
    tokens = np.concatenate([next(held)[1:] for _ in range(rows)])
    return float(np.exp(-np.log(counts / counts.sum())[tokens].mean()))


@torch.no_grad()
def sample(model, contexts: Sequence[Sequence[int]], new_tokens: int, seed: int) -> list[list[int]]:
    """Samples continuations at temperature 1, without their EOS. Plain and slow: the package's own
    sampler is elsewhere."""
    from transformers import DynamicCache

    width = max(map(len, contexts))
    ids = torch.tensor([[_PAD] * (width - len(c)) + list(c) for c in contexts])  # (B, L)
    mask = (ids != _PAD).long()  # (B, L)
    uniform = torch.from_numpy(rng(seed, stream="evaluation").random((len(contexts), new_tokens)))  # (B, T)
    tokens, positions, new = ids, (mask.cumsum(1) - 1).clamp(min=0), []
    cache = {backbone(model)[1]: DynamicCache()}
    for t in range(new_tokens):
        out = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True, **cache)
        cumulative = out.logits[:, -1].double().softmax(-1).cumsum(-1)  # (B, V)
        tokens = torch.searchsorted(cumulative, uniform[:, t : t + 1] * cumulative[:, -1:]).clamp(
            max=cumulative.shape[-1] - 1
        )  # (B, 1)
        new.append(tokens)
        mask, positions = torch.cat([mask, torch.ones_like(tokens)], 1), positions[:, -1:] + 1
    tails = torch.cat(new, 1).tolist()
    return [tail[: tail.index(_EOS)] if _EOS in tail else tail for tail in tails]


def evaluate(model, tokenizer, *, seed: int = 0, samples: int = 390, new_tokens: int = 16) -> dict[str, float]:
    """What a reader wants to know of the model, measured on test openers at temperature 1.

    Returns:
        `perplexity` and `unigram_perplexity` on held-out documents; `grammatical`: share of samples
        that, with their opener, are whole sentences of the grammar; `ended`: share that reach EOS
        within `new_tokens`; `distinct`: share of different responses;
        `positive`, `negative`: shares by the grammar's own mood; `echo_positive_after_positive`,
        `echo_positive_after_negative`: share of positive ones among grammatical observer's samples,
        by what the pioneer's answer was.
    """
    prompts = (list(grammar.openers("test")) * (samples // len(grammar.openers("test")) + 1))[:samples]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    tails = sample(model, [encode(f"<eos> {p}") for p in prompts], new_tokens, seed)
    texts = [f"{p} {tokenizer.decode(tail)}".strip() for p, tail in zip(prompts, tails, strict=True)]
    moods = [grammar.mood_of(text) for text in texts]
    seconds = sample(
        model, [encode(f"<eos> {a} <eos> {p}") for p, a in zip(prompts, texts, strict=True)], new_tokens, seed + 1
    )
    echoes = [
        grammar.mood_of(f"{p} {tokenizer.decode(tail)}".strip()) for p, tail in zip(prompts, seconds, strict=True)
    ]

    def share(values) -> float:
        values = list(values)
        return sum(values) / max(1, len(values))

    return {
        "perplexity": perplexity(model, seed),
        "unigram_perplexity": unigram_perplexity(seed, model.config.n_positions),
        "grammatical": share(mood is not None for mood in moods),
        "ended": share(len(tail) < new_tokens for tail in tails),
        "distinct": len({tuple(tail) for tail in tails}) / len(tails),
        "positive": share(mood == "positive" for mood in moods),
        "negative": share(mood == "negative" for mood in moods),
        "echo_positive_after_positive": share(
            b == "positive" for a, b in zip(moods, echoes, strict=True) if a == "positive" and b
        ),
        "echo_positive_after_negative": share(
            b == "positive" for a, b in zip(moods, echoes, strict=True) if a == "negative" and b
        ),
    }


def save(model, tokenizer, out: Path) -> None:
    """Writes weights (safetensors), config, generation config and tokenizer so that plain
    `from_pretrained(out)` reads them."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(bos_token_id=_EOS, eos_token_id=_EOS, pad_token_id=_PAD)
    model.generation_config._from_model_config = False
    tokenizer.model_max_length = model.config.n_positions
    model.config.activation_function = (
        "gelu_pytorch_tanh"  # the same function as "gelu_new" in one kernel: PPO updates cost 1/5 less
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # written for its owner only, but a package is for everybody
    # transformers 5 writes a class name that 4.x does not know; this one both understand.
    path = out / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    defaults = PretrainConfig()
    parser = argparse.ArgumentParser(
        prog="python -m coevo_env.lm.making.pretrain", description="Train the embedded language model."
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the model and the tokenizer")
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    try:
        config = PretrainConfig(**options)
    except ConfigError as error:
        parser.error(str(error))
    began = time.perf_counter()
    model, tokenizer = pretrain(config), build_tokenizer()
    save(model, tokenizer, out)
    for prompt, tail in zip(
        grammar.openers("test")[:12],
        sample(model, [tokenizer.encode(f"<eos> {p}") for p in grammar.openers("test")[:12]], 16, config.seed),
        strict=True,
    ):
        print(f"  {prompt} | {tokenizer.decode(tail)}")
    print(json.dumps(evaluate(model, tokenizer, seed=config.seed), indent=2))
    print(f"wrote {out} after {time.perf_counter() - began:.0f} s (torch {torch.__version__})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
