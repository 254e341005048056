"""What the game itself costs, per token: the rules, the bookkeeping, the reference (a table) and
the PettingZoo faces. No language model.

One idea: the tokens are drawn beforehand, so that what is timed is the environment and nothing that
acts in it. A table model of V = 32 stands for the reference policy, and KL is on. It is plain
single-threaded Python, so processor time is measured: the wall-clock time of an idle machine.

The batched engine is timed from `reset` to `rollouts` and the controllers, rewards included. Short
turns are dearer per token, because a turn has costs of its own (a context, a text, a reward).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from coevo_env.faces import aec
from coevo_env.faces.batch import BatchEnv
from coevo_env.tasks import toy

from .results import Item, Row
from .timing import interleave, median_of

VOCAB = 32


def run(settings: Any) -> Item:
    repeats = 5 if settings.quick else 60
    rows = []
    for budget, label, bar in ((16, "turns of 16 tokens", 3.0), (3, "turns of up to 3 tokens, as in the toy", None)):
        rows.append(_batched(256, budget, repeats, f"batched engine, 256 episodes, {label}", bar))
    episodes = 3 if settings.quick else 20
    rows += _faces(episodes, repeats)
    return Item(rows)


def _batched(size: int, budget: int, repeats: int, name: str, bar: float | None) -> Row:
    game = BatchEnv(size, toy.task(vocab_size=VOCAB, max_new_tokens=budget), "table", seed=0, kl="reported")
    draw = np.random.default_rng(0)
    full = budget > 3
    tokens = draw.integers(
        1 if full else 0, VOCAB if full else 3, (2, size, budget)
    )  # two seats; the short ones end early, often
    ends = np.where((tokens == 0).any(-1), (tokens == 0).argmax(-1) + 1, budget)
    logprobs = -draw.exponential(1.0, tokens.shape)

    def batch() -> None:
        game.reset()
        for seat in range(2):
            game.begin_turn()
            width = int(ends[seat].max())
            game.submit_turn(tokens[seat, :, :width], ends[seat], logprobs[seat, :, :width])
        game.rollouts()
        game.update_controllers()

    seconds = interleave({"batch": batch}, repeats, warmup=3, clock=time.process_time)["batch"]
    cost = median_of(seconds / ends.sum()).scaled(1e6)
    return Row.of(
        name,
        cost,
        unit="µs/token",
        bar=bar,
        note=f"{int(ends.sum())} tokens a batch; reset to rollouts, rewards included",
    )


def _faces(episodes: int, repeats: int) -> list[Row]:
    """Steps alone, and whole loops as a PettingZoo user writes them."""
    cases: list[tuple[str, Callable[..., Any], str, bool, float | None]] = [
        ("raw AEC step, KL paid by the reference", aec.raw_env, "reference", False, 10.0),
        ("raw AEC step and report(), full KL reward", aec.raw_env, "reported", False, None),
        ("env() step, KL paid by the reference", aec.env, "reference", False, 60.0),
        ("raw AEC loop with reset() and last()", aec.raw_env, "reference", True, None),
        ("env() loop with reset() and last()", aec.env, "reference", True, 60.0),
    ]
    actions = np.random.default_rng(0).integers(1, VOCAB, 1 << 12).tolist()
    sides: dict[str, Callable[[], object]] = {}
    cost: dict[str, list[float]] = {}
    for name, make, mode, whole, _ in cases:
        env = make(task=toy.task(vocab_size=VOCAB, max_new_tokens=16), model="table", seed=0, kl=mode)
        cost[name] = []
        play = _loop if whole else _steps
        sides[name] = lambda env=env, mode=mode, play=play, name=name: cost[name].append(
            play(env, mode, actions, episodes)
        )
    interleave(sides, repeats, warmup=1)
    return [
        Row.of(
            name,
            median_of(np.array(cost[name][1:])).scaled(1e6),
            unit="µs/step",
            bar=bar,
            note="2 agents, turns of 16 tokens",
        )
        for name, _, _, _, bar in cases
    ]


def _steps(env: Any, mode: str, actions: list[int], episodes: int) -> float:
    """Seconds per live step; the dead steps and the resets are not timed."""
    total, count = 0.0, 0
    report = env.unwrapped.report
    for _ in range(episodes):
        env.reset()
        step = env.step
        started = time.process_time()
        if mode == "reported":
            for action in actions[:32]:
                report(-1.0)
                step(action)
        else:
            for action in actions[:32]:
                step(action)
        total += time.process_time() - started
        count += 32
        assert all(env.terminations.values())
    return total / count


def _loop(env: Any, mode: str, actions: list[int], episodes: int) -> float:
    """Seconds per step of the loop in PettingZoo's documentation, dead steps and resets
    included."""
    count, draws = 0, iter(actions)
    started = time.process_time()
    for _ in range(episodes):
        env.reset()
        for _agent in env.agent_iter():
            _, _, termination, truncation, _ = env.last()
            env.step(None if termination or truncation else next(draws))
            count += 1
    return (time.process_time() - started) / count
