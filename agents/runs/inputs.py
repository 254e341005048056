"""What a run rests on, as digests: the initial model, its tokenizer, the task, the settings, and
the versions of the libraries that reward.

One idea: a number of a run means something only beside what it was made from, so that is written
down when the run begins, and whoever goes on with the run, or measures its agents again, compares.
What is compared are values (tensors, ids, prompts), not files, which can be written in other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coevo_env.errors import ConfigError
from coevo_env.game.splits import SPLITS
from coevo_env.game.task import Task
from coevo_env.lm.model import LanguageModel

from . import reached
from .reached import digest, source, tensors, vocabulary

__all__ = ["FREE", "compare", "inputs", "libraries", "model_digests", "settings_digest", "task_digests"]

REWARDS, TOKENIZER = "rewards, form 3", "tokenizer, form 2"
"""The digest of the rewards and of all that they reach, and that of all that the tokenizer does;
those of other forms, of earlier versions, saw less, and are compared with nothing."""
FREE = ("iterations", "keep", "save_every", "stop_on", "trust_remote_code")
"""Settings that may be others when a run goes on: no number depends on them,
but how many there are."""


def inputs(config: Mapping[str, Any], base: LanguageModel, task: Task) -> dict[str, Any]:
    """The digests of a run, and under "run" one of them all. By that its checkpoints and its
    summary say whose they are; runs that are equal in everything may share it.

    Args:
        config: Its settings as plain data.
        base: The initial model.
        task: The task.
    """
    found = {
        "settings": settings_digest(config),
        "model": model_digests(base),
        "task": task_digests(task),
        "libraries": libraries(task),
    }
    return {**found, "run": digest([found])}


def compare(saved: Mapping[str, Any] | None, now: Mapping[str, Any], where: str) -> list[str]:
    """Compares what a run rests on with what is there now.

    Args:
        saved: `inputs` as the run folder has them; None of a run before there were any.
        now: Any part of `inputs`.
        where: What to call the run.

    Returns:
        What could not be compared, a line each.

    Raises:
        ConfigError: Something differs; the message names all of it, and what to do.
    """
    wrong, notes = [], []
    for kind, values in now.items():
        old = (saved or {}).get(kind)
        if old is None or old == values:
            continue
        known = {*old, *values}
        for form in {REWARDS, TOKENIZER} & set(values):
            known -= {name for name in old if name.partition(",")[0] == form.partition(",")[0] and name != form}
            if form not in old:
                known.discard(form)
                what = form.partition(",")[0]
                notes.append(f"{where} has no digest of its {what} in the form of today: what it was is not compared.")
        if kind == "libraries" and REWARDS not in (saved or {}).get("task", {REWARDS: ""}):
            continue  # they were found in another way, too
        for name in sorted(name for name in known if old.get(name) != values.get(name)):
            if kind == "libraries":
                wrong.append(f"{name} is {values.get(name, 'not there')} and was {old.get(name, 'not used')}")
            else:
                wrong.append(WORDS.get((kind, name), f"the {name} of the {kind}"))
    if wrong:
        raise ConfigError(
            f"{where} was made with something else than what is there now; different are: {'; '.join(wrong)}. Its "
            "numbers would be those of neither. Put back what it was made with, or start a new run."
        )
    return notes


WORDS = {
    ("model", "weights"): "the weights of the initial model",
    ("model", "configuration"): "the configuration of the initial model",
    ("model", TOKENIZER): "the tokenizer",
    **{("task", split): f"the {split} prompts of the task" for split in SPLITS},
    ("task", "text"): "the templates, lengths or name of the task",
    ("task", REWARDS): "the source or weights of the rewards, or a model that they hold",
}
"""What the parts are called in messages."""


# ---------------------------------------------------------------- the parts
def settings_digest(config: Mapping[str, Any]) -> str:
    """Of settings as they stand in config.json, without those that may change."""
    return digest([{name: value for name, value in config.items() if name not in FREE}])


def model_digests(base: LanguageModel) -> dict[str, str]:
    """Of all tensors by name, of the configuration of the network, and of what the tokenizer
    does."""
    settings, tokenizer = reached.network(base.module), _tokenizer(base.tokenizer)
    return {"weights": tensors(base.module), "configuration": digest(settings), TOKENIZER: tokenizer}


def _tokenizer(tokenizer: Any) -> str:
    hf = getattr(tokenizer, "hf", None)
    if hf is None:
        return digest([type(tokenizer).__name__, tokenizer.vocab_size, tokenizer.eos_id])
    template = getattr(hf, "chat_template", None)
    ends = [getattr(tokenizer, name, ()) for name in ("eos_ids", "opening", "banned")]
    return digest([*vocabulary(hf), template, tokenizer.vocab_size, *ends])


def task_digests(task: Task) -> dict[str, str]:
    """Of the prompts of each split with their answers and columns, of the templates and lengths,
    and of the rewards as they are written."""
    text = [
        *(task.name, task.separator, task.max_new_tokens, task.min_new_tokens, task.max_context),
        *(task.stop_at_newline, sorted(task.templates.items())),
    ]
    rewards = []
    for kind in ("rewards", "joint_rewards"):
        for name, value in sorted(getattr(task, kind).items()):
            weight, function = value if isinstance(value, tuple) else (1.0, value)
            rewards.append((kind, name, weight, source(function)))
    prompts = {
        split: digest([str(p), *(getattr(p, name, None) for name in ("answer", "earlier", "info"))] for p in prompts)
        for split, prompts in ((split, getattr(task, split)) for split in SPLITS)
    }
    return {**prompts, "text": digest(text), REWARDS: digest(rewards)}


def libraries(task: Task) -> dict[str, str]:
    """Versions of the libraries that the rewards call, see `reached.libraries`."""
    terms = (*task.rewards.values(), *task.joint_rewards.values())
    return reached.libraries(value[1] if isinstance(value, tuple) else value for value in terms)
