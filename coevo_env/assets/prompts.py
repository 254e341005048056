"""A row of data as a prompt: its text or its messages, its gold answer, and what else stands there.

One idea: a cell is text, a number or messages, whatever file it came from; what Python would write
in a way of its own (None, lists, objects) is refused with its place and never read as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from ..errors import ConfigError
from ..game.task import Prompt
from .rows import Row, check_columns

__all__ = ["cell", "read_prompt"]


def read_prompt(
    row: Row, number: int, where: str, prompt: str, answer: str | None = None, skipped: Collection[str] = ()
) -> Prompt:
    """The prompt in the column `prompt`, with the answer in the column `answer` (None: what the
    assistant says last in a chat), and all other columns but `skipped` as its `info`.

    Args:
        number: Of the row, for messages; so is `where`.

    Raises:
        ConfigError: No value, no text or messages, an empty prompt.
    """
    check_columns([row], [c for c in (prompt, answer) if c], where, first=number)
    at = f"{where}, row {number}"
    value, earlier, learned = row[prompt], None, None
    if isinstance(value, str) and re.match(r"\s*\[\s*\{\s*['\"](role|content)['\"]", value):
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigError(
                f"{at}: the column {prompt!r} holds messages as Python writes them, {value[:60]!r}, which nobody "
                "should read as a prompt; expected JSON. Save the data as JSONL or Parquet."
            ) from None
    if isinstance(value, list):
        value, earlier, learned = _chat(value, f"{at}, column {prompt!r}")
    text = cell(value, f"{at}, column {prompt!r}")
    if not text.strip():
        raise ConfigError(f"{at}: the prompt is {text!r}; expected text.")
    gold = learned if answer is None else cell(row[answer], f"{at}, column {answer!r}")
    info = {str(c): v for c, v in row.items() if c not in {prompt, answer, *skipped}}
    return Prompt(text, answer=gold, info=info, earlier=earlier)


def cell(value: Any, where: str) -> str:
    """A cell as text; what Python would write in its own way is refused."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{where} holds {value!r:.80}, a {type(value).__name__}; expected text, or messages.")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{where} holds half of a character ({text[:40]!a}), which is no text; was it cut in the middle?"
        ) from None
    return text


def _chat(value: list[Any], where: str) -> tuple[str, list[dict[str, str]], str | None]:
    """The last user message, those before it, and the assistant's answer to it where there is
    one."""
    messages = []
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ConfigError(f"{where} holds {message!r:.80} in a list; expected messages, {{role, content}}.")
        content = message["content"]
        if isinstance(content, list) and all(isinstance(c, Mapping) and c.get("type") == "text" for c in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise ConfigError(
                f"{where}: the content of a message is {content!r:.80}; expected text (pictures and calls of tools "
                "cannot be played)."
            )
        messages.append({"role": cell(message["role"], where), "content": cell(content, where)})
    learned = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else None
    if not messages or messages[-1]["role"] != "user":
        roles = [message["role"] for message in messages]
        raise ConfigError(f"{where} has messages of the roles {roles}; expected the last one to be the user's.")
    return messages[-1]["content"], messages[:-1], learned
