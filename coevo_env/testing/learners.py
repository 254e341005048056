"""Checks a learner against what a training loop relies on: `coevo_env.testing.check_learner`.

One idea: the promises of a learner are about its state (the same seed gives the same weights,
saving and loading changes nothing) and about learning, and a toy of five tokens shows both in
seconds. It knows no algorithm, so it cannot tell whether one is implemented as published.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckFailed, CoevoError, first_line
from ..lm.tiny import tiny_lm

if TYPE_CHECKING:
    from ..faces.batch import BatchEnv
    from ..lm.model import LanguageModel

__all__ = ["check_learner"]


def check_learner(
    factory: Callable[[LanguageModel, int], Any], iterations: int = 30, batch_size: int = 64, group_size: int = 1
) -> list[str]:
    """Checks a learner on a toy that takes seconds: its protocol, its determinism, its state, and
    that it learns.

    The toy is `coevo_env.tasks.toy` with five tokens (EOS is 0), played by one agent at temperature
    1 with nothing masked, so the warp is `Sampling()`; KL is reported with beta = 0.02.

    Args:
        factory: `(policy, seed) -> learner`. The policy is a `tiny_lm` that the learner may change.
            A learner has `policy` (with `generate(contexts, max_new_tokens, sampling, uniforms) ->
            Generation`), `update(rollout) -> dict[str, float]`, `state_dict()` and
            `load_state_dict(state)`; a state is flat: names of tensors and plain numbers. Choose
            settings with which it learns fast.
        iterations: Updates in which the reward has to rise.
        batch_size: Responses per update.
        group_size: Responses to each prompt in a row, for learners that compare them.

    Returns:
        The names of the checks that it passed.

    Raises:
        CheckFailed: The first check that it did not pass.
    """

    trial = _Trial(factory, batch_size, group_size)
    import torch

    with torch.random.fork_rng(devices=[]):  # the caller's random state is his own
        learner, game = trial.begin(1)
        keys: set[str] | None = None
        for _ in range(2):
            keys = _step(learner, game, keys)[1]
        _check_same_seed(trial, learner, keys)
        _check_resumes(trial, learner, game, keys)
        rewards = [_step(learner, game, keys)[0] for _ in range(iterations)]
    _check_learns(rewards, batch_size)
    return ["protocol", "metrics", "rollout unchanged", "same seed, same weights", "save, load, continue", "learns"]


class _Trial:
    """Makes learners of one seed, each with a game of its own."""

    def __init__(self, factory: Callable[[LanguageModel, int], Any], batch_size: int, group_size: int):
        self.factory, self.sizes = factory, (batch_size, group_size)

    def begin(self, noise: int) -> tuple[Any, BatchEnv]:
        """A learner and its game; `noise` seeds the global generator, on which nothing may
        depend."""
        import torch

        torch.manual_seed(noise)
        what = "the factory of the learner, called with (policy, seed)"
        learner = _called(what, self.factory, tiny_lm(5, seed=3), 0)
        _check_protocol(learner)
        return learner, _toy(*self.sizes)


def _check_same_seed(trial: _Trial, first: Any, keys: set[str] | None) -> None:
    """Whether another learner of that seed is where `first` is after two updates."""
    second, game = trial.begin(2)
    for _ in range(2):
        _step(second, game, keys)
    if where := _difference(_state(first), _state(second)):
        raise CheckFailed(
            f"two learners of the same seed after 2 updates, at {where}",
            "different states",
            "the same, bit for bit (draw from a generator of your own, seeded by `seed`, never from the global one)",
        )


def _check_resumes(trial: _Trial, first: Any, game: BatchEnv, keys: set[str] | None) -> None:
    """Whether a learner that loads the state of `first` goes on as it does; both play one more
    batch."""
    saved = _state(first)
    third, resumed = trial.begin(3)
    _called("learner.load_state_dict", third.load_state_dict, saved)
    resumed.load_state_dict(game.state_dict())
    if where := _difference(_state(third), saved):
        raise CheckFailed(
            f"a learner after load_state_dict, at {where}", "another state than was saved", "the state that was saved"
        )
    for learner, its in ((first, game), (third, resumed)):
        _step(learner, its, keys)
    if where := _difference(_state(first), _state(third)):
        raise CheckFailed(
            f"save, load and one more update, at {where}",
            "another state than without the interruption",
            "the same, bit for bit (state_dict holds moments, counters and random state too)",
        )


def _check_learns(rewards: list[np.ndarray], batch_size: int) -> None:
    """Whether the reward has risen, given that of each response of each update, (B,)."""
    third_part = max(1, len(rewards) // 3)
    early, late = np.concatenate(rewards[:third_part]), np.concatenate(rewards[-third_part:])
    error = math.hypot(early.std() / math.sqrt(len(early)), late.std() / math.sqrt(len(late)))
    if not late.mean() - early.mean() > 3 * error:
        raise CheckFailed(
            f"the mean reward over {len(rewards)} updates of {batch_size} responses",
            f"{early.mean():.3f} in the first third and {late.mean():.3f} in the last (standard error {error:.3f})",
            "a rise of more than three standard errors (is the learning rate large enough for a tiny model?)",
        )


def _toy(batch_size: int, group_size: int) -> BatchEnv:
    from ..faces.batch import BatchEnv
    from ..game.kl import KLConfig
    from ..tasks import toy

    options = {"num_agents": 1, "min_new_tokens": 0, "group_size": group_size, "kl": KLConfig(beta=0.02), "seed": 0}
    return BatchEnv(batch_size, toy.task(), tiny_lm(5, seed=3), **options)


def _called(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a call into the learner returns; an exception is a promise that it broke."""
    try:
        return function(*arguments)
    except Exception as error:
        raise CheckFailed(what, f"{type(error).__name__}: {error}", "that it returns") from error


def lacking(learner: Any) -> list[str]:
    """Methods that a training loop calls and this learner does not have."""
    methods = [
        name for name in ("update", "state_dict", "load_state_dict") if not callable(getattr(learner, name, None))
    ]
    if not callable(getattr(getattr(learner, "policy", None), "generate", None)):
        methods.append("policy.generate")
    return methods


def _check_protocol(learner: Any) -> None:
    if methods := lacking(learner):
        raise CheckFailed(
            f"the learner, a {type(learner).__name__}",
            f"no {' and no '.join(methods)}",
            "the protocol in the docstring",
        )


def _state(learner: Any) -> dict[str, Any]:
    """A copy of a learner's state, if it is one that can be saved: tensors as safetensors, which
    refuse to share memory, the rest as JSON."""
    import torch
    from safetensors.torch import save

    what, flat = "learner.state_dict", "a flat dict of tensors and plain numbers, which can be saved"
    state = _called(what, learner.state_dict)
    if not isinstance(state, Mapping):
        raise CheckFailed(what, f"a {type(state).__name__}", flat)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, (torch.Tensor, bool, int, float, str)):
            raise CheckFailed(f"{what}, the entry {name!r}", f"a {type(value).__name__}", flat)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)
    }
    try:
        save(tensors)
    except Exception as error:  # safetensors has errors of its own
        raise CheckFailed(what, f"tensors that cannot be saved: {first_line(error)}", flat) from error
    return {name: value.detach().clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def _step(learner: Any, game: BatchEnv, keys: set[str] | None) -> tuple[np.ndarray, set[str]]:
    """Plays a batch and updates; returns the rewards of the batch, (B,), and the keys of the
    metrics."""
    while (turn := game.begin_turn()) is not None:
        asked = turn.contexts, turn.max_new_tokens, turn.sampling, turn.uniforms()
        drawn = _called("learner.policy.generate", learner.policy.generate, *asked)
        if missing := [name for name in ("tokens", "lengths", "logprobs") if not hasattr(drawn, name)]:
            raise CheckFailed(
                "learner.policy.generate",
                f"a {type(drawn).__name__} without {' and '.join(missing)}",
                "a coevo_env.lm.model.Generation",
            )
        try:
            game.submit_turn(drawn.tokens, drawn.lengths, drawn.logprobs, values=getattr(drawn, "values", None))
        except (CoevoError, TypeError, ValueError) as error:  # the last two of what is no array of numbers
            raise CheckFailed(
                "learner.policy.generate", f"a turn that is refused: {error}", "whole legal turns with their log-probs"
            ) from error
    (rollout,) = game.rollouts()
    before = copy.deepcopy(rollout)
    metrics = _called("learner.update", learner.update, rollout)
    if where := _difference(vars(rollout), vars(before)):
        raise CheckFailed(f"learner.update, the rollout's {where}", "it changed", "that the rollout is left alone")
    if not isinstance(metrics, dict):
        raise CheckFailed("learner.update", f"a {type(metrics).__name__}", "a dict of metrics, name -> float")
    for name, value in metrics.items():
        if (
            not isinstance(name, str)
            or isinstance(value, (str, bytes))
            or not isinstance(value, (int, float, np.number))
        ):
            raise CheckFailed(f"learner.update, the metric {name!r}", f"{value!r}, a {type(value).__name__}", "a float")
        if not math.isfinite(value):
            raise CheckFailed(f"learner.update, the metric {name!r}", f"{value}", "a finite number")
    if keys is not None and set(metrics) != keys:
        raise CheckFailed(
            "learner.update",
            f"keys that differ by {sorted(set(metrics) ^ keys)} from one call to the next",
            "the same keys every time",
        )
    game.reset()
    return rollout.task_reward, set(metrics)


def _difference(a: Any, b: Any, where: str = "") -> str:
    """Where two states differ first, as a path; "" if they are equal bit for bit."""
    import torch

    here = where or "the top"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if set(a) != set(b):
            return here
        return next((found for key in a if (found := _difference(a[key], b[key], f"{where}.{key}".lstrip(".")))), "")
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return here
        return next(
            (found for i, pair in enumerate(zip(a, b, strict=True)) if (found := _difference(*pair, f"{where}[{i}]"))),
            "",
        )
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        return "" if same else here
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return "" if np.array_equal(a, b) else here
    return "" if type(a) is type(b) and a == b else here
