"""A kit for people who plug in something of their own: checks of tasks, rewards and learners, and a tiny language model to try them with.

One idea: a check is a list of small promises, each tried on real objects, and the first broken one is reported as a sentence with what was
tried, what came back and what was expected. Nothing here knows a particular task or algorithm, and nothing needs pytest: call it from
whatever runs your tests.
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

from .errors import CheckFailed, ConfigError, whole
from .learner_check import check_learner
from .task import JointRewardFunction, Prompt, RewardFunction, Task, make_task
from .tiny import tiny_lm

if TYPE_CHECKING:
    from .batch import BatchEnv
    from .core import Rules

__all__ = ["CheckFailed", "check_joint_reward", "check_learner", "check_reward", "check_task", "tiny_lm"]

TOLERANCE = 1e-5
"""How far a score may depend on its batch: what padding changes in a float32 classifier."""


# ---------------------------------------------------------------- rewards
PROMPTS = (
    Prompt("the soup we had was", answer="5"),
    Prompt("2+3=", answer="5"),
    Prompt("What is two and three?", answer="5"),
    Prompt("1 2", answer="5"),
)
RESPONSES = ("", "wonderful !", "the answer is 5", "3 1 4", "so bad so bad so bad", " \n\t ", "naïve café 你好 😀 \u202e\u0000", "a " * 200)


def check_reward(function: RewardFunction, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None) -> list[str]:
    """Checks a reward function: one finite number per response, the same whatever else is in the batch, for any text.

    Args:
        function: `(prompts, responses) -> list of floats`.
        prompts, responses: What to try it on, equally many; by default short prompts (with the answer "5") and every kind of odd text, the empty
            one included. Give your own where the function only reads certain texts.

    Returns:
        The names of the checks that it passed.

    Raises:
        CheckFailed: The first check that it did not pass.

    >>> check_reward(lambda prompts, responses: [float(len(text)) for text in responses])
    ['one finite float per response', 'deterministic', 'inputs unchanged', 'independent of order', 'independent of the batch']
    """
    if (prompts is None) != (responses is None):
        raise ConfigError("check_reward got only one of `prompts` and `responses`; give both, or none.")
    if prompts is None or responses is None:
        prompts, responses = [PROMPTS[i % len(PROMPTS)] for i in range(len(RESPONSES))], RESPONSES
    if len(prompts) != len(responses) or not prompts:
        raise ConfigError(f"check_reward got {len(prompts)} prompts and {len(responses)} responses; expected equally many, at least one.")
    asked = [prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in prompts]
    said = list(responses)
    name = f"reward {getattr(function, '__name__', type(function).__name__)!r}"
    return ["one finite float per response", *_check_terms(name, function, asked, said, None)]


def check_joint_reward(
    function: JointRewardFunction,
    num_agents: int = 2,
    prompts: Sequence[str] | None = None,
    responses: Sequence[tuple[str, ...]] | None = None,
) -> list[str]:
    """Checks a joint reward function as `check_reward` checks an ordinary one: one finite number per seat for each episode.

    Args:
        function: `(prompts, tuples of N responses) -> for each episode N floats`.
        num_agents: N.
        prompts, responses: What to try it on, equally many; by default short prompts and every kind of odd text in every seat.

    Returns:
        The names of the checks that it passed. The last one: with one response, which is how an agent is evaluated alone, it returns one
        float as well.

    Raises:
        CheckFailed: The first check that it did not pass.

    >>> check_joint_reward(lambda prompts, said: [[len(texts[0]) - len(text) for text in texts] for texts in said])[-1]
    'an agent alone'
    """
    if (prompts is None) != (responses is None):
        raise ConfigError("check_joint_reward got only one of `prompts` and `responses`; give both, or none.")
    whole("check_joint_reward with num_agents", num_agents, 1)
    if prompts is None or responses is None:
        count = len(RESPONSES)
        responses = [tuple(RESPONSES[(i + k * (1 + i // count)) % count] for k in range(num_agents)) for i in range(3 * count)]
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(responses))]
    if len(prompts) != len(responses) or not prompts or any(len(said) != num_agents for said in responses):
        raise ConfigError(
            f"check_joint_reward got {len(prompts)} prompts and {len(responses)} tuples of responses; expected equally many, at least one, and "
            f"{num_agents} responses in each."
        )
    asked = [prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in prompts]
    name = f"joint reward {getattr(function, '__name__', type(function).__name__)!r}"
    passed = _check_terms(name, function, asked, [tuple(said) for said in responses], num_agents)
    _check_terms(f"{name} of one agent alone", function, asked, [(said[0],) for said in responses], 1)
    return ["one finite float per seat", *passed, "an agent alone"]


def _check_terms(name: str, function: Any, asked: list[Prompt], said: list[Any], seats: int | None) -> list[str]:
    """What ordinary reward terms (`seats` None, `said` texts) and joint ones (`said` tuples) have to keep alike."""

    def score(rows: Sequence[int]) -> np.ndarray:
        return _scores(name, function, [asked[i] for i in rows], [said[i] for i in rows], seats)

    every = list(range(len(said)))
    values = score(every)
    same = "the same scores both times (no randomness, no memory)"
    _near(f"{name}, called twice with the same batch", score(every), values, said, same, 0.0)
    order = np.random.default_rng(0).permutation(len(said)).tolist()
    shuffled = np.empty(values.shape)
    shuffled[order] = score(order)
    _near(f"{name}, with the batch in another order", shuffled, values, said, "the same score for the same response")
    alone = np.array([score([i])[0] for i in every])
    _near(f"{name}, with each response alone", alone, values, said, "a score that does not depend on the rest of the batch")
    return ["deterministic", "inputs unchanged", "independent of order", "independent of the batch"]


def _scores(name: str, function: Any, prompts: list[Prompt], responses: list[Any], seats: int | None) -> np.ndarray:
    """The values of a batch, (B,), or of a joint term (B, N)."""
    what = f"{name}, called with {len(responses)} responses, the first being {_short(responses[0])}"
    given = list(prompts), list(responses)
    try:
        raw = function(*given)
    except Exception as error:
        expected = "a list of floats for any text" if seats is None else f"{seats} floats for each tuple of {seats}, for any text"
        raise CheckFailed(what, f"{type(error).__name__}: {error}", expected) from error
    if given != (prompts, responses):
        raise CheckFailed(what, "its arguments changed by the call", "that it leaves the lists it is given alone")
    if seats is None:
        return _floats(what, raw, responses, f"one for each of the {len(responses)} responses")
    if isinstance(raw, (str, bytes, Mapping)) or not hasattr(raw, "__len__"):
        raise CheckFailed(what, f"a {type(raw).__name__}", f"a list of {len(responses)} lists, one for each episode")
    if len(raw) != len(responses):
        raise CheckFailed(what, f"{len(raw)} values", f"one list of {seats} floats for each of the {len(responses)} episodes")
    rows = [_floats(what, row, texts, f"one for each of the {seats} seats") for texts, row in zip(responses, raw, strict=True)]
    return np.stack(rows)


def _floats(what: str, raw: Any, texts: Sequence[Any], expected: str) -> np.ndarray:
    if isinstance(raw, (str, bytes, Mapping)) or not hasattr(raw, "__len__"):
        raise CheckFailed(what, f"a {type(raw).__name__}", f"a list of {len(texts)} floats")
    if len(raw) != len(texts):
        raise CheckFailed(what, f"{len(raw)} values", expected)
    values = []
    for text, value in zip(texts, raw, strict=True):
        try:
            if value is None or isinstance(value, (str, bytes)):
                raise TypeError
            values.append(float(value))
        except (TypeError, ValueError):
            raise CheckFailed(what, f"{value!r} for {_short(text)}", "numbers only") from None
        if not math.isfinite(values[-1]):
            raise CheckFailed(what, f"{values[-1]} for {_short(text)}", "finite numbers only")
    return np.array(values)


def _near(what: str, got: np.ndarray, wanted: np.ndarray, texts: Sequence[Any], expected: str, tolerance: float = TOLERANCE) -> None:
    apart = np.abs(got - wanted) > tolerance * np.maximum(1.0, np.abs(wanted))
    apart = apart.reshape(len(apart), -1).any(1)
    if apart.any():
        i = int(np.argmax(apart))
        raise CheckFailed(what, f"{got[i]} instead of {wanted[i]} for {_short(texts[i])}", expected)


def _short(text: str | tuple[str, ...]) -> str:
    if isinstance(text, tuple):
        return f"({', '.join(map(_short, text))})"
    return repr(text if len(text) <= 60 else text[:57] + "...")


# ---------------------------------------------------------------- tasks
def check_task(task: str | Task, model: Any = None, prompts: int = 64) -> list[str]:
    """Checks a task: its prompts, templates, rewards and scripted policy, and that it can be played.

    Args:
        task: A `Task`, or a name for `coevo_env.make_task` (then it is made twice, to see whether both are the same).
        model: Whose tokenizer reads it, and who plays it: a name, a directory, or a policy such as `tiny_lm(None)`. By default only the tokenizer
            of the task or of its default model is loaded, and random tokens are played.
        prompts: Prompts of each split that are played and scored; all are read.

    Returns:
        The names of the checks that it passed.

    Raises:
        CheckFailed: The first check that it did not pass.
    """
    from .core import Rules
    from .loading import load_reference, load_tokenizer

    spec, task = task, make_task(task)
    passed = [*_check_prompts(task), *_check_templates(task)]
    if isinstance(spec, str):
        twin = make_task(spec)
        for split in ("train", "test"):
            if [str(p) for p in task.prompts(split)] != [str(p) for p in twin.prompts(split)]:
                raise CheckFailed(
                    f"task {spec!r}, made twice", f"different prompts in the {split} split", "the same ones (seed what is random)"
                )
        passed.append("made the same twice")
    policy: Any = None if model is None else load_reference(model, task.tokenizer)
    tokenizer = task.tokenizer or getattr(policy, "tokenizer", None) or load_tokenizer(task.model)
    for split in ("train", "test"):
        try:
            rules = Rules(task, tokenizer, num_agents=3, split=split, banned=getattr(tokenizer, "banned", ()))
            _check_contexts(rules)
        except ConfigError as error:
            raise CheckFailed(f"task {task.name!r}, {split} split", f"the error {error!s}", "contexts that fit") from error
        count = min(prompts, len(rules.prompts))
        asked = [task.prompt(split, i) for i in range(count)] * (-(-64 // count) if rules.joint_terms else 1)  # many partners for each
        texts = _answers(rules, asked)
        for term, (_, function) in rules.terms.items():
            for said in texts.values():
                try:
                    check_reward(function, asked, said)
                except CheckFailed as error:
                    raise CheckFailed(f"task {task.name!r}, term {term!r}, {error.what}", error.got, error.expected) from error
        for term, (_, function) in rules.joint_terms.items():
            for said in texts.values():
                try:
                    check_joint_reward(function, 2, asked, list(zip(said, _random(rules, len(asked), 2), strict=True)))
                except CheckFailed as error:
                    raise CheckFailed(f"task {task.name!r}, joint term {term!r}, {error.what}", error.got, error.expected) from error
        if task.scripted is not None:
            _check_scripted(rules, asked, texts)
    passed += ["contexts fit", "rewards", *(["scripted policy"] if task.scripted else [])]
    _check_play(task, tokenizer, policy)
    return [*passed, "plays", "PettingZoo api_test"]


def _check_prompts(task: Task) -> list[str]:
    where: dict[str, str] = {}
    for split in ("train", "test"):
        for i, prompt in enumerate(task.prompts(split)):
            if not isinstance(prompt, str):
                raise CheckFailed(f"task {task.name!r}, prompt {i} of the {split} split", f"{prompt!r}", "text, or a coevo_env.Prompt")
            if where.setdefault(str(prompt), split) != split:
                raise CheckFailed(
                    f"task {task.name!r}, the prompt {_short(prompt)}", "it in both splits", "train and test without common prompts"
                )
    return ["prompts are text", "splits are disjoint"]


def _check_templates(task: Task) -> list[str]:
    prompt = task.prompt("train", 0)
    for role, text in (("pioneer", task.render(prompt)), ("observer", task.render(prompt, ["<one>", "<two>"]))):
        parts = [str(prompt)] if role == "pioneer" else [str(prompt), "<one>", "<two>"]
        if missing := [part for part in parts if part not in text]:
            raise CheckFailed(f"task {task.name!r}, the {role} template", f"{_short(text)} without {missing[0]!r}", "the texts as they are")
    return ["templates render"]


def _check_contexts(rules: Rules) -> None:
    """Every context of every prompt, also after the longest responses."""
    legal = np.flatnonzero(rules.sampling.mask(rules.vocab_size, 0))
    legal = legal[legal != rules.eos_id]
    draw = np.random.default_rng(0)
    for i in range(len(rules.prompts)):
        prompt = rules.task.prompt(rules.split, i)
        said = [rules.text(draw.choice(legal, rules.max_new_tokens).tolist()) for _ in range(2)]
        for responses in ([], said[:1], said):
            context = rules.turn_context(i, prompt, responses)
            if not 0 < len(context) <= rules.max_context:
                raise ConfigError(f"a context of {len(context)} tokens for prompt {i}; expected 1 to {rules.max_context}")


def _answers(rules: Rules, prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    """What could be said to the prompts: nothing, the prompt again, random tokens, and the scripted policy as it would come out of a turn."""

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
    what = f"task {rules.task.name!r}, the scripted policy, called with {_short(prompt)} and no responses"
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
    return [rules.text(draw.choice(legal[legal != rules.eos_id], n).tolist()) for n in lengths]


def _check_scripted(rules: Rules, prompts: Sequence[Prompt], texts: Mapping[str, list[str]]) -> None:
    means = {}
    others = _random(rules, len(prompts), 2)  # joint terms: a partner who plays at random, in the other seat of two
    for name, said in texts.items():
        means[name] = float(sum(weight * np.mean(list(function(prompts, said))) for weight, function in rules.terms.values()))
        for weight, function in rules.joint_terms.values():
            paid = [np.array(function(prompts, list(zip(*pair, strict=True)))) for pair in ((said, others), (others, said))]
            means[name] += weight * float(np.mean([paid[0][:, 0], paid[1][:, 1]]))
    best = max((name for name in means if name != "scripted"), key=means.__getitem__)
    if not means["scripted"] > means[best]:
        raise CheckFailed(
            f"task {rules.task.name!r}, {rules.split} split, the scripted policy within {rules.max_new_tokens} tokens",
            f"a mean reward of {means['scripted']:.4g}, and {means[best]:.4g} for {best}",
            "the scripted policy to do better",
        )


def _check_play(task: Task, tokenizer: Any, policy: Any) -> None:
    from .aec import env
    from .batch import BatchEnv
    from .core import Rules
    from .kl import KLConfig

    outcomes = []
    for _ in range(2):
        rules = Rules(task, tokenizer, banned=getattr(tokenizer, "banned", ()), kl=KLConfig(mode="off" if policy is None else "reported"))
        game = BatchEnv(4, rules=rules, reference=policy)
        outcomes.append(np.concatenate([_play(game, policy) for _ in range(2)]))
    _near(
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
    """Plays a batch, by the policy or at random; returns the team rewards, (B, N), and begins the next batch."""
    rules = game.rules
    while (turn := game.begin_turn()) is not None:
        if policy is not None and hasattr(policy, "generate"):
            drawn = policy.generate(turn.contexts, turn.max_new_tokens, turn.sampling, turn.uniforms())
            game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs, values=drawn.values)
            continue
        legal = np.flatnonzero(rules.sampling.mask(rules.vocab_size, 0))
        tokens = legal[(turn.uniforms() * len(legal)).astype(int)]  # (B, T)
        ends = (tokens == rules.eos_id) & (np.arange(tokens.shape[1]) >= rules.sampling.min_new_tokens)
        lengths = np.where(ends.any(1), ends.argmax(1) + 1, tokens.shape[1])
        game.submit_turn(tokens, lengths, np.full(tokens.shape, -math.log(len(legal))))
    assert game.scores is not None
    team = game.scores.team
    game.reset()
    return team
