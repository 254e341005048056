"""Tokenizers as people bring them, made of a few words with the `tokenizers` library.

One idea: a tokenizer is kept beside what a person would say that it does: which ids begin a text,
which end a turn, which may never be drawn, and how a response reads after its context.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coevo_env.errors import ConfigError
from coevo_env.game.rules import Rules
from coevo_env.game.task import Task
from coevo_env.lm.tokenizer import TextTokenizer

WORDS = ["the", "soup", "we", "had", "was", "wonderful", "and", "cold", "1", "user", "model", "system"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model ' }}{% endif %}"
)
WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system the soup<|im_end|>' }}{% endif %}" + CHATML
)
WITHOUT_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def wrap(made: Any, **special: Any) -> Any:
    """A fast tokenizer around one of the `tokenizers` library."""
    from transformers import PreTrainedTokenizerFast

    chat = special.pop("chat_template", None)
    hf = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    hf.chat_template = chat
    return hf


def opening_with(made: Any, *tokens: str) -> Any:
    """The same, writing these tokens before every text."""
    from tokenizers import processors

    ids = [(token, made.token_to_id(token)) for token in tokens]
    made.post_processor = processors.TemplateProcessing(single=" ".join([*tokens, "$A"]), special_tokens=ids)
    return made


def byte_level(**special: Any) -> Any:
    """GPT-2's kind: bytes, with the space before a word in its token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<bos>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" ".join(WORDS)] * 9, trainer)
    return wrap(made, **{"eos_token": "<eos>", **special})


def sentence_piece(*opening: str, extra: tuple[str, ...] = (), **special: Any) -> Any:
    """Llama's kind: words with the space before them, which decoding takes off a text's first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = ["<unk>", "<s>", "</s>", "[gMASK]", "<sop>", *extra, *(f"\u2581{word}" for word in WORDS), "\u2581", "."]
    pieces = [*tokens, *(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in tokens)]
    made = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(["<unk>", "<s>", "</s>", "[gMASK]", "<sop>", *extra])
    if opening:
        opening_with(made, *opening)
    return wrap(made, **{"eos_token": "</s>", "unk_token": "<unk>", **special})


def word_level(holes: bool = False, **special: Any) -> Any:
    """Bare words; with holes the ids are 0 to 5, 40 and 41."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<eos>", "the", "soup", "was", "cold", "<unk>", "wonderful", "and"]
    ids = [0, 1, 2, 3, 4, 5, 40, 41] if holes else range(8)
    made = Tokenizer(models.WordLevel(dict(zip(words, ids, strict=True)), unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap(made, **{"eos_token": "<eos>", "unk_token": "<unk>", **special})


def word_piece(**special: Any) -> Any:
    """BERT's kind: bare words, and pieces that continue one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["[UNK]", "[SEP]", *WORDS, ".", "##s", "##ing", "walk"]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(cleanup=False)
    return wrap(made, **{"eos_token": "[SEP]", "unk_token": "[UNK]", **special})


ENDS = ("<|end|>", "<|eot|>")


def tokenizers() -> dict[str, tuple[TextTokenizer, dict[str, Any]]]:
    """Name -> tokenizer and what it does: `opening`, `ends` and `banned` as tokens or ids, and in
    `said` how "wonderful and cold" reads after "the soup was"."""
    spaced, bare = " wonderful and cold", "wonderful and cold"
    several = sentence_piece("<s>", extra=ENDS, bos_token="<s>")
    chat = sentence_piece("<s>", extra=("<|im_start|>", "<|im_end|>"), bos_token="<s>", chat_template=CHATML)
    longer = word_level(pad_token="[PAD]")
    ends = [several.convert_tokens_to_ids(token) for token in ENDS]
    return {
        "byte-level BPE": (TextTokenizer(byte_level()), {"said": spaced}),
        "byte-level BPE, BOS": (
            TextTokenizer(opening(byte_level(bos_token="<bos>"), "<bos>")),
            {"said": spaced, "opening": ["<bos>"], "banned": ["<bos>"]},
        ),
        "SentencePiece": (TextTokenizer(sentence_piece()), {"said": spaced, "banned": ["<unk>"]}),
        "SentencePiece, BOS": (
            TextTokenizer(sentence_piece("<s>", bos_token="<s>")),
            {"said": spaced, "opening": ["<s>"], "banned": ["<unk>", "<s>"]},
        ),
        "two opening tokens": (
            TextTokenizer(sentence_piece("[gMASK]", "<sop>")),
            {"said": spaced, "opening": ["[gMASK]", "<sop>"], "banned": ["<unk>", "[gMASK]", "<sop>"]},
        ),
        "several EOS": (
            TextTokenizer(several, ends=ends),
            {"said": spaced, "opening": ["<s>"], "ends": ["</s>", *ENDS], "banned": ["<unk>", "<s>"]},
        ),
        "no EOS of its own, the model has one": (
            TextTokenizer(word_level(eos_token=None), ends=[0]),
            {"said": bare, "ends": ["<eos>"], "banned": ["<unk>"]},
        ),
        "WordPiece": (TextTokenizer(word_piece()), {"said": spaced, "banned": ["[UNK]"]}),
        "whole words": (TextTokenizer(word_level()), {"said": bare, "banned": ["<unk>"]}),
        "whole words, padding": (
            TextTokenizer(word_level(pad_token="[PAD]")),
            {"said": bare, "banned": ["<unk>", "[PAD]"]},
        ),
        "ids with holes": (TextTokenizer(word_level(holes=True)), {"said": bare, "banned": ["<unk>", *range(6, 40)]}),
        "a row more than the model": (TextTokenizer(longer, len(longer) - 1), {"said": bare, "banned": ["<unk>"]}),
        "rows fewer than the model": (
            TextTokenizer(word_level(), 12),
            {"said": bare, "banned": ["<unk>", 8, 9, 10, 11]},
        ),
        "chat template, as text": (
            TextTokenizer(chat),
            {"said": spaced, "opening": ["<s>"], "ends": ["</s>", "<|im_end|>"], "banned": ["<unk>", "<s>"]},
        ),
        "chat template": (
            TextTokenizer(chat, chat="auto"),
            {"said": spaced, "ends": ["</s>", "<|im_end|>"], "banned": ["<unk>", "<s>"]},
        ),
        "chat template that adds a system message": (
            TextTokenizer(byte_level(chat_template=WITH_SYSTEM), chat=True),
            {"said": spaced, "ends": ["<eos>", "<|im_end|>"]},
        ),
        "chat template that knows no system message": (
            TextTokenizer(byte_level(chat_template=WITHOUT_SYSTEM), chat=True),
            {"said": spaced, "ends": ["<eos>", "<|im_end|>"]},
        ),
    }


def opening(hf: Any, *tokens: str) -> Any:
    """A wrapped tokenizer that writes these tokens before every text."""
    opening_with(hf.backend_tokenizer, *tokens)
    return hf


def ids_of(tokenizer: TextTokenizer, tokens: list[Any]) -> list[int]:
    """Ids of tokens, given by name or as they are."""
    return [token if isinstance(token, int) else tokenizer.hf.convert_tokens_to_ids(token) for token in tokens]


def refused() -> dict[str, Any]:
    """Name -> what cannot be used, as a function that tries to."""
    longer = word_level(pad_token="[PAD]")
    return {
        "no EOS anywhere": lambda: TextTokenizer(word_level(eos_token=None)),
        "EOS that the model does not have": lambda: TextTokenizer(word_level(eos_token="[END]"), 8),
        "chat without a template": lambda: TextTokenizer(word_level(), chat=True),
        "a text with an id that the model does not have": lambda: TextTokenizer(longer, 8).encode("the [PAD]"),
    }


def check(tokenizer: TextTokenizer, does: dict[str, Any]) -> None:
    """Whether a tokenizer does what it is said to do, and what was said is what is read."""
    assert tokenizer.opening == ids_of(tokenizer, does.get("opening", [])), "opening"
    assert sorted(tokenizer.eos_ids) == sorted(ids_of(tokenizer, does.get("ends", [tokenizer.hf.eos_token]))), "ends"
    assert tokenizer.eos_id == tokenizer.eos_ids[0]
    assert tokenizer.banned == tuple(sorted(ids_of(tokenizer, does.get("banned", [])))), "banned"
    between = "" if does["said"].startswith(" ") else " "  # bare words are put beside others by the task
    task = Task(
        name="spoken",
        train=["the soup was"],
        test=["the film was"],
        rewards={"none": lambda prompts, responses: [0.0 for _ in responses]},
        templates={"pioneer": "{prompt}", "observer": f"{{prompt}}{between}{{responses}}"},
        max_new_tokens=12,
        max_context=80,
    )
    rules = Rules(task, tokenizer, banned=tokenizer.banned)
    episode = rules.start(0)
    context = episode.turn.context
    if not tokenizer.chat:
        assert context == [*tokenizer.opening, *tokenizer.encode("the soup was")], "context"
        both = tokenizer.encode("the soup was wonderful and cold")
        assert both[: len(tokenizer.encode("the soup was"))] == tokenizer.encode("the soup was")
        said = both[len(tokenizer.encode("the soup was")) :]
    else:
        assert (
            context
            == tokenizer.hf.apply_chat_template(
                [{"role": "user", "content": "the soup was"}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
        ), "context"
        said = [i for i in tokenizer.encode("was wonderful and cold") if i not in tokenizer.encode("was")]
    for end in tokenizer.eos_ids:
        episode = rules.start(0)
        episode.take([*said, end])
        assert episode.turns[0].text == does["said"], f"said {episode.turns[0].text!r}"
        assert not episode.turns[0].cut and len(episode.turns) == 2
        read = tokenizer.decode(episode.turn.context)
        assert f"the soup was{between}{does['said']}" in read, f"the partner reads {read!r}"
        again = rules.start(0)
        assert [again.append(token) for token in [*said, end]][-1], "a turn ends with it, token by token"
    for position in range(2):
        legal = np.flatnonzero(rules.sampling.mask(rules.vocab_size, position))
        wanted = set(range(tokenizer.vocab_size)) - set(tokenizer.banned)
        wanted -= set(tokenizer.eos_ids) if position < 1 else set()
        assert set(legal.tolist()) == wanted, "legal"


def verdicts() -> list[list[str]]:
    """Rows of `docs/models.md`."""
    rows = []
    for name, (tokenizer, does) in tokenizers().items():
        check(tokenizer, does)
        ends = len(tokenizer.eos_ids)
        notes = [f"{ends} ids end a turn"] if ends > 1 else []
        notes += [] if does["said"].startswith(" ") else ["words carry no spaces: the task's template puts them"]
        notes += [f"contexts begin with {' '.join(does['opening'])}"] if does.get("opening") else []
        rows.append([name, "holds", "; ".join(notes)])
    for name, attempt in refused().items():
        try:
            attempt()
        except ConfigError as error:
            rows.append([name, "refused", str(error)])
        else:
            raise AssertionError(f"{name} is not refused")
    return rows
