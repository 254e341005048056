"""What the exact KL over the vocabulary costs, the KL of the CORY paper, beside the sampled one.

One idea: the same two agents learn by turns in two games that differ in the estimator alone, so a
pair is one iteration with `full` and one with `k1` of the same models. The exact KL has the output
layer of both models at every token; the states of the policy it has from sampling. The embedded
model has 512 words; for the vocabulary of GPT-2 there is a random model of the shape of GPT-2 124M,
with the paper's 4 passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .models import BATCH, TOKENS, label, random_gpt2, words_task
from .results import Item, Row
from .timing import clock_for, interleave, median_of, ratio_of

GPT2 = {"vocab": 50257, "width": 768, "layers": 12, "positions": 256}
BAR = 1.3


def run(settings: Any) -> Item:
    item = Item()
    cases = [("embedded", BATCH, 3 if settings.quick else 20)]
    if not settings.quick:
        cases.append(("gpt2", 16, 4))
    for model, batch, repeats in cases:
        clock = clock_for(settings.threads)
        measuring: dict[str, list[float]] = {"k1": [], "full": []}
        sides = _sides(model, batch, clock, measuring)
        seconds = interleave(sides, repeats, warmup=1, clock=clock)
        alone = {name: np.array(values[1:]) for name, values in measuring.items()}
        what = label("embedded") if model == "embedded" else "random model of the shape of GPT-2 124M"
        note = f"2 agents, batch {batch}, {TOKENS} tokens, 4 epochs; "
        whole = f"{np.median(seconds['full']):.3g} against {np.median(seconds['k1']):.3g} s"
        parts = f"{np.median(alone['full']) * 1e3:,.0f} against {np.median(alone['k1']) * 1e3:,.0f} ms an iteration"
        item.rows.append(
            Row.of(
                f"an iteration, kl.estimator full / k1: {what}",
                ratio_of(seconds["full"], seconds["k1"]),
                bar=BAR,
                note=note + whole,
            )
        )
        item.rows.append(
            Row.of(
                f"taking a turn in, full / k1: {what}",
                ratio_of(alone["full"], alone["k1"]),
                note=f"the reference's pass, the KL, texts and rewards; {parts}",
            )
        )
        item.rows.append(
            Row.of(
                f"an iteration, full: {what}", median_of(seconds["full"]), unit="s", note="rewards included, no logs"
            )
        )
    return item


def _sides(
    model: str, batch: int, clock: Callable[[], float], measuring: dict[str, list[float]]
) -> dict[str, Callable[[], None]]:
    """An iteration with each estimator; what `submit_turn` took of it is added to `measuring`."""
    from coevo_agents.learners.policy import make_policies, remembering
    from coevo_agents.learners.ppo import PPO
    from coevo_agents.training.play import play
    from coevo_env.faces.batch import BatchEnv
    from coevo_env.faces.build import build
    from coevo_env.game.kl import KLConfig
    from coevo_env.lm.model import LanguageModel
    from coevo_env.tasks import make_task

    base = LanguageModel.from_pretrained(model) if model == "embedded" else random_gpt2(**GPT2)
    task = make_task("sentiment") if model == "embedded" else words_task(GPT2["vocab"], (2, 9))
    policies, reference = make_policies(base, ["llm1", "llm2"], None, 0)

    class Timed(BatchEnv):
        def submit_turn(self, *args: Any, **named: Any) -> np.ndarray:
            started = clock()
            rewards = super().submit_turn(*args, **named)
            measuring[self.rules.kl.estimator][-1] += clock() - started
            return rewards

    games = {}
    for estimator in measuring:
        length: dict[str, Any] = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "max_context": 64}
        rules, _ = build(task, reference, num_agents=2, kl=KLConfig(estimator=estimator), **length)
        games[estimator] = Timed(batch, rules=rules, reference=reference)
    warp = games["k1"].rules.sampling
    settings = PPO.Settings(learning_rate=1e-5)
    learners = [PPO(policy, reference, settings, warp, number) for number, policy in enumerate(policies)]

    def iteration(game: BatchEnv) -> None:
        measuring[game.rules.kl.estimator].append(0.0)
        game.reset()
        with remembering(policies):
            play(game, policies)
            for learner, rollout in zip(learners, game.rollouts(), strict=True):
                learner.update(rollout)

    return {name: lambda game=game: iteration(game) for name, game in games.items()}
