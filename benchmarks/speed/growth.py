"""What a token costs in long responses and in large batches, and what cutting a large batch into
passes gives.

One idea: a cost is flat where ten times the tokens cost ten times as much. Sizes take turns, round
after round, and the cost of a token at the largest is compared with that at the smallest within a
round. Long responses are those of one agent with a random GPT-2 of 16 million parameters, which is
large enough for the ordinary way through a model; large batches are those of two agents with the
embedded model. Every token looks at all before it, so with 1,024 of them attention itself costs
something; whatever else grows is ours.

An update of 4,096 responses at once and one in passes of 256 (`micro_batch_size`) learn from the
same rollout by turns; their memory is that of a fresh process each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .memory import peak
from .models import config, label, random_gpt2, words_task
from .results import Item, Row
from .timing import clock_for, interleave, median_of, ratio_of

AXES = {
    "tokens": ("new tokens", (16, 64, 256, 1024), 4, "random GPT-2 of 16 M parameters, 1 agent, batch 8"),
    "episodes": ("episodes", (64, 256, 1024, 4096), 4, f"{label('embedded')}, 2 agents, 16 tokens"),
}
LONG = {"vocab": 4000, "width": 512, "layers": 4, "positions": 1100}
FLAT, FASTER, SMALLER = 1.25, 1.2, 0.6
EPISODES = 4096
CUTS = {"at once": 0, "in parts": "auto"}


def run(settings: Any) -> Item:
    item = Item()
    for axis, (unit, sizes, repeats, what) in AXES.items():
        sizes, repeats = (sizes[:2], 1) if settings.quick else (sizes, repeats)
        sides = {str(size): _iteration(axis, size) for size in sizes}
        seconds = interleave(sides, repeats, warmup=1, clock=clock_for(settings.threads))
        cost = {size: seconds[str(size)] / size for size in sizes}  # of one unit
        first, last = sizes[0], sizes[-1]
        per = {size: np.median(values) / tokens_of(axis) * 1e6 for size, values in cost.items()}
        note = f"{what}, 1 epoch; " + ", ".join(f"{per[size]:,.0f} µs at {size:,}" for size in sizes)
        name = f"cost of a token, {last:,} {unit} / {first:,}"
        item.rows.append(Row.of(name, ratio_of(cost[last], cost[first]), bar=FLAT, note=note))
        dearest, cheapest = (find(per, key=lambda size: per[size]) for find in (max, min))
        name = f"cost of a token, the dearest of these sizes / the cheapest: {unit}"
        note = f"{dearest:,} / {cheapest:,}"
        item.rows.append(Row.of(name, ratio_of(cost[dearest], cost[cheapest]), note=note))
    item.rows += _cutting(64 if settings.quick else EPISODES, settings)
    return item


def tokens_of(axis: str) -> int:
    """Tokens of one unit of an axis: of a new token in a batch of 8, of an episode of two agents
    with 16 each."""
    return {"tokens": 8, "episodes": 32}[axis]


def _iteration(axis: str, size: int) -> Callable[[], None]:
    """One iteration of a size; each call plays the next batch."""
    game, learners = _parts(axis, size)

    return partial(_whole, game, learners)


def _parts(axis: str, size: int, micro: int | str = "auto") -> tuple[Any, list[Any]]:
    """The game and its learners."""
    from coevo_agents.learners.policy import make_policies
    from coevo_agents.learners.ppo import PPO
    from coevo_env.faces.batch import BatchEnv
    from coevo_env.faces.build import build
    from coevo_env.lm.model import LanguageModel
    from coevo_env.tasks import make_task

    long = axis == "tokens"
    base = random_gpt2(**LONG) if long else LanguageModel.from_pretrained("embedded")
    task = words_task(LONG["vocab"], (8, 9)) if long else make_task(config("embedded").task)
    tokens, batch, agents = (size, 8, 1) if long else (16, size, 2)
    policies, reference = make_policies(base, [f"llm{i + 1}" for i in range(agents)], None, 0)
    length: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "max_context": 64}
    rules, _ = build(task, reference, num_agents=agents, **length)
    settings = PPO.Settings(epochs=1, learning_rate=1e-6, micro_batch_size=micro)
    learners = [PPO(policy, reference, settings, rules.sampling, i) for i, policy in enumerate(policies)]
    return BatchEnv(batch, rules=rules, reference=reference), learners


def _played(game: Any, learners: list[Any]) -> list[Any]:
    """The rollouts of the next batch."""
    from coevo_agents.training.play import play

    game.reset()
    play(game, [learner.policy for learner in learners])
    return game.rollouts()


def _whole(game: Any, learners: list[Any]) -> None:
    """An iteration."""
    from coevo_agents.learners.policy import remembering

    with remembering(learner.policy for learner in learners):
        for learner, rollout in zip(learners, _played(game, learners), strict=True):
            learner.update(rollout)


def _cutting(episodes: int, settings: Any) -> list[Row]:
    """Time and memory of an update at once and in parts."""
    sides, repeats = {}, 1 if settings.quick else 6
    for name, micro in CUTS.items():
        game, learners = _parts("episodes", episodes, micro)
        sides[name] = partial(learners[0].update, _played(game, learners)[0])
    seconds = interleave(sides, repeats, warmup=1, clock=clock_for(settings.threads))
    command = [sys.executable, "-m", __name__, str(episodes)]
    peaks: dict[str, list[int]] = {name: [] for name in CUTS}
    for _ in range(1 if settings.quick else 3):
        for name in CUTS:
            done = subprocess.run([*command, name], capture_output=True, text=True, check=True)
            peaks[name].append(json.loads(done.stdout.splitlines()[-1]))
    once, parts = (np.array(peaks[name]) for name in CUTS)
    what = f"{episodes:,} responses of 16 tokens, {label('embedded')}"
    note = f"1 epoch; {np.median(seconds['at once']):.3g} against {np.median(seconds['in parts']):.3g} s"
    faster = ratio_of(seconds["at once"], seconds["in parts"])
    memory = f"{np.median(parts) / 2**20:,.0f} against {np.median(once) / 2**20:,.0f} MiB, all of a process that plays "
    return [
        Row.of(f"update at once / in passes of 256: {what}", faster, sense=">=", bar=FASTER, note=note),
        Row.of(
            f"peak memory of an iteration, in passes of 256 / at once: {what}",
            median_of(parts / once),
            bar=SMALLER,
            note=memory + "a batch of two agents and learns from it",
        ),
    ]


def _peak(episodes: int, name: str) -> int:
    """Bytes that were resident at most, in a process of its own."""
    _whole(*_parts("episodes", episodes, CUTS[name]))
    return peak()


if __name__ == "__main__":
    print(_peak(int(sys.argv[1]), sys.argv[2]))
