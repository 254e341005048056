"""Checks a task against what the environment relies on: `coevo_env.testing.check_task`.

One idea: a task is tried on what could be said to its prompts: nothing, the prompt again, random
tokens, and what its scripted policy says, which has to be worth more than all of these.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckFailed, ConfigError
from ..game.splits import SPLITS, likeness
from ..game.task import Prompt, Task
from ..tasks import make_task
from .rewards import check_joint_reward, check_reward, near, short

if TYPE_CHECKING:
    from ..faces.batch import BatchEnv
    from ..game.rules import Rules

__all__ = ["check_task"]


def check_task(task: str | Task, model: Any = None, prompts: int = 64) -> list[str]:
    """Checks a task: its prompts, templates, rewards and scripted policy, and that it can be
    played.

    Args:
        task: A `Task`, or a name for `coevo_env.make_task` (then it is made twice, to see whether
            both are the same).
        model: Whose tokenizer reads it, and who plays it: a name, a directory, or a policy such as
            `tiny_lm(None)`. By default only the tokenizer of the task or of its default model is
            loaded, and random tokens are played.
        prompts: Prompts of each split that are played and scored; all are read.

    Returns:
        The names of the checks that it passed.

    Raises:
        CheckFailed: The first check that it did not pass.
    """
    from ..game.rules import Rules
    from ..lm.load import load_reference, load_tokenizer

    spec, task = task, make_task(task)
    passed = [*_check_prompts(task), *_check_templates(task)]
    if isinstance(spec, str):
        passed += _check_made_twice(spec, task)
    policy: Any = None if model is None else load_reference(model, task.tokenizer)
    tokenizer = task.tokenizer or getattr(policy, "tokenizer", None) or load_tokenizer(task.model)
    for split in SPLITS:
        try:
            rules = Rules(task, tokenizer, num_agents=3, split=split, banned=getattr(tokenizer, "banned", ()))
            _check_contexts(rules)
        except ConfigError as error:
            raise CheckFailed(
                f"task {task.name!r}, {split} split", f"the error {error!s}", "contexts that fit"
            ) from error
        count = min(prompts, len(rules.prompts))
        asked = [task.prompt(split, i) for i in range(count)] * (
            -(-64 // count) if rules.joint_terms else 1
        )  # many partners for each
        texts = _answers(rules, asked)
        _check_terms(rules, asked, texts)
        if task.scripted is not None:
            _check_scripted(rules, asked, texts)
    passed += ["contexts fit", "rewards", *(["scripted policy"] if task.scripted else [])]
    _check_play(task, tokenizer, policy)
    return [*passed, "plays", "PettingZoo api_test"]


def _check_prompts(task: Task) -> list[str]:
    where: dict[Any, str] = {}
    for split in SPLITS:
        for i, prompt in enumerate(getattr(task, split)):
            if not isinstance(prompt, str):
                raise CheckFailed(
                    f"task {task.name!r}, prompt {i} of the {split} split", f"{prompt!r}", "text, or a coevo_env.Prompt"
                )
            if where.setdefault(likeness(prompt), split) != split:
                raise CheckFailed(
                    f"task {task.name!r}, the prompt {short(prompt)}",
                    f"it in the {split} split and in the {where[likeness(prompt)]} split",
                    "splits without common prompts",
                )
    return ["prompts are text", "splits are disjoint"]


def _check_made_twice(name: str, task: Task) -> list[str]:
    """Whether the name gives the same prompts again."""
    twin = make_task(name)
    for split in SPLITS:
        if [str(p) for p in task.prompts(split)] != [str(p) for p in twin.prompts(split)]:
            raise CheckFailed(
                f"task {name!r}, made twice",
                f"different prompts in the {split} split",
                "the same ones (seed what is random)",
            )
    return ["made the same twice"]


def _check_templates(task: Task) -> list[str]:
    prompt = task.prompt("train", 0)
    for role, text in (("pioneer", task.render(prompt)), ("observer", task.render(prompt, ["<one>", "<two>"]))):
        parts = [str(prompt)] if role == "pioneer" else [str(prompt), "<one>", "<two>"]
        if missing := [part for part in parts if part not in text]:
            raise CheckFailed(
                f"task {task.name!r}, the {role} template",
                f"{short(text)} without {missing[0]!r}",
                "the texts as they are",
            )
    return ["templates render"]


def _check_contexts(rules: Rules) -> None:
    """Every context of every prompt, also after the longest responses."""
    legal = np.flatnonzero(rules.sampling.mask(rules.vocab_size, 0))
    legal = legal[~np.isin(legal, rules.eos_ids)]
    draw = np.random.default_rng(0)
    for i in range(len(rules.prompts)):
        prompt = rules.task.prompt(rules.split, i)
        said = [rules.text(draw.choice(legal, rules.max_new_tokens).tolist()) for _ in range(2)]
        for responses in ([], said[:1], said):
            context = rules.turn_context(i, prompt, responses)
            if not 0 < len(context) <= rules.max_context:
                raise ConfigError(
                    f"a context of {len(context)} tokens for prompt {i}; expected 1 to {rules.max_context}"
                )


def _answers(rules: Rules, prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    """What could be said to the prompts: nothing, the prompt again, random tokens, and the scripted
    policy as it would come out of a turn."""

    def spoken(text: str) -> str:
        try:
            ids = rules.tokenizer.encode(text)
        except Exception:  # a text that the tokenizer cannot write cannot be said
            return ""
        return rules.text(ids[: rules.max_new_tokens])

    result = {
        "nothing": ["" for _ in prompts],
        "the prompt again": [spoken(prompt) for prompt in prompts],
        "random tokens": _random(rules, len(prompts), 1),
    }
    if rules.task.scripted is not None:
        result["scripted"] = [spoken(_scripted(rules, prompt)) for prompt in prompts]
    return result


def _scripted(rules: Rules, prompt: Prompt) -> str:
    """What the scripted policy says to a prompt alone."""
    what = f"task {rules.task.name!r}, the scripted policy, called with {short(prompt)} and no responses"
    assert rules.task.scripted is not None
    try:
        said = rules.task.scripted(prompt, [])
    except Exception as error:
        raise CheckFailed(what, f"{type(error).__name__}: {error}", "text") from error
    if not isinstance(said, str):
        raise CheckFailed(what, f"{said!r}, a {type(said).__name__}", "text")
    return said


def _random(rules: Rules, count: int, seed: int) -> list[str]:
    """Responses of random legal tokens, of random lengths."""
    draw = np.random.default_rng(seed)
    legal = np.flatnonzero(rules.sampling.mask(rules.vocab_size, 0))
    lengths = draw.integers(1, rules.max_new_tokens + 1, count)
    return [rules.text(draw.choice(legal[~np.isin(legal, rules.eos_ids)], n).tolist()) for n in lengths]


def _check_terms(rules: Rules, asked: Sequence[Prompt], texts: Mapping[str, list[str]]) -> None:
    """Tries every reward term on all that could be said, joint ones with a partner who plays at
    random."""
    name = rules.task.name
    for term, (_, function) in rules.terms.items():
        for said in texts.values():
            try:
                check_reward(function, asked, said)
            except CheckFailed as error:
                raise CheckFailed(f"task {name!r}, term {term!r}, {error.what}", error.got, error.expected) from error
    for term, (_, function) in rules.joint_terms.items():
        for said in texts.values():
            try:
                check_joint_reward(function, 2, asked, list(zip(said, _random(rules, len(asked), 2), strict=True)))
            except CheckFailed as error:
                raise CheckFailed(
                    f"task {name!r}, joint term {term!r}, {error.what}", error.got, error.expected
                ) from error


def _check_scripted(rules: Rules, prompts: Sequence[Prompt], texts: Mapping[str, list[str]]) -> None:
    means = {}
    others = _random(rules, len(prompts), 2)  # joint terms: a partner who plays at random, in the other seat of two
    for name, said in texts.items():
        means[name] = float(
            sum(weight * np.mean(list(function(prompts, said))) for weight, function in rules.terms.values())
        )
        for weight, function in rules.joint_terms.values():
            paid = [
                np.array(function(prompts, list(zip(*pair, strict=True)))) for pair in ((said, others), (others, said))
            ]
            means[name] += weight * float(np.mean([paid[0][:, 0], paid[1][:, 1]]))
    best = max((name for name in means if name != "scripted"), key=means.__getitem__)
    if not means["scripted"] > means[best]:
        raise CheckFailed(
            f"task {rules.task.name!r}, {rules.split} split, the scripted policy within {rules.max_new_tokens} tokens",
            f"a mean reward of {means['scripted']:.4g}, and {means[best]:.4g} for {best}",
            "the scripted policy to do better",
        )


def _check_play(task: Task, tokenizer: Any, policy: Any) -> None:
    from ..faces.aec import env
    from ..faces.batch import BatchEnv
    from ..game.kl import KLConfig
    from ..game.rules import Rules

    outcomes = []
    for _ in range(2):
        rules = Rules(
            task,
            tokenizer,
            banned=getattr(tokenizer, "banned", ()),
            kl=KLConfig(mode="off" if policy is None else "reported"),
        )
        game = BatchEnv(4, rules=rules, reference=policy)
        outcomes.append(np.concatenate([_play(game, policy) for _ in range(2)]))
    near(
        f"task {task.name!r}, the same episodes played twice, the reward",
        outcomes[1].ravel(),
        outcomes[0].ravel(),
        ["..."] * outcomes[0].size,
        "the same one",
    )

    from pettingzoo.test import api_test

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            api_test(env(task=task, model=SimpleNamespace(tokenizer=tokenizer), seed=0), num_cycles=50)
        except Exception as error:
            raise CheckFailed(
                f"task {task.name!r} in PettingZoo's api_test", f"{type(error).__name__}: {error}", "that it passes"
            ) from error


def _play(game: BatchEnv, policy: Any = None) -> np.ndarray:
    """Plays a batch, by the policy or at random; returns the team rewards, (B, N), and begins the
    next batch."""
    rules = game.rules
    while (turn := game.begin_turn()) is not None:
        if policy is not None and hasattr(policy, "generate"):
            drawn = policy.generate(turn.contexts, turn.max_new_tokens, turn.sampling, turn.uniforms())
            game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs, values=drawn.values)
            continue
        legal = np.flatnonzero(rules.sampling.mask(rules.vocab_size, 0))
        tokens = legal[(turn.uniforms() * len(legal)).astype(int)]  # (B, T)
        ends = np.isin(tokens, rules.eos_ids) & (np.arange(tokens.shape[1]) >= rules.sampling.min_new_tokens)
        lengths = np.where(ends.any(1), ends.argmax(1) + 1, tokens.shape[1])
        game.submit_turn(tokens, lengths, np.full(tokens.shape, -math.log(len(legal))))
    assert game.scores is not None
    team = game.scores.team
    game.reset()
    return team
