"""reasoning-gym, the other way round: a task of this package as one of its data sets.

One idea: `coevo_env.make_task("reasoning-gym/chain_sum")` plays its data sets here; this gives our
tasks to whatever takes its data sets. A question is the prompt as the pioneer reads it, and
`score_answer` is the task reward as it is, which need not lie in [0, 1].

    register("sentiment")
    data = reasoning_gym.create_dataset("coevo/sentiment", seed=0, size=10)
    data.score_answer("wonderful .", data[0])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.game.scoring import rate_alone, total
from coevo_env.game.task import Task
from coevo_env.rng import rng

from . import alone, require

__all__ = ["TextConfig", "dataset", "register"]


@dataclass
class TextConfig:
    """What `reasoning_gym.create_dataset` takes for a task.

    Attributes:
        seed: Of the order of the prompts; None keeps that of the task.
        size: Entries of the data set; prompts come again when they are used up.
        split: "train" or "test".
    """

    seed: int | None = None
    size: int = 500
    split: str = "train"

    def validate(self) -> None:
        if self.split not in ("train", "test") or self.size < 1:
            raise ConfigError(
                f"split={self.split!r}, size={self.size!r}; expected 'train' or 'test', and at least 1 entry."
            )


def dataset(task: Task | str, **config: Any) -> Any:
    """A task as a `reasoning_gym` data set.

    Args:
        task: A `Task` or the name of one.
        config: Options of `TextConfig`.

    Raises:
        ConfigError: The task has joint rewards, or prompts that are chats of several messages: a
            question is one text.
    """
    return _make(_asked(task))(config=TextConfig(**config))


def register(task: Task | str, name: str | None = None) -> str:
    """Registers a task with reasoning-gym; returns the name for `create_dataset`, by default
    "coevo/<task>".

    Raises:
        ConfigError: See `dataset`.
    """
    task = _asked(task)
    require("reasoning-gym")
    from reasoning_gym.factory import register_dataset  # pyright: ignore[reportMissingImports]

    name = name or f"coevo/{task.name}"
    register_dataset(name, _make(task), TextConfig)
    return name


def _asked(task: Task | str) -> Task:
    """A task whose prompts are questions."""
    task = alone(task, "reasoning-gym")
    for split in ("train", "test"):
        for index, prompt in enumerate(task.prompts(split)):
            if earlier := getattr(prompt, "earlier", None):
                raise ConfigError(
                    f"the adapter for reasoning-gym: prompt {index} of {split!r} of the task {task.name!r} is a chat "
                    f"with {len(earlier)} messages before the last, and a question is one text, which would leave "
                    "them out. Expected prompts of one message."
                )
    return task


def _make(task: Task) -> Any:
    require("reasoning-gym")
    from reasoning_gym.dataset import ProceduralDataset  # pyright: ignore[reportMissingImports]

    class TextDataset(ProceduralDataset):
        def __init__(self, config: TextConfig):
            super().__init__(config=config, seed=config.seed, size=config.size)
            count = len(task.prompts(config.split))
            self._order = (
                range(count)
                if config.seed is None
                else rng(config.seed, 0, stream="prompts").permutation(count).tolist()
            )

        def __getitem__(self, idx: int) -> dict[str, Any]:
            if not 0 <= idx < self.size:
                raise IndexError(f"entry {idx}; expected 0 to {self.size - 1}.")
            index = self._order[idx % len(self._order)]
            prompt = task.prompt(self.config.split, index)
            found = {
                "source_dataset": task.name,
                "source_index": idx,
                "split": self.config.split,
                "prompt_index": index,
            }
            return {"question": task.render(prompt), "answer": prompt.answer or "", "metadata": found}

        def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
            found, reply = entry["metadata"], task.clean(answer or "")
            prompt = task.prompt(found["split"], found["prompt_index"])
            return float(total(task, rate_alone(task, [prompt], [reply]))[0])

    return TextDataset
