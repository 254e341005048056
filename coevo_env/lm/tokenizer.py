"""Text <-> ids with a Hugging Face tokenizer, reduced to what the rules of the game need.

One idea: the rules render whole contexts and decode whole responses, each after the context that it
continues; special tokens are written out in templates (`<eos>`), but for those that the tokenizer
puts before every text, and never come out of a response, so a response cannot smuggle them into its
partner's context.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from ..errors import ConfigError, first_line, short_of_memory, unknown_name
from .names import hub_advice
from .ordinary import is_ordinary

__all__ = ["TextTokenizer", "ends_of"]

DAY = datetime.date(2024, 7, 26)
"""What chat templates take for today. Some write the date, and a context that is another one
tomorrow would be no base for a number. It is the day that the templates of Llama 3 write where they
are told of none."""


class TextTokenizer:
    """Wraps a Hugging Face tokenizer.

    Args:
        hf: The tokenizer. It must have an EOS token, where `ends` is empty.
        vocab_size: Rows of the model's embedding, where that is another number than the tokenizer
            knows.
        chat: Whether to render contexts as one user message of the tokenizer's chat template;
            "auto" does so where it has one.
        ends: Ids that end a turn beside its EOS, see `ends_of`.

    Attributes:
        vocab_size: V, the number of actions.
        eos_ids: The ids that end a turn: the tokenizer's EOS, `ends`, and the token with which its
            chat template closes an answer.
        eos_id: The first of them.
        opening: What the tokenizer puts before every text by itself, such as its BOS. `render`
            begins contexts with it.
        banned: Ids that are never legal: padding that ends no turn, <unk>, BOS, `opening`, and ids
            of the model that the tokenizer does not know.

    Raises:
        ConfigError: There is no EOS token, or no chat template when `chat` is True, or its pad
            token is one that ordinary text is written with.
    """

    def __init__(self, hf: Any, vocab_size: int | None = None, chat: bool | str = False, ends: Iterable[int] = ()):
        self.hf = hf
        name = getattr(hf, "name_or_path", "") or type(hf).__name__
        template = bool(getattr(hf, "chat_template", None))
        if not isinstance(chat, bool) and chat != "auto":
            raise unknown_name("chat setting", str(chat), ["auto", "true", "false"])
        if chat is True and not template:
            raise ConfigError(f"the tokenizer {name!r} has no chat template; leave chat off.")
        self.chat = template if chat == "auto" else bool(chat)
        vocabulary = hf.get_vocab()
        self.known = frozenset(vocabulary.values())
        self._spaced = any(token.startswith("▁") for token in vocabulary) or _joins(hf)
        self.vocab_size = int(vocab_size or max(self.known) + 1)
        own = () if hf.eos_token_id is None else (int(hf.eos_token_id),)
        self.eos_ids = self._within((*own, *ends, *self._closing()))
        if own and own != self.eos_ids[:1]:
            raise ConfigError(
                f"the tokenizer {name!r} has the EOS id {own[0]}, and the model ids from 0 to {self.vocab_size - 1}; "
                "they do not belong together. Expected the tokenizer that the model was trained with."
            )
        if not self.eos_ids:
            raise ConfigError(
                f"the tokenizer {name!r} has no EOS token; a turn ends with EOS, so one is needed. "
                "Set `tokenizer.eos_token` to one of its tokens and save it again."
            )
        self.eos_id = self.eos_ids[0]
        pad = hf.pad_token_id
        if pad is not None and pad not in self.eos_ids and is_ordinary(hf, pad):
            raise ConfigError(
                f"the tokenizer {name!r} pads with {hf.pad_token!r}, id {pad}, which is also a part of ordinary texts: "
                "it would be taken out of every response and never be drawn. Set `tokenizer.pad_token` to a token of "
                "its own, or to the EOS token, and save the tokenizer again."
            )
        opening = self._opening()
        self.opening = [] if self.chat else opening  # a chat template writes its own
        self._special = {hf.pad_token_id, hf.unk_token_id, hf.bos_token_id, *opening} - {None}
        self.banned = self._banned()
        added = [token.content for _, token in self._added()]
        self._markers = [token for token in dict.fromkeys([*hf.all_special_tokens, *added]) if token]

    def with_ends(self, ends: Iterable[int]) -> TextTokenizer:
        """The same tokenizer where these ids end a turn, too."""
        eos_ids = self._within((*self.eos_ids, *ends))
        if eos_ids == self.eos_ids:
            return self
        other = copy.copy(self)
        other.eos_ids, other.banned = eos_ids, other._banned(eos_ids)
        return other

    def with_chat(self, chat: bool | str) -> TextTokenizer:
        """The same tokenizer with another setting of `chat`."""
        return TextTokenizer(self.hf, self.vocab_size, chat, self.eos_ids)

    def _within(self, ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(i for i in ids if 0 <= i < self.vocab_size))

    def _banned(self, eos_ids: Sequence[int] | None = None) -> tuple[int, ...]:
        unknown = set(range(self.vocab_size)) - self.known
        return self._within(sorted((self._special | unknown) - set(self.eos_ids if eos_ids is None else eos_ids)))

    def _opening(self) -> list[int]:
        for text in ("1", "a", *islice(self.hf.get_vocab(), 64)):
            try:
                added, plain = (self.hf.encode(text, add_special_tokens=add) for add in (True, False))
            except Exception:  # there are tokenizers that cannot write this
                continue
            if plain and not set(plain) & set(self.hf.all_special_ids):
                starts = range(len(added) - len(plain) + 1)
                return added[: next((i for i in starts if added[i : i + len(plain)] == plain), 0)]
        return []

    def _closing(self) -> list[int]:
        """The special token with which the chat template closes an answer, if there is one."""
        if not getattr(self.hf, "chat_template", None):
            return []
        talk = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "ANSWER"}]
        try:
            template = _undated(self.hf.chat_template)
            after = self.hf.apply_chat_template(talk, tokenize=False, chat_template=template)
            after = after.rpartition("ANSWER")[2].lstrip()
            first = self.hf.encode(after, add_special_tokens=False)[:1]
        except Exception:  # a template may refuse anything
            return []
        special = {*self.hf.all_special_ids, *(i for i, _ in self._added())}
        return [i for i in first if i in special and i != self.hf.bos_token_id]

    def _added(self) -> list[tuple[int, Any]]:
        """Ids and tokens that were added as marks: special ones, and others that the chat template
        writes, for not every fine-tune says that its marks are special."""
        template = str(getattr(self.hf, "chat_template", None) or "")
        added = getattr(self.hf, "added_tokens_decoder", {}).items()
        marks = lambda text: bool(text.strip()) and not text.strip().isalnum() and text in template  # noqa: E731
        return [(i, token) for i, token in added if token.special or marks(token.content)]

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        vocab_size: int | None = None,
        *,
        trust_remote_code: bool = False,
        chat: bool | str = False,
    ) -> TextTokenizer:
        """Loads the tokenizer in a directory or of a hub name; `vocab_size` defaults to that of the
        model's configuration, and turns end where that says so, too."""
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        try:
            hf = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).get_text_config()
            vocab_size = config.vocab_size if vocab_size is None else vocab_size
        except Exception as error:  # a damaged file can make transformers and tokenizers raise anything
            if short_of_memory(error):
                raise
            hint = (
                hub_advice(path)
                or " Expected what a tokenizer's save_pretrained() writes; was a file edited or cut short?"
            )
            raise ConfigError(
                f"no tokenizer could be loaded from {path!r}: {type(error).__name__}: {first_line(error)}{hint}"
            ) from error
        try:
            generation = GenerationConfig.from_pretrained(path)
        except OSError:  # there need be none
            generation = None
        return cls(hf, vocab_size, chat, ends_of(generation, config))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens in it are recognised, none is added.

        Raises:
            ConfigError: The tokenizer cannot write it, or the model has no such ids.
        """
        try:
            ids = self.hf.encode(text, add_special_tokens=False)
        except Exception as error:  # what the tokenizers library raises has no class of its own
            raise ConfigError(
                f"the tokenizer cannot write {text[:60]!r}: {error}. Do task and model belong together?"
            ) from error
        return self._readable(text, ids)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a chat, the last message being the user's, up to where the answer begins."""
        ids = self._chat(messages, tokenize=True, return_dict=True)["input_ids"]
        return self._readable(str(messages[-1].get("content")), ids)

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text whose ids `encode_chat` gives."""
        return self._chat(messages, tokenize=False)

    def _chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Any:
        name = getattr(self.hf, "name_or_path", "") or type(self.hf).__name__
        if not getattr(self.hf, "chat_template", None):
            raise ConfigError(
                f"the tokenizer {name!r} has no chat template, and the prompts are chat messages; use a model that was "
                "tuned for chat, or data whose prompts are plain text."
            )
        try:
            return self.hf.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                chat_template=_undated(self.hf.chat_template),
                **options,
            )
        except Exception as error:  # a template is a program of the model's
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ConfigError(
                f"the chat template of {name!r} refuses messages of the roles {roles}: {first_line(error)} Expected "
                "roles that this model knows, in the order that it wants."
            ) from error

    def render(self, text: str) -> list[int]:
        """Ids of a whole context: the text as a message of the user where `chat` is on, else the
        text after `opening`."""
        if self.chat:
            return self.encode_chat([{"role": "user", "content": text}])
        ids, opening = self.encode(text), self.opening
        return [*opening, *ids] if opening and ids[: len(opening)] != opening else ids

    def _readable(self, text: str, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.vocab_size:
            raise ConfigError(
                f"the tokenizer writes {text[:60]!r} with the id {max(ids)}, and the model has ids from 0 to "
                f"{self.vocab_size - 1}; expected a tokenizer that belongs to the model, or a text without that token."
            )
        return ids

    def decode(self, ids: Sequence[int], context: Sequence[int] = ()) -> str:
        """Text of a response, free of special tokens, also of those spelled out by ordinary ones.

        Args:
            ids: The response.
            context: What it continues. Tokens that carry the space before their word ("▁the")
                lose it where nothing stands before them; tokens that are bare words have none.
        """
        text = self._text(ids)
        if self._spaced and len(context) and (before := self._text(context)):
            together = self._text([*context, *ids])
            text = together[len(before) :] if together.startswith(before) else text
        while any(marker in text for marker in self._markers):  # taking one out may join what is around it to another
            for marker in self._markers:
                text = text.replace(marker, "")
        return text

    def _text(self, ids: Sequence[int]) -> str:
        ids = [i for i in ids if i in self.known]
        return self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id by itself, special tokens included; for display."""
        said = [self.hf.decode([i], clean_up_tokenization_spaces=False) if i in self.known else "" for i in ids]
        raw = self.hf.convert_ids_to_tokens([i if i in self.known else self.eos_id for i in ids])
        return [
            f" {piece}" if str(token).startswith("\u2581") and not piece.startswith(" ") else piece
            for piece, token in zip(said, raw, strict=True)
        ]


def _undated(template: Any) -> Any:
    """A chat template to which it is always `DAY`: a macro takes the place of the function that
    tells the time. None is the tokenizer's own."""
    if not isinstance(template, str) or "strftime_now" not in template:
        return None
    days = "".join(f" | replace('%{code}', '{DAY.strftime(f'%{code}')}')" for code in "aAbBdmyYjHIMSpUWw")
    return "{%- macro strftime_now(form) -%}{{ form" + days + " }}{%- endmacro %}" + template


def _joins(hf: Any) -> bool:
    """Whether tokens are joined by what they are, as in WordPiece, where "##ing" continues a
    word."""
    try:
        return hf.convert_tokens_to_string(["a", "##b"]) == "ab"
    except Exception:  # there are tokenizers that cannot join what is not theirs
        return False


def ends_of(*configs: Any) -> tuple[int, ...]:
    """The ids that end a turn by a model's configurations of generation and architecture, each of
    which may be None, and may name one id or several."""
    found: list[int] = []
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found += [] if ids is None else [int(i) for i in (ids if isinstance(ids, (list, tuple)) else [ids])]
    return tuple(dict.fromkeys(found))
