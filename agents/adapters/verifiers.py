"""verifiers: a task as a taskset, prompts that a model is asked and rewards that score its reply.

One idea: verifiers runs a model behind an API and knows texts; a task of ours is texts and rewards,
so nothing is lost but the game around it: one agent, no tokens, no KL. The package has no learner;
trainers that take its tasksets see the rewards that it records. A reply is stripped of white space
at both ends before it is scored, because verifiers strips it.

    for item in taskset("sentiment"):
        print(item.data.prompt)
"""

from __future__ import annotations

from typing import Any

from coevo_env.game.scoring import rate_alone, total
from coevo_env.game.task import Conversation, Task

from . import alone, require

__all__ = ["taskset"]


def taskset(task: Task | str, split: str = "train") -> Any:
    """A task as a `verifiers.v1.Taskset`.

    Args:
        task: A `Task` or the name of one.
        split: "train", "validation" or "test".

    Returns:
        A taskset with one item for each prompt of the split: `data.prompt` is what the pioneer
        reads, of a chat all its messages. Every term of the task is recorded as a reward under its
        name and with its weight, so `trace.reward` is the task reward.

    Raises:
        ConfigError: The task has joint rewards.
    """
    source = alone(task, "verifiers")
    require("verifiers")
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    source.prompts(split)  # an unknown split is an error now and not at the first item

    class TextData(vf.TaskData):
        prompt_index: int

    class TextTask(vf.Task[TextData]):
        @vf.reward
        async def task_reward(self, trace: Any) -> dict[str, float]:
            prompt, reply = source.prompt(split, self.data.prompt_index), source.clean(trace.last_reply)
            rated = rate_alone(source, [prompt], [reply])
            total(source, rated)  # refused here if it is not finite
            for name, value in source.rewards.items():
                weight = value[0] if isinstance(value, tuple) else 1.0
                trace.record_reward(name, float(rated[name][0]), float(weight))
            return {}  # recorded above, because a returned mapping has no weights

    class TextTaskset(vf.Taskset[TextTask, vf.TasksetConfig]):
        def load(self) -> Any:
            for index in range(len(source.prompts(split))):
                read = source.render(source.prompt(split, index))
                seen = [dict(message) for message in read.messages] if isinstance(read, Conversation) else read
                yield TextTask(TextData(prompt=seen, prompt_index=index, name=f"{source.name}/{split}/{index}"))

    return TextTaskset(vf.TasksetConfig(id=source.name))
