"""A game small enough to work out by hand: three tokens, two of them a turn, a uniform reference,
and a reward that counts."""

from __future__ import annotations

import math

import numpy as np

import coevo_env
from coevo_env import Task
from coevo_env.game.reference import IntTokenizer, TableModel

V, T, L = 3, 2, 8  # tokens 0 (EOS), 1, 2; two tokens a turn; six ids of context


def count(prompts, responses):
    return [float(len(response.split())) for response in responses]


def probe(**fields) -> Task:
    return Task(
        name="probe",
        train=["1"],
        test=["2"],
        rewards={"count": count, "twos": (10.0, lambda p, r: [float(x.split().count("2")) for x in r])},
        templates={"pioneer": "{prompt}", "observer": "{responses} {prompt}"},
        max_new_tokens=T,
        max_context=L - T,
        model="table",
        tokenizer=IntTokenizer(V),
        **fields,
    )


UNIFORM = TableModel(np.zeros((V, V)))
HALF, THIRD = (
    math.log(1 / 2),
    math.log(1 / 3),
)  # EOS is masked at the first token, so two tokens are left there; later three


def make(**options):
    options = {"task": probe(), "model": UNIFORM, "seed": 0, **options}
    return coevo_env.raw_env(**options)


def play(env, turns: list[list[int]], reports=None) -> list[dict[str, float]]:
    """Plays whole turns; returns the rewards of each step."""
    paid = []
    for tokens in turns:
        for token in tokens:
            if reports is not None:
                env.report(*reports.pop(0))
            env.step(token)
            paid.append(dict(env.rewards))
    return paid
