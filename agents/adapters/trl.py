"""TRL: a task as what `GRPOTrainer` takes, a data set and reward functions. One agent: the pioneer.

One idea: the trainer samples and learns, the task says what is read and what is paid. A reward
function finds its prompt by the column `prompt_index`, so that a reward may use its answer, and
scores the ids of the completion, decoded as the environment decodes them. KL to the initial model
is the trainer's own (`beta`), so the environment's is not paid here.

    task = coevo_env.make_task("sentiment")
    trainer = GRPOTrainer(
        model=..., train_dataset=dataset(task), reward_funcs=reward_functions(task),
        args=GRPOConfig(**settings(task), output_dir="runs/grpo"),
    )

TRL tokenizes prompts with the special tokens that the tokenizer adds by itself. The environment
reads those at the beginning too, and none at the end; with a tokenizer that adds one there, which
few models that continue a text have, TRL's model reads a token more. A task with joint rewards is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.game.rules import Rules
from coevo_env.game.scoring import rate_alone
from coevo_env.game.task import Conversation, Prompt, Task
from coevo_env.lm.load import load_tokenizer

from . import alone, require

__all__ = ["dataset", "reward_functions", "settings"]


def dataset(task: Task | str, split: str = "train") -> Any:
    """The prompts of a task as a `datasets.Dataset`.

    Args:
        task: A `Task` or the name of one.
        split: "train", "validation" or "test".

    Returns:
        Rows with `prompt` (what the pioneer reads; of a chat all its messages, which TRL renders by
        the model's chat template), `prompt_index` and `split`; the last two lead the reward
        functions back to the task's prompt.

    Raises:
        ConfigError: Some prompts are chats and others are not, and a column has one type; or the
            task has joint rewards.
    """
    task = alone(task, "trl")
    require("trl")
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    count = len(task.prompts(split))
    read = [task.render(task.prompt(split, index)) for index in range(count)]
    chats = [text.messages for text in read if isinstance(text, Conversation)]
    if chats and len(chats) < count:
        raise ConfigError(
            f"task {task.name!r}: {len(chats)} of the {count} prompts of {split!r} are chats and the others plain "
            "text; TRL takes one kind. Expected all to be chats, or none."
        )
    rows = {
        "prompt": [[dict(message) for message in chat] for chat in chats] or [str(text) for text in read],
        "prompt_index": list(range(count)),
        "split": [split] * count,
    }
    return Dataset.from_dict(rows)


def reward_functions(task: Task | str, tokenizer: Any = None) -> list[Callable[..., list[float]]]:
    """One reward function for each term of a task, in their order, named as the terms. Their
    weights are in `settings`.

    Args:
        task: A `Task` or the name of one.
        tokenizer: A `coevo_env.TextTokenizer` of the model that is trained; None means that of the
            task's own model.

    Raises, each of them when called, what the environment does:
        RewardError: The term raised, or returned the wrong number or type of values.
        NonFiniteError: A value is NaN or infinite.
    """
    task = alone(task, "trl")
    rules = Rules(task, tokenizer or task.tokenizer or load_tokenizer(task.model), num_agents=1, max_context=2**31)

    def text(ids: list[int], prompt: Prompt) -> str:
        return rules.text(ids, rules.encode(task.render(prompt)))

    def make(name: str) -> Callable[..., list[float]]:
        def score(completion_ids: list[list[int]], prompt_index: list[int], split: list[str], **_: Any) -> list[float]:
            prompts = [task.prompt(part, index) for part, index in zip(split, prompt_index, strict=True)]
            said = [text(ids, prompt) for ids, prompt in zip(completion_ids, prompts, strict=True)]
            return rate_alone(task, prompts, said, [name])[name].tolist()

        score.__name__ = name
        return score

    return [make(name) for name in task.rewards]


def settings(task: Task | str) -> dict[str, Any]:
    """What a `GRPOConfig` has to say so that TRL plays by the rules of the task; add your own, such
    as `output_dir`."""
    task = alone(task, "trl")
    return {
        "max_completion_length": task.max_new_tokens,
        "reward_weights": [float(value[0]) if isinstance(value, tuple) else 1.0 for value in task.rewards.values()],
        "generation_kwargs": {"min_new_tokens": task.min_new_tokens},
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "remove_unused_columns": False,
    }
