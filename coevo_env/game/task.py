"""A task: prompts, role templates and the reward that scores a response. It knows nothing of
tokens, agents or KL.

One idea: everything a task says is text. Prompts are strings, templates are strings with two
placeholders, and a reward is a function `(prompts, responses) -> list[float]`. Tokens enter with
the model, roles with the environment.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import ConfigError, real, unknown_name, whole
from .arguments import in_order
from .frozen import frozen
from .splits import SPLITS, three_splits

__all__ = ["Conversation", "JointRewardFunction", "Prompt", "RewardFunction", "Task", "Tokenizer"]

Message = Mapping[str, str]
"""One message of a chat: its "role" and its "content"."""


class Prompt(str):
    """The text of one prompt, with what a reward may need to know about it.

    It *is* a string, so that a reward function can treat it as one.

    Attributes:
        answer: The gold answer, or None.
        info: Anything else (a reasoning-gym entry, a label); never shown to the agents. It is the
            same in every episode: dictionaries, lists, sets and arrays in it are copied, and refuse
            to be changed.
        earlier: Of a prompt that is a chat, the messages before the last one, whose text the prompt
            is; the model's chat template renders it. None of a prompt that is plain text.

    >>> p = Prompt("2+3=", answer="5")
    >>> p, p.answer
    ('2+3=', '5')
    """

    __slots__ = ("answer", "earlier", "info")
    answer: str | None
    earlier: tuple[Message, ...] | None
    info: Mapping[str, Any]

    def __new__(
        cls,
        text: str,
        answer: str | None = None,
        info: Mapping[str, Any] | None = None,
        earlier: Sequence[Message] | None = None,
    ) -> Prompt:
        self = super().__new__(cls, text)
        self.answer = answer
        self.info = frozen(dict(info or {}))
        self.earlier = None if earlier is None else frozen(tuple(earlier))
        return self

    def __reduce__(self):
        return (Prompt, (str(self), self.answer, dict(self.info), self.earlier))


class Conversation(str):
    """A rendered template that is the last message of a chat: the user's, after `earlier` ones."""

    __slots__ = ("earlier",)
    earlier: tuple[Message, ...]

    def __new__(cls, text: str, earlier: Sequence[Message] = ()) -> Conversation:
        self = super().__new__(cls, text)
        self.earlier = tuple(earlier)
        return self

    @property
    def messages(self) -> list[Message]:
        """All of it."""
        return [*self.earlier, {"role": "user", "content": str(self)}]

    def __reduce__(self):
        return (Conversation, (str(self), self.earlier))


RewardFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""Scores a batch: `(prompts, responses) -> one float per response`. It never sees tokens,
log-probs, roles or KL, and the score of a response must not depend on what else is in the batch
(`coevo_env.testing.check_reward` proves it)."""


JointRewardFunction = Callable[[Sequence[Prompt], Sequence[tuple[str, ...]]], Sequence[Sequence[float]]]
"""Scores what the agents of an episode said together: `(B prompts, B tuples of all N responses in
order of play) -> for each episode one float per seat`. An agent that is evaluated alone comes as a
tuple of one (`coevo_env.testing.check_joint_reward` tries that too)."""


class Tokenizer(Protocol):
    """What the environment needs of a tokenizer. `coevo_env.lm.tokenizer.TextTokenizer` wraps a
    Hugging Face one.

    Attributes:
        vocab_size: V, the number of actions.
        eos_id: The id that ends a turn.

    It may also have `eos_ids`, all the ids that end a turn (the first is `eos_id`), `render(text)`,
    the ids of a whole context where those are more than the ids of its text, and a second argument
    `context` of `decode`, the ids that a response continues.
    """

    vocab_size: int
    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it stands: special tokens in it are recognised, none is added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a response, without special tokens."""
        ...


ScriptedPolicy = Callable[[Prompt, Sequence[str]], str]
"""`(prompt, responses the agent may see) -> response`: a hand-written policy whose only purpose is
to prove that the task can be scored."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompts, role templates and rewards.

    Attributes:
        name: Snake case, unique among tasks.
        train, validation, test: Prompts of each split, disjoint. A plain string becomes a `Prompt`.
            Agents learn on train, whatever is chosen is chosen by validation, and test is read at
            the end. Without validation one in ten of the train prompts becomes it, by hash (see
            `coevo_env.game.splits`), and a line of `notes` says so.
        rewards: Named reward terms, each a function or a pair (weight, function). The task reward
            is their weighted sum.
        joint_rewards: Terms in which a response is worth something only beside the others (zero-sum
            games, debate, negotiation), each a `JointRewardFunction` or a pair (weight, function),
            added to the task reward of every seat before mixing. One kind of term is enough; names
            are unique among both.
        templates: Text an agent reads in each role: `{prompt}` is required in both, `{responses}`
            is what the observer may see of the earlier responses of the episode (required in
            "observer"; not allowed in "pioneer").
        separator: Joins several visible responses where an observer sees more than one.
        max_new_tokens, min_new_tokens: Length of a response in tokens. EOS is refused (masked)
            before `min_new_tokens` tokens.
        max_context: Longest context in tokens. A context that would not fit loses the end of the
            partner's text, never the prompt.
        stop_at_newline: Whether the text of a response ends at its first line break (the tokens
            after it are still the agent's).
        model: Default model: "embedded", a path or a hub name.
        tokenizer: The tokenizer, where the task brings its own (token-level toys); None means the
            model's.
        scripted: A policy that scores well, for tests and as an upper reference.
        description: One line for `coevo tasks`.
        notes: Lines that a user should read before training, such as what was split off.

    Rewards are called with (prompts, responses), whatever order their parameters stand in; see
    `coevo_env.game.arguments`.

    Raises:
        ConfigError: An empty split, two that share a prompt, a reward whose parameters do not say
            what they take, a template without its placeholders, no reward, lengths out of
            range.
    """

    name: str
    train: Sequence[str]
    test: Sequence[str]
    validation: Sequence[str] = ()
    rewards: Mapping[str, RewardFunction | tuple[float, RewardFunction]] = field(default_factory=dict)
    joint_rewards: Mapping[str, JointRewardFunction | tuple[float, JointRewardFunction]] = field(default_factory=dict)
    templates: Mapping[str, str] = field(
        default_factory=lambda: {"pioneer": "{prompt}", "observer": "{responses}{prompt}"}
    )
    separator: str = " "
    max_new_tokens: int = 16
    min_new_tokens: int = 1
    max_context: int = 64
    stop_at_newline: bool = False
    model: str = "embedded"
    tokenizer: Tokenizer | None = None
    scripted: ScriptedPolicy | None = None
    description: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        train, validation, notes = three_splits(self.name, self.train, self.validation, self.test)
        notes = tuple(dict.fromkeys((*self.notes, *notes)))
        vars(self).update(train=train, validation=validation, notes=notes)  # it is frozen from here on
        self._check_terms()
        self._match_arguments()
        self._check_templates()
        for name, least in (("max_new_tokens", 1), ("min_new_tokens", 0), ("max_context", 1)):
            whole(f"task {self.name!r}: {name}", getattr(self, name), least)
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"task {self.name!r}: min_new_tokens={self.min_new_tokens}, max_new_tokens={self.max_new_tokens}; "
                "expected min_new_tokens <= max_new_tokens."
            )

    def prompts(self, split: str) -> Sequence[str]:
        """The prompts of `split`: "train", "validation" or "test". Where there are too few to have
        a validation split, the train prompts stand in for it, as a line of `notes` says."""
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        return getattr(self, split) or self.train

    def prompt(self, split: str, index: int) -> Prompt:
        """Prompt `index` of `split`, as a `Prompt`."""
        item = self.prompts(split)[index]
        if not isinstance(item, str):
            raise ConfigError(
                f"task {self.name!r}: prompt {index} of the {split} split is {item!r}; expected text (a str or a "
                "Prompt)."
            )
        return item if isinstance(item, Prompt) else Prompt(item)

    def render(self, prompt: str, responses: Sequence[str] | None = None) -> str:
        """The text that an agent reads: the pioneer's template, or with `responses` the observer's.
        Where the prompt is a chat it is a `Conversation`, of which the template is the last
        message."""
        if responses is None:
            text = self.templates["pioneer"].format(prompt=prompt)
        else:
            text = self.templates["observer"].format(prompt=prompt, responses=self.separator.join(responses))
        earlier = getattr(prompt, "earlier", None)
        return text if earlier is None else Conversation(text, earlier)

    def clean(self, response: str) -> str:
        """The part of a response that counts as its text."""
        return response.split("\n", 1)[0] if self.stop_at_newline else response

    # ---------------------------------------------------------------- internals
    def _check_terms(self) -> None:
        for kind in ("rewards", "joint_rewards"):
            if not isinstance(terms := getattr(self, kind), Mapping):
                raise ConfigError(
                    f"task {self.name!r}: `{kind}` is {terms!r}; expected named terms, such as "
                    f"{kind}={{'length': my_function}}."
                )
        if not self.rewards and not self.joint_rewards:
            raise ConfigError(
                f"task {self.name!r}: `rewards` is empty, and so is `joint_rewards`; give at least one, such as "
                "rewards={'length': my_function}."
            )
        if both := sorted(set(self.rewards) & set(self.joint_rewards)):
            raise ConfigError(
                f"task {self.name!r}: `rewards` and `joint_rewards` both have a term {both[0]!r}; give one another "
                "name."
            )
        for term, value in (*self.rewards.items(), *self.joint_rewards.items()):
            if term in RESERVED_TERMS or "/" in term or not term:
                raise ConfigError(
                    f"task {self.name!r}: a reward term cannot be called {term!r}; its metric is `reward/<term>`, "
                    "where "
                    f"{', '.join(RESERVED_TERMS)} already mean something else. Give it another name, without a slash."
                )
            if isinstance(value, tuple) and len(value) != 2:
                raise ConfigError(
                    f"task {self.name!r}: reward {term!r} is {value!r}; expected a function, or a pair (weight, "
                    "function)."
                )
            weight, function = value if isinstance(value, tuple) else (1.0, value)
            real(f"task {self.name!r}: the weight of reward {term!r}", weight)
            if not callable(function):
                result = "list of floats" if term in self.rewards else "for each episode a list of one float per seat"
                raise ConfigError(
                    f"task {self.name!r}: reward {term!r} is {function!r}; expected a function (prompts, responses) -> "
                    f"{result}."
                )

    def _check_templates(self) -> None:
        required = {"pioneer": {"prompt"}, "observer": {"prompt", "responses"}}
        for role, needed in required.items():
            if role not in self.templates:
                raise ConfigError(
                    f"task {self.name!r}: `templates` has no {role!r} template; got {sorted(self.templates)}."
                )
            found = _placeholders(self.name, role, self.templates[role])
            if missing := needed - found:
                raise ConfigError(
                    f"task {self.name!r}: the {role} template {self.templates[role]!r} lacks "
                    f"{{{'}, {'.join(sorted(missing))}}}; "
                    "add it where that text should stand."
                )
            if extra := found - needed:
                raise ConfigError(
                    f"task {self.name!r}: the {role} template has the placeholder {{{'}, {'.join(sorted(extra))}}}; "
                    f"only {{{'}, {'.join(sorted(needed))}}} can be filled there (write {{{{ }}}} for literal braces)."
                )

    def _match_arguments(self) -> None:
        """Puts functions in the place of rewards whose parameters stand in another order."""
        for kind in ("rewards", "joint_rewards"):
            terms, matched = getattr(self, kind), {}
            for term, value in terms.items():
                function = value[1] if isinstance(value, tuple) else value
                called = in_order(f"task {self.name!r}, reward {term!r}", function, self.train[0])
                matched[term] = (value[0], called) if isinstance(value, tuple) else called
            vars(self)[kind] = matched


def _placeholders(task: str, role: str, template: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigError(f"task {task!r}: the {role} template {template!r} is not a format string: {error}.") from None


RESERVED_TERMS = ("task", "team", "shaped")
"""Names that reward terms cannot have."""
