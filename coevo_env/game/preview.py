"""The first prompts as an agent will read them, to look at before hours are spent on them.

One idea: what is shown is what is encoded: template, chat template and all. Nothing is played.
"""

from __future__ import annotations

from ..errors import whole
from .rules import Rules
from .task import Conversation, Prompt

__all__ = ["preview"]

SHOWN = 1200
"""Characters of a prompt that are shown; what is between its two ends is counted."""


def preview(rules: Rules, count: int = 3) -> str:
    """Rendered prompts as text for a terminal.

    Args:
        rules: The game; its task, split and tokenizer are read. `coevo_env.raw_env(...).rules` has
            them, and so has every face.
        count: How many prompts, from the first on.

    Returns:
        For each prompt a line with its number, length in tokens and gold answer, and the text that
        a pioneer reads, indented. Characters that steer a terminal are spelled out.

    Raises:
        ConfigError: A prompt that does not fit, or a chat and no chat template.
    """
    parts = []
    for index in range(min(whole("preview: count", count, 1), len(rules.prompts))):
        prompt = rules.task.prompt(rules.split, index)
        ids = rules.turn_context(index, prompt, [])
        answer = "" if prompt.answer is None else f", answer {prompt.answer[:60]!r}"
        parts.append(f"prompt {index} of the {rules.split} split, {len(ids)} tokens{answer}:")
        parts += [f"    {line}" for line in _shortened(_printable(_read(rules, prompt))).split("\n")]
    return "\n".join(parts)


def _read(rules: Rules, prompt: Prompt) -> str:
    text = rules.task.render(prompt)
    tokenizer = rules.tokenizer
    if isinstance(text, Conversation):
        return getattr(tokenizer, "render_chat")(text.messages)  # noqa: B009  # it has one, or turn_context had refused
    if getattr(tokenizer, "chat", False):
        return getattr(tokenizer, "render_chat")([{"role": "user", "content": text}])  # noqa: B009
    return text


def _shortened(text: str) -> str:
    left = len(text) - SHOWN
    if left <= 0:
        return text
    return f"{text[: SHOWN * 3 // 4]}\n... ({left} characters) ...\n{text[len(text) - SHOWN // 4 :]}"


def _printable(text: str) -> str:
    return "".join(c if c in "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
