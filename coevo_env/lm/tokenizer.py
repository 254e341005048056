"""Text <-> ids with a Hugging Face tokenizer, reduced to what the rules of the game need.

One idea: the rules encode whole rendered templates and decode whole responses; special tokens are
written out in templates (`<eos>`), but for the BOS of models that begin every text with one, and
never come out of a response, so a response cannot smuggle them into its partner's context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, first_line
from .names import hub_advice

__all__ = ["TextTokenizer"]


class TextTokenizer:
    """Wraps a Hugging Face tokenizer.

    Args:
        hf: The tokenizer. It must have an EOS token.
        vocab_size: Rows of the model's embedding, where it has more than the tokenizer knows.
        chat: Whether to render contexts as one user message of the tokenizer's chat template.

    Attributes:
        vocab_size: V, the number of actions.
        eos_id: The id that ends a turn.
        opening: What the tokenizer puts before every text by itself: its BOS as a list of one id,
            or nothing. The rules begin contexts with it.
        banned: Ids that are never legal: padding that is not EOS, <unk>, BOS, and rows that the
            tokenizer does not know.

    Raises:
        ConfigError: The tokenizer has no EOS token, or no chat template when `chat` is set.
    """

    def __init__(self, hf: Any, vocab_size: int | None = None, chat: bool = False):
        self.hf = hf
        name = getattr(hf, "name_or_path", "") or type(hf).__name__
        if hf.eos_token_id is None:
            raise ConfigError(
                f"the tokenizer {name!r} has no EOS token; a turn ends with EOS, so one is needed. "
                "Set `tokenizer.eos_token` to one of its tokens and save it again."
            )
        if chat and not getattr(hf, "chat_template", None):
            raise ConfigError(f"the tokenizer {name!r} has no chat template; leave chat off.")
        self.chat = chat
        self.known = len(hf)
        self.vocab_size = max(int(vocab_size or 0), self.known)
        self.eos_id = int(hf.eos_token_id)
        special = {hf.pad_token_id, hf.unk_token_id, hf.bos_token_id} - {None, self.eos_id}
        self.banned = tuple(sorted(special | set(range(self.known, self.vocab_size))))
        self.opening = [] if chat else self._opening()  # a chat template writes its own
        added = [token.content for token in getattr(hf, "added_tokens_decoder", {}).values() if token.special]
        self._markers = [token for token in dict.fromkeys([*hf.all_special_tokens, *added]) if token]

    def _opening(self) -> list[int]:
        bos = self.hf.bos_token_id
        try:
            added, plain = (self.hf.encode("1", add_special_tokens=add) for add in (True, False))
        except Exception:  # there are tokenizers that cannot write this
            return []
        return [int(bos)] if bos is not None and added[: 1 + len(plain)] == [bos, *plain] else []

    @classmethod
    def from_pretrained(
        cls, path: str, vocab_size: int | None = None, *, trust_remote_code: bool = False
    ) -> TextTokenizer:
        """Loads the tokenizer in a directory or of a hub name; `vocab_size` defaults to that of the
        model's configuration."""
        from transformers import AutoConfig, AutoTokenizer

        try:
            hf = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
            if vocab_size is None:
                vocab_size = (
                    AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).get_text_config().vocab_size
                )
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can make transformers and tokenizers raise anything
            hint = (
                hub_advice(path)
                or " Expected what a tokenizer's save_pretrained() writes; was a file edited or cut short?"
            )
            raise ConfigError(
                f"no tokenizer could be loaded from {path!r}: {type(error).__name__}: {first_line(error)}{hint}"
            ) from error
        return cls(hf, vocab_size)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens in it are recognised, none is added."""
        if self.chat:
            return self.encode_chat([{"role": "user", "content": text}])
        try:
            return self.hf.encode(text, add_special_tokens=False)
        except Exception as error:  # what the tokenizers library raises has no class of its own
            raise ConfigError(
                f"the tokenizer cannot write {text[:60]!r}: {error}. Do task and model belong together?"
            ) from error

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a chat, the last message being the user's, up to where the answer begins."""
        return self._chat(messages, tokenize=True, return_dict=True)["input_ids"]

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
                [dict(message) for message in messages], add_generation_prompt=True, **options
            )
        except Exception as error:  # a template is a program of the model's
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ConfigError(
                f"the chat template of {name!r} refuses messages of the roles {roles}: {first_line(error)} Expected "
                "roles that this model knows, in the order that it wants."
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a response, free of special tokens, also of those spelled out by ordinary
        ones."""
        text = self.hf.decode(
            [i for i in ids if i < self.known], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        while any(marker in text for marker in self._markers):  # taking one out may join what is around it to another
            for marker in self._markers:
                text = text.replace(marker, "")
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id by itself, special tokens included; for display."""
        return [self.hf.decode([i], clean_up_tokenization_spaces=False) if i < self.known else "" for i in ids]
