"""From names to a game: resolves the task, the model and the options that all faces share.

One idea: every face takes the same keywords, and they are written down once, here and in `Rules`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, unknown_name
from ..game.kl import KLConfig
from ..game.rules import Rules
from ..game.task import Task, Tokenizer
from ..tasks import make_task

if TYPE_CHECKING:
    from ..game.reference import ReferencePolicy

__all__ = ["agent_names", "build"]

_OURS = ("kl", "banned")
"""Options of `Rules` that are made here."""
_OWN = ("kl", "chat", "device", "dtype", "trust_remote_code", "task_options")
"""Options that are not of `Rules`."""


def build(
    task: str | Task = "sentiment",
    model: Any = None,
    *,
    kl: KLConfig | str | None = None,
    chat: bool | str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    task_options: dict[str, Any] | None = None,
    **rules: Any,
) -> tuple[Rules, ReferencePolicy | None]:
    """Builds the rules of a game and its reference policy.

    Args:
        task: A `Task`, or a name for `make_task`.
        model: The reference policy: None (the task's own), "embedded", "smollm2", a directory, a
            hub name, or any `ReferencePolicy` with a `tokenizer` (or with a task that brings one).
        kl: A `KLConfig`, or its mode alone. With "off" no model is loaded, only a tokenizer.
        chat: Whether contexts are rendered as a message of the user by the tokenizer's chat
            template: True, False, or "auto", where it has one. None leaves a tokenizer as it is,
            which is False for one that is loaded here.
        device, dtype: Where and how a named model is loaded.
        trust_remote_code: Lets transformers run code that comes with a hub model. Off unless you
            ask for it.
        task_options: Options of a task given by name.
        rules: Options of `Rules`.

    Raises:
        ConfigError: A name is unknown, an option does not fit, the vocabularies of task and model
            differ, or the model has too few positions.
    """
    task = make_task(task, **(task_options or {}))
    _check_options(rules)
    # checked by KLConfig
    config = KLConfig(mode=kl) if isinstance(kl, str) else KLConfig() if kl is None else kl  # type: ignore[arg-type]
    if not isinstance(config, KLConfig):
        raise ConfigError(f"kl={kl!r}; expected the name of a mode, such as 'reported', or a coevo_env.KLConfig.")
    spec = task.model if model is None else model
    reference: ReferencePolicy | None = None
    tokenizer = task.tokenizer
    if config.mode != "off":
        from ..lm.load import load_reference

        reference = load_reference(spec, tokenizer, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        tokenizer = tokenizer or getattr(reference, "tokenizer", None)
    elif tokenizer is None:
        from ..lm.load import load_tokenizer

        tokenizer = getattr(spec, "tokenizer", None) or load_tokenizer(spec, trust_remote_code=trust_remote_code)
    tokenizer = _rendering(task, _checked_tokenizer(task, spec, tokenizer, reference), chat)
    game = Rules(task, tokenizer, kl=config, banned=tuple(getattr(tokenizer, "banned", ())), **rules)
    _check_positions(game, reference)
    return game, reference


def _check_options(rules: dict[str, Any]) -> None:
    known = [
        name
        for name, it in inspect.signature(Rules).parameters.items()
        if it.kind is it.KEYWORD_ONLY and name not in _OURS
    ]
    if unknown := [name for name in rules if name not in known]:
        raise unknown_name("option", unknown[0], [*known, *_OWN])


def _checked_tokenizer(
    task: Task, spec: Any, tokenizer: Tokenizer | None, reference: ReferencePolicy | None
) -> Tokenizer:
    """The tokenizer, if there is one and it has the vocabulary of the reference policy."""
    if tokenizer is None:
        raise ConfigError(
            f"neither task {task.name!r} nor model {spec!r} has a tokenizer; pass a task with `tokenizer=` or a model "
            "that has one."
        )
    if reference is not None and reference.vocab_size != tokenizer.vocab_size:
        named = repr(spec) if isinstance(spec, str) else "given"
        raise ConfigError(
            f"task {task.name!r} has a vocabulary of {tokenizer.vocab_size} tokens and the model {named} one of "
            f"{reference.vocab_size}; "
            "they must agree. Use the model that belongs to the task, or leave the task's tokenizer None."
        )
    return tokenizer


def _rendering(task: Task, tokenizer: Tokenizer, chat: bool | str | None) -> Tokenizer:
    """The tokenizer as it is to render contexts: as chat messages or not."""
    if chat is None:
        return tokenizer
    if (talking := getattr(tokenizer, "with_chat", None)) is not None:
        return talking(chat)
    if chat is True:
        raise ConfigError(f"chat=True, but the tokenizer of task {task.name!r} has no chat template; leave chat off.")
    return tokenizer


def _check_positions(game: Rules, reference: ReferencePolicy | None) -> None:
    """Whether the reference policy can read the longest context with the longest response."""
    longest, positions = game.max_context + game.max_new_tokens, getattr(reference, "max_positions", None) or 0
    if longest > positions > 0:  # contexts may get that long only late in a run, as responses do
        raise ConfigError(
            f"max_context={game.max_context} and max_new_tokens={game.max_new_tokens} make up to {longest} tokens, but "
            f"the model has {positions} positions{getattr(reference, 'why_positions', '')}; expected no more than "
            "that. Lower one of them, or take a model with more positions."
        )


def agent_names(num_agents: int, ids: str = "agent") -> list[str]:
    """Names of the agents: `llm1..llmN`, or with ids="role" `pioneer`, `observer` (`observer1..`
    where there are several).

    >>> agent_names(3, "role")
    ['pioneer', 'observer1', 'observer2']
    """
    if ids == "agent":
        return [f"llm{i + 1}" for i in range(num_agents)]
    if ids == "role":
        observers = ["observer"] if num_agents == 2 else [f"observer{i}" for i in range(1, num_agents)]
        return ["pioneer", *observers][:num_agents]
    raise unknown_name("agent_ids", ids, ["agent", "role"])
